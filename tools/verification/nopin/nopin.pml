/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The protocol of mm/nopin/ as a model for spin: one page of address space, with a
 * state for each of two directions, and those who are interested in it at once.
 *
 *	bio		enters the page, has a device work on it, exits; opens the page
 *			if it cannot be entered, and faults it in if it is not there
 *	changer		changes the mapping: an invalidation of any kind
 *	worker		drops the pins that changers took on behalf of bios
 *	ager		makes the translation old
 *
 * spin looks at every order in which their steps can happen, and complains if
 *
 * - a device works on a page that is neither the one that is mapped, with the access
 *   that it needs, nor pinned for it,
 * - a page is pinned that is not mapped, or unpinned while a bio uses it,
 * - the bio_vec is written while a bio or a pin relies on it,
 * - a changer waits for I/O that may not end before he does: I/O that is not prompt,
 *   I/O that is pinned, and any I/O if he is reclaim,
 * - somebody waits for ever, or a page is pinned for ever.
 *
 * A step is what the kernel does in one atomic operation, or what nobody else can see
 * half of. Each BREAK_* leaves out one step or does two of them in the wrong order, and
 * then there must be a complaint. The latter is what a processor does where the kernel
 * lacks a barrier. "check" runs them all.
 *
 * What is taken for granted here is in chunk.pml, the memory of the states, and in
 * range.pml, the life of the range. How long a wait takes is in none of them: it may
 * end at any time. Nor are pages that cannot be pinned.
 */

#define FROM		0	/* the device writes memory */
#define TO		1	/* it reads memory */

/* What changers do: all but PROTECT is about both directions */
#define TRUNCATE	0	/* of a page of a file: waits for FROM, pins TO, then all */
#define UNMAP		1	/* of an anonymous page: pins at once */
#define PROTECT		2	/* mkclean: waits for FROM, then pins */
#define MIGRATE		3	/* waits, then is refused */
#define RECLAIM		4	/* is refused at once */

#define REFUSABLE	(kind >= MIGRATE)
#define BUYS(dir)	((kind == TRUNCATE || kind == PROTECT) && dir == FROM)

/* The mapping: which page is there, 0 for none. Each fault takes a new one */
byte pte = 1;
byte next = 2;
bool writable = true;		/* and dirty */

/* The states of the page, and its translation */
bool closed[2];
bool old[2];
byte count[2];
byte bvec = 1;
bool pinned[2];

bool locked;			/* the range lock */
byte changing;			/* invalidations between start and end */
bool asleep[2];			/* each changer: in the wait queue of the range */
bool queued;			/* the worker */

byte other;			/* bios in the chunk that are not prompt */
byte others[2];			/* those of them that have entered: nobody knows that */
byte reclaiming;		/* drivers that need memory wait for it */
bool copied;			/* somebody has a copy of the page, to replace it by */

/* Bios that are not prompt are counted */
#define begin_other()	if :: is_other -> other++ :: !is_other fi
#define end_other()	if :: is_other -> other-- :: !is_other fi

#define lock()		atomic { !locked; locked = true }
#define unlock()	locked = false
#define BUSY(dir)	(count[dir] > 0 && !pinned[dir])

#ifdef BREAK_MEMALLOC
#define AT_ONCE	false
#else
#define AT_ONCE	(kind == RECLAIM)
#endif
#ifdef BREAK_OTHER
#define ALONE	true
#else
#define ALONE	(other == 0)
#endif

inline wake()
{
	d_step { asleep[0] = false; asleep[1] = false }
}

/* A device works on the page: at any time between enter and exit */
inline use()
{
	assert((page == pte && (dir == TO || writable)) ||
	       (page == bvec && pinned[dir]));
	assert(dir == TO || !copied)
}

