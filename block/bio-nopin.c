// SPDX-License-Identifier: GPL-2.0
/*
 * User pages in bios without page pins.
 *
 * Called where a bio would have its pages pinned. The bio enters the pages
 * (see mm/nopin/range.c) here, immediately before it is submitted, and exits
 * them when it ends, where the pages would be unpinned. In between, nobody
 * changes their mapping; so in between there must be nothing that waits for a
 * change of a mapping. Waiting for closed pages to open and faulting in
 * missing ones is done with nothing entered.
 *
 * A bio that cannot be served like that is pinned and the cause is counted.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/vmstat.h>

#include "blk.h"

/*
 * How often the same pages are opened or faulted in before a bio is pinned. A
 * page that moves takes two: one while its PTE is a migration entry.
 */
#define BIO_NOPIN_TRIES		16

static enum nopin_dir bio_nopin_dir(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) ? NOPIN_TO_DEVICE : NOPIN_FROM_DEVICE;
}

/* A position in an iov_iter, cheaper than a copy of it */
struct bio_nopin_pos {
	const struct iovec	*iov;
	size_t			skip;	/* bytes of @iov that are done */
	size_t			left;	/* bytes until the end */
};

static __always_inline struct bio_nopin_pos
bio_nopin_start(const struct iov_iter *iter)
{
	return (struct bio_nopin_pos) {
		.iov	= iter_iov(iter),
		.skip	= iter->iov_offset,
		.left	= iov_iter_count(iter),
	};
}

/*
 * The next piece of at most @max bytes, and of one segment: its length, 0 at
 * the end, and its untagged address.
 */
static __always_inline size_t bio_nopin_next(const struct iov_iter *iter,
					     struct bio_nopin_pos *pos,
					     size_t max, unsigned long *addr)
{
	size_t len = pos->left;

	if (!iter_is_ubuf(iter)) {
		while (pos->left && pos->skip == pos->iov->iov_len) {
			pos->skip = 0;
			pos->iov++;
		}
		if (!pos->left)
			return 0;
		len = min(len, pos->iov->iov_len - pos->skip);
	}
	*addr = untagged_addr((unsigned long)pos->iov->iov_base + pos->skip);
	return min(len, max);
}

static __always_inline void bio_nopin_advance(struct bio_nopin_pos *pos,
					      size_t len)
{
	pos->skip += len;
	pos->left -= len;
}

static noinline void bio_nopin_put_many(struct bio *bio)
{
	struct nopin_extent *ext = &bio->bi_nopin;
	enum nopin_dir dir = bio_nopin_dir(bio);
	unsigned int i;

	for (i = 0; i < ext->nr; i++)
		nopin_exit(ext->many[i].range, ext->many[i].first,
			   ext->many[i].nr, dir);
	kfree(ext->many);
}

static __always_inline void bio_nopin_put(struct bio *bio)
{
	struct nopin_extent *ext = &bio->bi_nopin;

	if (likely(!ext->is_array))
		nopin_exit(ext->range, ext->first, ext->nr, bio_nopin_dir(bio));
	else
		bio_nopin_put_many(bio);
}

/* Remember pages that have been entered; false if there is no room */
static bool bio_nopin_add(struct bio *bio, const struct iov_iter *iter,
			  struct nopin_range *range, unsigned int first,
			  unsigned int nr)
{
	struct nopin_extent *ext = &bio->bi_nopin, *last = ext, *many;

	if (ext->is_array)
		last = &ext->many[ext->nr - 1];
	if (last->nr && last->range == range && last->first + last->nr == first) {
		last->nr += nr;
		return true;
	}

	if (!last->nr) {
		/* the first one */
	} else if (!ext->is_array) {
		/* pages are entered already: must not wait for memory */
		unsigned int room = iter->nr_segs + 2 +
				    (iov_iter_count(iter) >> 30);

		many = kmalloc_array(room, sizeof(*many),
				     GFP_NOWAIT | __GFP_NOWARN);
		if (!many)
			return false;
		many[0] = *ext;
		ext->many = many;
		ext->first = room;
		ext->nr = 1;
		ext->is_array = true;
		last = &many[ext->nr++];
	} else {
		if (ext->nr == ext->first)
			return false;
		last = &ext->many[ext->nr++];
	}
	last->range = range;
	last->first = first;
	last->nr = nr;
	last->is_array = false;
	return true;
}

