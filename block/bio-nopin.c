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
#include <linux/nopin_state.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/vmstat.h>

#include "bio-nopin.h"
#include "blk.h"
#include "blk-mq.h"

/*
 * How often the same pages are opened or faulted in before a bio is pinned. A
 * page that moves takes two: one while its PTE is a migration entry.
 */
#define BIO_NOPIN_TRIES		16

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
	unsigned int i;

	for (i = 0; i < ext->nr; i++)
		bio_nopin_exit_extent(&ext->many[i], bio_nopin_dir(bio));
	kfree(ext->many);
}

static __always_inline void bio_nopin_put(struct bio *bio)
{
	struct nopin_extent *ext = &bio->bi_nopin;

	if (unlikely(!(ext->word & NOPIN_EXTENT_MASK) && ext->is_array))
		bio_nopin_put_many(bio);
	else
		bio_nopin_exit_extent(ext, bio_nopin_dir(bio));
}

static void bio_nopin_set_extent(struct nopin_extent *ext,
				 struct nopin_range *range, unsigned long addr,
				 size_t len)
{
	ext->range = range;
	ext->first = nopin_index(range, addr);
	ext->nr = bio_nopin_nr(addr, len);
	ext->is_array = false;
}

/*
 * Enter the pages of a piece that does not cross a multiple of
 * NOPIN_CACHE_SIZE. -ENXIO if a range has to be created; otherwise the errors of
 * nopin_enter().
 */
static int bio_nopin_enter_pages(struct mm_struct *mm, unsigned long addr,
				 size_t len, enum nopin_dir dir,
				 struct nopin_extent *ext)
{
	struct nopin_range *range = nopin_mm_find(mm, addr);

	if (unlikely(!range))
		return -ENXIO;
	bio_nopin_set_extent(ext, range, addr, len);
	return nopin_enter(range, ext->first, ext->nr, dir);
}

/* Is that the pages behind these? */
static bool bio_nopin_follows(const struct nopin_extent *ext,
			      const struct nopin_extent *add)
{
	return !((ext->word | add->word) & NOPIN_EXTENT_MASK) &&
	       ext->range == add->range && ext->first + ext->nr == add->first;
}

/* Remember pages that have been entered; false if there is no room */
static bool bio_nopin_add(struct bio *bio, const struct iov_iter *iter,
			  const struct nopin_extent *add)
{
	struct nopin_extent *ext = &bio->bi_nopin, *many;

	if (!ext->word) {
		*ext = *add;
		return true;
	}
	if ((ext->word & NOPIN_EXTENT_MASK) || !ext->is_array) {
		/* pages are entered already: must not wait for memory */
		unsigned int room = 2 * (iter->nr_segs + 1) +
				    iov_iter_count(iter) / NOPIN_CACHE_SIZE;

		if (bio_nopin_follows(ext, add)) {
			ext->nr += add->nr;
			return true;
		}
		many = kmalloc_array(room, sizeof(*many),
				     GFP_NOWAIT | __GFP_NOWARN);
		if (!many)
			return false;
		many[0] = *ext;
		ext->many = many;
		ext->first = room;
		ext->nr = 1;
		ext->is_array = true;
	} else if (bio_nopin_follows(&ext->many[ext->nr - 1], add)) {
		ext->many[ext->nr - 1].nr += add->nr;
		return true;
	}
	if (ext->nr == ext->first)
		return false;
	ext->many[ext->nr++] = *add;
	return true;
}