proctype bio(byte dir; bool is_other)
{
	byte page;
	bool seen, sleeper, pins;

again:	/* nopin_enter() */
#ifndef BREAK_OTHER_LATE
	begin_other();
#endif
#ifdef BREAK_ENTER_ORDER
	page = bvec;
#endif
	atomic {
		if
#ifdef BREAK_ENTER_CLOSED
		:: !old[dir]
#else
#ifdef BREAK_ENTER_OLD
		:: !closed[dir]
#else
		:: !closed[dir] && !old[dir]
#endif
#endif
		:: else -> goto shut
		fi;
#ifdef BREAK_ENTER_ATOMIC
	};
	atomic {
#endif
		count[dir]++;
		others[dir] = others[dir] + is_other
	};
#ifdef BREAK_OTHER_LATE
	begin_other();
#endif
#ifndef BREAK_ENTER_ORDER
	page = bvec;
#endif

#ifdef BREAK_BLOCK
	/* something before submit_bio() waits for an invalidation */
	changing == 0;
#endif
	/*
	 * The driver may need memory. I/O that is not prompt may wait for anything,
	 * and so may I/O that has pins.
	 */
	if
	:: true
	:: true -> reclaiming == 0 && (changing == 0 || !(is_other || pinned[dir]))
	fi;
#ifndef BREAK_EXIT_ORDER
	use();
#endif

	/* nopin_exit() */
#ifdef BREAK_OTHER_SOON
	end_other();
#endif
#ifdef BREAK_EXIT_WAKE
	sleeper = asleep[0] || asleep[1];
#endif
#ifdef BREAK_EXIT_PINS
	pins = pinned[FROM] || pinned[TO];
#endif
#ifdef BREAK_EXIT_CLOSED
	seen = closed[dir];
#endif
	atomic {
		assert(count[dir] > 0);
#ifndef BREAK_EXIT_CLOSED
		seen = closed[dir];
#endif
		count[dir]--;
		others[dir] = others[dir] - is_other
	};
#ifdef BREAK_EXIT_ORDER
	use();
#endif
#ifndef BREAK_OTHER_SOON
	end_other();
#endif
	/* nopin_exit_wake() */
	if
	:: seen ->
		atomic {
#ifndef BREAK_EXIT_WAKE
			sleeper = asleep[0] || asleep[1];
#endif
			if
			:: sleeper -> wake()
			:: !sleeper
			fi
		};
		atomic {
#ifndef BREAK_EXIT_PINS
			pins = pinned[FROM] || pinned[TO];
#endif
			queued = queued || pins
		}
	:: !seen
	fi;
	goto out;

shut:	end_other();
	/* nopin_open() */
	atomic {
#ifdef BREAK_REOPEN
		!locked;
#else
		changing == 0 && !locked;
#endif
		locked = true;
		if
#ifdef BREAK_OPEN_PINNED
		:: closed[dir] ->
#else
#ifdef BREAK_OPEN_DIR
		:: closed[dir] && !pinned[dir] ->
#else
		:: closed[dir] && !pinned[FROM] && !pinned[TO] ->
#endif
#endif
			closed[dir] = false;
#ifndef BREAK_OPEN_OLD
			old[dir] = true
#endif
		:: else
		fi;
		/* nopin_walk() */
		if
#ifndef BREAK_WALK_CLOSED
		:: closed[dir] -> unlock(); goto out	/* pinned the usual way */
#endif
		:: !closed[dir] && !old[dir] -> unlock(); goto again
		:: else
		fi;
#ifdef BREAK_WALK_LOCK
		unlock();
#endif
		page = pte
	};
	if
#ifdef BREAK_WALK_DIRTY
	:: page == 0 ->
#else
	:: page == 0 || (dir == FROM && !writable) ->
#endif
#ifndef BREAK_WALK_LOCK
		unlock();
#endif
		/* nopin_fault() */
		atomic {
			if
			:: pte == 0 -> pte = next; next++
			:: else
			fi;
			writable = writable || dir == FROM
		};
		goto again
	:: else
	fi;
#ifdef BREAK_PUBLISH_ORDER
	old[dir] = false;
#endif
	atomic {
		if
		:: bvec != page ->
			assert(count[FROM] == 0 && count[TO] == 0);
			assert(!pinned[FROM] && !pinned[TO]);
			bvec = page
		:: else
		fi
	};
	atomic {
#ifndef BREAK_PUBLISH_ORDER
		old[dir] = false;
#endif
#ifndef BREAK_WALK_LOCK
		unlock();
#endif
		goto again
	};

out:	skip
}

