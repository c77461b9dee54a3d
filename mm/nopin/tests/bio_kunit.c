// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: bios that get pages whose places are known.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/mman.h>
#include <linux/uio.h>

#include "common.h"

/* Where one range of the mm ends and the next one begins */
#define BORDER	(5UL << NOPIN_MM_SHIFT)

/**
 * struct fake_io - I/O to a device that is not there
 * @q: the queue of @bdev
 * @bdev: the device
 * @iocb: the I/O
 * @iter: its memory
 * @bio: its bio, with @vecs
 * @vecs: as many as a bio has embedded
 */
struct fake_io {
	struct request_queue	q;
	struct block_device	bdev;
	struct kiocb		iocb;
	struct iov_iter		iter;
	struct bio		bio;
	struct bio_vec		vecs[BIO_NOPIN_VECS];
};

static struct fake_io *fake_io(struct kunit *test, bool prompt)
{
	struct fake_io *io = kunit_kzalloc(test, sizeof(*io), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, io);
	if (prompt)
		io->q.limits.features = BLK_FEAT_PROMPT;
	io->bdev.bd_queue = &io->q;
	return io;
}

/* Makes an iocb one that nobody waits for */
static void known_complete(struct kiocb *iocb, long ret)
{
}

/* -EAGAIN if it could not enter, -EINVAL if it has not tried */
static int get_aligned(struct kunit *test, struct fake_io *io,
		       unsigned long addr, size_t len, enum nopin_dir dir,
		       unsigned int mem_align_mask)
{
	bool write = dir == NOPIN_TO_DEVICE;
	unsigned int flags = 0;
	int ret;

	bio_init(&io->bio, NULL, io->vecs, BIO_NOPIN_VECS,
		 write ? REQ_OP_WRITE : REQ_OP_READ);
	io->bio.bi_bdev = &io->bdev;
	iov_iter_ubuf(&io->iter, write ? ITER_SOURCE : ITER_DEST,
		      (void __user *)addr, len);
	if (bio_nopin_known(&io->bio, &io->iter, &io->iocb, mem_align_mask,
			    &flags))
		ret = 0;
	else
		ret = flags & BIO_NOPIN_CLOSED ? -EAGAIN : -EINVAL;
	KUNIT_EXPECT_EQ(test, iov_iter_count(&io->iter), ret ? len : 0);
	KUNIT_EXPECT_EQ(test, bio_nopin(&io->bio), !ret);
	return ret;
}

static int get_known(struct kunit *test, struct fake_io *io,
		     unsigned long addr, size_t len, enum nopin_dir dir)
{
	return get_aligned(test, io, addr, len, dir, 0);
}

/* How many pieces of the bio are not where they should be */
static unsigned int wrong_bytes(struct fake_io *io, unsigned long addr,
				size_t len)
{
	unsigned int wrong = 0;
	struct bvec_iter it;
	struct bio_vec bv;

	bio_for_each_segment(bv, &io->bio, it) {
		wrong += bv.bv_page != nt_page(addr);
		wrong += bv.bv_offset != offset_in_page(addr);
		addr += bv.bv_len;
		len -= bv.bv_len;
	}
	return wrong + !!len;
}

