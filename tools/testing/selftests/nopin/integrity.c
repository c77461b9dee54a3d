// SPDX-License-Identifier: GPL-2.0
/*
 * The right bytes in the right place: engines x sizes x alignments x kinds of
 * memory x targets. Guards the walk (R10, R11), the state of the pages it may use
 * (R9), and bios of several extents.
 */
#include "nopin_util.h"
#include "kselftest_harness.h"

#define AREA	(4 * MB)
#define GUARD	256UL

/* What the page tables say about the buffer when the I/O comes */
enum state {
	ST_WRITTEN,
	ST_ABSENT,
	ST_READ,	/* faulted in by a read: clean, zero page, page cache */
	NR_STATES
};

static const char *const state_name[] = { "written", "absent", "read" };

static const size_t sizes[] = {
	512, 4096, 4608, 6656, 64 * KB, 128 * KB + 512, MB + 4096, 2 * MB,
};

static const enum mem_kind kinds[] = {
	MEM_ANON, MEM_ANON_GIB, MEM_THP, MEM_THP_PTE, MEM_HUGETLB, MEM_SHMEM,
	MEM_SHMEM_THP, MEM_PRIVATE_FILE, MEM_SHARED_EXT4, MEM_SHARED_XFS,
};

struct job {
	struct ioq *q;
	struct target *t;
	struct mem *m;
	char *buf;
	size_t len;
	off_t pos;
	enum state state;
	uint64_t seed;
};

static bool is_anon(enum mem_kind kind)
{
	return kind != MEM_PRIVATE_FILE && kind != MEM_SHARED_EXT4 &&
	       kind != MEM_SHARED_XFS && kind != MEM_SHMEM &&
	       kind != MEM_SHMEM_THP;
}

/*
 * Give the buffer and the bytes around it known contents in the state wanted.
 * Returns what the contents are: the pattern of @seed, or zeros.
 */
static bool prepare(struct job *j, uint64_t seed)
{
	char *start = (char *)((unsigned long)(j->buf - GUARD) & ~(PAGE - 1));
	char *end = (char *)ALIGN_UP((unsigned long)j->buf + j->len + GUARD, PAGE);
	volatile char *c;

	if (j->m->kind == MEM_PRIVATE_FILE && j->state != ST_WRITTEN) {
		/* Pages of the file, not copies */
		size_t len = end - start;
		char *tmp = malloc(len);

		pat_fill(tmp, len, seed, start - j->m->p);
		if (pwrite(j->m->fd, tmp, len, start - j->m->p) != (ssize_t)len)
			note("write to the mapped file: %s", strerror(errno));
		free(tmp);
	} else {
		pat_fill(start, end - start, seed, start - j->m->p);
	}
	if (j->state == ST_WRITTEN)
		return true;
	if (j->m->kind == MEM_SHARED_EXT4 || j->m->kind == MEM_SHARED_XFS)
		msync(start, end - start, MS_SYNC);
	if (j->m->kind == MEM_HUGETLB) {
		start = (char *)((unsigned long)start & ~(2 * MB - 1));
		end = (char *)ALIGN_UP((unsigned long)end, 2 * MB);
	}
	madvise(start, end - start, MADV_DONTNEED);
	if (j->state == ST_READ)
		for (c = start; c < end; c += PAGE)
			(void)*c;
	return !is_anon(j->m->kind);
}

static const char *check_range(const char *p, size_t len, bool pattern,
			       uint64_t seed, off_t pos)
{
	ssize_t bad = pattern ? pat_check(p, len, seed, pos) :
				byte_check(p, len, 0);

	return bad < 0 ? NULL : p + bad;
}

