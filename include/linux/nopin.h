/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Direct I/O without page pins: the interface within the kernel.
 *
 * Documentation/mm/nopin.rst explains the protocol.
 */
#ifndef _LINUX_NOPIN_H
#define _LINUX_NOPIN_H

#include <linux/jump_label.h>
#include <linux/mm_types.h>
#include <linux/nopin_types.h>

struct bio;
struct bio_vec;
struct iov_iter;
struct kiocb;
struct request;

/**
 * enum nopin_dir - which way a device moves data
 * @NOPIN_FROM_DEVICE: the device writes memory, as in a read of a file
 * @NOPIN_TO_DEVICE: the device reads memory, as in a write of a file
 * @NOPIN_NR_DIRS: number of directions
 *
 * The two are counted apart because write protection of a page need not wait
 * for a device that only reads it.
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
 * @NOPIN_FALLBACK_INVALID: not mapped, or not with the access needed
 * @NOPIN_FALLBACK_SPECIAL: memory that only pinning can judge
 * @NOPIN_FALLBACK_BUSY: too many bios use one page, or it was pinned on behalf
 *	of earlier ones that have not ended
 * @NOPIN_FALLBACK_EXTENTS: more pieces of memory than there was room for
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

/* Translations are kept per piece of this size and alignment */
#define NOPIN_CACHE_SIZE	(512UL << PAGE_SHIFT)

/* How bio_iov_iter_get_pages_nopin() is called */
#define BIO_NOPIN_OTHER		1	/* not prompt, whatever the device is */
#define BIO_NOPIN_STARTED	2	/* too late for -EAGAIN */

/* How nopin_open() is called */
#define NOPIN_OPEN_NOWAIT	1	/* do not wait for an invalidation to end */
#define NOPIN_OPEN_OTHER	2	/* for I/O that is not prompt */

#ifdef CONFIG_NOPIN

DECLARE_STATIC_KEY_FALSE(nopin_direct_io_key);
extern enum nopin_io_uring nopin_io_uring;

/* The core, mm/nopin/ */
unsigned int nopin_index(const struct nopin_range *range, unsigned long addr);
size_t nopin_len(const struct nopin_range *range, unsigned long addr);
static inline void nopin_mm_init(struct mm_struct *mm)
{
	mm->nopin = NULL;
	atomic_set(&mm->nopin_first, 0);
}

void nopin_mm_exit(struct mm_struct *mm);
bool nopin_mm_ready(struct mm_struct *mm, unsigned long addr);
void nopin_mm_want(struct mm_struct *mm, unsigned long addr);
int nopin_mm_create(struct mm_struct *mm);
struct nopin_range *nopin_mm_get(struct mm_struct *mm, unsigned long addr);
bool nopin_mm_busy(struct mm_struct *mm, unsigned long start,
		   unsigned long end);

int nopin_enter(struct nopin_range *range, unsigned int first,
		unsigned int nr, enum nopin_dir dir);
void nopin_exit(struct nopin_range *range, unsigned int first,
		unsigned int nr, enum nopin_dir dir);
int nopin_enter_other(struct nopin_range *range, unsigned int first,
		      unsigned int nr, enum nopin_dir dir);
void nopin_exit_other(struct nopin_range *range, unsigned int first,
		      unsigned int nr, enum nopin_dir dir);
int nopin_open(struct nopin_range *range, unsigned int first,
	       unsigned int nr, enum nopin_dir dir, unsigned int flags);
int nopin_fault(struct mm_struct *mm, unsigned long addr, size_t len,
		enum nopin_dir dir);
bool nopin_present(struct mm_struct *mm, unsigned long addr);
int nopin_translate(struct nopin_range *range, unsigned int first,
		    unsigned int nr, unsigned long addr, size_t len,
		    enum nopin_dir dir, struct bio_vec *bvec,
		    unsigned short *vcnt, bool *huge);
const struct bio_vec *nopin_cached(struct nopin_range *range,
				   unsigned int first, unsigned int nr,
				   enum nopin_dir dir);
void nopin_learn(struct nopin_range *range, unsigned int first,
		 unsigned int nr, enum nopin_dir dir, const struct bio_vec *bv,
		 size_t skip, bool huge);
unsigned int nopin_mm_count_cached(struct mm_struct *mm, unsigned long addr,
				   size_t len);
void nopin_count_fallback(enum nopin_fallback cause);

#ifdef CONFIG_LOCKDEP
void nopin_window_begin(void);
void nopin_window_end(void);
#else
static inline void nopin_window_begin(void) { }
static inline void nopin_window_end(void) { }
#endif

/* The bio glue, block/bio-nopin.c */
int bio_nopin_get_known(struct bio *bio, struct iov_iter *iter,
			struct kiocb *iocb);
int bio_nopin_get_pages(struct bio *bio, struct iov_iter *iter,
			struct kiocb *iocb, unsigned int flags);
bool bio_nopin_map_user(struct request *rq, struct bio *bio,
			struct iov_iter *iter);
void bio_nopin_exit(struct bio *bio);

#else /* !CONFIG_NOPIN */

static inline void nopin_mm_init(struct mm_struct *mm) { }
static inline void nopin_mm_exit(struct mm_struct *mm) { }
static inline void nopin_window_end(void) { }
static inline bool nopin_mm_busy(struct mm_struct *mm, unsigned long start,
				 unsigned long end)
{
	return false;
}

static inline bool bio_nopin_map_user(struct request *rq, struct bio *bio,
				      struct iov_iter *iter)
{
	return false;
}

static inline void bio_nopin_exit(struct bio *bio) { }

#endif /* CONFIG_NOPIN */
#endif /* _LINUX_NOPIN_H */
