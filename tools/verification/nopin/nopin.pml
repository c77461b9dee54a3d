/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The protocol of mm/nopin/ as a model for spin: one page of address space, one
 * direction, and those who are interested in it at the same time.
 *
 *	submitters	direct I/O, and an munmap() with I/O in flight
 *	device		works on the page, then ends the bio, for which the driver may
 *			need memory
 *	changer		somebody else who changes the mapping, and has to
 *	kswapd		wants the page, but not at any price
 *	worker		drops the pin on behalf of I/O that took too long
 *	shrinker	wants the memory for the kept translation, instead of kswapd
 *
 * spin looks at every order in which their steps can happen, and complains if
 *
 * - the device works on a page that belongs to somebody else by then,
 * - a count goes below zero or pages are entered while their mapping changes,
 * - nobody can go on: a wake-up got lost, or they wait in a circle,
 * - a pin on behalf of I/O is not dropped,
 * - I/O relies on a translation that is wrong, or in memory that was freed.
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

/*
 * There are three models. In one, waits end when the I/O does, and the kernel must
 * get along with that: the bound is no excuse for waiting in a circle. In the
 * others, any wait may end early, with a pin on behalf of the I/O; in the last one
 * there is a shrinker.
 */
#if defined(BREAK_BLOCK) || defined(BREAK_MEMALLOC) || defined(BREAK_WAKE)
#define PATIENT
#endif
#if defined(BREAK_SHRINK) || defined(BREAK_SHRINK_ORDER) || defined(BREAK_OLD)
#define SHRINKER
#endif

#ifdef BREAK_STALE
#define STALE	true
#else
#define STALE	false
#endif

#define NR_IO		2	/* of the first submitter, one of the other */
#define NR_SUBMITTERS	2
#define NR_PAGES	8	/* each fault takes a new one */
#define NR_ARRAYS	4

/* The mapping: which page is there, and who owns it */
byte pte = 1;
byte next = 2;
bool freed[NR_PAGES];

/* The state of the page, as the notifier and I/O see it */
bool closed = true;
byte count;
byte changing;		/* invalidations between start and end */

/* The pin on behalf of the I/O in flight, on which page, and its way to the worker */
bool pinned;
byte held;
bool orphaned;		/* nothing maps the page any more */
bool watching;
bool queued;

/*
 * The kept translation, and the bit in the state of the page that keeps I/O from
 * using it unseen. It is in an array, each allocated after the last one was freed.
 */
bool valid;
bool old = true;
byte cached;
byte array;
bool gone[NR_ARRAYS + 1];	/* and none at all */
bool locked;		/* the range lock, where it is held for several steps */

/* The wait queue of the range: waiters, and those of them that were woken */
byte sleeping;
byte woken;

/* Memory is short until kswapd has had a look at everything */
bool low;

/* I/O in flight: what the device was given, and what ended, for the submitter */
chan device_queue = [NR_SUBMITTERS * NR_IO] of { byte, byte, byte };
byte ended[NR_SUBMITTERS];

/* nopin_pin_wake(): called for whoever exits, and once by who has pinned */
inline wake_pin()
{
	atomic {
		if
		:: watching && count == 0 ->
			watching = false;
			queued = true
		:: else
		fi
	}
}

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
	:: seen ->
		woken = sleeping;
		wake_pin()
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
		};
		wake_pin()
	:: else
	fi
#endif
}

/*
 * nopin_pin(): get a reference to what is mapped, then look whether that was in
 * time; under the lock of the range
 */
inline pin()
{
	atomic {
		held = pte;
		if
		:: count > 0 && !pinned && held != 0 ->
			assert(!freed[held]);
			pinned = true
		:: else ->
			/* nothing there, for somebody who is about to leave */
			goto no_pin
		fi
	};
	watching = true;
#ifndef BREAK_PIN_WAKE
	wake_pin();
#endif
no_pin:
	skip
}

/* wait_event_timeout(): get on the queue, look again, sleep */
inline drain()
{
	do
	:: atomic { sleeping++ };
	   if
	   :: count == 0 || pinned ->
		atomic {
			sleeping--;
			if
			:: woken > sleeping -> woken = sleeping
			:: else
			fi
		};
		break
	   :: count > 0 && !pinned ->
		/* schedule() */
		if
		:: atomic {
			woken > 0;
			woken--;
			sleeping--
		   }
#ifndef PATIENT
		:: atomic {
			/* time is up, maybe in the moment of the wake-up */
			sleeping--;
			if
			:: woken > sleeping -> woken = sleeping
			:: else
			fi
		   };
#ifdef BREAK_UNHELD
		   break
#else
		   pin()
#endif
#endif
		fi
	   fi
	od
}

/* What the caller of the notifier does between start and end */
inline change_mapping()
{
	atomic {
		assert(!WAITS || count == 0 || pinned);
		if
		:: pte != 0 && pinned && pte == held ->
			orphaned = true;
			pte = 0
		:: pte != 0 && !(pinned && pte == held) ->
			freed[pte] = true;
			pte = 0
		:: else
		fi
	};
	changing--
}