/* NULL, or what went wrong */
static const char *do_read(struct job *j)
{
	uint64_t old = ~j->seed;
	const char *bad;
	bool pattern;
	long ret;

	if (target_fill(j->t, j->len, j->seed, j->pos))
		return "cannot prepare the target";
	pattern = prepare(j, old);
	ret = ioq_rw(j->q, j->t->fd, false, j->buf, j->len, j->pos);
	if (ret != (long)j->len) {
		note("read returned %ld", ret);
		return "result";
	}
	bad = check_range(j->buf, j->len, true, j->seed, j->pos);
	if (bad) {
		note("wrong at byte %zd", bad - j->buf);
		return "data read";
	}
	if (check_range(j->buf - GUARD, GUARD, pattern, old,
			j->buf - GUARD - j->m->p) ||
	    check_range(j->buf + j->len, GUARD, pattern, old,
			j->buf + j->len - j->m->p))
		return "a byte beside the buffer";
	return NULL;
}

static const char *do_write(struct job *j)
{
	char *copy = malloc(j->len + 2 * SECTOR);
	const char *bad;
	bool pattern;
	long ret;

	if (target_fill(j->t, j->len + 2 * SECTOR, ~j->seed, j->pos - SECTOR))
		return "cannot prepare the target";
	pattern = prepare(j, j->seed);
	ret = ioq_rw(j->q, j->t->fd, true, j->buf, j->len, j->pos);
	if (ret != (long)j->len) {
		note("write returned %ld", ret);
		return "result";
	}
	if (target_read(j->t, copy, j->len + 2 * SECTOR, j->pos - SECTOR))
		return "cannot read the target";
	bad = check_range(copy + SECTOR, j->len, pattern, j->seed,
			  j->buf - j->m->p);
	if (bad) {
		note("wrong at byte %zd", bad - copy - (ssize_t)SECTOR);
		return "data written";
	}
	if (pat_check(copy, SECTOR, ~j->seed, j->pos - SECTOR) >= 0 ||
	    pat_check(copy + SECTOR + j->len, SECTOR, ~j->seed,
		      j->pos + j->len) >= 0)
		return "a sector beside the range";
	free(copy);
	return NULL;
}

FIXTURE(matrix) {
	struct target t;
	struct ioq q;
};

FIXTURE_VARIANT(matrix) {
	const char *env;
	enum engine eng;
};

#define TARGET_VARIANTS(engine, name)					\
	FIXTURE_VARIANT_ADD(matrix, raw_##name) {			\
		.env = "NOPIN_RAW", .eng = engine };			\
	FIXTURE_VARIANT_ADD(matrix, ext4_##name) {			\
		.env = "NOPIN_EXT4", .eng = engine };			\
	FIXTURE_VARIANT_ADD(matrix, xfs_##name) {			\
		.env = "NOPIN_XFS", .eng = engine }
/* By fs/direct-io.c; JFS has blocks larger than a sector */
#define LEGACY_VARIANTS(engine, name)					\
	FIXTURE_VARIANT_ADD(matrix, fat_##name) {			\
		.env = "NOPIN_FAT", .eng = engine };			\
	FIXTURE_VARIANT_ADD(matrix, jfs_##name) {			\
		.env = "NOPIN_JFS", .eng = engine }

TARGET_VARIANTS(ENG_PSYNC, psync);
TARGET_VARIANTS(ENG_PVSYNC, pvsync);
TARGET_VARIANTS(ENG_AIO, aio);
TARGET_VARIANTS(ENG_AIOV, aiov);
TARGET_VARIANTS(ENG_URING, uring);
TARGET_VARIANTS(ENG_URINGV, uringv);
TARGET_VARIANTS(ENG_URING_WQ, uring_wq);
TARGET_VARIANTS(ENG_URING_SQPOLL, uring_sqpoll);
LEGACY_VARIANTS(ENG_PSYNC, psync);
LEGACY_VARIANTS(ENG_AIOV, aiov);
LEGACY_VARIANTS(ENG_URING, uring);

FIXTURE_SETUP(matrix)
{
	NEED(variant->env);
	ASSERT_EQ(0, target_open(&self->t, variant->env, 8 * MB));
	ASSERT_EQ(0, ioq_init(&self->q, variant->eng, 4));
}

FIXTURE_TEARDOWN(matrix)
{
}

