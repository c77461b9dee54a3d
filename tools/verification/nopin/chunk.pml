/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The memory of the states of pages, as a model for spin: one chunk, of one page in one
 * direction, and those who use it while it is freed.
 *
 *	bio		looks the chunk up, enters, has a device work on the page, exits; or
 *			opens the page, and allocates the chunk if there is none
 *	changer		closes the page, waits for bios or pins the page, changes the
 *			mapping, and frees the chunk as munmap() does
 *	ager		looks at the state, then frees the chunk as nobody has used it for long
 *	worker		drops the pin
 *	reclaimer	is RCU: frees what was unlinked, when those are gone who may see it
 *
 * spin complains if anybody looks at a chunk that was freed, or if a device works on a
 * page that is neither mapped nor pinned: the bio has entered a chunk that changers did
 * not find, or that was not ready. nopin.pml has what the states are about, and says
 * what a BREAK is.
 *
 * The kernel also looks at nopin_chunk.other before it frees a chunk. It need not.
 */

#define NR_BIOS		2
#define NR_READERS	3	/* bios, and the ager */
#define NR_CHUNKS	4	/* each allocation takes a new one; 0 is none */

byte pte = 1;			/* each change maps another page */

byte slot;			/* in the array of the range */
byte next = 1;

/* In the chunks: as they are allocated, all zeroes */
bool closed[NR_CHUNKS];
byte count[NR_CHUNKS];
byte bvec[NR_CHUNKS];
bool pinned[NR_CHUNKS];

bool unlinked[NR_CHUNKS];
bool freed[NR_CHUNKS];

bool locked;			/* the range lock */
byte changing;			/* invalidations between start and end */
byte draining;			/* those that look at chunks without the lock */
bool reading[NR_READERS];	/* those within rcu_read_lock() */

#define lock()		atomic { !locked; locked = true }
#define unlock()	locked = false
#define alive(c)	assert(!freed[c])
#define BUSY(c)		(count[c] > 0 && !pinned[c])

/* nopin_chunk_free() */
inline free_chunk()
{
	lock();
	c = slot;
	if
	:: c == 0
#ifndef BREAK_FREE_DRAINING
	:: c != 0 && draining > 0
#endif
#ifndef BREAK_FREE_PINNED
	:: c != 0 && pinned[c]
#endif
	:: else ->
		alive(c);
#ifdef BREAK_FREE_ORDER
		/* who looks first misses those who enter before he closes it */
		used = count[c] > 0;
		closed[c] = true;
#else
#ifdef BREAK_FREE_OPEN
		used = count[c] > 0;
#else
		atomic { used = count[c] > 0; closed[c] = true };
#endif
#endif
#ifdef BREAK_FREE_USED
		used = false;
#endif
		if
		:: used		/* closed it stays, until I/O opens it */
		:: !used ->
			slot = 0;
#ifdef BREAK_FREE_RCU
			freed[c] = true
#else
			unlinked[c] = true	/* call_rcu() */
#endif
		fi
	fi;
	unlock()
}

/* call_rcu(), one grace period after the other */
proctype reclaimer()
{
	byte c, i;

end:	do
	:: atomic { c < NR_CHUNKS - 1 && unlinked[c + 1] -> c++ };
		i = 0;
		do
		:: i < NR_READERS -> !reading[i]; i++
		:: i == NR_READERS -> break
		od;
		freed[c] = true
	od
}

