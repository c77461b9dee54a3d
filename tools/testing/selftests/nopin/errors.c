// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers that direct I/O must refuse, and those it takes in part: the result, and
 * every byte of memory, are the same in either mode. Guards what the walk refuses
 * (R11) and what becomes of an I/O that ends half way.
 */
#include <sys/syscall.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define AREA	(16 * PAGE)
#define MID	(8 * PAGE)
#define SEED	21

/* Any result will do, as long as it is the same in either mode */
#define ANY	1

struct kase {
	const char *name;
	/* Fills in the vector; memory that a read might change goes to *watch */
	int (*make)(struct iovec *iov, char **watch);
	/* For one read and one write: -errno, the whole (0), or ANY */
	int read, write;
	const char *cause;	/* of the fallbacks that this must count */
	bool changes;		/* the memory has other data each time */
	/* A device that asks for no more than this alignment in memory takes it */
	unsigned int aligned;
};

static char *area(int prot)
{
	char *p = mmap(NULL, AREA, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memset(p, GRAB_BYTE, AREA);
	mprotect(p, AREA, prot);
	return p;
}

static int one(struct iovec *iov, void *p, size_t len)
{
	iov->iov_base = p;
	iov->iov_len = len;
	return 1;
}

static int make_read_only(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ);
	return one(iov, *watch + PAGE, 2 * PAGE);
}

static int make_untouched_read_only(struct iovec *iov, char **watch)
{
	/* Not even a page there */
	*watch = mmap(NULL, AREA, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return one(iov, *watch + PAGE, 2 * PAGE);
}

static int make_none(struct iovec *iov, char **watch)
{
	*watch = area(PROT_NONE);
	return one(iov, *watch + PAGE, 2 * PAGE);
}

static int make_unmapped(struct iovec *iov, char **watch)
{
	char *p = area(PROT_READ | PROT_WRITE);

	munmap(p, AREA);
	return one(iov, p, 2 * PAGE);
}

static int make_null(struct iovec *iov, char **watch)
{
	return one(iov, NULL, PAGE);
}

static int make_kernel(struct iovec *iov, char **watch)
{
	return one(iov, (void *)0xffff888000001000UL, PAGE);
}

static int make_non_canonical(struct iovec *iov, char **watch)
{
	return one(iov, (void *)0x00ff000000001000UL, PAGE);
}

static int make_last_address(struct iovec *iov, char **watch)
{
	return one(iov, (void *)0x7ffffffff000UL, 2 * PAGE);
}

static char *map_file(const char *dir, int flags)
{
	char path[256], *p;
	int fd;

	snprintf(path, sizeof(path), "%s/read-only", dir);
	p = area(PROT_READ);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (write(fd, p, AREA) != AREA)
		note("cannot write %s", path);
	munmap(p, AREA);
	p = mmap(NULL, AREA, PROT_READ, flags, fd, 0);
	close(fd);
	unlink(path);
	return p;
}

static int make_private_file(struct iovec *iov, char **watch)
{
	*watch = map_file(getenv("NOPIN_EXT4") ?: "/tmp", MAP_PRIVATE);
	return one(iov, *watch + PAGE, 2 * PAGE);
}

static int make_shared_file(struct iovec *iov, char **watch)
{
	*watch = map_file(getenv("NOPIN_XFS") ?: "/tmp", MAP_SHARED);
	return one(iov, *watch + PAGE, 2 * PAGE);
}

static int make_text(struct iovec *iov, char **watch)
{
	char *p = (char *)((unsigned long)make_text & ~(PAGE - 1));

	return one(iov, p, SECTOR);
}

static int make_secret(struct iovec *iov, char **watch)
{
	int fd = syscall(SYS_memfd_secret, 0);
	char *p;

	if (fd < 0 || ftruncate(fd, AREA))
		return -1;
	p = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return -1;
	memset(p, GRAB_BYTE, AREA);
	*watch = p;
	return one(iov, p + PAGE, 2 * PAGE);
}

static int make_vvar(struct iovec *iov, char **watch)
{
	return one(iov, map_named("[vvar]"), PAGE);
}

static int make_vdso(struct iovec *iov, char **watch)
{
	return one(iov, map_named("[vdso]"), PAGE);
}

static int make_half_unmapped(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	munmap(*watch + MID, AREA - MID);
	/* Something that can be looked at, but no I/O */
	return one(iov, *watch + MID - 2 * PAGE, 4 * PAGE);
}

static int make_half_read_only(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	mprotect(*watch + MID, AREA - MID, PROT_READ);
	return one(iov, *watch + MID - 2 * PAGE + SECTOR, 4 * PAGE);
}

static int make_misaligned(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + 1, PAGE);
}

