// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "nopin_util.h"

int target_open(struct target *t, const char *env, size_t size)
{
	const char *name = getenv(env);
	char path[256];
	struct statx stx;
	struct stat st;
	bool dir;
	int ret = 0;

	if (!name || stat(name, &st))
		return -ENODEV;
	dir = S_ISDIR(st.st_mode);
	if (dir)
		snprintf(path, sizeof(path), "%s/target", name);
	else
		snprintf(path, sizeof(path), "%s", name);
	t->bfd = open(path, O_RDWR | (dir ? O_CREAT : 0), 0600);
	t->fd = open(path, O_RDWR | O_DIRECT);
	if (t->fd < 0 || t->bfd < 0 || fstat(t->bfd, &st))
		ret = -errno;
	/*
	 * Extents that are written, as overwriting is the common case. They are kept
	 * for the next test: with KASAN, a page takes milliseconds.
	 */
	if (!ret && dir && st.st_size != (off_t)size)
		ret = ftruncate(t->bfd, 0) ? -errno : target_fill(t, size, 0, 0);
	t->mem_align = SECTOR;
	if (!ret && !statx(t->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) &&
	    stx.stx_mask & STATX_DIOALIGN)
		t->mem_align = stx.stx_dio_mem_align;
	return ret;
}

void target_close(struct target *t)
{
	close(t->fd);
	close(t->bfd);
}

static int target_drop(struct target *t, size_t len, off_t pos)
{
	if (fsync(t->bfd))
		return -errno;
	/* May leave pages that somebody has mapped; nobody maps targets */
	return -posix_fadvise(t->bfd, pos, len, POSIX_FADV_DONTNEED);
}

int target_write(struct target *t, const void *buf, size_t len, off_t pos)
{
	ssize_t n = pwrite(t->bfd, buf, len, pos);

	if (n != (ssize_t)len)
		return n < 0 ? -errno : -EIO;
	return target_drop(t, len, pos);
}

int target_read(struct target *t, void *buf, size_t len, off_t pos)
{
	int ret = target_drop(t, len, pos);
	ssize_t n;

	if (ret)
		return ret;
	n = pread(t->bfd, buf, len, pos);
	if (n != (ssize_t)len)
		return n < 0 ? -errno : -EIO;
	return target_drop(t, len, pos);
}

int target_fill(struct target *t, size_t len, uint64_t seed, off_t pos)
{
	char *buf = malloc(len);
	int ret;

	if (!buf)
		return -ENOMEM;
	pat_fill(buf, len, seed, pos);
	ret = target_write(t, buf, len, pos);
	free(buf);
	return ret;
}

ssize_t target_check(struct target *t, size_t len, uint64_t seed, off_t pos)
{
	char *buf = malloc(len);
	ssize_t ret = -2;

	if (buf && !target_read(t, buf, len, pos))
		ret = pat_check(buf, len, seed, pos);
	free(buf);
	return ret;
}

#define SLOW_JUNK	256

