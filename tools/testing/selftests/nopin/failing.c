// SPDX-License-Identifier: GPL-2.0
/*
 * Disks that report errors, and disks that are taken away, with I/O in flight. The
 * I/O ends, with an error or not, and nothing of it is left: whoever changes the mapping
 * does not wait for I/O that will never end, and the memory is good for other I/O.
 * run.sh looks whether all pins are gone in the end.
 *
 * The disks are made by scsi_debug. A throttled disk, of virtio, is taken from its
 * driver and given back.
 */
#include <libgen.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define BAD_SECTOR	0x1234	/* where it has medium errors, if told to */
#define MEDIUM_ERRORS	"2"
#define SLOW_NS		"200000000"

#define NR		16
#define IO		(64 * KB)
#define LEN		(NR * IO)

/* Whether all of the buffer can be used for I/O: with another disk */
static int buffer_good(char *p)
{
	struct target t;
	int ret;

	ret = target_open(&t, "NOPIN_RAW", 0);
	if (ret)
		return ret;
	memset(p, GRAB_BYTE, LEN);
	ret = target_fill(&t, LEN, 7, 0);
	if (!ret && pread(t.fd, p, LEN, 0) != LEN)
		ret = -EIO;
	if (!ret && pat_check(p, LEN, 7, 0) != -1)
		ret = -EILSEQ;
	target_close(&t);
	return ret;
}

FIXTURE(sdebug) {
	char name[64];
	int fd;
	char *p;
};

FIXTURE_SETUP(sdebug)
{
	char path[128];

	self->fd = -1;
	self->p = MAP_FAILED;
	NEED("NOPIN_RAW");
	if (!sdebug_there())
		SKIP(return, "no scsi_debug");
	ASSERT_EQ(0, sdebug_add(self->name, sizeof(self->name)));
	snprintf(path, sizeof(path), "/dev/%s", self->name);
	self->fd = open(path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, LEN, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	memset(self->p, GRAB_BYTE, LEN);
}

FIXTURE_TEARDOWN(sdebug)
{
	if (self->fd >= 0)
		close(self->fd);
	sdebug_remove();
	if (self->p != MAP_FAILED)
		munmap(self->p, LEN);
}

/* One bad sector: the I/O fails, again and again, and all others do not */
TEST_F_TIMEOUT(sdebug, medium_error, 120)
{
	const off_t bad = BAD_SECTOR * 512L / PAGE * PAGE;

	ASSERT_EQ(0, sysfs_write(SDEBUG "opts", MEDIUM_ERRORS));
	for (enum engine e = 0; e < NR_ENGINES; e++) {
		struct ioq q;
		uint64_t ms;

		ASSERT_EQ(0, ioq_init(&q, e, 1));
		for (int i = 0; i < 4; i++) {
			EXPECT_EQ(-ENODATA, ioq_rw(&q, self->fd, false, self->p, PAGE, bad))
				TH_LOG("%s", engine_name[e]);
			EXPECT_EQ(PAGE, ioq_rw(&q, self->fd, false, self->p, PAGE, 0))
				TH_LOG("%s", engine_name[e]);
		}
		ms = now_ms();
		ASSERT_EQ(0, mprotect(self->p, LEN, PROT_READ));
		ASSERT_EQ(0, mprotect(self->p, LEN, PROT_READ | PROT_WRITE));
		EXPECT_GT(NO_WAIT_MS, now_ms() - ms);
		ioq_exit(&q);
	}
	EXPECT_EQ(0, buffer_good(self->p));
}

/*
 * One bad block of a file. A read of a block is done otherwise than larger ones, and
 * ends with an error otherwise: in a work item, when the pages have been given back.
 */
#define BAD_DEV		"nopin-bad"
#define BAD_PAGE	5
#define BAD_FILE	(16 * PAGE)

FIXTURE(file) {
	struct fs fs;
	int fd;		/* O_DIRECT */
	char *p;
	char dev[32];
};

FIXTURE_VARIANT(file) {
	enum fs_type type;
	const char *mkfs;
};

FIXTURE_VARIANT_ADD(file, ext4) { EXT4, "mkfs.ext4 -q -F -O ^has_journal" };
FIXTURE_VARIANT_ADD(file, xfs) { XFS, "mkfs.xfs -q -f --unsupported" };

/* Where the file system is on the disk: buffer_good() uses the beginning */
#define BAD_START	(64 * MB / SECTOR)

/* The sectors of the bad page take part of the disk out of the way, or give it back */
static int bad_table(uint64_t sectors, uint64_t bad)
{
	const char *disk = getenv("NOPIN_RAW");
	char cmd[1024];

	if (!bad)
		snprintf(cmd, sizeof(cmd), "dmsetup --noudevsync create " BAD_DEV
			 " --table '0 %lu linear %s %lu' >/dev/null", sectors, disk,
			 BAD_START);
	else
		snprintf(cmd, sizeof(cmd), "printf '0 %lu linear %s %lu\\n%lu 8 error\\n"
			 "%lu %lu linear %s %lu\\n' | dmsetup --noudevsync load " BAD_DEV
			 " && dmsetup --noudevsync suspend " BAD_DEV
			 " && dmsetup --noudevsync resume " BAD_DEV,
			 bad, disk, BAD_START, bad, bad + 8, sectors - bad - 8, disk,
			 BAD_START + bad + 8);
	return system(cmd);
}

FIXTURE_SETUP(file)
{
	uint64_t at[BAD_FILE / PAGE], sectors = 64 * MB / SECTOR;
	char data[BAD_FILE], path[64];
	FILE *f;
	int fd;

	NEED("NOPIN_RAW");
	NEED("NOPIN_DM");
	ASSERT_EQ(0, bad_table(sectors, 0));
	f = popen("dmsetup info -c --noheadings -o minor " BAD_DEV, "r");
	ASSERT_NE(NULL, f);
	ASSERT_EQ(1, fscanf(f, "%d", &fd));
	pclose(f);
	snprintf(self->dev, sizeof(self->dev), "/dev/dm-%d", fd);
	ASSERT_EQ(0, fs_make(&self->fs, self->dev, variant->type, variant->mkfs, NULL));
	fd = fs_open(&self->fs, "file");
	ASSERT_LE(0, fd);
	pat_fill(data, BAD_FILE, 1, 0);
	ASSERT_EQ(BAD_FILE, pwrite(fd, data, BAD_FILE, 0));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, file_blocks(fd, at, ARRAY_SIZE(at), true));
	ASSERT_NE(0, at[BAD_PAGE]);
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	close(fd);
	ASSERT_EQ(0, bad_table(sectors, at[BAD_PAGE] / SECTOR));
	snprintf(path, sizeof(path), "%s/file", self->fs.dir);
	self->fd = open(path, O_RDWR | O_DIRECT);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	ASSERT_NE(MAP_FAILED, self->p);
	memset(self->p, GRAB_BYTE, LEN);
}