/* nopin_close() for one direction; who is refused at once closes nothing in use */
inline close(dir)
{
#ifdef BREAK_CLOSE_ATOMIC
	is_busy = is_busy || BUSY(dir);
	closed[dir] = closed[dir] || !(AT_ONCE && is_busy)
#else
	atomic {
		is_busy = is_busy || BUSY(dir);
#ifndef BREAK_CLOSE_ORDER
		closed[dir] = closed[dir] || !(AT_ONCE && is_busy)
#endif
	}
#endif
}

/* nopin_drain() for one direction: wait_event() */
inline wait_idle(dir)
{
	do
	:: true ->
#ifdef BREAK_SLEEP_ORDER
		is_busy = BUSY(dir);
#endif
		asleep[me] = true;
#ifdef BREAK_WAIT_PINNED
		is_busy = count[dir] > 0;
#endif
#if !defined(BREAK_SLEEP_ORDER) && !defined(BREAK_WAIT_PINNED)
		is_busy = BUSY(dir);
#endif
		if
		:: !is_busy -> asleep[me] = false; break
		:: is_busy -> assert(others[dir] == 0); !asleep[me]
		fi
	od
}

/* nopin_pin(); all, or only those that it does not help to wait for: is anything left? */
inline pin(all)
{
	left = false;
#ifndef BREAK_UNHELD
	lock();
#ifdef BREAK_PIN_WAKE
	sleeper = asleep[0] || asleep[1];
#endif
	dir = FROM;
	do
	:: true ->
		if
		:: BUSY(dir) ->
			/* folio_try_get(): of a page that may be somebody else's by now */
			d_step { got = bvec == pte; alone = ALONE };
#ifdef BREAK_PIN_GET
			is_busy = true;
#else
			is_busy = count[dir] > 0;
#endif
			if
			:: !is_busy
			:: is_busy && !all && alone && BUYS(dir) -> left = true
			:: is_busy && (all || !alone || !BUYS(dir)) ->
#ifdef BREAK_PIN_ORDER
				is_busy = count[dir] > 0;
#endif
				atomic { assert(got); pinned[dir] = true };
				atomic {
#if !defined(BREAK_PIN_ORDER) && !defined(BREAK_PIN_COUNT)
					is_busy = count[dir] > 0;
#endif
					queued = queued || !is_busy
				}
			fi
		:: else
		fi;
		if
		:: dir == FROM && kind != PROTECT -> dir = TO
		:: else -> break
		fi
	od;
	unlock();
#ifdef BREAK_PIN_WAKE
	if
	:: sleeper -> wake()
	:: else
	fi
#else
	wake()
#endif
#endif
}

