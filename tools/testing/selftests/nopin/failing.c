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
#include <dirent.h>
#include <libgen.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define SDEBUG		"/sys/bus/pseudo/drivers/scsi_debug/"
#define BAD_SECTOR	0x1234	/* where it has medium errors, if told to */
#define MEDIUM_ERRORS	"2"
#define SLOW_NS		"200000000"

#define NR		16
#define IO		(64 * KB)
#define LEN		(NR * IO)

/* Waits for the name of a disk of scsi_debug, or for there being none */
static int find_sdebug(char *name, size_t len, bool there)
{
	char path[300], model[64];
	uint64_t end = now_ms() + 20000;

	do {
		DIR *dir = opendir("/sys/block");
		bool found = false;
		struct dirent *d;

		while (dir && (d = readdir(dir))) {
			snprintf(path, sizeof(path), "/sys/block/%s/device/model",
				 d->d_name);
			if (sysfs_read(path, model, sizeof(model)) ||
			    strncmp(model, "scsi_debug", 10))
				continue;
			found = true;
			snprintf(name, len, "%.32s", d->d_name);
		}
		if (dir)
			closedir(dir);
		if (found == there)
			return 0;
		usleep(20000);
	} while (now_ms() < end);
	return -ETIME;
}

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
	if (access(SDEBUG "add_host", W_OK))
		SKIP(return, "no scsi_debug");
	ASSERT_EQ(0, sysfs_write(SDEBUG "ndelay", "0"));
	ASSERT_EQ(0, sysfs_write(SDEBUG "opts", "0"));
	ASSERT_EQ(0, sysfs_write(SDEBUG "add_host", "1"));
	ASSERT_EQ(0, find_sdebug(self->name, sizeof(self->name), true));
	snprintf(path, sizeof(path), "/dev/%s", self->name);
	for (int i = 0; i < 500 && self->fd < 0; i++) {
		self->fd = open(path, O_RDWR | O_DIRECT);
		if (self->fd < 0)
			usleep(10000);
	}
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
	sysfs_write(SDEBUG "opts", "0");
	sysfs_write(SDEBUG "ndelay", "0");
	sysfs_write(SDEBUG "add_host", "-1");
	find_sdebug(self->name, sizeof(self->name), false);
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