/* nopin_forget(): what bios of a pinned page point to stays */
inline forget()
{
	atomic {
		if
		:: !pinned && !STALE -> !locked -> valid = false
		:: else
		fi
	}
}

/* nopin_invalidate(), for somebody who cannot be refused */
inline invalidate()
{
	atomic { changing++; closed = true };
#ifndef BREAK_WAIT
	drain();
#endif
	forget();
	change_mapping()
}

/* The same for reclaim: never waits */
inline try_invalidate()
{
#ifdef BREAK_MEMALLOC
	atomic { changing++; closed = true };
	drain();
	forget();
	change_mapping()
#else
	atomic {
		if
		:: count > 0 && !pinned -> refused = true
		:: else ->
			refused = false;
			changing++;
			closed = true
		fi
	};
	if
	:: refused
	:: else ->
		forget();
		change_mapping()
	fi
#endif
}

/* nopin_open(): wait for invalidations to end, then see that there is none */
inline open_page()
{
#ifdef BREAK_REOPEN
	closed = false
#else
	changing == 0;
	atomic {
		!locked;
		if
#ifdef BREAK_PINNED
		:: changing == 0 ->
#else
		:: changing == 0 && !pinned ->
#endif
#ifndef BREAK_OLD
			old = true;
#endif
			closed = false
		:: else
		fi
	}
#endif
}

proctype device()
{
	byte page, who, in;
	bool seen;

end:	do
	:: atomic {
		device_queue ? page, who, in ->
		assert(!freed[page] && !gone[in])
	   };
		/* the same I/O, a little later */
		assert(!freed[page] && !gone[in]);
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

proctype submitter(byte me, nr_io; bool unmaps)
{
	byte page, done, nr, in;
	bool seen, refused, known;

	do
	:: nr == nr_io -> break
	:: nr < nr_io ->
again:
#ifdef BREAK_WALK_FIRST
		page = pte;
#endif
		atomic {
			if
			:: closed -> goto shut
			:: else -> count++; known = !old
			fi
		};
		in = NR_ARRAYS;
#ifndef BREAK_WALK_FIRST
		if
		:: known ->
			/* nopin_enter_known() */
			atomic { page = cached; in = array };
			goto submit
		:: !known && valid ->
			/* nopin_cached(): some time after the look at valid */
			atomic { page = cached; in = array; old = false };
			goto submit
		:: atomic { !known && !valid -> page = pte };
#ifndef BREAK_CHECK
			/* nopin_check(): was that in time? */
			if
			:: closed -> exit_page(); goto shut
			:: else
			fi
#endif
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
		/* nopin_learn() */
		atomic {
			!locked;
			assert(!gone[array]);
			cached = page;
			valid = true
		};
		old = false;
submit:
#ifdef BREAK_BLOCK
		/* something between the two waits for an invalidation */
		changing == 0;
#endif
		/* an allocation of submit_bio() looks for memory here, too */
#if defined(PATIENT) && !defined(BREAK_MEMALLOC)
		if
		:: true -> try_invalidate()
		:: true
		fi;
#endif
#ifdef BREAK_EARLY_EXIT
		exit_page();
#endif
		device_queue ! page, me, in;
		nr++;
		goto next_one
shut:
		open_page();
		if
		:: pinned ->
			/* takes pins of its own, and is none of our business */
			ended[me]++;
			nr++
		:: !pinned -> goto again
		fi;
next_one:
		skip
	od;

	/* munmap() by the task that has the I/O in flight */
	if
	:: unmaps -> invalidate()
	:: else
	fi;

	do
	:: done == nr_io -> break
	:: done < nr_io ->
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

/* nopin_pin_work() */
proctype worker()
{
end:	do
	:: pinned ->
		atomic {
			queued && !locked;
			queued = false;
			if
			:: orphaned -> freed[held] = true
			:: else
			fi;
			orphaned = false;
			valid = false;
			pinned = false
		}
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

/*
 * nopin_isolate(), twice: it may find the translation in use at first. Not the
 * exact order of who makes it old, reclaim or the shrinker itself.
 */
proctype shrinker()
{
	byte nr;
	bool was, busy;

	do
	:: nr == 2 -> break
	:: nr < 2 ->
		atomic { !locked; locked = true };
		if
		:: !old -> old = true
		:: old ->
#ifdef BREAK_SHRINK_ORDER
			busy = count > 0;
#endif
			atomic { was = valid; valid = false };
#ifdef BREAK_SHRINK_ORDER
			old = true;
#else
			atomic { busy = count > 0; old = true };
#endif
#ifdef BREAK_SHRINK
			busy = false;
#endif
			if
			:: busy -> valid = was
			:: !busy ->
				atomic {
					gone[array] = true;
					array++;
					cached = 0
				}
			fi
		fi;
		locked = false;
		nr++
	od
}

init {
	atomic {
		run device();
		run submitter(0, NR_IO, true);
#ifndef SHRINKER
		/* one that has two at a time will do otherwise: there is enough to try */
		run submitter(1, 1, false);
#endif
		run changer();
		run worker();
#ifdef SHRINKER
		run shrinker()
#else
		run kswapd()
#endif
	}
}