/* A bio must be a number of blocks; the pages of the rest stay entered */
static size_t bio_nopin_trim(struct bio *bio, size_t size)
{
	size_t trim = size & (bdev_logical_block_size(bio->bi_bdev) - 1);

	size -= trim;
	while (unlikely(trim)) {
		struct bio_vec *bv = &bio->bi_io_vec[bio->bi_vcnt - 1];
		size_t len = min_t(size_t, trim, bv->bv_len);

		bv->bv_len -= len;
		if (!bv->bv_len)
			bio->bi_vcnt--;
		trim -= len;
	}
	return size;
}

/* How many pages the bio can take: it gets bio_vecs later if it has none yet */
static unsigned short bio_nopin_max_vecs(const struct bio *bio)
{
	return bio->bi_max_vecs ?: BIO_MAX_VECS;
}

/* For bios that bio_nopin_vecs() let have none */
static void bio_nopin_alloc_vecs(struct bio *bio, struct iov_iter *iter)
{
	unsigned short nr = max(bio_iov_vecs_to_alloc(iter, BIO_MAX_VECS),
				BIO_NOPIN_VECS + 1);

	/* This waits, but does not fail */
	bio->bi_io_vec = bvec_alloc(&bio->bi_pool->bvec_pool, &nr, GFP_KERNEL);
	bio->bi_max_vecs = nr;
	/* That cache is for bios without */
	bio->bi_opf &= ~REQ_ALLOC_CACHE;
}

/* What nopin_cached() returned for @addr: returns the number of bio_vecs */
static unsigned short bio_nopin_copy(struct bio_vec *to,
				     const struct bio_vec *bv,
				     unsigned long addr, size_t len)
{
	size_t skip = addr & (bv->bv_len - 1), end = skip + len;
	unsigned short nr = DIV_ROUND_UP(end, bv->bv_len);

	memcpy(to, bv, nr * sizeof(*to));
	to[nr - 1].bv_len -= nr * bv->bv_len - end;
	to->bv_offset += skip;
	to->bv_len -= skip;
	return nr;
}

/*
 * Enter and translate as much of @iter as the bio can hold. Nothing is left
 * entered on errors: those of nopin_enter(), nopin_walk() and nopin_check(),
 * -ENXIO if a range has to be created, -ENOBUFS if bio_vecs have to be
 * allocated, -ENOSPC if there is no room for the extents. @fail is the position
 * of what they are about.
 */
static int bio_nopin_try(struct bio *bio, const struct iov_iter *iter,
			 struct bio_nopin_pos *fail)
{
	enum nopin_dir dir = bio_nopin_dir(bio);
	struct bio_nopin_pos pos = bio_nopin_start(iter);
	unsigned short max_vecs = bio_nopin_max_vecs(bio);
	struct mm_struct *mm = current->mm;
	/* Pieces of an iovec are too small and too many for that, as a rule */
	bool cache = iter_is_ubuf(iter);
	unsigned short vcnt = 0;
	size_t size = 0;
	int ret;

	bio->bi_nopin.nr = 0;
	bio->bi_nopin.is_array = false;
	nopin_window_begin();

