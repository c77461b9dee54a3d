// SPDX-License-Identifier: GPL-2.0
/*
 * Direct reads into random buffers of a large pool, as a database's cache does.
 *
 * At first each buffer is new to the kernel, later it has been used before. So
 * the rate is told for each quarter of the run: the first is that of a cold pool,
 * the last that of a warm one. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <liburing.h>
#include <unistd.h>

#include "common.h"

#define HUGE	(2UL << 20)
#define DEPTH	16
#define PIECE	(1UL << 30)	/* the most that io_uring registers as one buffer */
#define QUARTERS 4

enum engine { PSYNC, AIO, URING, REGISTERED, ENGINES };

static const char * const names[] = { "psync", "libaio", "io_uring", "registered" };

static int fd;
static char *pool;
static size_t size = 512UL << 20, bs = PAGE;
static uint64_t state = 88172645463325252ULL;
static struct io_uring ring;
static aio_context_t ctx;

static void __attribute__((noreturn)) usage(void)
{
	fprintf(stderr,
		"usage: pool [-b BYTES] [-m MIB] [-e ENGINE] [-v VISITS] [-H] DEVICE\n"
		"  -b  bytes per read, a power of two (4096)\n"
		"  -m  size of the pool in MiB (512)\n"
		"  -e  psync, libaio, io_uring or registered (psync)\n"
		"  -v  reads into each buffer, on average (4)\n"
		"  -H  huge pages\n");
	exit(2);
}

/* Pages that follow each other in the pool do not do so in memory */
static void fill(bool huge)
{
	size_t pages = size / PAGE, page = 0, i;

	pool = map_pages(size + HUGE);
	pool = (char *)(((uintptr_t)pool + HUGE - 1) & ~(HUGE - 1));
	madvise(pool, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (i = 0; i < pages; i++) {
		pool[page * PAGE] = 1;
		page = huge ? page + 1 : (page + 7919) % pages;
	}
}

static void set_up(enum engine engine)
{
	struct iovec iov[64];
	unsigned int nr = 0;
	size_t at;
	int ret;

	if (engine == AIO)
		ctx = aio_open(DEPTH);
	if (engine < URING)
		return;
	ret = io_uring_queue_init(DEPTH, &ring, 0);
	if (ret)
		errx(1, "io_uring_queue_init: %s", strerror(-ret));
	if (engine == URING)
		return;
	for (at = 0; at < size; at += PIECE) {
		if (nr == 64)
			errx(1, "a pool of more than 64 GiB is not registered");
		iov[nr++] = (struct iovec) { pool + at, size - at < PIECE ? size - at : PIECE };
	}
	ret = io_uring_register_buffers(&ring, iov, nr);
	if (ret)
		errx(1, "io_uring_register_buffers: %s", strerror(-ret));
}

static char *buffer(void)
{
	return pool + random_next(&state) % (size / bs) * bs;
}

static off_t offset(void)
{
	return random_next(&state) % 4096 * bs;
}

static void check(long long res)
{
	if (res != (long long)bs)
		errx(1, "a read of %zu bytes: %lld", bs, res);
}

static void read_one(void)
{
	char *buf = buffer();

	check(pread(fd, buf, bs, offset()));
}

static void read_aio(void)
{
	struct iocb cb[DEPTH], *cbs[DEPTH];
	struct io_event ev[DEPTH];
	long i;

	for (i = 0; i < DEPTH; i++) {
		cbs[i] = &cb[i];
		cb[i] = (struct iocb) {
			.aio_lio_opcode	= IOCB_CMD_PREAD,
			.aio_fildes	= fd,
			.aio_buf	= (uintptr_t)buffer(),
			.aio_nbytes	= bs,
			.aio_offset	= offset(),
		};
	}
	if (syscall(SYS_io_submit, ctx, DEPTH, cbs) != DEPTH)
		err(1, "io_submit");
	aio_wait(ctx, DEPTH, DEPTH, ev);
	for (i = 0; i < DEPTH; i++)
		check(ev[i].res);
}

static void read_uring(bool registered)
{
	struct io_uring_cqe *cqe;
	int i;

	for (i = 0; i < DEPTH; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
		char *buf = buffer();

		if (registered)
			io_uring_prep_read_fixed(sqe, fd, buf, bs, offset(),
						 (buf - pool) / PIECE);
		else
			io_uring_prep_read(sqe, fd, buf, bs, offset());
	}
	if (io_uring_submit_and_wait(&ring, DEPTH) != DEPTH)
		errx(1, "io_uring_submit_and_wait");
	for (i = 0; i < DEPTH; i++) {
		if (io_uring_wait_cqe(&ring, &cqe))
			errx(1, "io_uring_wait_cqe");
		check(cqe->res);
		io_uring_cqe_seen(&ring, cqe);
	}
}

int main(int argc, char **argv)
{
	unsigned long visits = 4, reads, i;
	enum engine engine = PSYNC;
	double iops[QUARTERS];
	bool huge = false;
	uint64_t ns, all;
	int c, q;

	while ((c = getopt(argc, argv, "b:m:e:v:H")) != -1) {
		switch (c) {
		case 'b':
			bs = strtoul(optarg, NULL, 0);
			break;
		case 'm':
			size = strtoul(optarg, NULL, 0) << 20;
			break;
		case 'v':
			visits = strtoul(optarg, NULL, 0);
			break;
		case 'H':
			huge = true;
			break;
		case 'e':
			for (engine = 0; engine < ENGINES; engine++)
				if (!strcmp(optarg, names[engine]))
					break;
			break;
		default:
			usage();
		}
	}
	if (optind != argc - 1 || engine == ENGINES || bs < SECTOR || bs & (bs - 1) ||
	    bs > HUGE || size < HUGE || !visits)
		usage();
	fd = open(argv[optind], O_RDONLY | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[optind]);
	fill(huge);
	set_up(engine);

	reads = visits * (size / bs) / QUARTERS / DEPTH * DEPTH;
	all = now_ns();
	for (q = 0; q < QUARTERS; q++) {
		ns = now_ns();
		for (i = 0; i < reads; i += engine == PSYNC ? 1 : DEPTH) {
			if (engine == PSYNC)
				read_one();
			else if (engine == AIO)
				read_aio();
			else
				read_uring(engine == REGISTERED);
		}
		iops[q] = reads * 1e9 / (now_ns() - ns);
	}
	all = now_ns() - all;
	printf("{\"ios\": %lu, \"runtime_ms\": %.3f, \"iops\": %.1f, \"iops_cold\": %.1f, \"quarters\": [%.1f, %.1f, %.1f, %.1f]}\n",
	       QUARTERS * reads, all / 1e6, iops[3], iops[0], iops[0], iops[1], iops[2],
	       iops[3]);
	return 0;
}
