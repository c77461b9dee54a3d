/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The way of most I/O through bio-nopin.c, inline for block/fops.c: the bio
 * points to translations that earlier I/O has left behind.
 */
#ifndef BLK_BIO_NOPIN_H
#define BLK_BIO_NOPIN_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/uio.h>

/* bdev_iter_is_aligned(), which spares the common case the call */
static inline bool bio_nopin_is_aligned(struct block_device *bdev,
					struct iov_iter *iter)
{
	if (IS_ENABLED(CONFIG_NOPIN) && iter_is_ubuf(iter)) {
		unsigned long addr = (unsigned long)iter->ubuf +
				     iter->iov_offset;

		return !(iter->count & (bdev_logical_block_size(bdev) - 1)) &&
		       !(addr & bdev_dma_alignment(bdev));
	}
	return bdev_iter_is_aligned(bdev, iter);
}

#ifdef CONFIG_NOPIN

#include <linux/nopin_break.h>
#include <linux/nopin_state.h>
#include <linux/sched.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>

bool bio_nopin_join(struct bio *bio, struct nopin_chunk *chunk,
		    unsigned long addr, size_t len);
bool bio_nopin_across(struct bio *bio, struct nopin_chunk *chunk,
		      unsigned long addr, size_t len);
#ifdef CONFIG_NOPIN_BREAK
void bio_nopin_break(struct bio *bio, struct kiocb *iocb);
#else
static inline void bio_nopin_break(struct bio *bio, struct kiocb *iocb) { }
#endif

static inline enum nopin_dir bio_nopin_dir(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) ? NOPIN_TO_DEVICE : NOPIN_FROM_DEVICE;
}

static __always_inline void
bio_nopin_exit_extent(const struct nopin_extent *ext, enum nopin_dir dir)
{
	if (likely(ext->word & NOPIN_EXTENT_WORD))
		nopin_exit_ones((atomic64_t *)(ext->word - NOPIN_EXTENT_WORD),
				ext->ones);
	else if (ext->word & NOPIN_EXTENT_WORDS)
		nopin_exit_words((atomic64_t *)(ext->word - NOPIN_EXTENT_WORDS),
				 ext->first, ext->nr);
	else
		nopin_exit(ext->range, ext->first, ext->nr, dir);
}