static int three(struct iovec *iov, char **watch, int bad)
{
	*watch = area(PROT_READ | PROT_WRITE);
	for (int i = 0; i < 3; i++)
		one(&iov[i], *watch + i * 4 * PAGE, PAGE + SECTOR);
	iov[bad].iov_base = NULL;
	return 3;
}

static int make_misaligned_count(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + PAGE, PAGE + 1);
}

/* What each of the pieces is, not their sum */
static int make_misaligned_middle(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	for (int i = 0; i < 3; i++)
		one(&iov[i], *watch + i * 4 * PAGE, PAGE);
	iov[1].iov_base += 1;
	return 3;
}

static int make_misaligned_lengths(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	one(&iov[0], *watch, PAGE);
	one(&iov[1], *watch + 4 * PAGE, PAGE - 1);
	one(&iov[2], *watch + 8 * PAGE, PAGE + 1);
	return 3;
}

/* Pieces of one sector: no more than a block, a read of which file systems do otherwise */
static int sectors(struct iovec *iov, char **watch, unsigned int off)
{
	*watch = area(PROT_READ | PROT_WRITE);
	for (int i = 0; i < 3; i++)
		one(&iov[i], *watch + i * 4 * PAGE, SECTOR);
	iov[1].iov_base += off;
	return 3;
}

static int make_sector_misaligned(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + 1, SECTOR);
}

static int make_sector_misaligned_count(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + PAGE, SECTOR - 1);
}

static int make_sector_misaligned_middle(struct iovec *iov, char **watch)
{
	return sectors(iov, watch, 1);
}

static int make_sector_misaligned_lengths(struct iovec *iov, char **watch)
{
	int nr = sectors(iov, watch, 0);

	iov[0].iov_len--;
	iov[1].iov_len++;
	return nr;
}

static int make_at_4(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + PAGE - 4, PAGE);
}

static int make_sector_at_4(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + 4, SECTOR);
}

static int make_sector_across(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	return one(iov, *watch + PAGE - 256, SECTOR);
}

static int make_sector_middle_at_4(struct iovec *iov, char **watch)
{
	return sectors(iov, watch, 4);
}

/* Linux 6.12 asks more of pieces than later ones do, which look at the sum */
static int make_lengths_of_4(struct iovec *iov, char **watch)
{
	int nr = sectors(iov, watch, 0);

	iov[0].iov_len -= 4;
	iov[1].iov_len += 4;
	return nr;
}

static int make_bad_first(struct iovec *iov, char **watch)
{
	return three(iov, watch, 0);
}

static int make_bad_middle(struct iovec *iov, char **watch)
{
	return three(iov, watch, 1);
}

static int make_bad_last(struct iovec *iov, char **watch)
{
	return three(iov, watch, 2);
}

static int make_read_only_middle(struct iovec *iov, char **watch)
{
	int nr = three(iov, watch, 1);

	mprotect(*watch + 4 * PAGE, 4 * PAGE, PROT_READ);
	iov[1].iov_base = *watch + 4 * PAGE;
	return nr;
}

static int make_empty_pieces(struct iovec *iov, char **watch)
{
	*watch = area(PROT_READ | PROT_WRITE);
	one(&iov[0], NULL, 0);
	one(&iov[1], *watch + PAGE, PAGE);
	one(&iov[2], *watch + 5 * PAGE, 0);
	one(&iov[3], *watch + 7 * PAGE + SECTOR, SECTOR);
	return 4;
}

