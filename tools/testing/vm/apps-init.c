// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of the guest in the guest: see apps. A process for each disk writes blocks,
 * reads others, and compares. When a line comes from the console they read all blocks,
 * and say what they found.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK		16384
#define BLOCKS		512
#define SECTOR		512

static uint32_t generation[BLOCKS];
static char *buf, *want;
static int *stop;

static void fill(int disk, int block)
{
	uint64_t *word = (uint64_t *)want;
	size_t i;

	for (i = 0; i < BLOCK / sizeof(*word); i += 2) {
		word[i] = (uint64_t)generation[block] << 32 | block << 8 | disk;
		word[i + 1] = i * sizeof(*word) / SECTOR;
	}
}

static int io(int fd, int disk, int block, int writes)
{
	off_t at = (off_t)block * BLOCK;

	if (writes) {
		generation[block]++;
		fill(disk, block);
		memcpy(buf, want, BLOCK);
		return pwrite(fd, buf, BLOCK, at) != BLOCK;
	}
	if (!generation[block])
		return 0;
	fill(disk, block);
	memset(buf, 0xff, BLOCK);
	return pread(fd, buf, BLOCK, at) != BLOCK || memcmp(buf, want, BLOCK);
}

static int run(int disk)
{
	char name[] = "/dev/vdb";
	uint64_t writes = 0, reads = 0, wrong = 0, sum = 0;
	time_t start = time(NULL), say = start;
	int fd, i;

	name[7] += disk;
	fd = open(name, O_RDWR | O_DIRECT);
	if (fd < 0 || posix_memalign((void **)&buf, 4096, BLOCK) ||
	    posix_memalign((void **)&want, 4096, BLOCK)) {
		printf("apps-init: cannot use %s: %m\n", name);
		return 1;
	}
	srand(disk + 1);
	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		int w = rand() % 2;

		wrong += io(fd, disk, rand() % BLOCKS, w);
		writes += w;
		reads += !w;
		if (!disk && time(NULL) >= say) {
			printf("apps-init: %llu\n", (unsigned long long)(writes + reads));
			say = time(NULL) + 2;
		}
	}
	say = time(NULL) - start;
	for (i = 0; i < BLOCKS; i++) {
		wrong += io(fd, disk, i, 0);
		sum += generation[i];
	}
	wrong += !!fsync(fd);
	printf("apps-init: disk %d: %llu I/Os in %ld s, %llu wrong, sum %llu\n", disk,
	       (unsigned long long)(writes + reads), (long)say,
	       (unsigned long long)wrong, (unsigned long long)sum);
	return !!wrong;
}

int main(int argc, char **argv)
{
	int disks = argc > 1 ? atoi(argv[1]) : 0;
	int i, status, bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	mount("none", "/dev", "devtmpfs", 0, NULL);
	stop = mmap(NULL, sizeof(*stop), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
	for (i = 0; i < disks; i++)
		if (!fork())
			_exit(run(i));
	getchar();
	__atomic_store_n(stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < disks; i++)
		bad |= wait(&status) < 0 || status;
	printf("apps-init: end, %s\n", bad ? "bad" : "good");
	sync();
	sleep(1);
	reboot(RB_AUTOBOOT);
	return 1;
}