FIXTURE_TEARDOWN(file)
{
	close(self->fd);
	fs_put(&self->fs);
	EXPECT_EQ(0, system("dmsetup --noudevsync remove --retry " BAD_DEV));
}

/* With @len of a block, and more */
static void bad_block(struct __test_metadata *_metadata, int fd, char *p, size_t len)
{
	const off_t bad = BAD_PAGE * PAGE / len * len;

	for (enum engine e = 0; e < NR_ENGINES; e++) {
		unsigned long wait, pinned, pins;
		struct ioq q;

		ASSERT_EQ(0, ioq_init(&q, e, 4));
		/* One before the counters are looked at, as the first may be special */
		ASSERT_EQ(len, ioq_rw(&q, fd, false, p, len, 0));
		pins = vmstat("nr_foll_pin_acquired");
		for (int i = 0; i < 4; i++) {
			EXPECT_EQ(-EIO, ioq_rw(&q, fd, false, p, len, bad))
				TH_LOG("%s", engine_name[e]);
			memset(p, GRAB_BYTE, len);
			EXPECT_EQ(len, ioq_rw(&q, fd, false, p, len, 0))
				TH_LOG("%s", engine_name[e]);
			EXPECT_EQ(-1, pat_check(p, len, 1, 0));
		}
		if (nopin()) {
			EXPECT_EQ(pins, vmstat("nr_foll_pin_acquired"))
				TH_LOG("%s", engine_name[e]);
		} else {
			EXPECT_LE(pins + 8 * len / PAGE, vmstat("nr_foll_pin_acquired"));
		}
		/* Nothing is in use that this would wait for, or pin */
		wait = vmstat("nopin_wait");
		pinned = vmstat("nopin_pinned");
		ASSERT_EQ(0, mprotect(p, LEN, PROT_READ));
		ASSERT_EQ(0, mprotect(p, LEN, PROT_READ | PROT_WRITE));
		ASSERT_EQ(0, madvise(p, LEN, MADV_DONTNEED));
		EXPECT_EQ(wait, vmstat("nopin_wait")) TH_LOG("%s", engine_name[e]);
		EXPECT_EQ(pinned, vmstat("nopin_pinned")) TH_LOG("%s", engine_name[e]);
		ioq_exit(&q);
	}
	EXPECT_EQ(0, buffer_good(p));
	EXPECT_EQ(0, pins_left());
}

