// SPDX-License-Identifier: GPL-2.0
/*
 * What registered buffers of io_uring cost, and where they are refused:
 *
 *	register time DISK		time to register 1 GiB and 8 GiB
 *	register user DISK		as an unprivileged user, with a low RLIMIT_MEMLOCK
 *	register file DISK FILE		a shared mapping of FILE
 *	register idle DISK		move the pages of a buffer to another NUMA node
 *	register busy DISK		the same while a disk writes to them
 *
 * The buffers are registered as any program does it: whether they are pinned is
 * a matter of /sys/kernel/mm/nopin/io_uring. Reads into them go through
 * IORING_OP_READ_FIXED and are compared with what is on the disk. Prints one
 * line of JSON.
 *
 * The first 8 MiB of the disk, and the file, are overwritten.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#include "common.h"

#define KIB		(1UL << 10)
#define MIB		(1UL << 20)
#define GIB		(1UL << 30)
#define BUFS		8		/* of 1 GiB, the most that one may have */
#define ROUNDS		3
#define SPARE		(512 * MIB)	/* memory to leave free */

#define NOBODY		65534
#define LIMIT		(64 * KIB)
#define ENOUGH		(64 * MIB)
#define USER_SIZE	(16 * MIB)
#define FILE_SIZE	(4 * MIB)
#define PIECE		MIB

#define SLOT_PAGES	4
#define SLOT		(SLOT_PAGES * PAGE)
#define SLOTS		64
#define PAGES		(SLOTS * SLOT_PAGES)

static int disk;
static struct io_uring ring;
static atomic_ulong reads, wrong;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	errno = -ret;
	err(1, "%s", what);
}

static int register_one(char *buf, size_t len)
{
	struct iovec iov = { buf, len };

	return io_uring_register_buffers(&ring, &iov, 1);
}

/* The result of registering, for JSON */
static const char *refused(int ret)
{
	static char name[32];

	if (!ret)
		return "null";
	snprintf(name, sizeof(name), "\"%s\"", strerrorname_np(-ret));
	return name;
}

static void queue_read(char *buf, size_t len, off_t pos, int index, void *data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	clear_sectors(buf, len);
	io_uring_prep_read_fixed(sqe, disk, buf, len, pos, index);
	io_uring_sqe_set_data(sqe, data);
	check(io_uring_submit(&ring), "io_uring_enter");
}

/* Count a read that has ended */
static void account(bool right)
{
	atomic_fetch_add(&reads, 1);
	if (!right)
		atomic_fetch_add(&wrong, 1);
}

/* Fill a part of a registered buffer from the start of the disk, over and over */
static void fill(char *buf, size_t len, size_t piece, int index)
{
	struct io_uring_cqe *cqe;
	size_t off;

	for (off = 0; off < len; off += piece) {
		queue_read(buf + off, piece, off % DISK, index, NULL);
		check(io_uring_wait_cqe(&ring, &cqe), "io_uring_enter");
		account(cqe->res == (int)piece &&
			sectors_right(buf + off, piece, off % DISK));
		io_uring_cqe_seen(&ring, cqe);
	}
}

/* The least of some rounds. The buffers stay registered after the last one. */
static uint64_t time_register(const struct iovec *iov, int nr)
{
	uint64_t us, least = UINT64_MAX;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		if (i)
			check(io_uring_unregister_buffers(&ring), "unregister");
		forget(iov->iov_base, nr * GIB);
		us = now_us();
		check(io_uring_register_buffers(&ring, iov, nr), "register");
		us = now_us() - us;
		if (us < least)
			least = us;
	}
	return least;
}

/* With huge pages: to have so much memory of small ones takes long */
static bool populate(char *buf, size_t len)
{
	struct sysinfo info;

	sysinfo(&info);
	if ((uint64_t)info.freeram * info.mem_unit < len + SPARE)
		return false;
	if (madvise(buf, len, MADV_POPULATE_WRITE))
		err(1, "madvise");
	return true;
}

static void do_time(void)
{
	size_t huge = 2 * MIB;
	char *buf = map_pages(BUFS * GIB + huge);
	struct iovec iov[BUFS];
	uint64_t us;
	int i, nr;

	buf = (char *)(((uintptr_t)buf + huge - 1) & ~(huge - 1));
	madvise(buf, BUFS * GIB, MADV_HUGEPAGE);
	for (i = 0; i < BUFS; i++) {
		iov[i].iov_base = buf + i * GIB;
		iov[i].iov_len = GIB;
	}
	if (!populate(buf, GIB))
		errx(1, "not enough free memory for 1 GiB");
	us = time_register(iov, nr = 1);
	printf("{\"register_1g_us\": %lu, ", us);

	if (populate(buf + GIB, (BUFS - 1) * GIB)) {
		check(io_uring_unregister_buffers(&ring), "unregister");
		us = time_register(iov, nr = BUFS);
		printf("\"register_8g_us\": %lu, ", us);
	} else {
		printf("\"register_8g_us\": null, ");
	}
	for (i = 0; i < nr; i++)
		fill(buf + i * GIB + i * MIB, PAGE, PAGE, i);
}

/* In KiB */
static long status_of(const char *field)
{
	char line[128];
	long kib = -1;
	FILE *f;

	f = fopen("/proc/self/status", "r");
	if (!f)
		err(1, "/proc/self/status");
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			kib = atol(line + strlen(field));
	fclose(f);
	return kib;
}

static void limit_memlock(rlim_t soft)
{
	struct rlimit limit = { soft, ENOUGH };

	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		err(1, "setrlimit");
}

static void become_nobody(void)
{
	if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
		err(1, "setuid");
}