/* An invalidation, and the change */
proctype changer(byte me, kind)
{
	byte dir;
	bool is_busy, alone, left, got, sleeper;

	/* mmu_notifier_invalidate_range_start() */
	atomic {
		!locked;
		locked = true;
		changing++;
		reclaiming = reclaiming + (kind == RECLAIM)
	};
	/* nopin_invalidate() */
#ifdef BREAK_OTHER_FIRST
	alone = ALONE;
#endif
	close(FROM);
#ifndef BREAK_CLOSE_DIRS
	if
	:: kind != PROTECT -> close(TO)
	:: else
	fi;
#endif
	atomic {
#ifndef BREAK_OTHER_FIRST
		alone = ALONE;
#endif
		unlock()
	};

#ifdef BREAK_WAIT
	is_busy = false;
#endif
	if
	:: !is_busy -> goto change
	:: is_busy && (AT_ONCE || (REFUSABLE && !alone)) -> goto refused
	:: is_busy && REFUSABLE && !AT_ONCE && alone
	:: is_busy && !REFUSABLE ->
		pin(false);
		if
		:: !left -> goto change
		:: left
		fi
	fi;
#ifdef BREAK_IDLE_ORDER
	copied = kind == MIGRATE;
#endif
	if
	:: true ->
		wait_idle(FROM);
		if
		:: kind != PROTECT -> wait_idle(TO)
		:: else
		fi;
		goto change
	:: true -> skip		/* time is up, at once or a little later */
	fi;
	if
	:: REFUSABLE -> goto refused
	:: !REFUSABLE -> pin(true)
	fi;

change:	/* A page that is pinned is not replaced */
	atomic {
		if
		:: kind == MIGRATE && (pinned[FROM] || pinned[TO]) -> goto refused
		:: kind == MIGRATE && !(pinned[FROM] || pinned[TO]) -> copied = true
		:: else
		fi
	};
	atomic {
		if
		:: kind == PROTECT -> writable = false
		:: kind == MIGRATE ->
			if
			:: pte != 0 -> pte = next; next++
			:: else
			fi;
			copied = false
		:: else -> pte = 0; writable = false
		fi
	};
#ifdef BREAK_CLOSE_ORDER
	closed[FROM] = true;
	closed[TO] = closed[TO] || kind != PROTECT;
#endif
refused:
	atomic { changing--; reclaiming = reclaiming - (kind == RECLAIM) }
}

/* nopin_unpin_work() */
proctype worker()
{
	byte dir;
	bool drop;

end:	do
	:: atomic { queued -> queued = false; dir = FROM };
		do
		:: true ->
			/* nopin_unpin_some() */
			atomic {
				!locked;
#ifdef BREAK_UNPIN_COUNT
				drop = pinned[dir]
#else
				drop = pinned[dir] && count[dir] == 0
#endif
			};
			if
			:: drop ->
				/* the unpin itself, of what is in the bio_vec */
				assert(count[dir] == 0);
				atomic { !locked; pinned[dir] = false }
			:: !drop
			fi;
			if
			:: dir == FROM -> dir = TO
			:: dir == TO -> break
			fi
		od
	od
}

/* nopin_young(), without a lock, and nopin_used(), which looks at the page */
proctype ager()
{
	byte dir;
	bool young;

	if
	:: dir = FROM
	:: dir = TO
	fi;
	if
	:: old[dir] = true
	:: atomic {
#ifndef BREAK_AGE_LOCK
		!locked;
		locked = true;
#endif
		young = !closed[dir] && !old[dir];
		old[dir] = true
	   };
		assert(!young || bvec == pte);
#ifndef BREAK_AGE_LOCK
		unlock()
#endif
	fi
}

init {
	byte what, dir, one, two;

	atomic {
		/* There is enough to try with one of these at a time */
		select(what : 0 .. 2);
		if
		:: dir = TO
		:: dir = FROM
		fi;
		run worker();
		if
		:: what == 0 || what == 1 ->
			select(one : TRUNCATE .. RECLAIM)
		:: what == 2 ->
			select(one : UNMAP .. MIGRATE);
			select(two : one .. MIGRATE);
			run changer(1, two)
		fi;
		run changer(0, one);
		if
		:: what == 1 -> run ager()
		:: else
		fi;
		run bio(dir, what == 0);
		run bio(FROM, false)
	};
	/* When nobody can go on any more: who is idle by now has been unpinned */
	timeout;
	assert(!(pinned[FROM] && count[FROM] == 0) && !(pinned[TO] && count[TO] == 0))
}
