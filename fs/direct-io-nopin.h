/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Direct I/O of fs/direct-io.c without page pins, see direct-io-nopin.c.
 */
#ifndef _FS_DIRECT_IO_NOPIN_H
#define _FS_DIRECT_IO_NOPIN_H

#include <linux/bio.h>
#include <linux/uio.h>

/**
 * struct dio_nopin - what is left of looking pages up early
 * @on: pages are looked up when a bio is submitted
 * @pages: number of pages that were handed out
 * @sections: number of parts of pages in the bio under assembly
 * @iter: user memory behind the last bio
 * @pos: position in the file that belongs to @iter
 * @fault: position in the file of the first memory that was not accessible
 */
struct dio_nopin {
#ifdef CONFIG_NOPIN
	bool		on;
	unsigned int	pages;
	unsigned int	sections;
	struct iov_iter	iter;
	loff_t		pos;
	loff_t		fault;
#endif
};

#ifdef CONFIG_NOPIN

static inline bool dio_nopin(const struct dio_nopin *dn)
{
	return dn->on;
}

bool dio_nopin_begin(struct dio_nopin *dn, struct kiocb *iocb,
		     struct iov_iter *iter, bool aligned);
ssize_t dio_nopin_refill(struct dio_nopin *dn, struct iov_iter *iter,
			 struct page **pages, unsigned int max, size_t *from);
int dio_nopin_add(struct dio_nopin *dn, struct bio *bio, unsigned int len);
bool dio_nopin_fill(struct dio_nopin *dn, struct bio *bio, struct kiocb *iocb,
		    loff_t pos);
void dio_nopin_zero(struct dio_nopin *dn, loff_t pos, size_t len);
int dio_nopin_end(struct dio_nopin *dn, struct kiocb *iocb, ssize_t *result,
		  int *page_errors);

#else /* !CONFIG_NOPIN */

static inline bool dio_nopin(const struct dio_nopin *dn)
{
	return false;
}

static inline bool dio_nopin_begin(struct dio_nopin *dn, struct kiocb *iocb,
				   struct iov_iter *iter, bool aligned)
{
	return false;
}

static inline ssize_t dio_nopin_refill(struct dio_nopin *dn,
				       struct iov_iter *iter,
				       struct page **pages, unsigned int max,
				       size_t *from)
{
	return 0;
}

static inline int dio_nopin_add(struct dio_nopin *dn, struct bio *bio,
				unsigned int len)
{
	return 0;
}

static inline bool dio_nopin_fill(struct dio_nopin *dn, struct bio *bio,
				  struct kiocb *iocb, loff_t pos)
{
	return true;
}

static inline void dio_nopin_zero(struct dio_nopin *dn, loff_t pos, size_t len)
{
}

static inline int dio_nopin_end(struct dio_nopin *dn, struct kiocb *iocb,
				ssize_t *result, int *page_errors)
{
	return 0;
}

#endif /* CONFIG_NOPIN */
#endif /* _FS_DIRECT_IO_NOPIN_H */