/* A bio must be a number of blocks; the pages of the rest stay entered */
static size_t bio_nopin_trim(struct bio *bio, size_t size)
{
	size_t trim = 0;

	/* But for those of passthrough requests */
	if (bio->bi_bdev)
		trim = size & (bdev_logical_block_size(bio->bi_bdev) - 1);
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

/* One bio_vec for pages that follow each other in memory, if they do */
static bool bio_nopin_single(struct bio_vec *to, struct nopin_chunk *chunk,
			     unsigned long addr, size_t len)
{
	const struct nopin_cache *cache = &chunk->cache;
	unsigned int start = nopin_start(addr);

	if (nopin_whole(cache)) {
		bio_nopin_set_huge(to, chunk, addr, len);
		return true;
	}
	if (!nopin_contiguous(cache, start, bio_nopin_nr(addr, len)))
		return false;
	bvec_set_page(to, cache->bvec[start].bv_page, len,
		      offset_in_page(addr));
	return true;
}

/* The translations of entered pages, which are known: how many bio_vecs? */
static unsigned short bio_nopin_copy(struct bio_vec *to,
				     struct nopin_chunk *chunk,
				     unsigned long addr, size_t len)
{
	unsigned short nr = bio_nopin_nr(addr, len);

	if (bio_nopin_single(to, chunk, addr, len))
		return 1;
	memcpy(to, nopin_bvec(&chunk->cache, nopin_start(addr)),
	       nr * sizeof(*to));
	to[nr - 1].bv_len -= nr * PAGE_SIZE - offset_in_page(addr) - len;
	to->bv_offset += offset_in_page(addr);
	to->bv_len -= offset_in_page(addr);
	return nr;
}

/*
 * Enter one page of a piece of a huge mapping of one folio, which does for all
 * of them, see mm/nopin/cache.c. Then *&nopin_cache.huge stays as it is until the
 * exit; &nopin_cache.whole need not, should the page be pinned.
 */
static bool bio_nopin_enter_huge(struct nopin_chunk *chunk, unsigned long addr,
				 enum nopin_dir dir, struct nopin_extent *ext)
{
	if (!nopin_one_folio(&chunk->cache) ||
	    !nopin_enter_cached(chunk, addr, 1, dir, ext))
		return false;
	if (unlikely(!nopin_one_folio(&chunk->cache))) {
		bio_nopin_exit_extent(ext, dir);
		return false;
	}
	return true;
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
	struct bio_vec *vecs = bio_nopin_inline_vecs(bio);
	struct mm_struct *mm = current->mm;
	unsigned short vcnt = 0;
	size_t size = 0;
	int ret;

	bio->bi_nopin.word = 0;
	nopin_window_begin();

	/* the limit is for bv_len and bi_size, 32 bits each */
	while (vcnt < max_vecs && size < SZ_1G) {
		size_t room = (size_t)(max_vecs - vcnt) << PAGE_SHIFT;
		struct nopin_chunk *chunk;
		struct nopin_extent ext;
		unsigned long addr;
		bool huge, single, part;
		size_t len;

		len = bio_nopin_next(iter, &pos, NOPIN_CACHE_SIZE, &addr);
		if (!len)
			break;
		len = min(len, NOPIN_CACHE_SIZE - addr % NOPIN_CACHE_SIZE);
		chunk = nopin_mm_slot(mm, addr);
		part = len != (iter_is_ubuf(iter) ? iov_iter_count(iter) :
						    pos.iov->iov_len);
		single = chunk && bio_nopin_enter_huge(chunk, addr, dir, &ext);
		if (single)
			goto add;
		ret = -ENOBUFS;
		if (unlikely(!bio->bi_max_vecs))
			goto fail;
		/* With a page in each bio_vec */
		len = min(len, room - offset_in_page(addr));
		if (!chunk || !nopin_enter_cached(chunk, addr,
						  bio_nopin_nr(addr, len), dir,
						  &ext)) {
			ret = -EFAULT;
			if (unlikely(!access_ok((void __user *)addr, len)))
				goto fail;
			ret = bio_nopin_enter_pages(mm, addr, len, dir, &ext);
			if (unlikely(ret))
				goto fail;
			chunk = nopin_chunk(ext.range, ext.first);
			if (!nopin_cached(ext.range, ext.first, ext.nr, dir))
				chunk = NULL;
		} else if (part || iter_is_ubuf(iter)) {
			/* It is to become one with the other parts */
			bio_nopin_set_extent(&ext, chunk->range, addr, len);
		}
add:
		if (unlikely(!bio_nopin_add(bio, iter, &ext))) {
			bio_nopin_exit_extent(&ext, dir);
			ret = -ENOSPC;
			goto fail;
		}
		if (single) {
			ret = -ENOBUFS;
			if (unlikely(!bio->bi_max_vecs &&
				     (!vecs || vcnt == BIO_NOPIN_VECS)))
				goto fail;
			bio_nopin_set_huge(vecs + vcnt++, chunk, addr, len);
		} else if (chunk) {
			vcnt += bio_nopin_copy(vecs + vcnt, chunk, addr, len);
		} else {
			ret = nopin_walk(mm, addr, len, dir, vecs, &vcnt,
					 &huge);
			if (likely(!ret))
				ret = nopin_check(ext.range, ext.first, ext.nr,
						  dir);
			if (unlikely(ret))
				goto fail;
			nopin_learn(ext.range, ext.first, ext.nr, dir, vecs,
				    size, huge);
		}
		size += len;
		bio_nopin_advance(&pos, len);
		if (!pos.left)
			break;
	}

	bio->bi_io_vec = vecs;
	bio->bi_vcnt = vcnt;
	ret = -ENOSPC;
	size = bio_nopin_trim(bio, size);
	if (unlikely(!size))
		goto fail;
	bio->bi_iter.bi_size = size;
	return 0;

fail:
	if (bio->bi_nopin.word)
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
		/* Something is being invalidated all the time */
		if (ret == -ETIME)
			return NOPIN_FALLBACK_RACE;
		if (ret == -EAGAIN && nowait)
			return again ? -EAGAIN : NOPIN_FALLBACK_NOWAIT;
	}
	return NOPIN_FALLBACK_NONE;
}

