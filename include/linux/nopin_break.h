/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Rules of nopin that can be broken, one at a time, to see that a test fails.
 *
 * nopin_broken() is constant false without CONFIG_NOPIN_BREAK.
 */
#ifndef _LINUX_NOPIN_BREAK_H
#define _LINUX_NOPIN_BREAK_H

#include <linux/compiler.h>
#include <linux/types.h>

enum nopin_break_rule {
	NOPIN_BREAK_WAIT,	/* do not wait for I/O in an invalidation */
	NOPIN_BREAK_RELEASE,	/* do not wait for I/O when the mm exits */
	NOPIN_BREAK_EARLY_EXIT,	/* exit before the bio is submitted */
	NOPIN_BREAK_LATE_EXIT,	/* exit in the submitter, after it wakes */
	NOPIN_BREAK_FLUSH,	/* write back the file between enter and submit */
	NOPIN_BREAK_BLOCK,	/* wait for invalidations between the two */
	NOPIN_BREAK_MEMALLOC,	/* wait in PF_MEMALLOC context */
	NOPIN_BREAK_OTHER,	/* wait for I/O that is not prompt */
	NOPIN_BREAK_PROMPT,	/* take all I/O for prompt */
	NOPIN_BREAK_BUYS,	/* wait where it buys nothing */
	NOPIN_BREAK_BUDGET,	/* do not charge tasks for their waits */
	NOPIN_BREAK_DIRTY,	/* take clean PTEs for reads */
	NOPIN_BREAK_IRQS,	/* walk with interrupts on */
	NOPIN_BREAK_SPECIAL,	/* do not look for secretmem and the like */
	NOPIN_BREAK_FREE,	/* free ranges without a grace period */
	NOPIN_BREAK_REOPEN,	/* reopen pages during invalidations */
	NOPIN_BREAK_OVERFLOW,	/* do not check for a count that is full */
	NOPIN_BREAK_STALE,	/* keep translations in an invalidation */
	NOPIN_BREAK_YOUNG,	/* do not tell reclaim of cached use */
	NOPIN_BREAK_MM,		/* use fixed buffers of another mm as if ours */
	NOPIN_BREAK_CLONE,	/* clone fixed buffers without a reference */
	NOPIN_BREAK_REFUSE,	/* wait for ever instead of refusing */
	NOPIN_BREAK_BEHALF,	/* wait for ever instead of pinning on behalf */
	NOPIN_BREAK_UNHELD,	/* neither wait for ever nor pin on behalf */
	NOPIN_BREAK_HINT,	/* invalidate for hints of NUMA balancing */
	NOPIN_BREAK_SHRINK,	/* free translations that are in use */
	NOPIN_NR_BREAKS
};

#ifdef CONFIG_NOPIN_BREAK
extern bool nopin_broken_rules[NOPIN_NR_BREAKS];
#define nopin_broken(rule) \
	unlikely(READ_ONCE(nopin_broken_rules[NOPIN_BREAK_##rule]))
#else
#define nopin_broken(rule) ((void)NOPIN_BREAK_##rule, false)
#endif

#endif /* _LINUX_NOPIN_BREAK_H */
