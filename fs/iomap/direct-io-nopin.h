/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Direct I/O of iomap without page pins.
 */
#ifndef _IOMAP_DIRECT_IO_NOPIN_H
#define _IOMAP_DIRECT_IO_NOPIN_H

#include <linux/bio.h>
#include <linux/iomap.h>

/*
 * A file system with ->submit_io may hold a bio for long, and end it in a work
 * item, as btrfs does. So no invalidation may wait for its pages.
 */
static inline bool iomap_nopin_other(const struct iomap_dio_ops *dops)
{
	return dops && dops->submit_io;
}

/* How many bio_vecs to allocate, instead of @nr */
static inline unsigned int iomap_nopin_vecs(const struct iomap_dio_ops *dops,
					    const struct iov_iter *iter,
					    unsigned int nr)
{
	return iomap_nopin_other(dops) ? nr : bio_nopin_vecs(iter, nr);
}

/*
 * bio_iov_iter_get_pages(); @other: the I/O is not prompt, @started: it cannot be
 * retried as a whole
 */
static inline int iomap_nopin_get_pages(struct bio *bio, struct iov_iter *iter,
					struct kiocb *iocb, bool other,
					bool started,
					unsigned int mem_align_mask,
					unsigned int len_align_mask)
{
	unsigned int flags = 0;

	if (other)
		flags |= BIO_NOPIN_OTHER;
	if (started)
		flags |= BIO_NOPIN_STARTED;
	return bio_iov_iter_get_pages_nopin(bio, iter, iocb, flags,
					    mem_align_mask, len_align_mask);
}

#endif /* _IOMAP_DIRECT_IO_NOPIN_H */
