/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM nopin

#if !defined(_TRACE_NOPIN_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_NOPIN_H

#include <linux/kdev_t.h>
#include <linux/mmu_notifier.h>
#include <linux/nopin.h>
#include <linux/sched.h>
#include <linux/tracepoint.h>

#define show_nopin_dir(dir) __print_symbolic(dir,	\
	{ NOPIN_FROM_DEVICE,	"from-device" },	\
	{ NOPIN_TO_DEVICE,	"to-device" })

#define show_nopin_event(event) __print_symbolic(event,		\
	{ MMU_NOTIFY_UNMAP,		"unmap" },		\
	{ MMU_NOTIFY_CLEAR,		"clear" },		\
	{ MMU_NOTIFY_PROTECTION_VMA,	"protection-vma" },	\
	{ MMU_NOTIFY_PROTECTION_PAGE,	"protection-page" },	\
	{ MMU_NOTIFY_SOFT_DIRTY,	"soft-dirty" },		\
	{ MMU_NOTIFY_RELEASE,		"release" },		\
	{ MMU_NOTIFY_MIGRATE,		"migrate" },		\
	{ MMU_NOTIFY_EXCLUSIVE,		"exclusive" })

#define show_nopin_cause(cause) __print_symbolic(cause,	\
	{ NOPIN_FALLBACK_FIRST,		"first" },	\
	{ NOPIN_FALLBACK_NOMEM,		"nomem" },	\
	{ NOPIN_FALLBACK_INVALID,	"invalid" },	\
	{ NOPIN_FALLBACK_SPECIAL,	"special" },	\
	{ NOPIN_FALLBACK_BUSY,		"busy" },	\
	{ NOPIN_FALLBACK_EXTENTS,	"extents" },	\
	{ NOPIN_FALLBACK_NOWAIT,	"nowait" },	\
	{ NOPIN_FALLBACK_RACE,		"race" })

/* Whose memory it is: the process that an invalidation harms, if another one causes it */
#ifndef __NOPIN_TRACE_OWNER
#define __NOPIN_TRACE_OWNER
static inline pid_t nopin_trace_owner(const struct mm_struct *mm)
{
	pid_t pid = 0;
#ifdef CONFIG_MEMCG
	struct task_struct *owner;

	rcu_read_lock();
	owner = rcu_dereference(mm->owner);
	if (owner)
		pid = task_tgid_nr(owner);
	rcu_read_unlock();
#endif
	return pid;
}
#endif

/* I/O, or registering a buffer, found pages closed and had them opened, or not (ret) */
TRACE_EVENT(nopin_open,
	TP_PROTO(unsigned long addr, unsigned int nr, enum nopin_dir dir,
		 int ret),
	TP_ARGS(addr, nr, dir, ret),
	TP_STRUCT__entry(
		__field(unsigned long, addr)
		__field(unsigned int, nr)
		__field(enum nopin_dir, dir)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->addr = addr;
		__entry->nr = nr;
		__entry->dir = dir;
		__entry->ret = ret;
	),
	TP_printk("addr=%#lx pages=%u dir=%s ret=%d", __entry->addr,
		  __entry->nr, show_nopin_dir(__entry->dir), __entry->ret)
);

/* An invalidation has waited for I/O, maybe in vain */
TRACE_EVENT(nopin_wait,
	TP_PROTO(const struct mmu_notifier_range *mn, s64 us, bool timeout),
	TP_ARGS(mn, us, timeout),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(int, event)
		__field(pid_t, owner)
		__field(s64, us)
		__field(bool, timeout)
	),
	TP_fast_assign(
		__entry->start = mn->start;
		__entry->end = mn->end;
		__entry->event = mn->event;
		__entry->owner = nopin_trace_owner(mn->mm);
		__entry->us = us;
		__entry->timeout = timeout;
	),
	TP_printk("start=%#lx end=%#lx event=%s owner=%d us=%lld%s",
		  __entry->start, __entry->end,
		  show_nopin_event(__entry->event), __entry->owner,
		  __entry->us, __entry->timeout ? " timeout" : "")
);

/* An invalidation was refused because of I/O in flight */
TRACE_EVENT(nopin_refuse,
	TP_PROTO(const struct mmu_notifier_range *mn),
	TP_ARGS(mn),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(int, event)
		__field(pid_t, owner)
	),
	TP_fast_assign(
		__entry->start = mn->start;
		__entry->end = mn->end;
		__entry->event = mn->event;
		__entry->owner = nopin_trace_owner(mn->mm);
	),
	TP_printk("start=%#lx end=%#lx event=%s owner=%d", __entry->start,
		  __entry->end, show_nopin_event(__entry->event),
		  __entry->owner)
);

/* Pages were pinned on behalf of I/O in flight, between start and end */
TRACE_EVENT(nopin_pin,
	TP_PROTO(const struct mm_struct *mm, unsigned long start,
		 unsigned long end, unsigned int nr),
	TP_ARGS(mm, start, end, nr),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(pid_t, owner)
		__field(unsigned int, nr)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->owner = nopin_trace_owner(mm);
		__entry->nr = nr;
	),
	TP_printk("start=%#lx end=%#lx owner=%d pins=%u", __entry->start,
		  __entry->end, __entry->owner, __entry->nr)
);

/* A bio had its pages pinned */
TRACE_EVENT(nopin_fallback,
	TP_PROTO(enum nopin_fallback cause, dev_t dev),
	TP_ARGS(cause, dev),
	TP_STRUCT__entry(
		__field(int, cause)
		__field(dev_t, dev)
	),
	TP_fast_assign(
		__entry->cause = cause;
		__entry->dev = dev;
	),
	TP_printk("cause=%s dev=%u:%u", show_nopin_cause(__entry->cause),
		  MAJOR(__entry->dev), MINOR(__entry->dev))
);

#endif /* _TRACE_NOPIN_H */

#include <trace/define_trace.h>
