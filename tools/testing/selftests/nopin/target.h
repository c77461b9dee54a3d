/* SPDX-License-Identifier: GPL-2.0 */
/* What I/O is done to: disks and files, disks that are slow, file systems */
#ifndef NOPIN_TARGET_H
#define NOPIN_TARGET_H

/* A block device, or a file on a file system of its own */
struct target {
	int fd;			/* O_DIRECT */
	int bfd;		/* buffered */
	unsigned int mem_align;	/* that O_DIRECT wants of memory */
};

/*
 * The variable @env names the device or the directory. In a directory the target is a
 * file of @size bytes. What is in it is unknown.
 */
int target_open(struct target *t, const char *env, size_t size);
void target_close(struct target *t);
/* Through the page cache, which is empty afterwards */
int target_write(struct target *t, const void *buf, size_t len, off_t pos);
int target_read(struct target *t, void *buf, size_t len, off_t pos);
int target_fill(struct target *t, size_t len, uint64_t seed, off_t pos);
/* As pat_check(), of what is on the medium; -2 if that cannot be read */
ssize_t target_check(struct target *t, size_t len, uint64_t seed, off_t pos);

/*
 * The throttled disk. QEMU moves the data of a request when its turn has come, at the
 * end of its time in flight. slow_prime() uses up the burst that the throttle lets
 * through, and queues some requests ahead of those of the test. So these stay in flight
 * for about @head_ms at least. Reads and writes queue separately: @write says which the
 * test sends. QEMU merges requests for adjacent sectors, so leave gaps between them. The
 * end of the disk belongs to slow_prime().
 */
struct slow {
	struct target t;
	struct ioq junk;
	char *scratch;
	off_t junk_pos;
};

int slow_open(struct slow *s, const char *env);
int slow_prime(struct slow *s, bool write, unsigned int head_ms);
void slow_close(struct slow *s);

/*
 * A disk that scsi_debug makes, in memory: one at a time. Its name is that in /sys/block
 */
#define SDEBUG		"/sys/bus/pseudo/drivers/scsi_debug/"

bool sdebug_there(void);
int sdebug_add(char *name, size_t len);
void sdebug_remove(void);

/* The position on the disk of each page of a file, 0 if it has none. @sync writes it first */
int file_blocks(int fd, uint64_t *at, size_t nr, bool sync);
/* Reads the pages from there. Those without a position are zeros */
int blocks_read(int disk, const uint64_t *at, size_t nr, char *buf);

/*
 * A file system of a test's own. Its directory is new, and what an earlier test left on
 * the device is gone.
 */
enum fs_type { EXT4, XFS };

struct fs {
	enum fs_type type;
	const char *dev, *options;
	char dir[32];
	bool mounted;
};

int fs_make(struct fs *fs, const char *dev, enum fs_type type, const char *mkfs,
	    const char *options);
int fs_mount(struct fs *fs);
/* Tries again for a while: somebody may just have closed a file */
int fs_umount(struct fs *fs);
/* Opens a file, or makes it: a descriptor or -errno */
int fs_open(struct fs *fs, const char *name);
/* Unmounts it and runs fsck: 0 if it is in order */
int fs_check(struct fs *fs);
void fs_put(struct fs *fs);

#endif