/* How many pages is that? */
static __always_inline size_t bio_nopin_nr(unsigned long addr, size_t len)
{
	return (offset_in_page(addr) + len + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/* One bio_vec for a part of a huge mapping */
static inline void bio_nopin_set_huge(struct bio_vec *to, struct nopin_chunk *chunk,
				      unsigned long addr, size_t len)
{
	bvec_set_page(to, chunk->cache.huge->bv_page + nopin_start(addr), len,
		      offset_in_page(addr));
}

/* Those that a bio has in any case, if it does */
static inline struct bio_vec *bio_nopin_inline_vecs(struct bio *bio)
{
	if (bio->bi_max_vecs)
		return bio->bi_io_vec;
	/* What bio_nopin_vecs() let have none; see BIOSET_NEED_BVECS */
	return bio->bi_pool && bio->bi_pool->back_pad ? bio->bi_inline_vecs :
							NULL;
}

/* What can be told without a look at the memory */
static __always_inline enum nopin_fallback
bio_nopin_unfit(struct bio *bio, struct kiocb *iocb, unsigned int flags)
{
	if (!bdev_nopin(bio->bi_bdev) && !nopin_broken(DEVICE))
		return NOPIN_FALLBACK_DEVICE;
	/* Who polls may be who waits, and then somebody else has to */
	if ((iocb->ki_flags & IOCB_HIPRI) && !is_sync_kiocb(iocb) &&
	    !nopin_mm_polls(current->mm, bdev_get_queue(bio->bi_bdev)))
		return NOPIN_FALLBACK_POLLED;
	if ((flags & BIO_NOPIN_LATE_ACCESS) && !nopin_broken(FS))
		return NOPIN_FALLBACK_FS;
	return NOPIN_FALLBACK_NONE;
}

/* The pages have been entered */
static __always_inline void bio_nopin_done(struct bio *bio, struct kiocb *iocb)
{
	bio_set_flag(bio, BIO_NOPIN);
	count_vm_event(NOPIN_BIO);
	bio_nopin_break(bio, iocb);
}

/* The bio points to translations of entered pages, which are known */
static __always_inline void bio_nopin_point(struct bio *bio,
					    struct bio_vec *bvec,
					    unsigned long addr, size_t nr)
{
	bio->bi_io_vec = bvec;
	bio->bi_vcnt = nr;
	bio->bi_iter.bi_bvec_done = offset_in_page(addr);
	bio_set_flag(bio, BIO_CLONED);
}

/* The same for pages of that many huge mappings */
static __always_inline void bio_nopin_point_huge(struct bio *bio,
						 struct nopin_chunk *chunk,
						 unsigned long addr,
						 unsigned int nr)
{
	bio->bi_io_vec = chunk->cache.huge;
	bio->bi_vcnt = nr;
	bio->bi_iter.bi_bvec_done = addr % NOPIN_CACHE_SIZE;
	bio_set_flag(bio, BIO_CLONED);
}

/* The bio has got all of @iter */
static __always_inline void bio_nopin_all(struct bio *bio,
					  struct iov_iter *iter,
					  struct kiocb *iocb)
{
	size_t len = iter->count;

	bio->bi_iter.bi_size = len;
	/* What iov_iter_advance() does */
	iter->iov_offset += len;
	iter->count = 0;
	bio_nopin_done(bio, iocb);
}

/*
 * bio_nopin_get_known(), for those who ask all the time. One page of a folio
 * does for all of them, see bio_nopin_enter_huge().
 */
static __always_inline int bio_nopin_known(struct bio *bio,
					   struct iov_iter *iter,
					   struct kiocb *iocb)
{
	unsigned long addr = (unsigned long)iter->ubuf + iter->iov_offset;
	bool many = offset_in_page(addr) + iter->count > PAGE_SIZE;
	struct nopin_chunk *chunk;

	if (!iter_is_ubuf(iter) || unlikely(bio_nopin_unfit(bio, iocb, 0)))
		return -EAGAIN;
	/* Nobody would free the bio's own bio_vecs */
	if (bio->bi_max_vecs > BIO_NOPIN_VECS && bio->bi_pool)
		return -EAGAIN;

	addr = untagged_addr(addr);
	nopin_window_begin();
	chunk = nopin_mm_slot(current->mm, addr);
	if (unlikely(!chunk))
		goto fail;
	if (!many) {
		if (unlikely(!nopin_enter_cached(chunk, addr, 1,
						 bio_nopin_dir(bio),
						 &bio->bi_nopin)))
			goto fail;
		if (unlikely(nopin_whole(&chunk->cache))) {
			struct bio_vec *to = bio_nopin_inline_vecs(bio);

			/* The block layer likes those best that are not too long */
			if (unlikely(!to))
				goto exit;
			bio_nopin_set_huge(to, chunk, addr, iter->count);
			bio->bi_io_vec = to;
			bio->bi_vcnt = 1;
		} else {
			bio_nopin_point(bio, &chunk->cache.bvec[nopin_start(addr)],
					addr, 1);
		}
	} else if (unlikely(addr % NOPIN_CACHE_SIZE + iter->count >
			    NOPIN_CACHE_SIZE)) {
		if (!bio_nopin_across(bio, chunk, addr, iter->count))
			goto fail;
	} else if (nopin_one_folio(&chunk->cache)) {
		if (unlikely(!nopin_enter_cached(chunk, addr, 1,
						 bio_nopin_dir(bio),
						 &bio->bi_nopin)))
			goto fail;
		if (unlikely(!nopin_one_folio(&chunk->cache)))
			goto exit;
		bio_nopin_point_huge(bio, chunk, addr, 1);
	} else {
		size_t nr = bio_nopin_nr(addr, iter->count);

		if (unlikely(!nopin_enter_cached(chunk, addr, nr,
						 bio_nopin_dir(bio),
						 &bio->bi_nopin)))
			goto fail;
		if (unlikely(nopin_whole(&chunk->cache)))
			bio_nopin_point_huge(bio, chunk, addr, 1);
		else if (nr <= NOPIN_PAGES_PER_WORD ||
			 !nopin_followed(&chunk->cache, nopin_start(addr)) ||
			 !bio_nopin_join(bio, chunk, addr, iter->count))
			bio_nopin_point(bio, &chunk->cache.bvec[nopin_start(addr)],
					addr, nr);
	}
	bio_nopin_all(bio, iter, iocb);
	return 0;
exit:
	bio_nopin_exit_extent(&bio->bi_nopin, bio_nopin_dir(bio));
fail:
	nopin_window_end();
	return -EAGAIN;
}

/* bio_iov_iter_get_pages_nopin() with no flags */
static __always_inline int bio_nopin_fast(struct bio *bio,
					  struct iov_iter *iter,
					  struct kiocb *iocb)
{
	if (static_branch_unlikely(&nopin_direct_io_key) ||
	    unlikely(!bio->bi_max_vecs)) {
		if (likely(!bio_nopin_known(bio, iter, iocb)))
			return 0;
		return bio_nopin_get_pages(bio, iter, iocb, 0);
	}
	return bio_iov_iter_get_pages(bio, iter);
}

#else /* !CONFIG_NOPIN */

static inline int bio_nopin_fast(struct bio *bio, struct iov_iter *iter,
				 struct kiocb *iocb)
{
	return bio_iov_iter_get_pages(bio, iter);
}

#endif /* CONFIG_NOPIN */
#endif /* BLK_BIO_NOPIN_H */
