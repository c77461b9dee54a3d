// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O of fs/direct-io.c without page pins.
 *
 * fs/direct-io.c takes up to 64 pages at a time, and holds them across
 * get_block(), which may wait for anything. So no invalidation may wait for these
 * pages: they are entered with BIO_NOPIN_OTHER, and a change of their mapping pins
 * them at once.
 *
 * A batch is a bio that is never submitted, and that holds what was taken at a
 * time. The bios that are submitted point to the same pages, and hold nothing.
 * With pins, fs/direct-io.c pins a page once more for each part of it that goes
 * into a bio. That is not needed here: as nothing waits for the pages, all of them
 * may stay entered until the I/O as a whole is complete.
 */

#include <linux/bio.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/sizes.h>

#include "direct-io-nopin.h"

/*
 * Not fs_bio_set: what get_block() waits for may need the reserve of that one.
 * The reserve of this one promises nothing: a task that has batches and allocates
 * one more may have to wait for memory, as with GFP_KERNEL in general.
 */
static struct bio_set dio_nopin_batches;

static bool dio_nopin_may(const struct iov_iter *iter)
{
	return nopin_direct_io() && user_backed_iter(iter);
}

/**
 * dio_nopin_defer - is this too much to release in an interrupt?
 * @iter: the memory
 *
 * The end of the last bio of an I/O releases all of its pages.
 *
 * Return: whether it is.
 */
bool dio_nopin_defer(const struct iov_iter *iter)
{
	return dio_nopin_may(iter) && iov_iter_count(iter) > SZ_4M;
}

/**
 * dio_nopin_begin - decide whether batches hold the pages
 * @dn: set up
 * @iter: the memory
 *
 * Return: whether they do. Then the caller must neither pin, unpin nor dirty
 * pages.
 */
bool dio_nopin_begin(struct dio_nopin *dn, const struct iov_iter *iter)
{
	dn->on = dio_nopin_may(iter);
	return dn->on;
}

/**
 * dio_nopin_extract - take the next pages
 * @dn: as set up
 * @iocb: the I/O
 * @iter: the rest of the memory; advanced
 * @pages: points to an array, which gets the pages; they are of one segment
 * @max: room in the array
 * @from: set to the offset in the first page
 *
 * The counterpart of iov_iter_extract_pages(). A batch pins the pages if it cannot
 * enter them. Never fails with -EAGAIN: the end_io() of a file system may complain
 * about any error.
 *
 * Context: Process context of a task that uses the mm of @iter. May sleep.
 *
 * Return: the number of bytes, or the error of pin_user_pages_fast().
 */
ssize_t dio_nopin_extract(struct dio_nopin *dn, struct kiocb *iocb,
			  struct iov_iter *iter, struct page ***pages,
			  unsigned int max, size_t *from)
{
	bool read = iov_iter_rw(iter) == READ;
	struct bvec_iter_all all;
	unsigned int nr = 0;
	struct bio_vec *bv;
	size_t len, rest;
	struct bio *bio;
	int ret;

	if (!dn->on)
		return iov_iter_extract_pages(iter, pages, LONG_MAX, max, 0,
					      from);

	/* Skip empty segments */
	iov_iter_advance(iter, 0);
	*from = offset_in_page(iter_iov_addr(iter));
	len = min(iov_iter_single_seg_count(iter), max * PAGE_SIZE - *from);
	rest = iov_iter_count(iter) - len;

	bio = bio_alloc_bioset(NULL, DIV_ROUND_UP(*from + len, PAGE_SIZE),
			       read ? REQ_OP_READ : REQ_OP_WRITE, GFP_KERNEL,
			       &dio_nopin_batches);
	iov_iter_truncate(iter, len);
	ret = bio_iov_iter_get_pages_nopin(bio, iter, iocb,
					   BIO_NOPIN_OTHER | BIO_NOPIN_STARTED,
					   0, 0);
	iov_iter_reexpand(iter, iov_iter_count(iter) + rest);
	if (unlikely(ret)) {
		bio_put(bio);
		return ret;
	}

	/* As dio_bio_submit() does it; the PTEs of entered pages are dirty */
	if (read && !bio_nopin(bio) && !is_sync_kiocb(iocb))
		bio_set_pages_dirty(bio);
	bio_for_each_segment_all(bv, bio, all)
		(*pages)[nr++] = bv->bv_page;
	bio->bi_private = dn->batches;
	dn->batches = bio;
	return bio->bi_iter.bi_size;
}

/**
 * dio_nopin_release - release all pages: the I/O is complete
 * @dn: as set up
 * @async: of struct dio: the caller may be an interrupt
 *
 * Context: Any if @async, otherwise process context; may sleep.
 */
void dio_nopin_release(struct dio_nopin *dn, bool async)
{
	struct bio *bio;

	while ((bio = dn->batches)) {
		bool read = bio_op(bio) == REQ_OP_READ;
		bool dirty = read && !bio_nopin(bio);

		dn->batches = bio->bi_private;
		/* As dio_bio_complete() does it */
		if (dirty && async) {
			bio_check_pages_dirty(bio);	/* transfers ownership */
		} else {
			bio_release_pages(bio, dirty);
			bio_put(bio);
			if (read && !async)
				nopin_flush();
		}
	}
}

static int __init dio_nopin_init(void)
{
	return bioset_init(&dio_nopin_batches, BIO_POOL_SIZE, 0,
			   BIOSET_NEED_BVECS);
}
module_init(dio_nopin_init);