static const struct kase kases[] = {
	{ "read-only", make_read_only, -EFAULT, 0 },
	{ "read-only, untouched", make_untouched_read_only, -EFAULT, 0 },
	{ "PROT_NONE", make_none, -EFAULT, -EFAULT },
	{ "unmapped", make_unmapped, -EFAULT, -EFAULT },
	{ "NULL", make_null, -EFAULT, -EFAULT },
	{ "kernel", make_kernel, -EFAULT, -EFAULT },
	{ "non-canonical", make_non_canonical, -EFAULT, -EFAULT },
	{ "end of the address space", make_last_address, -EFAULT, -EFAULT },
	{ "read-only private file", make_private_file, -EFAULT, 0 },
	{ "read-only shared file", make_shared_file, -EFAULT, 0 },
	{ "text", make_text, -EFAULT, 0 },
	{ "secretmem", make_secret, -EFAULT, -EFAULT, "special" },
	/* Linux 6.12 refuses it. Later ones have ordinary pages there, with the time */
	{ "vvar", make_vvar, -EFAULT, ANY, .changes = true },
	{ "vdso", make_vdso, -EFAULT, ANY },
	{ "half unmapped", make_half_unmapped, ANY, ANY },
	{ "half read-only", make_half_read_only, ANY, 0 },
	{ "misaligned", make_misaligned, -EINVAL, -EINVAL },
	{ "misaligned count", make_misaligned_count, -EINVAL, -EINVAL },
	{ "misaligned middle piece", make_misaligned_middle, -EINVAL, -EINVAL },
	{ "misaligned lengths", make_misaligned_lengths, -EINVAL, -EINVAL },
	{ "sector, misaligned", make_sector_misaligned, -EINVAL, -EINVAL },
	{ "sector, misaligned count", make_sector_misaligned_count, -EINVAL, -EINVAL },
	{ "sectors, misaligned middle", make_sector_misaligned_middle, -EINVAL, -EINVAL },
	{ "sectors, misaligned lengths", make_sector_misaligned_lengths, -EINVAL, -EINVAL },
	{ "sectors, lengths multiples of 4", make_lengths_of_4, ANY, ANY },
	{ "at a multiple of 4", make_at_4, .aligned = 4 },
	{ "sector at a multiple of 4", make_sector_at_4, .aligned = 4 },
	{ "sector across pages", make_sector_across, .aligned = 256 },
	{ "sectors, middle at a multiple of 4", make_sector_middle_at_4, .aligned = 4 },
	{ "first piece bad", make_bad_first, -EFAULT, -EFAULT },
	{ "middle piece bad", make_bad_middle, ANY, ANY },
	{ "last piece bad", make_bad_last, ANY, ANY },
	{ "middle piece read-only", make_read_only_middle, ANY, 0 },
	{ "empty pieces", make_empty_pieces, 0, 0 },
};

FIXTURE(errors) {
	struct target t;
	struct ioq q;
	enum mode mode;
};

FIXTURE_VARIANT(errors) {
	const char *env;
	enum engine eng;
};