/* A bio of one piece that is known; of a queue that is prompt, or of another */
static void check_known(struct kunit *test, unsigned long base)
{
	static const struct {
		unsigned int	page;
		size_t		off;
		size_t		len;
	} pieces[] = {
		{ 0, 0, PAGE_SIZE },
		{ 7, PAGE_SIZE - 512, 1024 },
		{ 62, 512, 3 * PAGE_SIZE },
		{ 100, 0, 16 * PAGE_SIZE },
		{ 0, 0, NOPIN_CHUNK_SIZE },
		{ NOPIN_CHUNK_PAGES - 1, 512, 512 },
		{ 300, 1024, 200 * PAGE_SIZE },
	};
	struct nopin_range *range = nt_range(test, base);
	const unsigned int start = nopin_index(range, base);
	struct nopin_chunk *chunk = nopin_chunk_at(range, start);
	unsigned int i;

	for (i = 0; i < 4 * ARRAY_SIZE(pieces); i++) {
		unsigned int page = pieces[i / 4].page, nr, end;
		size_t off = pieces[i / 4].off, len = pieces[i / 4].len;
		unsigned long addr = base + page * PAGE_SIZE + off;
		bool prompt = i / 2 % 2;
		struct fake_io *io = fake_io(test, prompt);
		enum nopin_dir dir = i % 2;

		nr = DIV_ROUND_UP(off + len, PAGE_SIZE);
		end = page + nr;
		/* nor is polled I/O prompt, unless it is its task that waits */
		if (!prompt && dir) {
			io->q.limits.features = BLK_FEAT_PROMPT;
			io->iocb.ki_flags = IOCB_HIPRI;
			io->iocb.ki_complete = known_complete;
		} else if (prompt && dir) {
			io->iocb.ki_flags = IOCB_HIPRI;
		}
		KUNIT_ASSERT_EQ(test, get_known(test, io, addr, len, dir), 0);
		KUNIT_EXPECT_EQ(test, io->bio.bi_iter.bi_size, len);
		KUNIT_EXPECT_EQ(test, wrong_bytes(io, addr, len), 0);
		KUNIT_EXPECT_TRUE(test, io->bio.bi_nopin.other == !prompt);
		KUNIT_EXPECT_EQ(test, nt_others(range, start), !prompt);
		/* the bio_vec of its own, or those that are kept */
		if (nr > 1 && nopin_contiguous(range, start + page, chunk->bvec + page,
					       nr)) {
			KUNIT_EXPECT_EQ(test, io->bio.bi_vcnt, 1);
			KUNIT_EXPECT_PTR_EQ(test, io->bio.bi_io_vec,
					    &io->vecs[0]);
			KUNIT_EXPECT_FALSE(test, bio_flagged(&io->bio,
							     BIO_CLONED));
		} else {
			KUNIT_EXPECT_EQ(test, io->bio.bi_vcnt, nr);
			KUNIT_EXPECT_PTR_EQ(test, io->bio.bi_io_vec,
					    &chunk->bvec[page]);
			KUNIT_EXPECT_TRUE(test, bio_flagged(&io->bio,
							    BIO_CLONED));
		}
		EXPECT_STATE(test, 0, range, start, page, dir);
		EXPECT_STATE(test, 1, range, start + page, nr, dir);
		EXPECT_STATE(test, 0, range, start + end,
			     NOPIN_CHUNK_PAGES - end, dir);
		EXPECT_STATE(test, 0, range, start, NOPIN_CHUNK_PAGES, !dir);
		bio_nopin_exit(&io->bio);
		EXPECT_STATE(test, 0, range, start, NOPIN_CHUNK_PAGES, dir);
		KUNIT_EXPECT_EQ(test, nt_others(range, start), 0);
	}
}

/* Small pages, from here and there */
static void test_known(struct kunit *test)
{
	unsigned long addr = nt_map_chunk(test);
	struct fake_io *io = fake_io(test, true);
	struct nopin_range *range;
	enum nopin_dir dir;
	unsigned int i;

	nt_write(test, addr, NOPIN_CHUNK_SIZE);
	/* nobody has looked for them, or for some of them */
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++)
		KUNIT_EXPECT_EQ(test, get_known(test, io, addr, PAGE_SIZE, dir),
				-EAGAIN);
	range = nt_range(test, addr);
	i = nopin_index(range, addr);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		nt_open_pages(test, range, i, 2, dir);
		KUNIT_EXPECT_EQ(test, get_known(test, io, addr + PAGE_SIZE,
						2 * PAGE_SIZE, dir), -EAGAIN);
		EXPECT_STATE(test, 0, range, i, 2, dir);
		KUNIT_EXPECT_EQ(test, nt_others(range, i), 0);
		nt_open_pages(test, range, i, NOPIN_CHUNK_PAGES, dir);
	}
	check_known(test, addr);
}

