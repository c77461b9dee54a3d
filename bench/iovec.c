// SPDX-License-Identifier: GPL-2.0
/*
 * Vectored O_DIRECT reads and writes at random offsets: one call after the
 * other, each with pieces of one or of several mappings. Prints one line of
 * JSON.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE	4096

static void usage(void)
{
	fprintf(stderr,
		"usage: iovec [-w] [-s SIZE] [-n CALLS] [-p PIECES] [-l LENGTH] [-m MAPPINGS] FILE\n"
		"  -w  write instead of read\n"
		"  -s  use the first SIZE MiB of FILE (1024)\n"
		"  -n  number of calls (10000)\n"
		"  -p  pieces per call (16)\n"
		"  -l  bytes per piece, a multiple of the page size (4096)\n"
		"  -m  mappings the pieces are spread over (1)\n");
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static uint64_t random_next(uint64_t *state)
{
	/* xorshift64: the same offsets in every run */
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Between two inaccessible pages, so that no two mappings become one */
static char *map_apart(size_t len)
{
	char *p;

	p = mmap(NULL, len + 2 * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	if (mprotect(p, PAGE, PROT_NONE) ||
	    mprotect(p + PAGE + len, PAGE, PROT_NONE))
		err(1, "mprotect");
	memset(p + PAGE, 0x5a, len);
	return p + PAGE;
}

int main(int argc, char **argv)
{
	unsigned long size_mb = 1024, calls = 10000, length = PAGE;
	unsigned long pieces = 16, mappings = 1, per_map, blocks, i;
	uint64_t state = 88172645463325252ULL, start, ns;
	struct iovec iov[IOV_MAX];
	bool write = false;
	size_t total;
	int fd, c;

	while ((c = getopt(argc, argv, "ws:n:p:l:m:")) != -1) {
		switch (c) {
		case 'w':
			write = true;
			break;
		case 's':
			size_mb = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			calls = strtoul(optarg, NULL, 0);
			break;
		case 'p':
			pieces = strtoul(optarg, NULL, 0);
			break;
		case 'l':
			length = strtoul(optarg, NULL, 0);
			break;
		case 'm':
			mappings = strtoul(optarg, NULL, 0);
			break;
		default:
			usage();
		}
	}
	total = pieces * length;
	if (optind != argc - 1 || !pieces || pieces > IOV_MAX || !mappings ||
	    mappings > pieces || !length || length % PAGE || !calls ||
	    size_mb << 20 < total)
		usage();
	blocks = (size_mb << 20) / total;

	fd = open(argv[optind], O_RDWR | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[optind]);

	/* Every other piece of a mapping, or they would be adjacent */
	per_map = (pieces + mappings - 1) / mappings;
	for (i = 0; i < pieces; i++) {
		static char *map;

		if (i % per_map == 0)
			map = map_apart(2 * per_map * length);
		iov[i].iov_base = map + 2 * (i % per_map) * length;
		iov[i].iov_len = length;
	}

	start = now_ns();
	for (i = 0; i < calls; i++) {
		off_t pos = random_next(&state) % blocks * total;
		ssize_t ret = write ? pwritev(fd, iov, pieces, pos) :
				      preadv(fd, iov, pieces, pos);

		if (ret < 0)
			err(1, "%s", argv[optind]);
		if ((size_t)ret != total)
			errx(1, "%s: short I/O of %zd bytes", argv[optind], ret);
	}
	ns = now_ns() - start;

	printf("{\"ios\": %lu, \"runtime_ms\": %.3f, \"iops\": %.1f}\n",
	       calls, ns / 1e6, calls * 1e9 / ns);
	return 0;
}