	/* the limit is for bv_len and bi_size, 32 bits each */
	while (vcnt < max_vecs && size < SZ_1G) {
		size_t room = (size_t)(max_vecs - vcnt) << PAGE_SHIFT;
		const struct bio_vec *bv = NULL;
		struct nopin_range *range;
		unsigned int first, nr;
		unsigned long addr;
		size_t len;
		bool huge;

		len = bio_nopin_next(iter, &pos, room, &addr);
		if (!len)
			break;
		len = min(len, room - offset_in_page(addr));
		ret = -EFAULT;
		if (unlikely(!access_ok((void __user *)addr, len)))
			goto fail;
		ret = -ENXIO;
		range = nopin_mm_find(mm, addr);
		if (unlikely(!range))
			goto fail;
		len = min(len, nopin_len(range, addr));
		if (cache)
			len = min(len, NOPIN_CACHE_SIZE - addr % NOPIN_CACHE_SIZE);

		first = nopin_index(range, addr);
		nr = DIV_ROUND_UP(offset_in_page(addr) + len, PAGE_SIZE);
		ret = nopin_enter(range, first, nr, dir);
		if (unlikely(ret))
			goto fail;
		if (unlikely(!bio_nopin_add(bio, iter, range, first, nr))) {
			nopin_exit(range, first, nr, dir);
			ret = -ENOSPC;
			goto fail;
		}
		if (cache)
			bv = nopin_cached(range, first, nr, dir);
		ret = -ENOBUFS;
		if (unlikely(!bio->bi_max_vecs))
			goto fail;
		if (bv) {
			vcnt += bio_nopin_copy(bio->bi_io_vec + vcnt, bv, addr,
					       len);
		} else {
			ret = nopin_walk(mm, addr, len, dir, bio->bi_io_vec,
					 &vcnt, &huge);
			if (likely(!ret))
				ret = nopin_check(range, first, nr, dir);
			if (unlikely(ret))
				goto fail;
			if (cache)
				nopin_learn(range, first, nr, dir,
					    bio->bi_io_vec, size, huge);
		}
		size += len;
		bio_nopin_advance(&pos, len);
		if (!pos.left)
			break;
	}

	bio->bi_vcnt = vcnt;
	ret = -ENOSPC;
	size = bio_nopin_trim(bio, size);
	if (unlikely(!size))
		goto fail;
	bio->bi_iter.bi_size = size;
	return 0;

fail:
	if (bio->bi_nopin.nr)
		bio_nopin_put(bio);
	nopin_window_end();
	bio->bi_vcnt = 0;
	*fail = pos;
	return ret;
}

/*
 * Whatever may sleep: open pages, or @fault them in. From where it failed, and
 * as far as a bio reaches with a page in each bio_vec.
 */
static int bio_nopin_prepare(struct bio *bio, const struct iov_iter *iter,
			     struct bio_nopin_pos pos, bool nowait, bool fault)
{
	size_t room = (size_t)bio_nopin_max_vecs(bio) << PAGE_SHIFT;
	enum nopin_dir dir = bio_nopin_dir(bio);
	unsigned long addr;
	size_t len;

	while ((len = bio_nopin_next(iter, &pos, room, &addr))) {
		struct nopin_range *range;
		unsigned int first, nr;
		int ret = 0;

		if (!access_ok((void __user *)addr, len))
			return -EFAULT;
		range = nopin_mm_get(current->mm, addr);
		if (IS_ERR(range))
			return -ENOMEM;
		len = min(len, nopin_len(range, addr));

		if (!fault) {
			first = nopin_index(range, addr);
			nr = DIV_ROUND_UP(offset_in_page(addr) + len, PAGE_SIZE);
			ret = nopin_open(range, first, nr, dir, nowait);
		} else if (dir == NOPIN_FROM_DEVICE) {
			if (fault_in_safe_writeable((void __user *)addr, len))
				ret = -EFAULT;
		} else {
			if (fault_in_readable((void __user *)addr, len))
				ret = -EFAULT;
		}
		if (ret)
			return ret;
		room -= len;
		bio_nopin_advance(&pos, len);
	}
	return 0;
}

/*
 * The whole of @iter at once, if it is memory whose translation is known: the
 * bio points to that. Callers have seen to it that it is a number of blocks.
 */
static __always_inline bool bio_nopin_point(struct bio *bio,
					    struct iov_iter *iter)
{
	unsigned long addr = (unsigned long)iter->ubuf + iter->iov_offset;
	size_t len = iov_iter_count(iter);
	const struct bio_vec *bv;

