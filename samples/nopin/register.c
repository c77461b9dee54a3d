// SPDX-License-Identifier: GPL-2.0
/*
 * How to register io_uring buffers without pinning them, on kernels that can do
 * that, and what to do on others. Reads a file with O_DIRECT through two buffers
 * of two rings in turn, and prints a checksum and a length, the same as cksum(1)
 * does.
 *
 * Build: make -C samples/nopin. Run: samples/nopin/register FILE, on a file system
 * that has O_DIRECT.
 *
 * A buffer without pins is a range of addresses: it is not charged to
 * RLIMIT_MEMLOCK, it may be a shared mapping of a file, and it has to stay mapped
 * for as long as it is used. Documentation/userspace-api/nopin.rst has the rest.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of the kernel's linux/io_uring.h, not in that of older liburing */
#ifndef IORING_RSRC_REGISTER_NOPIN
#define IORING_RSRC_REGISTER_NOPIN	(1U << 1)
#endif
#define REGISTER_CLONE_BUFFERS		30	/* since Linux 6.12 */
struct clone_buffers {
	uint32_t src_fd, flags, pad[6];
};

#define BUFS		2
#define BUF_SIZE	(1U << 20)
#define SECTOR		512

enum how { NOPIN, PINNED, NOT_REGISTERED };

static const char * const how_name[] = {
	"without pins", "pinned", "not registered: is RLIMIT_MEMLOCK (ulimit -l) too low?"
};

/* Returns a number as the operation has it, or -errno */
static int do_register(struct io_uring *ring, int op, void *arg, unsigned int nr)
{
	int ret = syscall(__NR_io_uring_register, ring->ring_fd, op, arg, nr);

	return ret < 0 ? -errno : ret;
}

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	errno = -ret;
	err(1, "%s", what);
}

/* Makes the ring's table of buffers; one without an address is an empty slot */
static enum how register_buffers(struct io_uring *ring, struct iovec *iov)
{
	struct io_uring_rsrc_register rr = {
		.nr = BUFS,
		.flags = IORING_RSRC_REGISTER_NOPIN,
		.data = (uintptr_t)iov,
	};
	int ret;

	/* Not io_uring_register_buffers_tags(): it does not take flags */
	ret = do_register(ring, IORING_REGISTER_BUFFERS2, &rr, sizeof(rr));
	if (!ret)
		return NOPIN;
	/* EINVAL: the kernel does not know the flag, or the administrator forbids it */
	if (ret == -EINVAL) {
		rr.flags = 0;
		ret = do_register(ring, IORING_REGISTER_BUFFERS2, &rr, sizeof(rr));
		if (!ret)
			return PINNED;
	}
	/* Nothing was registered. There are plain reads and writes */
	if (ret == -ENOMEM)
		return NOT_REGISTERED;
	check(ret, "cannot register a table of buffers");
	return PINNED;
}

/* Puts a buffer into a slot. It is pinned, or not, as the table is */
static enum how update_buffer(struct io_uring *ring, unsigned int slot,
			      struct iovec *iov, enum how how)
{
	struct io_uring_rsrc_update2 up = {
		.offset = slot,
		.data = (uintptr_t)iov,
		.nr = 1,
	};
	int ret = do_register(ring, IORING_REGISTER_BUFFERS_UPDATE, &up, sizeof(up));

	if (ret == -ENOMEM)
		return NOT_REGISTERED;
	check(ret, "cannot register one more buffer");
	return how;
}

/* Gives a second ring the same buffers, pinned or not as they are */
static enum how clone_buffers(struct io_uring *ring, const struct io_uring *from,
			      struct iovec *iov, enum how how)
{
	struct clone_buffers arg = { .src_fd = from->ring_fd };
	int ret = do_register(ring, REGISTER_CLONE_BUFFERS, &arg, 1);

	if (ret == -EINVAL)	/* an older kernel, or a ring of another user */
		return register_buffers(ring, iov);
	check(ret, "cannot clone buffers");
	return how;
}

/* What the kernel has to say of the buffers of the ring */
static void show_fdinfo(const struct io_uring *ring)
{
	char path[64], line[256];
	bool bufs = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ring->ring_fd);
	f = fopen(path, "r");
	if (!f)
		err(1, "%s", path);
	while (fgets(line, sizeof(line), f)) {
		if (bufs && line[0] != ' ')
			break;
		if (bufs || !strncmp(line, "UserBufs:", 9))
			printf("fdinfo: %s", line);
		bufs = bufs || !strncmp(line, "UserBufs:", 9);
	}
	fclose(f);
}

/* Returns the number of bytes, 0 at the end of the file, or -errno */
static int read_at(struct io_uring *ring, enum how how, int fd, void *buf,
		   off_t pos, int slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int ret;

	if (how == NOT_REGISTERED)
		io_uring_prep_read(sqe, fd, buf, BUF_SIZE, pos);
	else
		io_uring_prep_read_fixed(sqe, fd, buf, BUF_SIZE, pos, slot);
	ret = io_uring_submit_and_wait(ring, 1);
	if (ret < 0)
		return ret;
	ret = io_uring_wait_cqe(ring, &cqe);
	if (ret < 0)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static uint32_t crc(uint32_t sum, unsigned char byte)
{
	int i;

	sum ^= (uint32_t)byte << 24;
	for (i = 0; i < 8; i++)
		sum = sum << 1 ^ (sum >> 31 ? 0x04c11db7 : 0);
	return sum;
}

int main(int argc, char **argv)
{
	struct iovec table[BUFS] = {}, iov[BUFS];
	struct io_uring ring[2];
	unsigned char *buf;
	uint32_t sum = 0;
	off_t pos = 0, n;
	enum how how[2];
	int fd, ret, i;

	if (argc != 2) {
		fprintf(stderr, "usage: register FILE\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[1]);
	buf = mmap(NULL, BUFS * BUF_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED)
		err(1, "mmap");
	for (i = 0; i < BUFS; i++)
		iov[i] = (struct iovec) { buf + i * BUF_SIZE, BUF_SIZE };
	for (i = 0; i < 2; i++)
		check(io_uring_queue_init(1, &ring[i], 0), "io_uring_setup");

	/* One buffer to begin with, another one later, and then both for another ring */
	table[0] = iov[0];
	how[0] = register_buffers(&ring[0], table);
	if (how[0] != NOT_REGISTERED)
		how[0] = update_buffer(&ring[0], 1, &iov[1], how[0]);
	how[1] = how[0];
	if (how[0] != NOT_REGISTERED)
		how[1] = clone_buffers(&ring[1], &ring[0], iov, how[0]);
	for (i = 0; i < 2; i++)
		printf("ring %d: buffers %s\n", i, how_name[how[i]]);

	for (n = 0; ; n++) {
		int r = n / BUFS % 2, slot = n % BUFS;
		unsigned char *p = iov[slot].iov_base;

		ret = read_at(&ring[r], how[r], fd, p, pos, slot);
		if (ret < 0) {
			errno = -ret;
			err(1, "%s: at byte %lld", argv[1], (long long)pos);
		}
		for (i = 0; i < ret; i++)
			sum = crc(sum, p[i]);
		pos += ret;
		/* The end may be in a sector, and O_DIRECT does not start there */
		if (!ret || pos % SECTOR)
			break;
	}

	for (n = pos; n; n >>= 8)
		sum = crc(sum, n & 0xff);
	for (i = 0; i < 2; i++) {
		show_fdinfo(&ring[i]);
		io_uring_queue_exit(&ring[i]);
	}
	printf("%u %lld %s\n", (unsigned int)~sum, (long long)pos, argv[1]);
	return 0;
}
