// SPDX-License-Identifier: GPL-2.0
/*
 * How to register an io_uring buffer without pinning it, on kernels that can do
 * that, and with pins on others. Reads a file with O_DIRECT through the buffer
 * and prints a checksum and a length, the same as cksum(1) does.
 *
 * A buffer without pins is a range of addresses: it is not charged to
 * RLIMIT_MEMLOCK, it may be a shared mapping of a file, and it has to stay mapped
 * for as long as it is used.
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

#define BUF_SIZE	(1U << 20)
#define SECTOR		512

/* Returns whether the buffer was registered without pins */
static bool register_buffer(struct io_uring *ring, struct iovec *iov)
{
	struct io_uring_rsrc_register rr = {
		.nr = 1,
		.flags = IORING_RSRC_REGISTER_NOPIN,
		.data = (uintptr_t)iov,
	};
	int ret;

	/* Not io_uring_register_buffers_tags(): it does not take flags */
	if (!syscall(__NR_io_uring_register, ring->ring_fd,
		     IORING_REGISTER_BUFFERS2, &rr, sizeof(rr)))
		return true;
	/* The kernel does not know the flag, or the administrator forbids it */
	if (errno != EINVAL)
		err(1, "cannot register a buffer without pins");

	ret = io_uring_register_buffers(ring, iov, 1);
	if (ret == -ENOMEM)
		errx(1, "cannot pin %u KiB: is RLIMIT_MEMLOCK (ulimit -l) too low?",
		     BUF_SIZE >> 10);
	if (ret) {
		errno = -ret;
		err(1, "cannot register a pinned buffer");
	}
	return false;
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
static int read_fixed(struct io_uring *ring, int fd, void *buf, off_t pos)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int ret;

	io_uring_prep_read_fixed(sqe, fd, buf, BUF_SIZE, pos, 0);
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
	struct io_uring ring;
	struct iovec iov;
	unsigned char *buf;
	uint32_t sum = 0;
	off_t pos = 0, n;
	int fd, ret, i;

	if (argc != 2) {
		fprintf(stderr, "usage: register FILE\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[1]);
	buf = mmap(NULL, BUF_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED)
		err(1, "mmap");
	ret = io_uring_queue_init(1, &ring, 0);
	if (ret) {
		errno = -ret;
		err(1, "io_uring_setup");
	}
	iov.iov_base = buf;
	iov.iov_len = BUF_SIZE;
	printf("registered %s\n", register_buffer(&ring, &iov) ?
	       "without pins" : "with pins");

	do {
		ret = read_fixed(&ring, fd, buf, pos);
		if (ret < 0) {
			errno = -ret;
			err(1, "%s: at byte %lld", argv[1], (long long)pos);
		}
		for (i = 0; i < ret; i++)
			sum = crc(sum, buf[i]);
		pos += ret;
		/* The end may be in a sector, and O_DIRECT does not start there */
	} while (ret && pos % SECTOR == 0);

	show_fdinfo(&ring);
	for (n = pos; n; n >>= 8)
		sum = crc(sum, n & 0xff);
	printf("%u %lld %s\n", (unsigned int)~sum, (long long)pos, argv[1]);
	io_uring_queue_exit(&ring);
	return 0;
}