#ifdef CONFIG_NOPIN_BREAK
/* Break a rule if the tests say so */
void bio_nopin_break(struct bio *bio, struct kiocb *iocb)
{
	const struct nopin_extent *ext = &bio->bi_nopin;

	if (nopin_broken(FLUSH))
		kiocb_write_and_wait(iocb, bio->bi_iter.bi_size);
	if (nopin_broken(BLOCK) && !(ext->word & NOPIN_EXTENT_MASK) &&
	    !ext->is_array)
		nopin_open(ext->range, ext->first, ext->nr, bio_nopin_dir(bio),
			   true);
	if (nopin_broken(EARLY_EXIT))
		bio_nopin_exit(bio);
}
#endif

/* A single bio_vec, if that saves many */
bool bio_nopin_join(struct bio *bio, struct nopin_chunk *chunk,
		    unsigned long addr, size_t len)
{
	struct bio_vec *to = bio_nopin_inline_vecs(bio);

	if (!to || !bio_nopin_single(to, chunk, addr, len))
		return false;
	bio->bi_io_vec = to;
	bio->bi_vcnt = 1;
	return true;
}

/*
 * All of what lies across the border of two chunks, if its translations are
 * known. Those of huge mappings, of which one page each is entered as in
 * bio_nopin_enter_huge(), are one behind the other. Of others there are copies.
 */