	/* Nobody would free the bio's own bio_vecs */
	if (bio->bi_max_vecs > BIO_NOPIN_VECS && bio->bi_pool)
		return false;
	addr = untagged_addr(addr);
	nopin_window_begin();
	bv = nopin_enter_cached(current->mm, addr, len, bio_nopin_dir(bio),
				&bio->bi_nopin);
	if (unlikely(!bv)) {
		nopin_window_end();
		return false;
	}
	bio->bi_io_vec = (struct bio_vec *)bv;
	if (likely(bv->bv_len == PAGE_SIZE)) {
		bio->bi_vcnt = bio->bi_nopin.nr;
		bio->bi_iter.bi_bvec_done = offset_in_page(addr);
	} else {
		bio->bi_vcnt = 1;
		bio->bi_iter.bi_bvec_done = addr & (bv->bv_len - 1);
	}
	bio->bi_iter.bi_size = len;
	bio_set_flag(bio, BIO_CLONED);
	/* What iov_iter_advance() does */
	iter->iov_offset += len;
	iter->count = 0;
	return true;
}

/*
 * A bio with as much of @iter as it can hold, whatever it takes. -EAGAIN if
 * @again, and somebody would have to be waited for.
 */
static int bio_nopin_enter(struct bio *bio, struct iov_iter *iter, bool nowait,
			   bool again)
{
	size_t left = iov_iter_count(iter);
	struct bio_nopin_pos pos;
	unsigned int tries = 0;
	int ret;

	while ((ret = bio_nopin_try(bio, iter, &pos))) {
		bool fault = ret == -EFAULT;

		if (ret == -ENOBUFS) {
			bio_nopin_alloc_vecs(bio, iter);
			continue;
		}
		if (ret == -EBUSY)
			return NOPIN_FALLBACK_BUSY;
		if (ret == -EPERM)
			return NOPIN_FALLBACK_SPECIAL;
		if (ret == -ENOSPC)
			return NOPIN_FALLBACK_EXTENTS;
		if (fault && iter->nofault)
			return NOPIN_FALLBACK_INVALID;
		if (again && (fault || ret == -ENXIO))
			return -EAGAIN;
		if (pos.left < left) {
			left = pos.left;
			tries = 0;
		}
		if (++tries > BIO_NOPIN_TRIES)
			return NOPIN_FALLBACK_RACE;

		/* -EFAULT, -EAGAIN or -ENXIO */
		ret = bio_nopin_prepare(bio, iter, pos, nowait, fault);
		if (ret == -EFAULT)
			return NOPIN_FALLBACK_INVALID;
		if (ret == -ENOMEM)
			return NOPIN_FALLBACK_NOMEM;
		/* Earlier I/O has got pins, and may go on for long */
		if (ret == -EBUSY)
			return NOPIN_FALLBACK_BUSY;
		if (ret == -EAGAIN && nowait)
			return again ? -EAGAIN : NOPIN_FALLBACK_NOWAIT;
	}
	return NOPIN_FALLBACK_NONE;
}

/* What can be told without a look at the memory */
static __always_inline enum nopin_fallback
bio_nopin_unfit(struct bio *bio, struct kiocb *iocb, unsigned int flags)
{
	/* Who polls may be who waits, with no interrupt to end the bio */
	if ((iocb->ki_flags & IOCB_HIPRI) && !is_sync_kiocb(iocb) &&
	    !nopin_broken(POLLED))
		return NOPIN_FALLBACK_POLLED;
	if (!bdev_nopin(bio->bi_bdev) && !nopin_broken(DEVICE))
		return NOPIN_FALLBACK_DEVICE;
	if ((flags & BIO_NOPIN_LATE_ACCESS) && !nopin_broken(FS))
		return NOPIN_FALLBACK_FS;
	/* Limits other than those of the bio decide what fits */
	if (bio_op(bio) == REQ_OP_ZONE_APPEND)
		return NOPIN_FALLBACK_FS;
	return NOPIN_FALLBACK_NONE;
}

#ifdef CONFIG_NOPIN_BREAK
static void bio_nopin_break(struct bio *bio, struct kiocb *iocb)
{
	const struct nopin_extent *ext = &bio->bi_nopin;

	if (nopin_broken(FLUSH))
		kiocb_write_and_wait(iocb, bio->bi_iter.bi_size);
	if (nopin_broken(BLOCK) && !ext->is_array)
		nopin_open(ext->range, ext->first, ext->nr, bio_nopin_dir(bio),
			   true);
	if (nopin_broken(EARLY_EXIT))
		bio_nopin_exit(bio);
}
#else
static void bio_nopin_break(struct bio *bio, struct kiocb *iocb) { }
#endif

