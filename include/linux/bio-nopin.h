/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Bios that may have entered their pages: the part of linux/bio.h, which
 * includes this, that belongs to block/bio-nopin.c.
 */
#ifndef _LINUX_BIO_NOPIN_H
#define _LINUX_BIO_NOPIN_H

#include <linux/blk_types.h>
#include <linux/nopin.h>
#include <linux/uio.h>

struct kiocb;
struct request;

int bio_iov_iter_get_pages(struct bio *bio, struct iov_iter *iter,
			   unsigned int mem_align_mask,
			   unsigned int len_align_mask);

/* How bio_iov_iter_get_pages_nopin() is called */
#define BIO_NOPIN_OTHER		1	/* not prompt, whatever the device is */
#define BIO_NOPIN_STARTED	2	/* too late for -EAGAIN */
#define BIO_NOPIN_CLOSED	4	/* bio_nopin_known() has tried in vain */

/* That many are embedded in a bio: allocating fewer saves nothing */
#define BIO_NOPIN_VECS	4

/*
 * Has the bio entered its pages? Then their PTEs are dirty and stay so, and
 * bio_set_pages_dirty() and bio_check_pages_dirty() must not be called: they
 * wait for folio locks, whose holders may wait for the bio.
 */
static inline bool bio_nopin(const struct bio *bio)
{
	return IS_ENABLED(CONFIG_NOPIN) && bio->bi_flags & (1U << BIO_NOPIN);
}

int bio_nopin_get_pages(struct bio *bio, struct iov_iter *iter,
			struct kiocb *iocb, unsigned int flags,
			unsigned int mem_align_mask,
			unsigned int len_align_mask);
bool bio_nopin_known(struct bio *bio, struct iov_iter *iter,
		     struct kiocb *iocb, unsigned int mem_align_mask,
		     unsigned int *flags);
void bio_nopin_exit(struct bio *bio);

#ifdef CONFIG_NOPIN
bool bio_nopin_map_user(struct request *rq, struct bio *bio,
			struct iov_iter *iter);
#else
static inline bool bio_nopin_map_user(struct request *rq, struct bio *bio,
				      struct iov_iter *iter)
{
	return false;
}
#endif

/*
 * How many bio_vecs to allocate for bio_iov_iter_get_pages_nopin(), instead of
 * @nr. None if the bio may be able to point to translations; otherwise it gets
 * bio_vecs of its own later.
 */
static inline unsigned int bio_nopin_vecs(const struct iov_iter *iter,
					  unsigned int nr)
{
	if (nr > BIO_NOPIN_VECS && iter_is_ubuf(iter) && nopin_direct_io())
		return 0;
	return nr;
}

/*
 * bio_iov_iter_get_pages(), without pins where possible. A bio without bio_vecs
 * comes here also if nopin_direct_io() has changed since bio_nopin_vecs().
 */
static inline int bio_iov_iter_get_pages_nopin(struct bio *bio,
					       struct iov_iter *iter,
					       struct kiocb *iocb,
					       unsigned int flags,
					       unsigned int mem_align_mask,
					       unsigned int len_align_mask)
{
	if (nopin_direct_io() ||
	    (IS_ENABLED(CONFIG_NOPIN) && unlikely(!bio->bi_max_vecs))) {
		if (!(flags & BIO_NOPIN_OTHER) &&
		    likely(bio_nopin_known(bio, iter, iocb, mem_align_mask,
					   &flags)))
			return 0;
		return bio_nopin_get_pages(bio, iter, iocb, flags,
					   mem_align_mask, len_align_mask);
	}
	return bio_iov_iter_get_pages(bio, iter, mem_align_mask,
				      len_align_mask);
}

#endif /* _LINUX_BIO_NOPIN_H */