proctype bio(byte me; bool is_other)
{
	byte c, page;

again:	/* nopin_mm_chunk(), nopin_enter() */
#ifndef BREAK_ENTER_RCU
	reading[me] = true;
#endif
	c = slot;
	if
	:: c == 0 -> goto shut
	:: c != 0 && is_other -> alive(c)	/* other++ */
	:: c != 0 && !is_other
	fi;
	atomic {
		alive(c);
		if
		:: closed[c] -> goto shut
		:: !closed[c] -> count[c]++
		fi
	};
	atomic { alive(c); page = bvec[c]; reading[me] = false };

	/* the device, which has a pointer to the bio_vec */
	atomic { alive(c); assert(page == pte || pinned[c]) };

	/* nopin_exit_slow(): nopin_exit() does not look at the chunk in the end */
#ifndef BREAK_EXIT_RCU
	reading[me] = true;
#endif
	assert(c == slot);
	atomic { alive(c); count[c]-- };
	if
	:: is_other -> alive(c)		/* other-- */
	:: !is_other
	fi;
	reading[me] = false;
	goto out;

shut:	if
	:: c != 0 && is_other -> alive(c)	/* other-- */
	:: else
	fi;
	reading[me] = false;
	/* nopin_chunk_add() */
	if
	:: slot == 0 ->
		/* all are used up: there is enough to try without */
		if
		:: next == NR_CHUNKS -> goto out
		:: next < NR_CHUNKS
		fi;
		lock();
		if
#ifdef BREAK_ADD_TWICE
		:: next < NR_CHUNKS ->
#else
		:: slot == 0 && next < NR_CHUNKS ->
#endif
#ifdef BREAK_ADD_ORDER
			slot = next;
			closed[next] = true;
#else
			closed[next] = true;
			slot = next;
#endif
			next++
		:: else
		fi;
		unlock()
	:: slot != 0
	fi;
	/* nopin_open() */
#ifdef BREAK_OPEN_LOCK
	c = slot;
#endif
	atomic { changing == 0 && !locked; locked = true };
#ifndef BREAK_OPEN_LOCK
	c = slot;
#endif
	if
	:: c == 0 -> unlock(); goto again
	:: c != 0 ->
		alive(c);
		if
		:: pinned[c] -> unlock(); goto out	/* pinned the usual way */
		:: !pinned[c]
		fi;
		d_step {
			if
			:: bvec[c] != pte -> assert(count[c] == 0); bvec[c] = pte
			:: else
			fi;
			closed[c] = false
		};
		unlock();
		goto again
	fi;

out:	skip
}

/* nopin_invalidate(), and what comes between start and end */
proctype changer(bool unmaps)
{
	byte c;
	bool used;

	atomic {
		!locked;
		locked = true;
		changing++;
		c = slot;
		if
		:: c != 0 ->
			alive(c);
			used = BUSY(c);
			closed[c] = true
		:: c == 0
		fi;
		locked = false
	};
	if
	:: used ->
		if
		:: true ->
			/* nopin_drain() */
#ifdef BREAK_DRAINING_LATE
			c = slot;
#endif
			atomic { !locked; draining++ };
#ifndef BREAK_DRAINING_LATE
			c = slot;
#endif
			if
			:: c != 0 ->
				do
				:: alive(c);
					if
					:: !BUSY(c) -> break
					:: true -> break	/* time is up */
					fi
				od
			:: c == 0
			fi;
			atomic { !locked; draining-- }
		:: true
		fi;
		/* nopin_pin() */
		lock();
		c = slot;
		if
		:: c != 0 && BUSY(c) -> atomic { alive(c); pinned[c] = true }
		:: else
		fi;
		unlock()
	:: !used
	fi;
	pte++;
	changing--;
	/* nopin_forget() */
	if
	:: unmaps -> free_chunk()
	:: !unmaps
	fi
}

proctype ager()
{
	byte c;
	bool used;

	/* nopin_young() */
#ifndef BREAK_AGE_RCU
	reading[NR_BIOS] = true;
#endif
	c = slot;
	if
	:: c != 0 -> alive(c)
	:: c == 0
	fi;
	reading[NR_BIOS] = false;
	/* nopin_cache_age() */
	free_chunk()
}

/* nopin_unpin_some(), which whoever exits has queued */
proctype worker()
{
	byte c;

end:	do
	:: atomic { !locked && slot != 0 && pinned[slot] && count[slot] == 0 -> c = slot };
		/* unpin, without the lock */
		atomic { !locked; alive(c); pinned[c] = false }
	od
}

init {
	atomic {
		run reclaimer();
		run worker();
		run ager();
		run changer(true);
		run bio(0, false);
		run bio(1, true)
	}
}