/*
 * Every kind of memory with every size, both ways, and in turn the rest. Without
 * NOPIN_LONG each target and engine does a quarter of that, another one than the
 * next; and of a third of the kinds in a kernel that checks its locks, where all is
 * slow.
 */
TEST_F_TIMEOUT(matrix, transfers, 600)
{
	unsigned int rounds = getenv("NOPIN_LONG") ? 8 : 1;
	unsigned int every = rounds > 1 ? 1 : 4;
	unsigned int every_kind = rounds == 1 && with_lockdep() ? 3 : 1;
	unsigned int jobs = ARRAY_SIZE(sizes) * rounds * 2;
	unsigned int first = variant->eng + variant->env[6];
	uint32_t r = 1 + first;

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		unsigned int nr = first + k * (jobs + 1);
		struct target *t = &self->t;
		struct mem m;

		if ((first + k) % every_kind)
			continue;
		ASSERT_EQ(0, mem_get(&m, kinds[k], AREA))
			TH_LOG("%s", mem_name[kinds[k]]);
		for (size_t i = 0; i < jobs; i++, nr++) {
			bool write = i & 1;
			struct job j = {
				.q = &self->q, .t = t, .m = &m,
				.len = sizes[i / 2 % ARRAY_SIZE(sizes)],
				.state = rnd(&r) % NR_STATES,
				.seed = nr + 1,
				.pos = (1 + rnd(&r) % 8192) * SECTOR,
			};
			unsigned long align = rnd(&r) % 8 * SECTOR;
			const char *err;

			if (nr % every)
				continue;
			/* Across the middle, where a huge page or range ends */
			j.buf = m.p + AREA / 2 + align -
				ALIGN_UP(j.len / 2, PAGE);
			/* Some devices take less than a sector's alignment */
			if (t->mem_align < SECTOR && rnd(&r) % 4 == 0)
				j.buf += ALIGN_UP(72UL, t->mem_align);
			err = write ? do_write(&j) : do_read(&j);
			ASSERT_EQ(NULL, err)
				TH_LOG("%s: %s of %zu bytes at %p, %s, %s",
				       err, write ? "write" : "read", j.len, j.buf,
				       mem_name[kinds[k]], state_name[j.state]);
		}
		mem_put(&m);
	}
}

/* Vectors: their pieces in one mapping and in many, of all shapes */

#define MAX_VEC		1024

struct vec {
	struct iovec iov[MAX_VEC];
	int nr;
	struct mem m[32];
	int nr_mem;
	size_t bytes;
	bool same;		/* the pieces are the same memory */
};

static int vec_mem(struct vec *v, enum mem_kind kind, size_t len)
{
	int ret = mem_get(&v->m[v->nr_mem], kind, len);

	v->nr_mem++;
	return ret;
}

static void vec_add(struct vec *v, void *p, size_t len)
{
	v->iov[v->nr].iov_base = p;
	v->iov[v->nr++].iov_len = len;
	v->bytes += len;
}

static int shape_sectors(struct vec *v)
{
	int ret = vec_mem(v, MEM_ANON, 33 * 1024);

	for (int i = 0; i < 33; i++)
		vec_add(v, v->m[0].p + i * 1024, SECTOR);
	return ret;
}

static int shape_one_page(struct vec *v)
{
	int ret = vec_mem(v, MEM_ANON, PAGE);

	for (int i = 7; i >= 1; i--)
		vec_add(v, v->m[0].p + i * SECTOR, SECTOR);
	return ret;
}

static int shape_many_maps(struct vec *v)
{
	for (int i = 0; i < 31; i++) {
		int ret = vec_mem(v, MEM_ANON, 3 * PAGE);

		if (ret)
			return ret;
		vec_add(v, v->m[i].p + i % 8 * SECTOR, (1 + i % 9) * SECTOR);
	}
	return 0;
}

