/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long a range lives, as a model for spin: two pages with I/O in flight, whose
 * process exits, so that the pages are pinned and the range is destroyed.
 *
 *	bio		exits its page
 *	owner		pins what is in flight, then drops his reference to the range
 *	worker		drops the pins
 *	reclaimer	is RCU: frees the range
 *
 * There is a reference for the owner, one as long as any page is pinned, and one for
 * the worker while he is queued or at work. spin complains if anybody looks at the range
 * after it was freed, or if it never is. nopin.pml says what a BREAK is.
 */

#define NR_PAGES	2

byte count[NR_PAGES] = 1;
bool pinned[NR_PAGES];
byte nr_pinned;

byte ref = 1;
bool dying;			/* given to call_rcu() */
bool freed;
bool reading[NR_PAGES];		/* bios within rcu_read_lock() */
bool queued;			/* the worker */

/* nopin_range_put() */
inline put()
{
	atomic {
		assert(!freed && ref > 0);
		ref--;
		dying = ref == 0
	}
}

/* nopin_unpin() */
inline unpin()
{
	atomic {
		assert(!freed);
#ifdef BREAK_WORK_ZERO
		got = true;
#else
		got = ref > 0;
#endif
#ifndef BREAK_WORK_REF
		ref = ref + got
#endif
	};
	if
	:: got ->
		atomic { assert(!freed); got = queued; queued = true };
#if !defined(BREAK_WORK_REF) && !defined(BREAK_WORK_TWICE)
		/* it was queued already, with a reference */
		if
		:: got -> put()
		:: !got
		fi
#endif
	:: !got
	fi
}

/* nopin_exit() */
proctype bio(byte page)
{
	bool got;

#ifndef BREAK_LEAVE_RCU
	reading[page] = true;
#endif
	atomic { assert(!freed); count[page]-- };
	/* the range may be on its way out by now */
	atomic { assert(!freed); got = nr_pinned > 0 };
	if
	:: got -> unpin()
	:: !got
	fi;
	reading[page] = false
}

/* nopin_invalidate() for exit_mmap(), then nopin_range_destroy() */
proctype owner()
{
	byte page;
	bool got;

	do
	:: page < NR_PAGES && count[page] > 0 ->
		/* nopin_pin_page() */
		atomic {
#ifndef BREAK_PIN_REF
			ref = ref + (nr_pinned == 0);
#endif
			pinned[page] = true;
			nr_pinned++
		};
		if
		:: count[page] == 0 -> unpin()
		:: count[page] > 0
		fi;
		page++
	:: page < NR_PAGES && count[page] == 0 -> page++
	:: page == NR_PAGES -> break
	od;
	put()
}

/* nopin_unpin_work() */
proctype worker()
{
	byte page;
	bool drop;

end:	do
	:: queued ->
		queued = false;
		page = 0;
		do
		:: page < NR_PAGES ->
			/* nopin_unpin_some() */
			atomic { assert(!freed); drop = pinned[page] && count[page] == 0 };
			if
			:: drop ->
				atomic {
					assert(!freed);
					pinned[page] = false;
					nr_pinned--;
					drop = nr_pinned == 0
				};
#ifndef BREAK_PIN_REF
				if
				:: drop -> put()
				:: !drop
				fi
#endif
			:: !drop
			fi;
			page++
		:: page == NR_PAGES -> break
		od;
		assert(!freed);
#ifndef BREAK_WORK_REF
		put()
#endif
	od
}

/* Blocked for ever if a reference is left */
proctype reclaimer()
{
	dying;
#ifndef BREAK_RANGE_RCU
	!reading[0];
	!reading[1];
#endif
	assert(!queued && nr_pinned == 0);
	freed = true
}

init {
	atomic {
		run reclaimer();
		run worker();
		run owner();
		run bio(0);
		run bio(1)
	}
}