bool bio_nopin_across(struct bio *bio, struct nopin_chunk *chunk,
		      unsigned long addr, size_t len)
{
	unsigned long border = (addr | (NOPIN_CACHE_SIZE - 1)) + 1;
	struct nopin_chunk *next = nopin_mm_slot(current->mm, border);
	size_t before = border - addr, behind = len - before;
	struct nopin_range *range = chunk->range;
	enum nopin_dir dir = bio_nopin_dir(bio);
	struct nopin_extent ext, ext_next;
	size_t nr = 1, nr_next = 1;
	bool huge;

	if (!next || next->range != range || behind > NOPIN_CACHE_SIZE)
		return false;
	huge = nopin_one_folio(&chunk->cache) && nopin_one_folio(&next->cache);
	if (!huge) {
		nr = bio_nopin_nr(addr, before);
		nr_next = bio_nopin_nr(border, behind);
		if (nr > NOPIN_BORDER || nr_next > NOPIN_BORDER)
			return false;
		/* Pairs with the smp_store_release() in nopin_cross() */
		if (unlikely(!smp_load_acquire(&next->cache.crossed)))
			nopin_cross(chunk, next);
	}

	if (!nopin_enter_cached(chunk, border - (nr << PAGE_SHIFT), nr, dir, &ext))
		return false;
	if (!nopin_enter_cached(next, border, nr_next, dir, &ext_next))
		goto exit;
	if (huge) {
		if (unlikely(!nopin_one_folio(&chunk->cache) ||
			     !nopin_one_folio(&next->cache)))
			goto exit_next;
		bio_nopin_point_huge(bio, chunk, addr, 2);
	} else {
		if (unlikely(nopin_whole(&chunk->cache) ||
			     nopin_whole(&next->cache)))
			goto exit_next;
		bio_nopin_point(bio, &next->cache.border[NOPIN_BORDER - nr],
				addr, nr + nr_next);
	}
	bio_nopin_set_extent(&bio->bi_nopin, range,
			     border - (nr << PAGE_SHIFT),
			     (nr + nr_next) << PAGE_SHIFT);
	return true;
exit_next:
	bio_nopin_exit_extent(&ext_next, dir);
exit:
	bio_nopin_exit_extent(&ext, dir);
	return false;
}

/**
 * bio_nopin_get_known - add user pages to a bio, if their places are known
 * @bio: as for bio_nopin_get_pages()
 * @iter: as for bio_nopin_get_pages()
 * @iocb: as for bio_nopin_get_pages()
 *
 * The fast part of bio_nopin_get_pages(), which has to be called if this fails.
 * It does for all I/O but that with buffers in one piece that were used lately.
 * What there is of @iter is a number of blocks.
 *
 * Context: As for nopin_enter().
 *
 * Return: 0 if the bio has got all of @iter, which is at its end now, or else
 * -EAGAIN.
 */
int bio_nopin_get_known(struct bio *bio, struct iov_iter *iter,
			struct kiocb *iocb)
{
	return bio_nopin_known(bio, iter, iocb);
}

/**
 * bio_nopin_get_pages - add user pages to a bio, with pins only if need be
 * @bio: bio without pages, its operation (not REQ_OP_ZONE_APPEND) and device set
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
	int cause;

	BUILD_BUG_ON(BIO_NOPIN_VECS != BIO_INLINE_VECS);

	if (!user_backed_iter(iter))
		return bio_iov_iter_get_pages(bio, iter);
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
	bio_nopin_done(bio, iocb);
	return 0;
}

/* Are the places of these pages known? Maybe no longer in a moment */
static bool bio_nopin_is_known(unsigned long addr, size_t len,
			       enum nopin_dir dir)
{
	struct nopin_chunk *chunk = nopin_mm_slot(current->mm, addr);
	unsigned int page = nopin_start(addr);
	unsigned int end = page + bio_nopin_nr(addr, len);

	if (!chunk || end > NOPIN_CHUNK_PAGES)
		return false;
	for (; page < end; page = nopin_next_word(page))
		if (atomic64_read(nopin_word(chunk, page, dir)) &
		    nopin_bytes(page, end) & (NOPIN_CLOSED | NOPIN_OLD))
			return false;
	return true;
}

static noinline ssize_t bio_nopin_probe_all(const struct iov_iter *iter,
					    size_t len, struct bio_vec *vecs,
					    unsigned short nr)
{
	struct iov_iter part = *iter;
	struct bio bio;
	int ret;

	iov_iter_truncate(&part, len);
	bio_init(&bio, NULL, vecs, nr, iov_iter_rw(iter) == WRITE ?
					       REQ_OP_WRITE : REQ_OP_READ);
	ret = bio_nopin_enter(&bio, &part, false, false);
	if (!ret) {
		bio_nopin_put(&bio);
		nopin_window_end();
		return bio.bi_iter.bi_size;
	}
	nopin_count_fallback(ret);
	ret = bio_iov_iter_get_pages(&bio, &part);
	if (ret)
		return ret;
	bio_release_pages(&bio, false);
	return bio.bi_iter.bi_size;
}