static int shape_odd(struct vec *v)
{
	int ret = vec_mem(v, MEM_ANON, 8 * PAGE);

	vec_add(v, v->m[0].p + 7 * SECTOR, SECTOR);
	vec_add(v, v->m[0].p + 4 * PAGE, 2 * PAGE);
	vec_add(v, v->m[0].p + 2 * PAGE - SECTOR, 3 * SECTOR);
	return ret;
}

static int shape_gib(struct vec *v)
{
	int ret = vec_mem(v, MEM_ANON_GIB, 64 * PAGE);
	char *mid = v->m[0].p + 32 * PAGE;

	vec_add(v, mid - PAGE, PAGE);
	vec_add(v, mid, SECTOR);
	vec_add(v, mid - 3 * PAGE, PAGE + SECTOR);
	vec_add(v, mid - 11 * PAGE - SECTOR, 8 * PAGE);
	ret = ret ?: vec_mem(v, MEM_ANON_GIB, 64 * PAGE);
	mid = v->m[1].p + 32 * PAGE;
	vec_add(v, mid - 5 * SECTOR, 10 * SECTOR);
	return ret;
}

static int shape_kinds(struct vec *v)
{
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		int ret = vec_mem(v, kinds[k], 2 * MB);

		if (ret)
			return ret;
		vec_add(v, v->m[k].p + (k % 3) * SECTOR + k * 3 * PAGE,
			(k % 4 + 1) * 3 * SECTOR);
		vec_add(v, v->m[k].p + MB, 16 * PAGE);
	}
	return 0;
}

/* Memory that is contiguous, in pieces that are and pieces that nearly are */
static int shape_contiguous(struct vec *v)
{
	int ret = vec_mem(v, MEM_THP, 2 * MB);
	char *p = v->m[0].p;

	/* The end of one page, and the next not from its start */
	vec_add(v, p, PAGE);
	vec_add(v, p + PAGE + SECTOR, SECTOR);
	vec_add(v, p + 2 * PAGE + 3 * SECTOR, PAGE);
	/* Neighbours, in a page and across pages */
	vec_add(v, p + 4 * PAGE, SECTOR);
	vec_add(v, p + 4 * PAGE + SECTOR, 7 * SECTOR);
	vec_add(v, p + 5 * PAGE, PAGE);
	vec_add(v, p + 6 * PAGE, 64 * KB + SECTOR);
	/* And backwards */
	vec_add(v, p + MB + PAGE, PAGE);
	vec_add(v, p + MB, PAGE);
	return ret;
}

/* More than a bio holds */
static int shape_max(struct vec *v)
{
	int ret = vec_mem(v, MEM_ANON, 2 * MAX_VEC * SECTOR);

	for (int i = 0; i < MAX_VEC; i++)
		vec_add(v, v->m[0].p + 2 * i * SECTOR, SECTOR);
	return ret;
}

/* R16: one bio uses one page more often than a count of 6 bits can tell */
static int shape_same_page(struct vec *v)
{
	int ret = vec_mem(v, MEM_ANON, PAGE);

	for (int i = 0; i < 200; i++)
		vec_add(v, v->m[0].p + i % 8 * SECTOR, SECTOR);
	v->same = true;
	return ret;
}

static const struct {
	const char *name;
	int (*make)(struct vec *v);
} shapes[] = {
	{ "sectors", shape_sectors },
	{ "one page", shape_one_page },
	{ "many mappings", shape_many_maps },
	{ "odd", shape_odd },
	{ "across 1 GiB", shape_gib },
	{ "all kinds", shape_kinds },
	{ "contiguous", shape_contiguous },
	{ "1024 pieces", shape_max },
	{ "the same page", shape_same_page },
};

FIXTURE(vector) {
	struct target t;
	struct ioq q;
};

FIXTURE_VARIANT(vector) {
	const char *env;
	enum engine eng;
};