FIXTURE_VARIANT_ADD(errors, raw_pvsync) { .env = "NOPIN_RAW", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(errors, raw_aiov) { .env = "NOPIN_RAW", .eng = ENG_AIOV };
FIXTURE_VARIANT_ADD(errors, raw_uringv) { .env = "NOPIN_RAW", .eng = ENG_URINGV };
FIXTURE_VARIANT_ADD(errors, ext4_pvsync) { .env = "NOPIN_EXT4", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(errors, ext4_uringv) { .env = "NOPIN_EXT4", .eng = ENG_URINGV };
FIXTURE_VARIANT_ADD(errors, xfs_pvsync) { .env = "NOPIN_XFS", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(errors, xfs_aiov) { .env = "NOPIN_XFS", .eng = ENG_AIOV };
FIXTURE_VARIANT_ADD(errors, fat_pvsync) { .env = "NOPIN_FAT", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(errors, jfs_aiov) { .env = "NOPIN_JFS", .eng = ENG_AIOV };

/* One device wants memory aligned to 4 bytes, another one to sectors */
FIXTURE_VARIANT_ADD(errors, sectors_pvsync) { .env = "NOPIN_CHURN", .eng = ENG_PVSYNC };
FIXTURE_VARIANT_ADD(errors, mapped_uringv) { .env = "NOPIN_DM", .eng = ENG_URINGV };

FIXTURE_SETUP(errors)
{
	NEED(variant->env);
	ASSERT_EQ(0, target_open(&self->t, variant->env, MB));
	ASSERT_EQ(0, ioq_init(&self->q, variant->eng, 4));
	self->mode = mode_get();
}

FIXTURE_TEARDOWN(errors)
{
	mode_set(self->mode);
}

struct outcome {
	long ret;
	unsigned long cause;
	bool valid;
	char mem[AREA];		/* after a read */
	char disk[AREA];	/* after a write */
};

/* Pages of @watch that cannot be read are left out */
static void look(char *to, char *watch)
{
	for (size_t i = 0; watch && i < AREA; i += PAGE) {
		int fds[2];

		if (pipe(fds))
			return;
		/* write(2) says EFAULT where a load would be a signal */
		if (write(fds[1], watch + i, PAGE) == PAGE &&
		    read(fds[0], to + i, PAGE) != PAGE)
			note("short read of a pipe");
		close(fds[0]);
		close(fds[1]);
	}
}

static void run_case(struct outcome *o, struct target *t, struct ioq *q,
		     const struct kase *k, bool write)
{
	char *watch = NULL;
	struct iovec iov[4];
	int nr;

	memset(o, 0, sizeof(*o));
	if (target_fill(t, AREA, SEED, 0))
		return;
	nr = k->make(iov, &watch);
	if (nr < 0)
		return;
	o->cause = k->cause ? fallback(k->cause) : 0;
	o->ret = ioq_rwv(q, t->fd, write, iov, nr, 0);
	if (k->cause)
		o->cause = fallback(k->cause) - o->cause;
	if (watch)
		mprotect(watch, AREA, PROT_READ);
	look(o->mem, watch);
	o->valid = write ? !target_read(t, o->disk, AREA, 0) : true;
	if (watch)
		munmap(watch, AREA);
}

static void run(struct __test_metadata *_metadata, struct target *t,
		struct ioq *q, enum mode mode, bool write)
{
	struct outcome *now = malloc(sizeof(*now)), *other = malloc(sizeof(*other));

	for (size_t i = 0; i < ARRAY_SIZE(kases); i++) {
		const struct kase *k = &kases[i];
		int want = write ? k->write : k->read;

		if (k->aligned)
			want = t->mem_align > k->aligned ? -EINVAL : 0;
		run_case(now, t, q, k, write);
		EXPECT_TRUE(now->valid) TH_LOG("%s: cannot be made", k->name);
		if (want < 0) {
			EXPECT_EQ(want, now->ret) TH_LOG("%s", k->name);
		} else if (!want) {
			EXPECT_LT(0, now->ret) TH_LOG("%s", k->name);
		}
		/* Refused means untouched, all of it */
		if (!write && want < 0 && k->make != make_untouched_read_only)
			for (size_t p = 0; p < AREA; p += PAGE) {
				EXPECT_TRUE(byte_check(now->mem + p, PAGE, 0) < 0 ||
					    byte_check(now->mem + p, PAGE,
						       GRAB_BYTE) < 0)
					TH_LOG("%s: memory was written", k->name);
			}
		if (write && want < 0) {
			EXPECT_EQ(-1, pat_check(now->disk, AREA, SEED, 0))
				TH_LOG("%s: the disk was written", k->name);
		}
		if (!nopin_present())
			continue;

		/* And what the other mode makes of it */
		ASSERT_EQ(0, mode_set(!mode));
		run_case(other, t, q, k, write);
		ASSERT_EQ(0, mode_set(mode));
		EXPECT_EQ(now->ret, other->ret)
			TH_LOG("%s: %s mode is the first", k->name,
			       mode == MODE_PIN ? "pin" : "nopin");
		if (write) {
			EXPECT_TRUE(k->changes ||
				    !memcmp(now->disk, other->disk, AREA))
				TH_LOG("%s: disk differs", k->name);
		} else {
			EXPECT_EQ(0, memcmp(now->mem, other->mem, AREA))
				TH_LOG("%s: memory differs", k->name);
		}
		if (k->cause) {
			struct outcome *pin = mode == MODE_PIN ? now : other;
			struct outcome *nopin = mode == MODE_PIN ? other : now;

			EXPECT_EQ(0, pin->cause) TH_LOG("%s", k->name);
			EXPECT_LT(0, nopin->cause) TH_LOG("%s", k->name);
		}
	}
}

TEST_F_TIMEOUT(errors, read, 60) { run(_metadata, &self->t, &self->q, self->mode, false); }
TEST_F_TIMEOUT(errors, write, 60) { run(_metadata, &self->t, &self->q, self->mode, true); }

/*
 * What is not aligned is the length of more memory than fits into a bio, or than is
 * looked at in one go: none of it is written
 */
#define FAR		(5 * MB)

FIXTURE(far) {
	struct target t;
	struct ioq q;
};

FIXTURE_VARIANT(far) {
	const char *env;
};

FIXTURE_VARIANT_ADD(far, raw) { .env = "NOPIN_RAW" };
FIXTURE_VARIANT_ADD(far, ext4) { .env = "NOPIN_EXT4" };
FIXTURE_VARIANT_ADD(far, xfs) { .env = "NOPIN_XFS" };

FIXTURE_SETUP(far)
{
	NEED(variant->env);
	ASSERT_EQ(0, target_open(&self->t, variant->env, 8 * MB));
	ASSERT_EQ(0, ioq_init(&self->q, ENG_PVSYNC, 1));
}

FIXTURE_TEARDOWN(far)
{
	target_close(&self->t);
}

TEST_F_TIMEOUT(far, length, 60)
{
	char *p = (char *)ALIGN_UP((uintptr_t)anon_map(FAR + 4 * MB), 2 * MB);
	struct iovec iov[] = { { p, FAR - 1 }, { p + FAR, PAGE + 1 } };
	char *disk = malloc(FAR + PAGE);

	ASSERT_EQ(0, target_fill(&self->t, FAR + PAGE, SEED, 0));
	memset(p, GRAB_BYTE, FAR + 2 * PAGE);
	EXPECT_EQ(-EINVAL, ioq_rwv(&self->q, self->t.fd, true, iov, 2, 0));
	ASSERT_EQ(0, target_read(&self->t, disk, FAR + PAGE, 0));
	EXPECT_EQ(-1, pat_check(disk, FAR + PAGE, SEED, 0));
	EXPECT_EQ(-EINVAL, ioq_rwv(&self->q, self->t.fd, false, iov, 2, 0));
	EXPECT_EQ(-1, byte_check(p, FAR + 2 * PAGE, GRAB_BYTE));
}

/*
 * Protection keys are a thread's own, and change without the kernel being told:
 * what was found before is worth nothing
 */
TEST(protection_key)
{
	struct target t;
	struct ioq q;
	int key;
	char *p;

	NEED("NOPIN_RAW");
	key = pkey_alloc(0, 0);
	if (key < 0)
		SKIP(return, "no protection keys: %s", strerror(errno));
	ASSERT_EQ(0, target_open(&t, "NOPIN_RAW", 0));
	ASSERT_EQ(0, ioq_init(&q, ENG_PSYNC, 1));
	p = area(PROT_READ | PROT_WRITE);
	ASSERT_EQ(0, pkey_mprotect(p, AREA, PROT_READ | PROT_WRITE, key));
	/* Enough for translations to be kept */
	for (int i = 0; i < 200; i++) {
		ASSERT_EQ(AREA, ioq_rw(&q, t.fd, false, p, AREA, 0));
		ASSERT_EQ(AREA, ioq_rw(&q, t.fd, true, p, AREA, 0));
	}
	ASSERT_EQ(0, pkey_set(key, PKEY_DISABLE_WRITE));
	EXPECT_EQ(-EFAULT, ioq_rw(&q, t.fd, false, p, AREA, 0));
	EXPECT_EQ(AREA, ioq_rw(&q, t.fd, true, p, AREA, 0));
	ASSERT_EQ(0, pkey_set(key, PKEY_DISABLE_ACCESS));
	EXPECT_EQ(-EFAULT, ioq_rw(&q, t.fd, true, p, AREA, 0));
	ASSERT_EQ(0, pkey_set(key, 0));
	EXPECT_EQ(AREA, ioq_rw(&q, t.fd, false, p, AREA, 0));
}

TEST_HARNESS_MAIN