/* The pages have been entered */
static __always_inline int bio_nopin_done(struct bio *bio, struct kiocb *iocb)
{
	bio_set_flag(bio, BIO_NOPIN);
	count_vm_event(NOPIN_BIO);
	bio_nopin_break(bio, iocb);
	return 0;
}

static noinline int bio_nopin_get_pages_slow(struct bio *bio,
					     struct iov_iter *iter,
					     struct kiocb *iocb,
					     unsigned int flags)
{
	int cause;

	cause = bio_nopin_unfit(bio, iocb, flags);
	if (!cause)
		cause = bio_nopin_enter(bio, iter,
					iocb->ki_flags & IOCB_NOWAIT,
					(iocb->ki_flags & IOCB_NOPIN_AGAIN) &&
					!(flags & BIO_NOPIN_STARTED));
	if (cause < 0)
		return cause;
	if (cause) {
		nopin_count_fallback(cause);
		if (!bio->bi_max_vecs)
			bio_nopin_alloc_vecs(bio, iter);
		return bio_iov_iter_get_pages(bio, iter);
	}

	iov_iter_advance(iter, bio->bi_iter.bi_size);
	return bio_nopin_done(bio, iocb);
}

/**
 * bio_nopin_get_pages - add user pages to a bio, with pins only if need be
 * @bio: bio without pages, its operation and device set
 * @iter: user memory; advanced over what was added
 * @iocb: the I/O
 * @flags: BIO_NOPIN_LATE_ACCESS if somebody touches the pages after the bio's
 *	end_io, or handles the end of the bio in other ways than this file
 *	expects; BIO_NOPIN_STARTED if some of the I/O is on its way, so that it
 *	cannot be tried again as a whole
 *
 * The counterpart of bio_iov_iter_get_pages(), which it falls back to. The
 * pages are released by bio_release_pages() or bio_check_pages_dirty() in
 * either case; those calls must come from the bio's end_io, and the bio must
 * be submitted without anything in between that may sleep.
 *
 * IOCB_NOWAIT neither waits for invalidations nor fails because of them: by the
 * time pages are needed, some callers can no longer report -EAGAIN, and a pin
 * is what they got before. Those who set IOCB_NOPIN_AGAIN prefer -EAGAIN, to
 * waiting for page faults as well, and try again where they can wait.
 *
 * Context: Process context of a task that uses the mm of @iter. May sleep, as
 * bio_iov_iter_get_pages() does.
 *
 * Return: as bio_iov_iter_get_pages(): 0 if something was added, -EFAULT if the
 * memory cannot be accessed, -EAGAIN as said above, other errors of
 * pin_user_pages_fast().
 */
int bio_nopin_get_pages(struct bio *bio, struct iov_iter *iter,
			struct kiocb *iocb, unsigned int flags)
{
	BUILD_BUG_ON(BIO_NOPIN_VECS != BIO_INLINE_VECS);

	if (iter_is_ubuf(iter) && likely(!bio_nopin_unfit(bio, iocb, flags)) &&
	    likely(bio_nopin_point(bio, iter)))
		return bio_nopin_done(bio, iocb);
	return bio_nopin_get_pages_slow(bio, iter, iocb, flags);
}

/**
 * bio_nopin_exit - a bio no longer uses its user pages
 * @bio: bio with BIO_NOPIN set; cleared
 *
 * Context: Any. Must not be called from anything that may run in, or wait for,
 * a task that changes the mapping: that task may be waiting for this call.
 */
void bio_nopin_exit(struct bio *bio)
{
	/* Only bios on the stack of a task that waits have no pool */
	if (nopin_broken(LATE_EXIT) && !bio->bi_pool && !in_task())
		return;

	bio_clear_flag(bio, BIO_NOPIN);
	bio_nopin_put(bio);
	nopin_window_end();
}
EXPORT_SYMBOL_GPL(bio_nopin_exit);