int slow_open(struct slow *s, const char *env)
{
	int ret = target_open(&s->t, env, 8 * MB);

	if (ret)
		return ret;
	ret = ioq_init(&s->junk, ENG_AIO, SLOW_JUNK);
	if (ret)
		return ret;
	s->junk_pos = lseek(s->t.bfd, 0, SEEK_END) - SLOW_JUNK * 2 * SECTOR;
	s->scratch = mmap(NULL, SLOW_JUNK * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return s->scratch == MAP_FAILED ? -ENOMEM : 0;
}

int slow_prime(struct slow *s, bool write, unsigned int head_ms)
{
	unsigned long iops = strtoul(getenv("NOPIN_SLOW_IOPS") ?: "200", NULL, 10);
	/* QEMU's throttle lets through what it would in a tenth of a second */
	unsigned int nr = iops / 10 + iops * head_ms / 1000;
	int ret = 0;

	if (s->junk.inflight)
		ioq_reap(&s->junk, s->junk.inflight, NULL);
	for (unsigned int i = 0; i < nr && i < SLOW_JUNK && !ret; i++)
		ret = ioq_start(&s->junk, i, s->t.fd, write,
				s->scratch + i * PAGE, SECTOR,
				s->junk_pos + i * 2 * SECTOR);
	return ret;
}

void slow_close(struct slow *s)
{
	ioq_exit(&s->junk);
	munmap(s->scratch, SLOW_JUNK * PAGE);
	target_close(&s->t);
}

/* ---- scsi_debug ---- */

/* Waits for the name of a disk of scsi_debug, or for there being none */
static int sdebug_find(char *name, size_t len, bool there)
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

bool sdebug_there(void)
{
	return !access(SDEBUG "add_host", W_OK);
}

int sdebug_add(char *name, size_t len)
{
	char path[64];
	int ret = sysfs_write(SDEBUG "ndelay", "0") ?: sysfs_write(SDEBUG "opts", "0") ?:
		  sysfs_write(SDEBUG "add_host", "1") ?: sdebug_find(name, len, true);

	snprintf(path, sizeof(path), "/dev/%.32s", name);
	for (int i = 0; i < 500 && !ret; i++) {
		int fd = open(path, O_RDWR);

		if (fd >= 0) {
			close(fd);
			return 0;
		}
		usleep(10000);
	}
	return ret ?: -ENOENT;
}

void sdebug_remove(void)
{
	char name[64];

	sysfs_write(SDEBUG "opts", "0");
	sysfs_write(SDEBUG "ndelay", "0");
	sysfs_write(SDEBUG "add_host", "-1");
	sdebug_find(name, sizeof(name), false);
}

/* ---- files as the disk has them ---- */

int file_blocks(int fd, uint64_t *at, size_t nr, bool sync)
{
	const uint32_t nowhere = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
				 FIEMAP_EXTENT_UNWRITTEN;
	struct fiemap *map = calloc(1, sizeof(*map) + nr * sizeof(map->fm_extents[0]));
	int ret = 0;

	memset(at, 0, nr * sizeof(*at));
	map->fm_length = nr * PAGE;
	map->fm_flags = sync ? FIEMAP_FLAG_SYNC : 0;
	map->fm_extent_count = nr;
	if (ioctl(fd, FS_IOC_FIEMAP, map))
		ret = -errno;
	for (unsigned int i = 0; i < map->fm_mapped_extents && !ret; i++) {
		struct fiemap_extent *e = &map->fm_extents[i];
		size_t first = e->fe_logical / PAGE;

		for (size_t o = 0; o < e->fe_length / PAGE && first + o < nr; o++)
			if (!(e->fe_flags & nowhere))
				at[first + o] = e->fe_physical + o * PAGE;
	}
	free(map);
	return ret;
}

int blocks_read(int disk, const uint64_t *at, size_t nr, char *buf)
{
	size_t run;

	memset(buf, 0, nr * PAGE);
	for (size_t i = 0; i < nr; i += run) {
		for (run = 1; i + run < nr && at[i + run] == at[i] + run * PAGE; run++)
			;
		if (at[i] && pread(disk, buf + i * PAGE, run * PAGE, at[i]) !=
			     (ssize_t)(run * PAGE))
			return -EIO;
	}
	return 0;
}

/* ---- file systems ---- */

#define MKFS_LOG	"/tmp/nopin-mkfs.log"

static const char *const fs_name[] = { "ext4", "xfs" };

int fs_mount(struct fs *fs)
{
	if (mount(fs->dev, fs->dir, fs_name[fs->type], 0, fs->options))
		return -errno;
	fs->mounted = true;
	return 0;
}

int fs_umount(struct fs *fs)
{
	int ret = 0;

	for (int i = 0; i < 20; i++) {
		ret = umount(fs->dir) ? -errno : 0;
		if (ret != -EBUSY)
			break;
		usleep(20000);
	}
	fs->mounted = ret;
	return ret;
}

int fs_open(struct fs *fs, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fs->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int fs_make(struct fs *fs, const char *dev, enum fs_type type, const char *mkfs,
	    const char *options)
{
	char cmd[512];
	int ret;

	*fs = (struct fs) { .type = type, .dev = dev, .options = options };
	/* First what a test that failed may have left */
	snprintf(cmd, sizeof(cmd), "umount -l %s 2>/dev/null; %s %s >%s 2>&1", dev, mkfs,
		 dev, MKFS_LOG);
	ret = system(cmd);
	if (ret)
		ret = system("sed 's/^/# /' " MKFS_LOG " >&2") ?: ret;
	snprintf(fs->dir, sizeof(fs->dir), "/tmp/nopin-fs-XXXXXX");
	if (ret || !mkdtemp(fs->dir))
		return -EIO;
	return fs_mount(fs);
}

int fs_check(struct fs *fs)
{
	char cmd[128];
	int ret = fs_umount(fs);

	snprintf(cmd, sizeof(cmd), "%s %s >/dev/null 2>&1",
		 fs->type == EXT4 ? "fsck.ext4 -f -n" : "xfs_repair -n", fs->dev);
	return ret ?: system(cmd);
}

void fs_put(struct fs *fs)
{
	/* A test that has failed may have files open until its process exits */
	if (fs->mounted && fs_umount(fs))
		umount2(fs->dir, MNT_DETACH);
	rmdir(fs->dir);
}
