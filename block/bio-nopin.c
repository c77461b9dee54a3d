// SPDX-License-Identifier: GPL-2.0
/*
 * User pages in bios without page pins.
 *
 * A bio enters its pages (see mm/nopin/range.c) where it would pin them, and
 * exits them where it would unpin them. An invalidation may wait for a prompt
 * bio. So the caller submits it with nothing in between that waits for an
 * invalidation, and the bio exits when it ends. bio_nopin_prepare() waits for
 * closed pages and faults in missing ones, with nothing entered.
 *
 * A bio that cannot enter its pages is pinned, and the cause is counted.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/vmstat.h>

#include "../mm/nopin/nopin.h"
#include "blk.h"

/*
 * How often the same pages are opened or faulted in before the bio is pinned. A
 * page that migrates takes two tries: one while its PTE is a migration entry.
 */
#define BIO_NOPIN_TRIES		16

/* With more pages it pays to have one bio_vec for each run of adjacent pages */
#define BIO_NOPIN_MERGE		16

static inline enum nopin_dir bio_nopin_dir(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) ? NOPIN_TO_DEVICE : NOPIN_FROM_DEVICE;
}

/* How many pages does this memory touch? */
static __always_inline size_t bio_nopin_nr(unsigned long addr, size_t len)
{
	return (offset_in_page(addr) + len + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/*
 * Are some of these entered pages likely to be next to each other? Those of a large
 * folio are. Small pages may be in between, so this looks at both ends.
 */
static bool bio_nopin_mergeable(const struct nopin_range *range,
				const struct bio_vec *bvec, unsigned int nr)
{
	return !READ_ONCE(range->apart) &&
	       (folio_test_large(page_folio(bvec->bv_page)) ||
		folio_test_large(page_folio(bvec[nr - 1].bv_page)));
}

/* The bio's inline vecs, or NULL */
static inline struct bio_vec *bio_nopin_inline_vecs(struct bio *bio)
{
	if (bio->bi_max_vecs)
		return bio->bi_io_vec;
	/* bio_nopin_vecs() allocated none; see BIOSET_NEED_BVECS */
	return bio->bi_pool && bio->bi_pool->back_pad ? bio_inline_vecs(bio) :
							NULL;
}

/*
 * May an invalidation wait for the bio? Not if it is polled: it ends when its
 * submitter polls, and the submitter may be the task that waits. Nor if it comes
 * with metadata, which are pinned before it is submitted.
 */
static __always_inline bool bio_nopin_prompt(const struct bio *bio,
					     struct kiocb *iocb,
					     unsigned int flags)
{
	return !(flags & BIO_NOPIN_OTHER) && bdev_prompt(bio->bi_bdev) &&
	       !(iocb->ki_flags & IOCB_HAS_METADATA) &&
	       !((iocb->ki_flags & IOCB_HIPRI) && !is_sync_kiocb(iocb));
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
 * The next piece of at most @max bytes within one segment: its length, 0 at the
 * end, and its untagged address.
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
	unsigned int i;

	for (i = 0; i < ext->nr; i++)
		nopin_exit(&ext->many[i], bio_nopin_dir(bio));
	kfree(ext->many);
}

static __always_inline void bio_nopin_put(struct bio *bio)
{
	struct nopin_extent *ext = &bio->bi_nopin;

	if (unlikely(ext->is_array))
		bio_nopin_put_many(bio);
	else
		nopin_exit(ext, bio_nopin_dir(bio));
}

/*
 * Do the pages of @add follow those of @ext, so that one extent can hold both?
 * I/O that is not prompt is counted once per extent and chunk, so then @add must
 * begin a new chunk.
 */
static bool bio_nopin_follows(const struct nopin_extent *ext,
			      const struct nopin_extent *add)
{
	return ext->range == add->range && ext->first + ext->nr == add->first &&
	       (!add->other || !(add->first % NOPIN_CHUNK_PAGES));
}

/*
 * Note pages that have been entered; false if there is no memory, which must not be
 * waited for with pages entered.
 */
static bool bio_nopin_add(struct bio *bio, const struct nopin_extent *add)
{
	struct nopin_extent *ext = &bio->bi_nopin, *last = ext;

	if (!ext->range) {
		*ext = *add;
		return true;
	}
	if (ext->is_array)
		last = &ext->many[ext->nr - 1];
	if (bio_nopin_follows(last, add)) {
		last->nr += add->nr;
		return true;
	}
	if (!ext->is_array) {
		struct nopin_extent *many;

		/* Enough: each takes at least one bio_vec */
		many = kmalloc_array(bio->bi_max_vecs, sizeof(*many),
				     GFP_NOWAIT | __GFP_ACCOUNT);
		if (!many)
			return false;
		many[0] = *ext;
		ext->many = many;
		ext->nr = 1;
		ext->is_array = true;
	}
	ext->many[ext->nr++] = *add;
	return true;
}

/* Cut the bio to whole blocks; the pages of the rest stay entered */
static size_t bio_nopin_trim(struct bio *bio, size_t size,
			     unsigned int len_align_mask)
{
	size_t trim = size & len_align_mask;

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

/* For bios for which bio_nopin_vecs() allocated none */
static void bio_nopin_alloc_vecs(struct bio *bio)
{
	/* Waits, but does not fail. bio_free() tells by bi_max_vecs how to free it */
	bio->bi_io_vec = mempool_alloc(&bio->bi_pool->bvec_pool, GFP_KERNEL);
	bio->bi_max_vecs = BIO_MAX_VECS;
	/* The per-CPU cache is for bios without an allocated array */
	bio->bi_opf &= ~REQ_ALLOC_CACHE;
}

/* Copy the translations of entered pages; returns how many bio_vecs */
static unsigned short bio_nopin_copy(struct bio_vec *to,
				     const struct nopin_extent *ext,
				     const struct bio_vec *bvec,
				     unsigned int offset, size_t len)
{
	unsigned short nr = ext->nr, n = nr;
	unsigned int i;

	if (nopin_contiguous(ext->range, ext->first, bvec, nr)) {
		bvec_set_page(to, bvec->bv_page, len, offset);
		return 1;
	}
	if (bio_nopin_mergeable(ext->range, bvec, nr)) {
		for (n = i = 0; i < nr; i++) {
			if (i && bvec[i].bv_page == bvec[i - 1].bv_page + 1)
				to[n - 1].bv_len += PAGE_SIZE;
			else
				to[n++] = bvec[i];
		}
	} else {
		memcpy(to, bvec, nr * sizeof(*to));
	}
	to[n - 1].bv_len -= nr * PAGE_SIZE - offset - len;
	to->bv_offset += offset;
	to->bv_len -= offset;
	return n;
}

/*
 * Enter as much of @iter as the bio can hold. On errors nothing stays entered, and
 * @fail is the position of the piece that failed: -EAGAIN if pages have to be
 * opened, -ENOSPC if there is no room for the extents, -EINVAL if the memory is not
 * aligned.
 */
static int bio_nopin_try(struct bio *bio, const struct iov_iter *iter,
			 bool prompt, unsigned int mem_align_mask,
			 unsigned int len_align_mask,
			 struct bio_nopin_pos *fail)
{
	enum nopin_dir dir = bio_nopin_dir(bio);
	struct bio_nopin_pos pos = bio_nopin_start(iter);
	struct bio_vec *vecs = bio->bi_io_vec;
	struct mm_struct *mm = current->mm;
	unsigned short vcnt = 0;
	size_t size = 0;
	int ret;

	bio->bi_nopin.range = NULL;
	bio->bi_nopin.is_array = false;
	if (prompt)
		nopin_window_begin();

	/* the limit is for bv_len and bi_size, 32 bits each */
	while (vcnt < bio->bi_max_vecs && size < SZ_1G) {
		size_t room = (size_t)(bio->bi_max_vecs - vcnt) << PAGE_SHIFT;
		struct nopin_range *range;
		struct nopin_extent ext;
		struct bio_vec *bvec;
		unsigned long addr;
		size_t len, rest;

		len = bio_nopin_next(iter, &pos, NOPIN_CHUNK_SIZE, &addr);
		if (!len)
			break;
		/* All that is left of the segment, as iov_iter_extract_bvecs() has it */
		rest = iter_is_ubuf(iter) ? pos.left : pos.iov->iov_len - pos.skip;
		ret = -EINVAL;
		if (unlikely((addr | rest) & mem_align_mask))
			goto fail;
		/* In case each page takes a bio_vec */
		len = min(len, NOPIN_CHUNK_SIZE - addr % NOPIN_CHUNK_SIZE);
		len = min(len, room - offset_in_page(addr));

		ret = -EAGAIN;
		range = nopin_mm_find(mm, addr);
		if (unlikely(!range))
			goto fail;
		bvec = nopin_enter(range, nopin_index(range, addr),
				   bio_nopin_nr(addr, len), dir, prompt, &ext);
		if (unlikely(!bvec))
			goto fail;
		if (unlikely(!bio_nopin_add(bio, &ext))) {
			nopin_exit(&ext, dir);
			ret = -ENOSPC;
			goto fail;
		}
		vcnt += bio_nopin_copy(vecs + vcnt, &ext, bvec,
				       offset_in_page(addr), len);
		size += len;
		bio_nopin_advance(&pos, len);
		if (!pos.left)
			break;
	}

	bio->bi_vcnt = vcnt;
	ret = -ENOSPC;
	size = bio_nopin_trim(bio, size, len_align_mask);
	if (unlikely(!size))
		goto fail;
	bio->bi_iter.bi_size = size;
	return 0;

fail:
	if (bio->bi_nopin.range)
		bio_nopin_put(bio);
	nopin_window_end();
	bio->bi_vcnt = 0;
	*fail = pos;
	return ret;
}

/*
 * Fault in one piece of @iter that does not cross a multiple of NOPIN_CHUNK_SIZE,
 * and open its pages. May sleep. -ENXIO if later I/O may do without pins; other
 * errors are those of nopin_open() and nopin_fault().
 */
static int bio_nopin_prepare_piece(const struct iov_iter *iter,
				   unsigned long addr, size_t len,
				   enum nopin_dir dir, bool nowait, bool again)
{
	struct mm_struct *mm = current->mm;
	struct nopin_range *range;
	int ret;

	if (!access_ok((void __user *)addr, len))
		return -EFAULT;
	/* Allocate and look up nothing for what has to be faulted in */
	if (!nopin_present(mm, addr, dir)) {
		if (iter->nofault)
			return -EFAULT;
		if (again)
			return -EAGAIN;
		ret = nopin_fault(mm, addr, len, dir);
		if (ret)
			return ret;
	}

	range = nopin_mm_find(mm, addr);
	if (unlikely(!range)) {
		/* The caller may hold a lock that nests inside the mmap_lock */
		if (iter->nofault) {
			nopin_mm_want(mm, addr);
			return -ENXIO;
		}
		if (again)
			return -EAGAIN;
		range = nopin_mm_get(mm, addr);
		if (IS_ERR(range))
			return -ENOMEM;
	}
	ret = nopin_open(range, nopin_index(range, addr),
			 bio_nopin_nr(addr, len), dir, nowait);
	if (ret != -EFAULT || iter->nofault)
		return ret;
	/* The next try opens it */
	return again ? -EAGAIN : nopin_fault(mm, addr, len, dir);
}

/* Prepare all from @pos on, as far as a bio reaches with a page per bio_vec */
static int bio_nopin_prepare(struct bio *bio, const struct iov_iter *iter,
			     struct bio_nopin_pos pos, bool nowait, bool again)
{
	size_t room = (size_t)bio->bi_max_vecs << PAGE_SHIFT;
	unsigned long addr;
	size_t len;
	int ret;

	while ((len = bio_nopin_next(iter, &pos, room, &addr))) {
		len = min(len, NOPIN_CHUNK_SIZE - addr % NOPIN_CHUNK_SIZE);
		ret = bio_nopin_prepare_piece(iter, addr, len,
					      bio_nopin_dir(bio), nowait, again);
		if (ret)
			return ret;
		room -= len;
		bio_nopin_advance(&pos, len);
	}
	return 0;
}

/*
 * Enter as much of @iter as the bio can hold; prepare, and try again, if need be.
 * @iocb and @flags as for bio_nopin_get_pages(), but a request has no iocb. Returns
 * 0, the cause of a fallback, or -EAGAIN for IOCB_NOPIN_AGAIN.
 */
static int bio_nopin_enter(struct bio *bio, struct iov_iter *iter,
			   struct kiocb *iocb, unsigned int flags,
			   unsigned int mem_align_mask,
			   unsigned int len_align_mask)
{
	bool prompt = bio_nopin_prompt(bio, iocb, flags);
	bool closed = flags & BIO_NOPIN_CLOSED;
	bool nowait = iter->nofault ||
		      (iocb && iocb->ki_flags & IOCB_NOWAIT);
	bool again = iocb && iocb->ki_flags & IOCB_NOPIN_AGAIN &&
		     !(flags & BIO_NOPIN_STARTED);
	struct bio_nopin_pos pos = bio_nopin_start(iter);
	size_t left = iov_iter_count(iter);
	unsigned int tries = 0;
	unsigned long addr;
	int ret;

	if (!bio_nopin_next(iter, &pos, left, &addr))
		return NOPIN_FALLBACK_INVALID;
	if (!nopin_mm_ready(current->mm, addr))
		return NOPIN_FALLBACK_FIRST;
	if (!bio->bi_max_vecs)
		bio_nopin_alloc_vecs(bio);

	for (;; closed = false) {
		ret = closed ? -EAGAIN :
			       bio_nopin_try(bio, iter, prompt, mem_align_mask,
					     len_align_mask, &pos);
		if (!ret)
			return NOPIN_FALLBACK_NONE;
		if (ret == -ENOSPC)
			return NOPIN_FALLBACK_EXTENTS;
		if (ret == -EINVAL)
			return NOPIN_FALLBACK_INVALID;
		if (pos.left < left) {
			left = pos.left;
			tries = 0;
		}
		if (++tries > BIO_NOPIN_TRIES)
			return NOPIN_FALLBACK_RACE;

		ret = bio_nopin_prepare(bio, iter, pos, nowait, again);
		switch (ret) {
		case 0:
			continue;
		case -ENOMEM:
			return NOPIN_FALLBACK_NOMEM;
		case -ENXIO:
			return NOPIN_FALLBACK_FIRST;
		case -EPERM:
			return NOPIN_FALLBACK_SPECIAL;
		case -EBUSY:
			/* Earlier I/O may go on for long */
			return NOPIN_FALLBACK_BUSY;
		case -ETIME:
			/* Invalidations follow one another */
			return NOPIN_FALLBACK_RACE;
		case -EAGAIN:
			if (nowait)
				return again ? -EAGAIN : NOPIN_FALLBACK_NOWAIT;
			continue;
		default:
			return NOPIN_FALLBACK_INVALID;
		}
	}
}

/* The pages have been entered */
static __always_inline void bio_nopin_done(struct bio *bio)
{
	bio_set_flag(bio, BIO_NOPIN);
	count_vm_event(NOPIN_BIO);
}

/**
 * bio_nopin_known - add user pages to a bio, if their translations are known
 * @bio: as for bio_nopin_get_pages()
 * @iter: as for bio_nopin_get_pages(), whole blocks
 * @iocb: as for bio_nopin_get_pages()
 * @mem_align_mask: as for bio_nopin_get_pages()
 * @flags: for bio_nopin_get_pages(); gets BIO_NOPIN_CLOSED
 *
 * The way of most I/O: the buffer is in one piece, and was used lately. The bio
 * points to the translations, or gets one bio_vec for adjacent pages. Leaves a buffer
 * of several large folios to bio_nopin_get_pages().
 *
 * Context: As for nopin_enter().
 *
 * Return: whether the bio has got all of @iter, which is at its end now.
 */
bool bio_nopin_known(struct bio *bio, struct iov_iter *iter, struct kiocb *iocb,
		     unsigned int mem_align_mask, unsigned int *flags)
{
	unsigned long addr = (unsigned long)iter->ubuf + iter->iov_offset;
	size_t nr = bio_nopin_nr(addr, iter->count);
	struct bio_vec *bvec = NULL, *to = NULL;
	struct nopin_range *range;
	unsigned int page = 0;
	bool prompt;

	if (!iter_is_ubuf(iter))
		return false;
	/* Replacing bi_io_vec would leak an allocated array */
	if (bio->bi_max_vecs > BIO_NOPIN_VECS && bio->bi_pool)
		return false;

	addr = untagged_addr(addr);
	if (unlikely(nopin_start(addr) + nr > NOPIN_CHUNK_PAGES))
		return false;
	if (unlikely((addr | iter->count) & mem_align_mask))
		return false;
	prompt = bio_nopin_prompt(bio, iocb, 0);
	if (prompt)
		nopin_window_begin();
	range = nopin_mm_find(current->mm, addr);
	if (likely(range)) {
		page = nopin_index(range, addr);
		bvec = nopin_enter(range, page, nr, bio_nopin_dir(bio), prompt,
				   &bio->bi_nopin);
	}
	if (unlikely(!bvec)) {
		nopin_window_end();
		*flags |= BIO_NOPIN_CLOSED;
		return false;
	}

	if (nr > 1 && nopin_contiguous(range, page, bvec, nr)) {
		to = bio_nopin_inline_vecs(bio);
	} else if (nr > BIO_NOPIN_MERGE && bio_nopin_mergeable(range, bvec, nr)) {
		/* bio_nopin_copy() does that, in bio_vecs to be allocated first */
		bio_nopin_put(bio);
		nopin_window_end();
		return false;
	}
	if (to) {
		bvec_set_page(to, bvec->bv_page, iter->count, offset_in_page(addr));
		bio->bi_io_vec = to;
		bio->bi_vcnt = 1;
	} else {
		bio->bi_io_vec = bvec;
		bio->bi_vcnt = nr;
		bio->bi_iter.bi_offset = offset_in_page(addr);
		bio_set_flag(bio, BIO_CLONED);
	}
	bio->bi_iter.bi_size = iter->count;
	/* What iov_iter_advance() does */
	iter->iov_offset += iter->count;
	iter->count = 0;
	bio_nopin_done(bio);
	return true;
}

/**
 * bio_nopin_get_pages - add user pages to a bio, with pins only if need be
 * @bio: bio without pages, its operation (not REQ_OP_ZONE_APPEND) and device set
 * @iter: user memory; advanced over what was added
 * @iocb: the I/O
 * @flags: BIO_NOPIN_OTHER if the I/O is not prompt, whatever the device is: the
 *	caller may hold the bio across anything; BIO_NOPIN_STARTED if part of
 *	the I/O was submitted, so that the whole cannot be tried again;
 *	BIO_NOPIN_CLOSED if bio_nopin_known() could not enter the pages
 * @mem_align_mask: address and length of each piece of @iter have to be aligned to
 *	this mask, if that was not checked before
 * @len_align_mask: the size of the bio is aligned to this mask
 *
 * The counterpart of bio_iov_iter_get_pages(), which it falls back to, for what
 * bio_nopin_known() does not take. The caller releases the pages by
 * bio_release_pages() or bio_check_pages_dirty() in either case. If it is to tell
 * somebody that the I/O has ended, it calls bio_nopin_exit() first. If the I/O is
 * prompt, the caller must do so in the bio's end_io, and must submit the bio with
 * nothing in between that may sleep.
 *
 * With IOCB_NOWAIT this pins instead of waiting for an invalidation, as some
 * callers can no longer report -EAGAIN. With IOCB_NOPIN_AGAIN it returns -EAGAIN
 * instead of waiting for an invalidation or a page fault, and the caller tries
 * again where it can wait.
 *
 * Context: Process context of a task that uses the mm of @iter. May sleep, as
 * bio_iov_iter_get_pages() does.
 *
 * Return: as bio_iov_iter_get_pages(): 0 if something was added, -EFAULT if the
 * memory cannot be accessed, -EAGAIN as said above, other errors of
 * pin_user_pages_fast().
 */
int bio_nopin_get_pages(struct bio *bio, struct iov_iter *iter,
			struct kiocb *iocb, unsigned int flags,
			unsigned int mem_align_mask,
			unsigned int len_align_mask)
{
	int cause;

	if (!user_backed_iter(iter))
		return bio_iov_iter_get_pages(bio, iter, mem_align_mask,
					      len_align_mask);
	cause = bio_nopin_enter(bio, iter, iocb, flags, mem_align_mask,
				len_align_mask);
	if (cause < 0)
		return cause;
	if (cause) {
		nopin_count_fallback(cause, bio->bi_bdev ? bio_dev(bio) : 0);
		if (!bio->bi_max_vecs)
			bio_nopin_alloc_vecs(bio);
		return bio_iov_iter_get_pages(bio, iter, mem_align_mask,
					      len_align_mask);
	}

	iov_iter_advance(iter, bio->bi_iter.bi_size);
	bio_nopin_done(bio);
	return 0;
}

/**
 * bio_nopin_map_user - add user pages to the bio of a passthrough request
 * @rq: the request
 * @bio: bio without pages, of the operation of @rq; not yet part of it
 * @iter: user memory, aligned as the queue wants it; advanced over what was added
 *
 * Such I/O is not prompt: its submitter may sleep before it issues the request, and
 * calls bio_release_pages() when the request has ended.
 *
 * Context: Process context of a task that uses the mm of @iter. May sleep.
 *
 * Return: whether pages were added. If not, the caller is to pin them.
 */
bool bio_nopin_map_user(struct request *rq, struct bio *bio,
			struct iov_iter *iter)
{
	struct queue_limits *lim = &rq->q->limits;
	unsigned int segs;
	int cause;

	if (!nopin_direct_io() || !user_backed_iter(iter))
		return false;
	cause = bio_nopin_enter(bio, iter, NULL, BIO_NOPIN_OTHER, 0, 0);
	if (cause)
		goto fallback;

	/* If it does not fit into a request, the code for pins divides it */
	if (bio_split_io_at(bio, lim, &segs,
			    lim->max_hw_sectors << SECTOR_SHIFT, 0)) {
		bio_nopin_put(bio);
		bio->bi_vcnt = 0;
		bio->bi_iter.bi_size = 0;
		cause = NOPIN_FALLBACK_EXTENTS;
		goto fallback;
	}
	iov_iter_advance(iter, bio->bi_iter.bi_size);
	bio_nopin_done(bio);
	return true;

fallback:
	nopin_count_fallback(cause, rq->q->disk ? disk_devt(rq->q->disk) : 0);
	return false;
}

/**
 * bio_nopin_exit - a bio no longer uses its user pages
 * @bio: bio with BIO_NOPIN set; cleared
 *
 * Context: Any. If the bio is prompt, not in a task that changes the mapping, and
 * not in anything that waits for such a task: that task may wait for this call.
 */
void bio_nopin_exit(struct bio *bio)
{
	bio_clear_flag(bio, BIO_NOPIN);
	bio_nopin_put(bio);
	nopin_window_end();
}
EXPORT_SYMBOL_GPL(bio_nopin_exit);