TEST_F_TIMEOUT(file, bad_block, 60) { bad_block(_metadata, self->fd, self->p, PAGE); }
TEST_F_TIMEOUT(file, bad_blocks, 60) { bad_block(_metadata, self->fd, self->p, 4 * PAGE); }

struct removal {
	const char *path;
	const char *value;
	int ret;
};

static void *remove_disk(void *arg)
{
	struct removal *r = arg;

	r->ret = sysfs_write(r->path, r->value);
	return NULL;
}

/* Reads are in flight, the disk goes, and meanwhile the mapping changes */
static void removed(struct __test_metadata *_metadata, int fd, char *p,
		    enum engine eng, const char *path, const char *value)
{
	struct removal r = { path, value };
	unsigned int nr = 0, errors = 0;
	long res[NR];
	struct ioq q;
	pthread_t th;
	uint64_t ms;
	int ret;

	ASSERT_EQ(0, ioq_init(&q, eng, NR));
	for (int i = 0; i < NR; i++)
		ASSERT_EQ(0, ioq_start(&q, i, fd, false, p + i * IO, IO,
				       (off_t)i * 2 * IO));
	ASSERT_EQ(0, pthread_create(&th, NULL, remove_disk, &r));
	ms = now_ms();
	/* a quarter each: what waits, what does not, and none of it */
	ASSERT_EQ(0, mprotect(p, LEN / 4, PROT_READ));
	ASSERT_EQ(0, mprotect(p, LEN / 4, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, madvise(p + LEN / 4, LEN / 4, MADV_DONTNEED));
	EXPECT_GT(NO_WAIT_MS + 2 * DEFAULT_WAIT_MS, now_ms() - ms);
	while (nr < NR) {
		ret = ioq_reap(&q, 1, res);
		ASSERT_LT(0, ret);
		nr += ret;
	}
	for (int i = 0; i < NR; i++)
		errors += res[i] != IO;
	pthread_join(th, NULL);
	EXPECT_EQ(0, r.ret);
	note("%s: %u of %u reads have failed", engine_name[eng], errors, NR);
	ioq_exit(&q);
	EXPECT_EQ(0, buffer_good(p));
}

TEST_F_TIMEOUT(sdebug, removed_aio, 120)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/block/%s/device/delete", self->name);
	ASSERT_EQ(0, sysfs_write(SDEBUG "ndelay", SLOW_NS));
	removed(_metadata, self->fd, self->p, ENG_AIO, path, "1");
}

TEST_F_TIMEOUT(sdebug, removed_uring, 120)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/block/%s/device/delete", self->name);
	ASSERT_EQ(0, sysfs_write(SDEBUG "ndelay", SLOW_NS));
	removed(_metadata, self->fd, self->p, ENG_URING, path, "1");
}

TEST_F_TIMEOUT(sdebug, host_removed, 120)
{
	ASSERT_EQ(0, sysfs_write(SDEBUG "ndelay", SLOW_NS));
	removed(_metadata, self->fd, self->p, ENG_AIO, SDEBUG "add_host", "-1");
	/* for the teardown */
	ASSERT_EQ(0, sysfs_write(SDEBUG "add_host", "1"));
}

/* The driver of a throttled disk is told to leave it, and then to take it again */
TEST(virtio_unbound)
{
	char link[256], dev[256], *name;
	struct target t;
	ssize_t len;
	char *p;

	NEED("NOPIN_CHURN");
	NEED("NOPIN_RAW");
	name = basename(strdupa(getenv("NOPIN_CHURN")));
	snprintf(link, sizeof(link), "/sys/block/%s/device", name);
	len = readlink(link, dev, sizeof(dev) - 1);
	if (len < 0 || !strstr(name, "vd"))
		SKIP(return, "%s is not a virtio disk", name);
	dev[len] = 0;
	ASSERT_EQ(0, target_open(&t, "NOPIN_CHURN", 0));
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		 -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	memset(p, GRAB_BYTE, LEN);
	removed(_metadata, t.fd, p, ENG_AIO, "/sys/bus/virtio/drivers/virtio_blk/unbind",
		basename(dev));
	target_close(&t);
	EXPECT_EQ(0, sysfs_write("/sys/bus/virtio/drivers/virtio_blk/bind", basename(dev)));
	munmap(p, LEN);
}

TEST_HARNESS_MAIN
