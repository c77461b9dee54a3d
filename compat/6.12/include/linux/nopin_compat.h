/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of nopin use of later kernels, in terms of this one. The compiler
 * includes it before each of them, see the Makefiles.
 */
#ifndef _LINUX_NOPIN_COMPAT_H
#define _LINUX_NOPIN_COMPAT_H

#include <linux/bio.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/list_lru.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

/* Block: alignment was checked before, and there is no metadata with a read or write */
#define IOCB_HAS_METADATA	0
#define bi_offset		bi_bvec_done
#define bio_inline_vecs(bio)	((bio)->bi_inline_vecs)
#define bio_split_io_at(bio, lim, segs, max_bytes, ...) \
	bio_split_rw_at(bio, lim, segs, max_bytes)

/* Flags of an mm */
#define mm_flags_test(flag, mm)	test_bit(flag, &(mm)->flags)
#define mm_flags_set(flag, mm)	set_bit(flag, &(mm)->flags)

/* Memory of devices: entries say so, and are special besides */
#define page_pgmap(page)	((page)->pgmap)

static inline bool nopin_compat_pte_special(pte_t pte)
{
	return pte_special(pte) && !pte_devmap(pte);
}

#undef pte_special
#define pte_special(pte)	nopin_compat_pte_special(pte)

/* The tests */
#define mk_vma_flags(flag)	(flag)
#define VMA_NORESERVE_BIT	VM_NORESERVE
#define EMPTY_VMA_FLAGS	0
#define ksys_ftruncate(fd, length, ...) ksys_ftruncate(fd, length)

static inline void hrtimer_setup(struct hrtimer *timer,
				 enum hrtimer_restart (*fn)(struct hrtimer *),
				 clockid_t clock_id, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock_id, mode);
	timer->function = fn;
}

/* The callback of list_lru_walk() has the lock of the list */
#ifdef NOPIN_COMPAT_LRU
static enum lru_status nopin_isolate(struct list_head *item,
				     struct list_lru_one *list, void *arg);

static inline enum lru_status nopin_isolate_locked(struct list_head *item,
						   struct list_lru_one *list,
						   spinlock_t *lock, void *arg)
{
	return nopin_isolate(item, list, arg);
}

#define list_lru_walk(lru, isolate, arg, nr) \
	list_lru_walk(lru, isolate##_locked, arg, nr)
#define list_lru_shrink_walk(lru, sc, isolate, arg) \
	list_lru_shrink_walk(lru, sc, isolate##_locked, arg)
#endif

#endif /* _LINUX_NOPIN_COMPAT_H */
