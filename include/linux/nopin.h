/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Direct I/O without page pins: the interface within the kernel.
 *
 * Documentation/mm/nopin.rst explains the protocol.
 */
#ifndef _LINUX_NOPIN_H
#define _LINUX_NOPIN_H

#include <linux/huge_mm.h>
#include <linux/jump_label.h>
#include <linux/mm.h>

struct nopin_range;

/**
 * enum nopin_dir - which way a device moves data
 * @NOPIN_FROM_DEVICE: the device writes memory, as in a read of a file
 * @NOPIN_TO_DEVICE: the device reads memory, as in a write of a file
 * @NOPIN_NR_DIRS: number of directions
 *
 * Bios are counted apart for each, because write protection of a page need not
 * wait for a device that only reads it.
 */
enum nopin_dir {
	NOPIN_FROM_DEVICE,
	NOPIN_TO_DEVICE,
	NOPIN_NR_DIRS
};

/**
 * enum nopin_fallback - why a bio was pinned after all
 * @NOPIN_FALLBACK_NONE: it was not
 * @NOPIN_FALLBACK_FIRST: one of the first I/Os of a process, see nopin_mm_ready()
 * @NOPIN_FALLBACK_NOMEM: no memory for the bookkeeping
 * @NOPIN_FALLBACK_INVALID: not mapped, not with the access needed, or not aligned
 * @NOPIN_FALLBACK_SPECIAL: memory that only GUP can judge
 * @NOPIN_FALLBACK_BUSY: too many bios use one page, or it was pinned on behalf
 *	of earlier ones that have not ended
 * @NOPIN_FALLBACK_EXTENTS: no room to note all pieces of the memory, or more
 *	memory than a passthrough request takes
 * @NOPIN_FALLBACK_NOWAIT: IOCB_NOWAIT, and the mapping is being changed
 * @NOPIN_FALLBACK_RACE: the mapping changed again and again
 * @NOPIN_NR_FALLBACKS: number of causes
 */
enum nopin_fallback {
	NOPIN_FALLBACK_NONE,
	NOPIN_FALLBACK_FIRST,
	NOPIN_FALLBACK_NOMEM,
	NOPIN_FALLBACK_INVALID,
	NOPIN_FALLBACK_SPECIAL,
	NOPIN_FALLBACK_BUSY,
	NOPIN_FALLBACK_EXTENTS,
	NOPIN_FALLBACK_NOWAIT,
	NOPIN_FALLBACK_RACE,
	NOPIN_NR_FALLBACKS
};

/**
 * enum nopin_io_uring - how io_uring registers buffers
 * @NOPIN_IO_URING_PIN: pinned; IORING_RSRC_REGISTER_NOPIN is not known
 * @NOPIN_IO_URING_FLAG: pinned, unless there is that flag
 * @NOPIN_IO_URING_NOPIN: not pinned
 * @NOPIN_NR_IO_URING: number of choices
 */
enum nopin_io_uring {
	NOPIN_IO_URING_PIN,
	NOPIN_IO_URING_FLAG,
	NOPIN_IO_URING_NOPIN,
	NOPIN_NR_IO_URING
};

/**
 * struct nopin_extent - pages that a bio has entered
 * @range: range of the pages
 * @many: array of extents, if one is not enough
 * @first: index of the first page within @range
 * @nr: number of pages; with @many, the number of extents
 * @other: the I/O is not prompt
 * @is_array: @many is valid, not @range
 *
 * Part of struct bio, so keep it small.
 */
struct nopin_extent {
	union {
		struct nopin_range	*range;
		struct nopin_extent	*many;
	};
	unsigned int	first;
	unsigned int	nr : 30;
	unsigned int	other : 1;
	unsigned int	is_array : 1;
};

#ifdef CONFIG_NOPIN

DECLARE_STATIC_KEY_FALSE(nopin_direct_io_key);

/* Does new I/O do without pins? May change at any time */
static inline bool nopin_direct_io(void)
{
	return static_branch_unlikely(&nopin_direct_io_key);
}

extern enum nopin_io_uring nopin_io_uring;

/* The core, mm/nopin/ */
static inline void nopin_mm_init(struct mm_struct *mm)
{
	mm->nopin = NULL;
	atomic_set(&mm->nopin_first, 0);
}

void nopin_mm_exit(struct mm_struct *mm);
int nopin_mm_create(struct mm_struct *mm);
void nopin_mm_open(struct mm_struct *mm, unsigned long addr, size_t len);
bool nopin_mm_busy(struct mm_struct *mm, unsigned long start,
		   unsigned long end);
extern atomic_t nopin_nr_soon;
void nopin_flush_soon(void);

/*
 * A task has waited for the end of its I/O: have the pages of files set dirty that
 * were pinned on behalf of the I/O. With pins it would have done so itself, before it
 * returns to a program that may call fsync() now.
 */
static inline void nopin_flush(void)
{
	/* Raised before the I/O ended, see nopin_pin_page() */
	if (unlikely(atomic_read(&nopin_nr_soon)))
		nopin_flush_soon();
}

unsigned int nopin_mm_count_known(struct mm_struct *mm, unsigned long addr,
				  size_t len);

#else /* !CONFIG_NOPIN */

static inline bool nopin_direct_io(void)
{
	return false;
}

static inline void nopin_mm_init(struct mm_struct *mm) { }
static inline void nopin_mm_exit(struct mm_struct *mm) { }
static inline void nopin_flush(void) { }
static inline bool nopin_mm_busy(struct mm_struct *mm, unsigned long start,
				 unsigned long end)
{
	return false;
}

#endif /* CONFIG_NOPIN */

#if defined(CONFIG_NOPIN) && defined(CONFIG_LOCKDEP)
void nopin_window_begin(void);
void nopin_window_end(void);
#else
static inline void nopin_window_begin(void) { }
static inline void nopin_window_end(void) { }
#endif

#ifdef CONFIG_MMU
/*
 * Is there I/O on the memory around @addr that a PMD can map? Then madvise() does
 * not split a large folio there, as it does not split a pinned one.
 */
static inline bool nopin_pmd_busy(struct mm_struct *mm, unsigned long addr)
{
	return nopin_mm_busy(mm, addr & PMD_MASK, (addr & PMD_MASK) + PMD_SIZE);
}

/* The same for a large folio of which a PTE maps the page @pfn at @addr */
static inline bool nopin_folio_busy(struct mm_struct *mm, struct folio *folio,
				    unsigned long addr, unsigned long pfn)
{
	addr -= (pfn - folio_pfn(folio)) << PAGE_SHIFT;
	return nopin_mm_busy(mm, addr, addr + folio_size(folio));
}
#endif

/*
 * Splitting the PMD of anonymous memory leaves each page mapped as it was. But small
 * pages replace the huge zero page.
 */
static inline bool nopin_split_is_hint(struct vm_area_struct *vma, pmd_t *pmd,
				       bool freeze)
{
	return !freeze && vma_is_anonymous(vma) && !is_huge_zero_pmd(*pmd);
}

#endif /* _LINUX_NOPIN_H */