/* Pages that are behind each other */
static void test_known_huge(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test);
	struct nopin_range *range = nt_range(test, addr);
	unsigned int i = nopin_index(range, addr);
	struct nopin_chunk *chunk;

	nt_open_pages(test, range, i + 9, 1, NOPIN_FROM_DEVICE);
	nt_open_pages(test, range, i + 9, 1, NOPIN_TO_DEVICE);
	chunk = nopin_chunk_at(range, i);
	KUNIT_EXPECT_TRUE(test, range->apart ||
			  nopin_contiguous(range, i, chunk->bvec,
					   NOPIN_CHUNK_PAGES));
	check_known(test, addr);
}

/* Most pages behind each other: a bio_vec for each run, which bio_nopin_known() leaves */
static void test_runs(struct kunit *test)
{
	static const struct {
		unsigned int	page;
		unsigned int	nr;
		unsigned int	vcnt;
	} pieces[] = {
		{ 0, 50, 1 },		/* all before the page in another place */
		{ 30, 100, 3 },		/* it is in the middle */
		{ 99, 100, 3 },
		{ 100, 100, 2 },	/* the first one */
		{ 1, 100, 2 },		/* the last one */
		{ 90, 16, 0 },		/* too few */
	};
	unsigned long addr = nt_map_thp(test);
	const unsigned int max = 128;
	struct nopin_range *range;
	unsigned int first, i;
	struct bio_vec *vecs;
	struct fake_io *io;

	vecs = kunit_kcalloc(test, max, sizeof(*vecs), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, vecs);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr + 100 * PAGE_SIZE,
					 PAGE_SIZE, MADV_DONTNEED), 0);
	nt_write(test, addr, NOPIN_CHUNK_SIZE);
	range = nt_range(test, addr);
	first = nopin_index(range, addr);
	if (range->apart)
		kunit_skip(test, "no page is behind another one");
	nt_open_pages(test, range, first, NOPIN_CHUNK_PAGES, NOPIN_FROM_DEVICE);
	for (i = 0; i < ARRAY_SIZE(pieces); i++) {
		unsigned long start = addr + pieces[i].page * PAGE_SIZE + 512;
		size_t len = pieces[i].nr * PAGE_SIZE - 1024;
		bool known = pieces[i].vcnt < 2;

		io = fake_io(test, true);
		KUNIT_EXPECT_EQ(test, get_known(test, io, start, len,
						NOPIN_FROM_DEVICE),
				known ? 0 : -EINVAL);
		if (!known) {
			EXPECT_STATE(test, 0, range, first, NOPIN_CHUNK_PAGES,
				     NOPIN_FROM_DEVICE);
			bio_init(&io->bio, NULL, vecs, max, REQ_OP_READ);
			io->bio.bi_bdev = &io->bdev;
			KUNIT_ASSERT_EQ(test, bio_nopin_get_pages(&io->bio, &io->iter,
								  &io->iocb, 0, 0, 0), 0);
			KUNIT_ASSERT_TRUE(test, bio_nopin(&io->bio));
		}
		KUNIT_EXPECT_EQ(test, io->bio.bi_vcnt, pieces[i].vcnt ?: pieces[i].nr);
		KUNIT_EXPECT_EQ(test, io->bio.bi_iter.bi_size, len);
		KUNIT_EXPECT_EQ(test, wrong_bytes(io, start, len), 0);
		bio_nopin_exit(&io->bio);
		EXPECT_STATE(test, 0, range, first, NOPIN_CHUNK_PAGES,
			     NOPIN_FROM_DEVICE);
	}
}

