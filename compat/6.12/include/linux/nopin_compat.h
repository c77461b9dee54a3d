/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of nopin use of later kernels, in terms of this one. The compiler
 * includes it before each of them, see compat.mk and the Makefiles.
 */
#ifndef _LINUX_NOPIN_COMPAT_H
#define _LINUX_NOPIN_COMPAT_H

#include <linux/bio.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
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
static inline struct dev_pagemap *page_pgmap(const struct page *page)
{
	return page_folio(page)->page.pgmap;
}

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

#endif /* _LINUX_NOPIN_COMPAT_H */