static void do_user(void)
{
	char *buf = map_pages(USER_SIZE);
	int ret;

	ret = register_one(buf, USER_SIZE);
	printf("{\"limit_kib\": %lu, \"size_mib\": %lu, \"refused\": %s, ",
	       LIMIT / KIB, USER_SIZE / MIB, refused(ret));
	if (ret) {
		limit_memlock(ENOUGH);
		check(register_one(buf, USER_SIZE), "register");
	}
	fill(buf, USER_SIZE, PIECE, 0);
	printf("\"vmpin_kib\": %ld, \"vmlck_kib\": %ld, ",
	       status_of("VmPin:"), status_of("VmLck:"));
}

static void do_file(const char *path)
{
	char *buf = map_pages(FILE_SIZE), *map;
	int fd, ret;

	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
	if (fd < 0)
		err(1, "%s", path);
	if (write(fd, buf, FILE_SIZE) != (ssize_t)FILE_SIZE)
		err(1, "%s: write", path);
	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "%s: mmap", path);

	ret = register_one(map, FILE_SIZE);
	printf("{\"size_mib\": %lu, \"refused\": %s, ", FILE_SIZE / MIB,
	       refused(ret));
	if (ret)
		return;
	fill(map, FILE_SIZE, PIECE, 0);
	/* It has to be in the file as well, not in the page cache only */
	if (msync(map, FILE_SIZE, MS_SYNC))
		err(1, "msync");
	if (pread(fd, buf, FILE_SIZE, 0) != (ssize_t)FILE_SIZE)
		err(1, "%s: read", path);
	account(sectors_right(buf, FILE_SIZE, 0));
}

static char *slots;
static off_t slot_pos[SLOTS];
static atomic_bool stop;
static atomic_uint in_flight;

static void read_slot(long i)
{
	slot_pos[i] = random() % (DISK / SLOT) * SLOT;
	queue_read(slots + i * SLOT, SLOT, slot_pos[i], 0, (void *)i);
	atomic_fetch_add(&in_flight, 1);
}

static void *reader(void *arg)
{
	struct io_uring_cqe *cqe;
	bool right;
	long i;
	int ret;

	(void)arg;
	for (i = 0; i < SLOTS; i++)
		read_slot(i);
	while (atomic_load(&in_flight)) {
		ret = io_uring_wait_cqe(&ring, &cqe);
		if (ret == -EINTR)
			continue;
		check(ret, "io_uring_enter");
		i = (long)io_uring_cqe_get_data(cqe);
		right = cqe->res == SLOT &&
			sectors_right(slots + i * SLOT, SLOT, slot_pos[i]);
		io_uring_cqe_seen(&ring, cqe);
		atomic_fetch_sub(&in_flight, 1);
		account(right);
		if (!atomic_load(&stop))
			read_slot(i);
	}
	return NULL;
}

static void wait_for_reads(unsigned long nr)
{
	while (atomic_load(&reads) < nr)
		sleep_ms(1);
}

static void do_move(bool busy)
{
	static void *page[PAGES];
	unsigned int flying = 0;
	pthread_t thread;
	uint64_t us;
	int i, moved;

	slots = map_pages(PAGES * PAGE);
	madvise(slots, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(slots, 0, PAGES * PAGE);
	for (i = 0; i < PAGES; i++)
		page[i] = slots + i * PAGE;
	move_pages_to(page, PAGES, 0);
	if (pages_on(page, PAGES, 0) != PAGES)
		errx(1, "the buffer is not on node 0 to begin with");
	check(register_one(slots, PAGES * PAGE), "register");

	if (busy) {
		if (pthread_create(&thread, NULL, reader, NULL))
			errx(1, "pthread_create");
		wait_for_reads(SLOTS);
		flying = atomic_load(&in_flight);
	} else {
		fill(slots, PAGES * PAGE, SLOT, 0);
	}
	us = now_us();
	moved = move_all_to(page, PAGES, 1);
	us = now_us() - us;

	if (busy) {
		/* The reads go on, into pages at their new place */
		wait_for_reads(atomic_load(&reads) + 4 * SLOTS);
		atomic_store(&stop, true);
		pthread_join(thread, NULL);
	} else {
		/* What was read has to have moved with them */
		account(sectors_right(slots, PAGES * PAGE, 0));
		fill(slots, PAGES * PAGE, SLOT, 0);
	}
	printf("{\"pages\": %d, \"moved\": %d, \"in_flight\": %u, \"move_ms\": %.1f, ",
	       PAGES, moved, flying, us / 1e3);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	bool file = !strcmp(what, "file"), user = !strcmp(what, "user");

	if (argc != 3 + file) {
		fprintf(stderr, "usage: register time|user|idle|busy DISK\n"
			"       register file DISK FILE\n");
		return 2;
	}
	disk = open(argv[2], O_RDWR | O_DIRECT);
	if (disk < 0)
		err(1, "%s", argv[2]);
	write_disk(disk);
	/* Whose ring it is decides whether there is a limit */
	if (user) {
		limit_memlock(LIMIT);
		become_nobody();
	}
	check(io_uring_queue_init(SLOTS, &ring, 0), "io_uring_setup");

	if (!strcmp(what, "time"))
		do_time();
	else if (user)
		do_user();
	else if (file)
		do_file(argv[3]);
	else if (!strcmp(what, "idle"))
		do_move(false);
	else if (!strcmp(what, "busy"))
		do_move(true);
	else
		errx(2, "unknown: %s", what);

	printf("\"reads\": %lu, \"wrong\": %lu}\n", atomic_load(&reads),
	       atomic_load(&wrong));
	return atomic_load(&wrong) ? 1 : 0;
}