FIXTURE_VARIANT_ADD(vector, raw_pvsync) { .env = "NOPIN_RAW", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(vector, raw_aiov) { .env = "NOPIN_RAW", .eng = ENG_AIOV };
FIXTURE_VARIANT_ADD(vector, raw_uringv) { .env = "NOPIN_RAW", .eng = ENG_URINGV };
FIXTURE_VARIANT_ADD(vector, ext4_pvsync) { .env = "NOPIN_EXT4", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(vector, ext4_aiov) { .env = "NOPIN_EXT4", .eng = ENG_AIOV };
FIXTURE_VARIANT_ADD(vector, xfs_pvsync) { .env = "NOPIN_XFS", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(vector, xfs_uringv) { .env = "NOPIN_XFS", .eng = ENG_URINGV };
FIXTURE_VARIANT_ADD(vector, fat_pvsync) { .env = "NOPIN_FAT", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(vector, jfs_aiov) { .env = "NOPIN_JFS", .eng = ENG_AIOV };

FIXTURE_SETUP(vector)
{
	NEED(variant->env);
	ASSERT_EQ(0, target_open(&self->t, variant->env, 8 * MB));
	ASSERT_EQ(0, ioq_init(&self->q, variant->eng, 4));
}

FIXTURE_TEARDOWN(vector)
{
}

static void vec_fill(struct vec *v, uint64_t seed)
{
	off_t pos = 0;

	for (int i = 0; i < v->nr; pos += v->iov[i++].iov_len)
		pat_fill(v->iov[i].iov_base, v->iov[i].iov_len, seed,
			 v->same ? pos % PAGE : pos);
}

TEST_F_TIMEOUT(vector, shapes, 120)
{
	for (size_t s = 0; s < ARRAY_SIZE(shapes); s++) {
		struct vec *v = calloc(1, sizeof(*v));
		off_t pos = 0, base = (s + 1) * 3 * SECTOR;
		char *copy;

		ASSERT_NE(NULL, v);
		ASSERT_EQ(0, shapes[s].make(v)) TH_LOG("%s", shapes[s].name);
		copy = malloc(v->bytes);

		/* Out */
		vec_fill(v, s + 1);
		ASSERT_EQ(v->bytes, ioq_rwv(&self->q, self->t.fd, true, v->iov,
					    v->nr, base))
			TH_LOG("write: %s", shapes[s].name);
		ASSERT_EQ(0, target_read(&self->t, copy, v->bytes, base));
		for (int i = 0; i < v->nr; pos += v->iov[i++].iov_len) {
			ASSERT_EQ(-1, pat_check(copy + pos, v->iov[i].iov_len,
						s + 1, v->same ? pos % PAGE : pos))
				TH_LOG("written: %s, piece %d", shapes[s].name, i);
		}

		/* And in again; of pieces that are the same memory any may win */
		if (!v->same) {
			ASSERT_EQ(0, target_fill(&self->t, v->bytes, ~s, base));
			ASSERT_EQ(v->bytes, ioq_rwv(&self->q, self->t.fd, false,
						    v->iov, v->nr, base))
				TH_LOG("read: %s", shapes[s].name);
			pos = base;
			for (int i = 0; i < v->nr; pos += v->iov[i++].iov_len) {
				ASSERT_EQ(-1, pat_check(v->iov[i].iov_base,
							v->iov[i].iov_len, ~s, pos))
					TH_LOG("read: %s, piece %d",
					       shapes[s].name, i);
			}
		}
		for (int i = 0; i < v->nr_mem; i++)
			mem_put(&v->m[i]);
		free(copy);
		free(v);
	}
}

/* Files with holes and an end: a transfer of several bios and zeroed pieces */

FIXTURE(file) {
	int fd, bfd;
	char path[256];
	struct ioq q;
};

FIXTURE_VARIANT(file) {
	const char *env;
	enum engine eng;
};

FIXTURE_VARIANT_ADD(file, ext4_psync) { .env = "NOPIN_EXT4", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(file, ext4_aio) { .env = "NOPIN_EXT4", .eng = ENG_AIO };
FIXTURE_VARIANT_ADD(file, xfs_psync) { .env = "NOPIN_XFS", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(file, xfs_uring) { .env = "NOPIN_XFS", .eng = ENG_URING };
FIXTURE_VARIANT_ADD(file, fat_psync) { .env = "NOPIN_FAT", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(file, jfs_psync) { .env = "NOPIN_JFS", .eng = ENG_PSYNC };
FIXTURE_VARIANT_ADD(file, jfs_aio) { .env = "NOPIN_JFS", .eng = ENG_AIO };

FIXTURE_SETUP(file)
{
	NEED(variant->env);
	snprintf(self->path, sizeof(self->path), "%s/holes", getenv(variant->env));
	self->bfd = open(self->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	self->fd = open(self->path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ioq_init(&self->q, variant->eng, 4));
}

FIXTURE_TEARDOWN(file)
{
	unlink(self->path);
}

TEST_F(file, holes_and_end)
{
	const size_t len = 64 * KB;
	char block[PAGE], *want = calloc(1, len);
	struct mem m;

	ASSERT_EQ(0, mem_get(&m, MEM_ANON, 2 * len));
	/* Every other block of 16 is a hole, and the last one is short */
	for (size_t pos = PAGE; pos < len; pos += 2 * PAGE) {
		size_t n = pos + PAGE < len ? PAGE : 1500 / 8 * 8;

		pat_fill(block, n, 7, pos);
		memcpy(want + pos, block, n);
		ASSERT_EQ(n, pwrite(self->bfd, block, n, pos));
	}
	ASSERT_EQ(0, fsync(self->bfd));
	memset(m.p, GRAB_BYTE, m.len);
	ASSERT_EQ(15 * PAGE + 1496, ioq_rw(&self->q, self->fd, false,
					   m.p + SECTOR, len, 0));
	EXPECT_EQ(0, memcmp(m.p + SECTOR, want, 15 * PAGE + 1496));
	EXPECT_EQ(-1, byte_check(m.p, SECTOR, GRAB_BYTE));
	EXPECT_EQ(-1, byte_check(m.p + SECTOR + len, len - SECTOR, GRAB_BYTE));

	/* Over holes and data, and past the end: the file grows */
	pat_fill(m.p, len + 3 * PAGE, 8, 0);
	ASSERT_EQ(len + 3 * PAGE, ioq_rw(&self->q, self->fd, true, m.p,
					 len + 3 * PAGE, 0));
	ASSERT_EQ(0, fsync(self->bfd));
	ASSERT_EQ(0, posix_fadvise(self->bfd, 0, 0, POSIX_FADV_DONTNEED));
	memset(m.p, 0, m.len);
	EXPECT_EQ(len + 3 * PAGE, pread(self->bfd, m.p, m.len, 0));
	EXPECT_EQ(-1, pat_check(m.p, len + 3 * PAGE, 8, 0));
}

/* One page of 1 GiB: all of it belongs to one entry of a page table */
TEST(hugetlb_1g)
{
	enum engine engines[] = { ENG_PSYNC, ENG_AIO, ENG_URING };
	struct target t;
	struct mem m;

	NEED("NOPIN_RAW");
	NEED("NOPIN_1G");
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 8 * MB));
	ASSERT_EQ(0, mem_get(&m, MEM_HUGETLB_1G, 8 * MB));
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		char *buf = m.p + 512 * MB - 3 * SECTOR;
		struct ioq q;

		ASSERT_EQ(0, ioq_init(&q, engines[i], 1));
		pat_fill(buf, MB, i, 0);
		EXPECT_EQ(MB, ioq_rw(&q, t.fd, true, buf, MB, 0));
		EXPECT_EQ(-1, target_check(&t, MB, i, 0));
		ASSERT_EQ(0, target_fill(&t, MB, ~i, 0));
		EXPECT_EQ(MB, ioq_rw(&q, t.fd, false, buf, MB, 0));
		EXPECT_EQ(-1, pat_check(buf, MB, ~i, 0));
		EXPECT_EQ(-1, byte_check(buf - SECTOR, SECTOR, 0));
		EXPECT_EQ(-1, byte_check(buf + MB, SECTOR, 0));
		ioq_exit(&q);
	}
}

TEST_HARNESS_MAIN