/**
 * bio_nopin_probe - how much of user memory can a bio have?
 * @iter: the memory
 * @len: that much of it, in its first piece
 * @vecs: of no use afterwards
 * @nr: length of @vecs
 *
 * For those who want to know earlier than they can have a bio. Memory that can
 * only be pinned is pinned for a moment.
 *
 * Context: Process context of a task that uses the mm of @iter. May sleep.
 *
 * Return: number of bytes, or the error of pin_user_pages_fast().
 */
ssize_t bio_nopin_probe(const struct iov_iter *iter, size_t len,
			struct bio_vec *vecs, unsigned short nr)
{
	if (bio_nopin_is_known(untagged_addr((unsigned long)iter_iov_addr(iter)),
			       len, iov_iter_rw(iter) == WRITE ?
					    NOPIN_TO_DEVICE : NOPIN_FROM_DEVICE))
		return len;
	return bio_nopin_probe_all(iter, len, vecs, nr);
}

/* Not when the submitter gets to it: somebody may be waiting for the pages */
static void bio_nopin_map_endio(struct bio *bio)
{
	if (bio_nopin(bio))
		bio_nopin_exit(bio);
}

/**
 * bio_nopin_map_user - add user pages to the bio of a passthrough request
 * @rq: the request
 * @bio: bio without pages, of the operation of @rq; not yet part of it
 * @iter: user memory, aligned as the queue wants it; advanced over what was added
 *
 * The pages are exited when the request ends, or by bio_release_pages() if it is
 * never issued. Until it is issued, its submitter may do this or that, such as
 * read metadata from user memory, and wait for somebody who waits for the pages.
 * That one loses patience and has them pinned, see nopin_invalidate().
 *
 * Context: Process context of a task that uses the mm of @iter. May sleep.
 *
 * Return: whether pages were added. If not they are to be pinned.
 */
bool bio_nopin_map_user(struct request *rq, struct bio *bio,
			struct iov_iter *iter)
{
	struct queue_limits *lim = &rq->q->limits;
	unsigned int segs;
	int cause;

	if (!static_branch_unlikely(&nopin_direct_io_key) ||
	    !user_backed_iter(iter))
		return false;
	if (!(lim->features & BLK_FEAT_NOPIN) && !nopin_broken(DEVICE))
		cause = NOPIN_FALLBACK_DEVICE;
	else if ((rq->cmd_flags & REQ_POLLED) &&
		 !nopin_mm_polls(current->mm, rq->q))
		cause = NOPIN_FALLBACK_POLLED;
	else
		cause = bio_nopin_enter(bio, iter, false, false);
	if (cause)
		goto fallback;

	nopin_window_end();
	/* What does not fit into a request, others divide */
	if (bio_split_rw_at(bio, lim, &segs,
			    lim->max_hw_sectors << SECTOR_SHIFT)) {
		bio_nopin_put(bio);
		bio->bi_vcnt = 0;
		bio->bi_iter.bi_size = 0;
		cause = NOPIN_FALLBACK_EXTENTS;
		goto fallback;
	}
	iov_iter_advance(iter, bio->bi_iter.bi_size);
	bio->bi_end_io = bio_nopin_map_endio;
	bio_set_flag(bio, BIO_NOPIN);
	count_vm_event(NOPIN_BIO);
	return true;

fallback:
	nopin_count_fallback(cause);
	return false;
}

/**
 * bio_nopin_poll - complete what has been done of polled I/O
 * @q: queue that the caller has a reference of
 *
 * Context: Process context.
 */
void bio_nopin_poll(struct request_queue *q)
{
	struct blk_mq_hw_ctx *hctx;
	unsigned long i;

	/* A frozen queue is polled as well, see bio_poll() */
	if (!percpu_ref_tryget(&q->q_usage_counter))
		return;
	queue_for_each_hw_ctx(q, hctx, i)
		if (hctx->type == HCTX_TYPE_POLL)
			blk_mq_poll(q, i, NULL, BLK_POLL_ONESHOT);
	blk_queue_exit(q);
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
