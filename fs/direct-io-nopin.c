// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O of fs/direct-io.c without page pins.
 *
 * fs/direct-io.c pins up to 64 pages at a time, and then finds out where in the
 * file system they belong, with get_block() in between, which may wait for
 * anything. Pages must not be entered across that (see mm/nopin/range.c). But it
 * does not need them either, as a bio is made of consecutive bytes of the file,
 * and so of user memory: all there is to know until the bio is complete is how
 * many. So pages are looked up, and entered, when a bio is submitted; until then
 * a placeholder stands for each.
 *
 * That memory is not accessible is known late then: when blocks have been
 * allocated, or even when bios behind this one are on their way. So memory to
 * write from is tried early, in front of get_block(). Should it vanish later,
 * zeroes are written, as fs/direct-io.c does where it has got blocks and no
 * memory. A read ends in front of memory that is not there.
 */

#include <linux/bio.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/pagemap.h>
#include <linux/uio.h>

#include "direct-io-nopin.h"

/**
 * dio_nopin_begin - will pages be looked up late?
 * @dn: set up
 * @iocb: the I/O
 * @iter: its memory
 * @aligned: the I/O is a number of blocks of the file system; otherwise bios may
 *	have zeroes that are not from user memory
 *
 * Return: whether they will.
 */
bool dio_nopin_begin(struct dio_nopin *dn, struct kiocb *iocb,
		     struct iov_iter *iter, bool aligned)
{
	if (!static_branch_unlikely(&nopin_direct_io_key) ||
	    !user_backed_iter(iter))
		return false;
	if (!aligned) {
		nopin_count_fallback(NOPIN_FALLBACK_FS);
		return false;
	}
	dn->on = true;
	dn->iter = *iter;
	dn->pos = iocb->ki_pos;
	dn->fault = LLONG_MAX;
	return true;
}

/**
 * dio_nopin_refill - placeholders for the next pages
 * @dn: as set up
 * @iter: the rest of the memory; advanced
 * @pages: set to pointers that are not to be followed, different ones for pages
 *	one behind the other
 * @max: room in @pages
 * @from: set to the offset in the first page
 *
 * The counterpart of iov_iter_extract_pages().
 *
 * Context: Process context, may sleep. No pages are entered by a bio that has
 * not been submitted.
 *
 * Return: the number of bytes, or -EFAULT.
 */
ssize_t dio_nopin_refill(struct dio_nopin *dn, struct iov_iter *iter,
			 struct page **pages, unsigned int max, size_t *from)
{
	struct page *placeholder = ZERO_PAGE(0);
	size_t len = iov_iter_count(iter), end;

	if (!iter_is_ubuf(iter)) {
		/* To a segment that is not empty */
		iov_iter_advance(iter, 0);
		len = iov_iter_single_seg_count(iter);
	}
	*from = offset_in_page(iter_iov_addr(iter));
	len = min(len, max * PAGE_SIZE - *from);
	if (iov_iter_rw(iter) == WRITE) {
		/* The memory for the pointers is of no other use yet */
		ssize_t ret = bio_nopin_probe(iter, len, (struct bio_vec *)pages,
					      max * sizeof(*pages) /
					      sizeof(struct bio_vec));

		if (ret < 0)
			return ret;
		len = ret;
	}
	for (end = 0; end < *from + len; end += PAGE_SIZE)
		*pages++ = placeholder + dn->pages++ % 2;
	iov_iter_advance(iter, len);
	return len;
}

/**
 * dio_nopin_add - a part of a page is to become part of a bio
 * @dn: as set up
 * @bio: bio without pages
 * @len: number of bytes
 *
 * Return: as bio_add_page(): @len, or 0 if there is no room.
 */
int dio_nopin_add(struct dio_nopin *dn, struct bio *bio, unsigned int len)
{
	if (dn->sections == BIO_MAX_VECS)
		return 0;
	dn->sections++;
	bio->bi_iter.bi_size += len;
	return len;
}

/* To the memory that belongs to that position in the file */
static void dio_nopin_seek(struct dio_nopin *dn, loff_t pos)
{
	if (pos == dn->pos)
		return;
	iov_iter_advance(&dn->iter, pos - dn->pos);
	dn->pos = pos;
}

/* The blocks may be new, and have what others have left there */
static void dio_nopin_add_zeroes(struct bio *bio, size_t len)
{
	while (len) {
		unsigned int nr = min(len, PAGE_SIZE);

		/* There is room for all of the memory that was to be added */
		if (WARN_ON_ONCE(bio_add_page(bio, ZERO_PAGE(0), nr, 0) != nr))
			return;
		len -= nr;
	}
}

/**
 * dio_nopin_fill - look up the pages of a bio
 * @dn: as set up
 * @bio: bio without pages, of the size that it is to have, and with no bio_vecs
 *	allocated
 * @iocb: the I/O
 * @pos: position in the file
 *
 * Context: Process context, may sleep. The bio must be submitted without anything
 * in between that may sleep, see bio_nopin_get_pages().
 *
 * Return: whether there is anything to submit.
 */
bool dio_nopin_fill(struct dio_nopin *dn, struct bio *bio, struct kiocb *iocb,
		    loff_t pos)
{
	size_t len = bio->bi_iter.bi_size;
	bool write = op_is_write(bio_op(bio));
	struct iov_iter iter;

	dn->sections = 0;
	/* The end of the read is known */
	if (!write && dn->fault < pos)
		return false;
	dio_nopin_seek(dn, pos);
	iter = dn->iter;
	dio_nopin_seek(dn, pos + len);

	iov_iter_truncate(&iter, len);
	bio->bi_iter.bi_size = 0;
	/* Its error is of no interest, as there is but one */
	bio_iov_iter_get_pages_nopin(bio, &iter, iocb, BIO_NOPIN_STARTED);
	len = iov_iter_count(&iter);
	if (unlikely(len)) {
		dn->fault = min(dn->fault, dn->pos - (loff_t)len);
		if (write)
			dio_nopin_add_zeroes(bio, len);
	}
	return bio->bi_iter.bi_size;
}

/**
 * dio_nopin_zero - read a hole
 * @dn: as set up
 * @pos: position in the file
 * @len: number of bytes
 *
 * Context: Process context, may sleep. No pages are entered by a bio that has
 * not been submitted.
 */
void dio_nopin_zero(struct dio_nopin *dn, loff_t pos, size_t len)
{
	struct iov_iter iter = dn->iter;

	/* There may be a bio in front of the hole that is not complete yet */
	iov_iter_advance(&iter, pos - dn->pos);
	if (iov_iter_zero(len, &iter) != len)
		dn->fault = min(dn->fault, pos);
}

/**
 * dio_nopin_end - was all memory accessible?
 * @dn: as set up
 * @iocb: the I/O
 * @result: number of bytes, less if need be
 * @page_errors: as in struct dio
 *
 * Return: 0, or -EFAULT for a read that ends early. All bios have been
 * submitted.
 */
int dio_nopin_end(struct dio_nopin *dn, struct kiocb *iocb, ssize_t *result,
		  int *page_errors)
{
	if (likely(!dn->on || dn->fault == LLONG_MAX))
		return 0;
	if (iov_iter_rw(&dn->iter) == WRITE) {
		if (!*page_errors)
			*page_errors = -EFAULT;
		return 0;
	}
	*result = min_t(loff_t, *result, dn->fault - iocb->ki_pos);
	return -EFAULT;
}