/* More than one chunk is too much, whether they are of one range or of two */
static void test_known_border(struct kunit *test)
{
	const unsigned int nr = 1U << (NOPIN_MM_SHIFT - PAGE_SHIFT);
	unsigned long middle = BORDER + NOPIN_CHUNK_SIZE;
	struct fake_io *io = fake_io(test, true);
	struct nopin_range *a, *b;
	enum nopin_dir dir;

	nt_map_fixed(test, BORDER - PAGE_SIZE,
		     2 * NOPIN_CHUNK_SIZE + PAGE_SIZE);
	nt_write(test, BORDER - PAGE_SIZE, 2 * NOPIN_CHUNK_SIZE + PAGE_SIZE);
	a = nt_range(test, BORDER - 1);
	b = nt_range(test, BORDER);

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		nt_open_pages(test, a, nr - 1, 1, dir);
		nt_open_pages(test, b, 0, 2 * NOPIN_CHUNK_PAGES, dir);
		KUNIT_EXPECT_EQ(test, get_known(test, io, BORDER - PAGE_SIZE,
						PAGE_SIZE, dir), 0);
		bio_nopin_exit(&io->bio);
		KUNIT_EXPECT_EQ(test, get_known(test, io, BORDER, PAGE_SIZE,
						dir), 0);
		bio_nopin_exit(&io->bio);
		KUNIT_EXPECT_EQ(test, get_known(test, io, BORDER - PAGE_SIZE,
						2 * PAGE_SIZE, dir), -EINVAL);
		EXPECT_STATE(test, 0, a, nr - 1, 1, dir);
		EXPECT_STATE(test, 0, b, 0, 1, dir);

		KUNIT_EXPECT_EQ(test, get_known(test, io, middle - PAGE_SIZE,
						2 * PAGE_SIZE, dir), -EINVAL);
		EXPECT_STATE(test, 0, b, 0, 2 * NOPIN_CHUNK_PAGES, dir);
	}
}

/* What is not aligned is left to those who fail because of it */
static void test_known_align(struct kunit *test)
{
	static const struct {
		size_t		off;
		size_t		len;
		unsigned int	mask;
		int		ret;
	} pieces[] = {
		{ 512, 512, 511, 0 },
		{ 512, PAGE_SIZE, 511, 0 },
		{ 513, 512, 511, -EINVAL },
		{ 512, 513, 511, -EINVAL },
		{ 256, PAGE_SIZE, 511, -EINVAL },
		{ 256, PAGE_SIZE - 256, 255, 0 },
		{ 4, 4, 3, 0 },
		{ 2, 4, 3, -EINVAL },
		{ 1, 1, 0, 0 },
	};
	unsigned long addr = nt_map_chunk(test);
	struct fake_io *io = fake_io(test, true);
	struct nopin_range *range;
	enum nopin_dir dir;
	unsigned int first, i;

	nt_write(test, addr, NOPIN_CHUNK_SIZE);
	range = nt_range(test, addr);
	first = nopin_index(range, addr);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		nt_open_pages(test, range, first, 2, dir);
		for (i = 0; i < ARRAY_SIZE(pieces); i++) {
			int ret = get_aligned(test, io, addr + pieces[i].off,
					      pieces[i].len, dir,
					      pieces[i].mask);

			KUNIT_EXPECT_EQ_MSG(test, ret, pieces[i].ret, "%u", i);
			if (!ret)
				bio_nopin_exit(&io->bio);
			EXPECT_STATE(test, 0, range, first, 2, dir);
		}
	}
}

/* It is static there, and what is not allocated depends on it */
static void test_inline_vecs(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, fs_bio_set.back_pad,
			BIO_NOPIN_VECS * sizeof(struct bio_vec));
}

static struct kunit_case bio_cases[] = {
	KUNIT_CASE(test_known),
	KUNIT_CASE(test_known_huge),
	KUNIT_CASE(test_runs),
	KUNIT_CASE(test_known_border),
	KUNIT_CASE(test_known_align),
	KUNIT_CASE(test_inline_vecs),
	{}
};

NT_SUITE(bio, nt_init);
