/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Direct I/O of fs/direct-io.c without page pins, see direct-io-nopin.c.
 */
#ifndef _FS_DIRECT_IO_NOPIN_H
#define _FS_DIRECT_IO_NOPIN_H

#include <linux/limits.h>
#include <linux/uio.h>

/**
 * struct dio_nopin - the pages of an I/O
 * @on: batches hold the pages, and struct dio does not; doesn't change
 * @batches: list by way of bi_private. Used by the task that submits the I/O,
 *	then by dio_complete()
 */
struct dio_nopin {
#ifdef CONFIG_NOPIN
	bool		on;
	struct bio	*batches;
#endif
};

#ifdef CONFIG_NOPIN

bool dio_nopin_begin(struct dio_nopin *dn, const struct iov_iter *iter);
bool dio_nopin_defer(const struct iov_iter *iter);
ssize_t dio_nopin_extract(struct dio_nopin *dn, struct kiocb *iocb,
			  struct iov_iter *iter, struct page ***pages,
			  unsigned int max, size_t *from);
void dio_nopin_release(struct dio_nopin *dn, bool async);

#else /* !CONFIG_NOPIN */

static inline bool dio_nopin_begin(struct dio_nopin *dn,
				   const struct iov_iter *iter)
{
	return false;
}

static inline bool dio_nopin_defer(const struct iov_iter *iter)
{
	return false;
}

static inline ssize_t dio_nopin_extract(struct dio_nopin *dn,
					struct kiocb *iocb,
					struct iov_iter *iter,
					struct page ***pages, unsigned int max,
					size_t *from)
{
	return iov_iter_extract_pages(iter, pages, LONG_MAX, max, 0, from);
}

static inline void dio_nopin_release(struct dio_nopin *dn, bool async) { }

#endif /* CONFIG_NOPIN */
#endif /* _FS_DIRECT_IO_NOPIN_H */
