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
#ifdef CONFIG_NOPIN_BREAK
void bio_nopin_break(struct bio *bio, struct kiocb *iocb);
#else
static inline void bio_nopin_break(struct bio *bio, struct kiocb *iocb) { }
#endif

static inline enum nopin_dir bio_nopin_dir(const struct bio *bio)
{
	return op_is_write(bio_op(bio)) ? NOPIN_TO_DEVICE : NOPIN_FROM_DEVICE;
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

/* The bio's inline vecs, or NULL */
static inline struct bio_vec *bio_nopin_inline_vecs(struct bio *bio)
{
	if (bio->bi_max_vecs)
		return bio->bi_io_vec;
	/* What bio_nopin_vecs() let have none; see BIOSET_NEED_BVECS */
	return bio->bi_pool && bio->bi_pool->back_pad ? bio->bi_inline_vecs :
							NULL;
}

/*
 * May an invalidation wait for the bio? Not if it is polled: then it ends when
 * its submitter, who may be the one that waits, looks after it.
 */
static __always_inline bool bio_nopin_prompt(const struct bio *bio,
					     struct kiocb *iocb,
					     unsigned int flags)
{
	if (nopin_broken(PROMPT))
		return true;
	return !(flags & BIO_NOPIN_OTHER) && bdev_prompt(bio->bi_bdev) &&
	       !((iocb->ki_flags & IOCB_HIPRI) && !is_sync_kiocb(iocb));
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

/* The same for pages of a huge mapping */
static __always_inline void bio_nopin_point_huge(struct bio *bio,
						 struct nopin_chunk *chunk,
						 unsigned long addr)
{
	bio->bi_io_vec = chunk->cache.huge;
	bio->bi_vcnt = 1;
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

/* bio_nopin_get_known(), inline */
static __always_inline int bio_nopin_known(struct bio *bio,
					   struct iov_iter *iter,
					   struct kiocb *iocb)
{
	unsigned long addr = (unsigned long)iter->ubuf + iter->iov_offset;
	size_t nr = bio_nopin_nr(addr, iter->count);
	struct nopin_chunk *chunk;
	bool prompt;

	if (!iter_is_ubuf(iter))
		return -EAGAIN;
	/* Replacing bi_io_vec would leak an allocated array */
	if (bio->bi_max_vecs > BIO_NOPIN_VECS && bio->bi_pool)
		return -EAGAIN;

	addr = untagged_addr(addr);
	if (unlikely(nopin_start(addr) + nr > NOPIN_CHUNK_PAGES))
		return -EAGAIN;
	prompt = bio_nopin_prompt(bio, iocb, 0);
	if (prompt)
		nopin_window_begin();
	/* Until the pages are entered */
	rcu_read_lock();
	chunk = nopin_mm_chunk(current->mm, addr);
	if (unlikely(!chunk ||
		     !nopin_enter_cached(chunk, addr, nr, bio_nopin_dir(bio),
					 prompt, &bio->bi_nopin)))
		goto fail;
	rcu_read_unlock();

	if (nopin_whole(&chunk->cache)) {
		struct bio_vec *to = bio_nopin_inline_vecs(bio);

		/* The block layer likes those best that are within a page */
		if (nr == 1 && to) {
			bio_nopin_set_huge(to, chunk, addr, iter->count);
			bio->bi_io_vec = to;
			bio->bi_vcnt = 1;
		} else {
			bio_nopin_point_huge(bio, chunk, addr);
		}
	} else if (nr <= NOPIN_PAGES_PER_WORD ||
		   !nopin_followed(&chunk->cache, nopin_start(addr)) ||
		   !bio_nopin_join(bio, chunk, addr, iter->count)) {
		bio_nopin_point(bio, &chunk->cache.bvec[nopin_start(addr)],
				addr, nr);
	}
	bio_nopin_all(bio, iter, iocb);
	return 0;
fail:
	rcu_read_unlock();
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
