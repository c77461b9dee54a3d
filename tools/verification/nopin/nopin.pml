/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The protocol of mm/nopin/ as a model for spin: one page of address space, one
 * direction, and those who are interested in it at the same time.
 *
 *	submitter	direct I/O, twice, and an munmap() with I/O in flight
 *	device		works on the page, then ends the bio, for which the driver may
 *			need memory
 *	changer		somebody else who changes the mapping, and has to
 *	kswapd		wants the page, but not at any price
 *
 * spin looks at every order in which their steps can happen, and complains if
 *
 * - the device works on a page that belongs to somebody else by then,
 * - a count goes below zero or pages are entered while their mapping changes,
 * - nobody can go on: a wake-up got lost, or they wait in a circle.
 *
 * Each BREAK_* breaks the protocol in one place, and then there must be such a
 * complaint: otherwise the model does not show anything. "check" runs them all.
 *
 * A step here is atomic where the kernel has an atomic operation, or a lock. What
 * weaker ordering could do is not in the model: operations on the state of a page
 * are full barriers.
 */

#ifdef BREAK_WAIT
#define WAITS	false
#else
#define WAITS	true
#endif

#define NR_IO		2	/* per submitter */
#define NR_SUBMITTERS	2
#define NR_PAGES	8	/* each fault takes a new one */

/* The mapping: which page is there, and who owns it */
byte pte = 1;
byte next = 2;
bool freed[NR_PAGES];

/* The state of the page, as the notifier and I/O see it */
bool closed = true;
byte count;
byte changing;		/* invalidations between start and end */

/* The kept translation */
bool valid;
byte cached;

/* The wait queue of the range: waiters, and those of them that were woken */
byte sleeping;
byte woken;

/* Memory is short until kswapd has had a look at everything */
bool low;

/* I/O in flight: what the device was given, and what ended, for the submitter */
chan device_queue = [NR_SUBMITTERS * NR_IO] of { byte, byte };
byte ended[NR_SUBMITTERS];

/* The last access, and the wake-up: nopin_exit() */
inline exit_page()
{
#ifdef BREAK_WAKE
	/* who looks for waiters first misses the one that comes now */
	seen = closed && sleeping > 0;
	atomic {
		assert(count > 0);
		count--;
	}
	if
	:: seen -> woken = sleeping
	:: else
	fi
#else
	atomic {
		assert(count > 0);
		count--;
		seen = closed;
	}
	if
	:: seen ->
		atomic {
			if
			:: sleeping > 0 -> woken = sleeping
			:: else
			fi
		}
	:: else
	fi
#endif
}

/* wait_event(): get on the queue, look again, sleep */
inline drain()
{
	do
	:: atomic { sleeping++ };
	   if
	   :: count == 0 ->
		atomic {
			sleeping--;
			if
			:: woken > sleeping -> woken = sleeping
			:: else
			fi
		};
		break
	   :: count > 0 ->
		/* schedule() */
		atomic {
			woken > 0;
			woken--;
			sleeping--
		}
	   fi
	od
}

/* What the caller of the notifier does between start and end */
inline change_mapping()
{
	assert(!WAITS || count == 0);
	atomic {
		if
		:: pte != 0 ->
			freed[pte] = true;
			pte = 0
		:: else
		fi
	}
}

/* nopin_invalidate(), for somebody who cannot be refused */
inline invalidate()
{
	changing++;
	atomic { closed = true };
#ifndef BREAK_WAIT
	drain();
#endif
#ifndef BREAK_STALE
	valid = false;
#endif
	change_mapping();
	changing--
}

/* The same for reclaim: never waits */
inline try_invalidate()
{
	changing++;
#ifdef BREAK_MEMALLOC
	atomic { closed = true };
	drain();
	valid = false;
	change_mapping();
#else
	atomic {
		if
		:: count > 0 -> refused = true
		:: else ->
			refused = false;
			closed = true
		fi
	};
	if
	:: refused
	:: else ->
		valid = false;
		change_mapping()
	fi;
#endif
	changing--
}

/* nopin_open(): wait for invalidations to end, then see that there is none */
inline open_page()
{
#ifdef BREAK_REOPEN
	closed = false
#else
	changing == 0;
	atomic {
		if
		:: changing == 0 -> closed = false
		:: else
		fi
	}
#endif
}

proctype device()
{
	byte page, who;
	bool seen;

end:	do
	:: device_queue ? page, who ->
		assert(!freed[page]);
		/* the same I/O, a little later */
		assert(!freed[page]);
		/* the driver needs memory: not before kswapd is done */
		!low;
#ifndef BREAK_LATE_EXIT
#ifndef BREAK_EARLY_EXIT
		exit_page();
#endif
#endif
		ended[who]++
	od
}

proctype submitter(byte me; bool unmaps)
{
	byte page, done, nr;
	bool seen, refused;

	do
	:: nr == NR_IO -> break
	:: nr < NR_IO ->
again:
#ifdef BREAK_WALK_FIRST
		page = pte;
#endif
		atomic {
			if
			:: closed -> page = 0; goto shut
			:: else -> count++
			fi
		};
#ifndef BREAK_WALK_FIRST
		if
		:: atomic { valid -> page = cached }
		:: atomic { !valid -> page = pte }
		fi;
#endif
		if
		:: page == 0 ->
			/* not there: leave, fault it in, start over */
			exit_page();
			atomic {
				if
				:: pte == 0 ->
					assert(next < NR_PAGES);
					pte = next;
					next++
				:: else
				fi
			};
			goto again
		:: else
		fi;
		/* kept while it is entered */
		atomic { cached = page; valid = true };
#ifdef BREAK_BLOCK
		/* something between the two waits for an invalidation */
		changing == 0;
#endif
		/* an allocation of submit_bio() looks for memory here, too */
#ifndef BREAK_MEMALLOC
		if
		:: true -> try_invalidate()
		:: true
		fi;
#endif
#ifdef BREAK_EARLY_EXIT
		exit_page();
#endif
		device_queue ! page, me;
		nr++;
		goto next_one
shut:
		open_page();
		goto again;
next_one:
		skip
	od;

	/* munmap() by the task that has the I/O in flight */
	if
	:: unmaps -> invalidate()
	:: else
	fi;

	do
	:: done == NR_IO -> break
	:: done < NR_IO ->
		atomic {
			ended[me] > 0;
			ended[me]--;
			done++
		};
#ifdef BREAK_LATE_EXIT
		exit_page()
#endif
	od
}

proctype changer()
{
	invalidate()
}

proctype kswapd()
{
	bool refused;

	low = true;
	try_invalidate();
	low = false
}

init {
	atomic {
		run device();
		run submitter(0, true);
		run submitter(1, false);
		run changer();
		run kswapd()
	}
}
