// SPDX-License-Identifier: GPL-2.0
/*
 * The matrix: what memory management wants of a page, against the ways in which
 * direct I/O holds on to it. Each cell is a test. It does one operation to a
 * buffer with one kind of I/O and tells whether the operation
 *
 *	ok		succeeds at once
 *	ok after	succeeds after a wait, or after further tries
 *	refused		says that it could not, or leaves the pages as they are
 *	fails		fails otherwise
 *	corrupts	harms the data, be it in memory, on the disk, or of others
 *
 * and prints that as a line for matrix.py:
 *
 *	# matrix|OPERATION|I/O|MODE|RESULT|TIME us|DETAIL
 *
 * The I/O: "none", for comparison; a read of the buffer by a thread, or by AIO,
 * that will be in flight for some 50 ms when the operation begins; a registered
 * buffer that is idle; one that is busy all the time, where half of the buffer is
 * in flight at any moment, and each part of it half of the time. Operations that
 * are done by daemons in their own time (KSM, NUMA balancing) have I/O that goes
 * on all the time in each of the columns.
 *
 * An operation is tried up to five times in a row, as a user would. With a busy
 * registered buffer, reclaim and compaction for an allocation, which never wait
 * for I/O, are tried for up to two seconds. What they could not do in the other
 * columns has to succeed when the I/O has ended. A cell that does not succeed all
 * the same is done anew, up to four times, and says so; one with wrong data is not.
 *
 * Without pins everything has to succeed, except for those who never wait; and
 * those who would gain nothing by a wait for I/O (munmap, fork and the like) must
 * not wait. With pins nothing may corrupt data, except for what is known: a device
 * goes on writing to memory that has been write-protected (mprotect, userfaultfd).
 * That is "ok", and told as "written after" in the detail; without pins it is
 * "corrupts". The same holds for writes that soft-dirty tracking misses.
 */
#include <glob.h>
#include <limits.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "nopin_util.h"
#include "kselftest_harness.h"

#define HPAGE		(2 * MB)
#define HPAGE_PAGES	(HPAGE / PAGE)
#define LEN		(128 * KB)
#define NR_PAGES	(LEN / PAGE)
#define NR_PIECES	4
#define PIECE		(LEN / NR_PIECES)
#define NR_HUGE		4	/* huge pages that an allocation is to get */

#define HEAD_MS		50
#define LEAST_MS	15	/* in flight when the operation begins */
#define MOST_MS		95
#define TRIES		5
#define BUSY_MS		2000
#define DAEMON_MS	1500	/* without progress */
#define NUMA_MS		4000
#define MOST		(NR_PAGES * 3 / 4)

/* The disks: the same patterns in one piece and in pieces with gaps; and writes */
#define SEED_OLD	1UL
#define SEED_NEW	2UL
#define SEED_NEXT	3UL
#define POS_WHOLE(seed)	((off_t)((seed) * MB))
#define POS_PIECES	((off_t)(8 * MB))
#define POS_PIECE(seed, i)	(POS_PIECES + POS_WHOLE(seed) + POS_GAP(i))
#define POS_GAP(i)	((off_t)(2 * (i) * PIECE))
#define POS_OUT		((off_t)(16 * MB))

#define NODE_PATH	"/sys/devices/system/node/node%d/"
#define HUGE_FILE	"hugepages/hugepages-2048kB/nr_hugepages"
#define MEMORY_PATH	"/sys/devices/system/memory/memory%d/state"
#define SCHED_NUMA	"/sys/kernel/debug/sched/numa_balancing/"
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"
#define PRINTK		"/proc/sys/kernel/printk"

/* Most kernel memory of this task comes from the other node */
#define SCATTER_NODE	0
#define SCATTER_CPU	1
#define SCATTER_SPARE	24

enum column { COL_NONE, COL_PSYNC, COL_AIO, COL_IDLE, COL_BUSY, NR_COLUMNS };

static const char *const column_name[NR_COLUMNS] = {
	[COL_NONE]	= "none",
	[COL_PSYNC]	= "O_DIRECT in flight",
	[COL_AIO]	= "AIO in flight",
	[COL_IDLE]	= "registered idle",
	[COL_BUSY]	= "registered busy",
};

enum result { RES_OK, RES_OK_AFTER, RES_REFUSED, RES_FAILS, RES_CORRUPTS };

static const char *const result_name[] = {
	[RES_OK]	= "ok",
	[RES_OK_AFTER]	= "ok after",
	[RES_REFUSED]	= "refused",
	[RES_FAILS]	= "fails",
	[RES_CORRUPTS]	= "corrupts",
};

/* Where the pages of the buffer are */
enum place {
	PLACE_ANY,
	PLACE_SCATTERED,	/* each in a block of 2 MiB of its own */
	PLACE_CMA,
	PLACE_MOVABLE,		/* in a block of memory that can go offline */
	PLACE_THP
};

#define NEVER_WAITS	0x01	/* reclaim, compaction for an allocation */
#define GONE		0x02	/* the memory is given away */
#define MOVED		0x04	/* it has another address */
#define PROTECTS	0x08	/* no more writes to it, until undone */
#define LAST_LOST	0x10	/* the last page is out of service */
#define DAEMON		0x20	/* I/O goes on until it is done */
#define WRITES		0x40	/* the device reads the memory */
#define CHILD		0x80	/* the process itself ends */
#define AT_ONCE		0x100	/* a wait for the I/O would buy nothing */
#define WHOLE		0x200	/* done to all of the mapping */
#define LAST		0x400	/* done to the last page, cell.extra */

struct cell;

struct row {
	const char *name;
	enum place place;
	/* 0, 1 if the machine lacks something (cell.why), or -errno */
	int (*prep)(struct cell *c);
	/* One try: 0 for success, 1 if refused (cell.why), or -errno */
	int (*run)(struct cell *c);
	/* Or an operation of the table, and the same about what has come of it */
	enum op_id op;
	int (*judge)(struct cell *c);
	void (*undo)(struct cell *c);
	unsigned int flags;
};

/* The I/O of a cell, done by a thread */
struct flow {
	struct cell *c;
	pthread_t thread;
	bool threaded;
	struct ioq q;
	bool queue;		/* q is to be used */
	bool repeat;
	int started;
	int stop;
	unsigned int done;
	unsigned int errors;	/* EFAULT, where that is in order */
	long err;		/* any other one, or a short transfer */
	uint64_t end;		/* when the last one ended, in us */
	uint64_t seed[NR_PIECES];	/* what memory holds */
	ssize_t bad;		/* offset of a wrong byte, or -1 */
	int copy_fd;
	char copy[LEN];
};

struct cell {
	const struct row *row;
	enum column col;
	bool nopin;
	struct slow slow;
	struct target raw;
	struct mem m;
	char *buf;		/* where it is now */
	struct flow flow;
	struct grab grab;
	struct ioq ring;	/* of the registered buffer */
	struct ioq soak;	/* holds memory that is not to move */
	uint64_t pfn[NR_PAGES];	/* when the operation begins */
	bool out[NR_PAGES];	/* has been swapped out */
	char *extra;		/* second mapping of an operation */
	size_t extra_len;
	char *snapshot;
	int node, to, uffd, saved;
	uint64_t start;
	bool early;		/* the I/O was over, or nearly, when it began */
	bool late;		/* or took too long, */
	bool outlasted;		/* or was over when the operation was done */
	bool checks;		/* the operation has found wrong data */
	bool written_after;
	uint64_t us;
	unsigned int tries;
	/* Counted by the kernel meanwhile: waits, pages pinned on behalf of I/O */
	unsigned long waits, behalf;
	char why[160];
};

enum {
	ROW_COMPACT, ROW_THP, ROW_HUGETLB, ROW_NUMA, ROW_MOVE_PAGES, ROW_MBIND, ROW_CMA,
	ROW_OFFLINE, ROW_RECLAIM, ROW_PAGEOUT, ROW_KSM, ROW_COLLAPSE, ROW_SPLIT,
	ROW_SOFT_DIRTY, ROW_UFFD, ROW_MPROTECT, ROW_MREMAP, ROW_MUNMAP, ROW_DONTNEED,
	ROW_FORK, ROW_SOFT_OFFLINE, ROW_HWPOISON, ROW_KILL, ROW_OOM, NR_ROWS
};

/* What has to be put right whatever happens to a test: shared with its parents */
struct machine {
	bool filled;
	uint64_t base[NR_ROWS];	/* how long an operation takes without I/O, */
	unsigned int tries[NR_ROWS];	/* and how many tries */
	int huge[2];		/* the pool of a node, or -1 */
	unsigned long cma_taken;
	int block;		/* that is in ZONE_MOVABLE, or -1 */
	bool ksm;
	struct cgroup cgroup;
};

static struct machine *machine;

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000;
}

#define because(c, fmt, ...)						\
	snprintf((c)->why, sizeof((c)->why), fmt, ##__VA_ARGS__)

/* ---- pages ---- */

#define KPF_COMPOUND_HEAD	15
#define KPF_COMPOUND_TAIL	16
#define KPF_THP			22

static bool has_bit(uint64_t val, unsigned int bit)
{
	return val >> bit & 1;
}

/* 0 if the page is not present */
static uint64_t pfn_of(const void *p)
{
	uint64_t e;

	if (pagemap_read(p, &e, 1) || !has_bit(e, PM_PRESENT))
		return 0;
	return PM_PFN(e);
}

static uint64_t page_flags(uint64_t pfn)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &flags, 8, pfn * 8) != 8)
		flags = 0;
	close(fd);
	return flags;
}

/* How many pages are elsewhere than they were? */
static unsigned int pages_moved(struct cell *c)
{
	unsigned int moved = 0;

	for (size_t i = 0; i < NR_PAGES; i++) {
		uint64_t pfn = pfn_of(c->buf + i * PAGE);

		moved += pfn && pfn != c->pfn[i];
	}
	return moved;
}

static int prefer_node(int node)
{
	unsigned long mask = 1UL << node;

	if (node < 0)
		return syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0UL);
	return syscall(SYS_set_mempolicy, MPOL_PREFERRED, &mask, 64UL);
}

static long bind_node(void *p, size_t len, int node, unsigned int flags)
{
	unsigned long mask = 1UL << node;

	return syscall(SYS_mbind, p, len, MPOL_BIND, &mask, 64UL, flags);
}

/* Free pages of a node: in blocks of 2 MiB and larger ones, and in smaller ones */
static int node_free(int node, unsigned long *blocks, unsigned long *small)
{
	FILE *f = fopen("/proc/buddyinfo", "r");
	char line[512], *p, *end;

	*blocks = 0;
	*small = 0;
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (strtol(line + 5, NULL, 10) != node)
			continue;
		p = strstr(line, "zone");
		if (!p)
			continue;
		p += strcspn(p, " ");
		p += strspn(p, " ");
		p += strcspn(p, " ");
		for (int order = 0; ; order++, p = end) {
			unsigned long nr = strtoul(p, &end, 10);

			if (end == p)
				break;
			if (order < 9)
				*small += nr << order;
			else
				*blocks += nr << (order - 9);
		}
	}
	fclose(f);
	return 0;
}

/* Take so many blocks of 2 MiB of a node out of the way */
static int hog(int node, long nr)
{
	char path[128];
	long now;

	snprintf(path, sizeof(path), NODE_PATH HUGE_FILE, node);
	now = sysfs_get(path);
	if (now < 0)
		return -ENOENT;
	if (machine->huge[node] < 0)
		machine->huge[node] = now;
	return sysfs_put(path, now + nr);
}

static void unhog(int node)
{
	char path[128];

	if (machine->huge[node] < 0)
		return;
	snprintf(path, sizeof(path), NODE_PATH HUGE_FILE, node);
	sysfs_put(path, machine->huge[node]);
	machine->huge[node] = -1;
}

/* ---- the machine ---- */

static const char *cma_file(const char *file)
{
	static char path[PATH_MAX];
	glob_t g;

	path[0] = '\0';
	if (!glob("/sys/kernel/debug/cma/*", 0, NULL, &g)) {
		snprintf(path, sizeof(path), "%s/%s", g.gl_pathv[0], file);
		globfree(&g);
	}
	return path;
}

static int block_state(int block, const char *state)
{
	char path[128];

	snprintf(path, sizeof(path), MEMORY_PATH, block);
	return sysfs_write(path, state);
}

static bool block_is_online(int block)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), MEMORY_PATH, block);
	return !sysfs_read(path, buf, sizeof(buf)) && !strncmp(buf, "online", 6);
}

static void ksm_put(const char *file, long val)
{
	char path[128];

	snprintf(path, sizeof(path), KSM "%s", file);
	sysfs_put(path, val);
}

static void machine_restore(void)
{
	unhog(0);
	unhog(1);
	if (machine->cma_taken) {
		sysfs_put(cma_file("free"), machine->cma_taken);
		machine->cma_taken = 0;
	}
	if (machine->block >= 0) {
		for (int i = 0; i < TRIES && block_is_online(machine->block); i++)
			block_state(machine->block, "offline");
		if (block_state(machine->block, "online_kernel"))
			note("memory%d stays as it is", machine->block);
		machine->block = -1;
	}
	if (machine->ksm) {
		ksm_put("run", 2);
		ksm_put("run", 0);
		machine->ksm = false;
	}
	sysfs_write(NUMA_SWITCH, "0");
	cgroup_remove(&machine->cgroup);
	machine->cgroup.dir[0] = '\0';
}

static int cgroup_enter(struct cell *c)
{
	int ret = cgroup_make(&machine->cgroup, "memory");

	if (ret == -ENOENT) {
		because(c, "no cgroup v2");
		return 1;
	}
	return ret ?: cgroup_put(&machine->cgroup, "cgroup.procs", "0");
}

/* ---- where the pages are ---- */

static void touch(char *p, size_t nr)
{
	/* Not all kernels know this */
	if (!madvise(p, nr * PAGE, MADV_POPULATE_WRITE))
		return;
	for (size_t i = 0; i < nr; i++)
		p[i * PAGE] = 1;
}

/* Pin them, whatever the mode */
static int hold_pages(struct ioq *q, void *p, size_t len)
{
	struct iovec iov = { p, len };

	return ring_buffers_flags(&q->ring, &iov, 1, 0);
}

/* How many there are. Where there are page tables no huge page is tried. */
static int huge_get(char *p, int nr)
{
	size_t len = nr * HPAGE;
	int got = 0;

	munmap(p, len);
	if (mmap(p, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    madvise(p, len, MADV_HUGEPAGE) || bind_node(p, len, SCATTER_NODE, 0))
		return -errno;
	for (int i = 0; i < nr; i++) {
		touch(p + i * HPAGE, 1);
		got += has_bit(page_flags(pfn_of(p + i * HPAGE)), KPF_THP);
	}
	return got;
}

/*
 * After a failure, perhaps of an earlier cell, compaction for an allocation makes a
 * pause for up to 64 attempts. It forgets that when it succeeds. What it moves are
 * pages of the buffer, so this shows as well that it does that.
 */
static int compact_once(struct cell *c)
{
	char *p = space_get(HPAGE, HPAGE);

	for (int i = 0; i < 300; i++) {
		bool got = huge_get(p, 1) == 1;

		munmap(p, HPAGE);
		if (got)
			return 0;
	}
	because(c, "there is no huge page without any I/O");
	return -ENOMEM;
}

/*
 * Take all blocks of a node out of the way but for some, and have these all over
 * the node: after many failures compaction begins again where it finds a page to
 * move in the lower half of the zone and room for it in the upper half, or never.
 */
static int hog_most(int node, unsigned long blocks, size_t leave)
{
	char *p = mmap(NULL, leave * HPAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE |
		       21 << MAP_HUGE_SHIFT, -1, 0);
	int ret;

	if (p == MAP_FAILED || bind_node(p, leave * HPAGE, node, 0))
		return -errno;
	/* A page comes from those that the pool has got last */
	for (size_t i = 0; i < leave; i++) {
		ret = hog(node, blocks / leave);
		if (ret)
			return ret;
		touch(p + i * HPAGE, 1);
	}
	ret = hog(node, blocks % leave);
	munmap(p, leave * HPAGE);
	return ret ?: hog(node, -(long)leave);
}

/*
 * Where it left off compaction looks at one page of eight only, and it would miss
 * a page that is alone: use up pages until the next one is likely to be seen.
 */
static void touch_aligned(char *p, size_t nr)
{
	uint64_t pfn, last = 0;

	for (size_t i = 0; i < nr; i++, last = pfn) {
		touch(p + i * PAGE, 1);
		pfn = pfn_of(p + i * PAGE);
		/* In order, upwards or downwards */
		if ((pfn == last + 1 || pfn + 1 == last) && !((2 * pfn - last) % 8))
			return;
	}
}

/*
 * Each page of the buffer in a block of 2 MiB of its own that is free otherwise,
 * and no other free blocks: what memory looks like when it is fragmented. Pages
 * of the buffer have to move if anybody is to get a huge page.
 */
static int place_scattered(struct cell *c)
{
	unsigned long blocks, small;
	size_t seen = 0;
	char path[64];
	char *soak, *fill;
	int ret;

	pin_to_cpu(SCATTER_CPU);
	sysfs_write("/proc/sys/vm/drop_caches", "1");
	snprintf(path, sizeof(path), NODE_PATH "compact", SCATTER_NODE);
	sysfs_write(path, "1");
	ret = node_free(SCATTER_NODE, &blocks, &small);
	if (ret)
		return ret;
	if (blocks < 2 * NR_PAGES) {
		because(c, "too little memory");
		return 1;
	}
	/* Some more, or kswapd takes the pages */
	ret = hog_most(SCATTER_NODE, blocks, NR_PAGES + SCATTER_SPARE);
	ret = ret ?: node_free(SCATTER_NODE, &blocks, &small);
	if (ret)
		return ret;

	/* First what is in smaller pieces, so that blocks are split one by one */
	soak = anon_map(small * PAGE);
	fill = anon_map((NR_PAGES + 1) * HPAGE);
	if (soak == MAP_FAILED || fill == MAP_FAILED)
		return -errno;
	prefer_node(SCATTER_NODE);
	touch(soak, small);
	/* These are to stay: they could move into the room around the buffer */
	ret = ioq_init(&c->soak, ENG_URING, 1) ?:
	      hold_pages(&c->soak, soak, small * PAGE);
	if (ret)
		return ret;
	touch_aligned(fill + NR_PAGES * HPAGE, HPAGE_PAGES);
	for (size_t i = 0; i < NR_PAGES; i++) {
		touch(c->buf + i * PAGE, 1);
		touch(fill + i * HPAGE, HPAGE_PAGES - 1);
	}
	prefer_node(-1);

	for (size_t i = 0; i < NR_PAGES; i++) {
		bool other = true;

		for (size_t j = 0; j < i && other; j++)
			other = pfn_of(c->buf + i * PAGE) / HPAGE_PAGES !=
				pfn_of(c->buf + j * PAGE) / HPAGE_PAGES;
		seen += other;
	}
	munmap(fill, (NR_PAGES - 1) * HPAGE);
	node_free(SCATTER_NODE, &blocks, &small);
	if (blocks)
		hog(SCATTER_NODE, blocks);
	if (seen < MOST) {
		because(c, "only %zu blocks", seen);
		return -ENOSPC;
	}
	return c->row->flags & NEVER_WAITS ? compact_once(c) : 0;
}

/* Movable memory comes from the CMA area when there is little else on the node */
static int place_cma(struct cell *c)
{
	long base = sysfs_get(cma_file("base_pfn"));
	long count = sysfs_get(cma_file("count"));
	unsigned long blocks, small;
	unsigned int inside = 0;
	long chunk, spare;
	int node, ret;

	if (base < 0 || count < 4096) {
		because(c, "no CMA area of 16 MiB (cma=64M)");
		return 1;
	}
	pin_to_cpu(0);
	for (node = 0; node < 2; node++) {
		char path[128];

		snprintf(path, sizeof(path), NODE_PATH "memory%ld", node,
			 base / (128 * MB / PAGE));
		if (!access(path, F_OK))
			break;
	}
	if (node == 2) {
		because(c, "no NUMA node has the CMA area");
		return 1;
	}
	/* Leave less than that of other memory */
	chunk = sysfs_get(cma_file("maxchunk"));
	ret = sysfs_put(cma_file("alloc"), chunk);
	ret = ret ?: node_free(node, &blocks, &small);
	spare = chunk * 3 / 4 - (long)small;
	ret = ret ?: hog(node, blocks - spare / (long)HPAGE_PAGES);
	ret = ret ?: sysfs_put(cma_file("free"), chunk);
	prefer_node(node);
	touch(c->buf, NR_PAGES);
	prefer_node(-1);
	for (size_t i = 0; i < NR_PAGES; i++) {
		long pfn = pfn_of(c->buf + i * PAGE);

		inside += pfn >= base && pfn < base + count;
	}
	unhog(node);
	if (!ret && inside < NR_PAGES) {
		because(c, "%u of %zu pages in the CMA area", inside, NR_PAGES);
		return -ENOSPC;
	}
	return ret;
}

/* Make a block of memory movable, and have the pages there */
static int place_movable(struct cell *c)
{
	uint64_t first, per_block = 128 * MB / PAGE;
	char path[128], buf[32], printk[64] = "7";
	unsigned int inside = 0;
	int last = -1;

	if (!sysfs_read("/sys/devices/system/memory/block_size_bytes", buf,
			sizeof(buf)))
		per_block = strtoul(buf, NULL, 16) / PAGE;
	for (int b = 0; b < 512; b++) {
		snprintf(path, sizeof(path), NODE_PATH "memory%d", 1, b);
		if (!access(path, F_OK))
			last = b;
	}
	/* Where one cannot, the kernel prints a lot */
	sysfs_read(PRINTK, printk, sizeof(printk));
	sysfs_write(PRINTK, "1");
	for (int b = last; b > last - 12 && machine->block < 0; b--) {
		if (b < 0 || block_state(b, "offline"))
			continue;
		if (block_state(b, "online_movable"))
			block_state(b, "online");
		else
			machine->block = b;
	}
	sysfs_write(PRINTK, printk);
	if (machine->block < 0) {
		because(c, "no block of memory goes offline");
		return 1;
	}
	pin_to_cpu(0);
	prefer_node(1);
	touch(c->buf, NR_PAGES);
	prefer_node(-1);
	first = machine->block * per_block;
	for (size_t i = 0; i < NR_PAGES; i++) {
		uint64_t pfn = pfn_of(c->buf + i * PAGE);

		inside += pfn >= first && pfn < first + per_block;
	}
	if (inside == NR_PAGES)
		return 0;
	because(c, "%u of %zu pages in the block", inside, NR_PAGES);
	return -ENOSPC;
}

static int place(struct cell *c)
{
	pin_to_cpu(0);
	if (c->row->place == PLACE_THP) {
		int ret = mem_get(&c->m, MEM_THP, HPAGE);

		c->buf = c->m.p;
		return ret;
	}
	/* An aligned block of addresses, with nothing in it yet */
	c->buf = space_get(HPAGE, HPAGE);
	if (mmap(c->buf, HPAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;

	switch (c->row->place) {
	case PLACE_SCATTERED:
		return place_scattered(c);
	case PLACE_CMA:
		return place_cma(c);
	case PLACE_MOVABLE:
		return place_movable(c);
	default:
		touch(c->buf, NR_PAGES);
		return 0;
	}
}

/* ---- the I/O ---- */

/* How much of a piece can be relied on */
static size_t piece_len(struct cell *c, int i)
{
	return c->row->flags & LAST_LOST && i == NR_PIECES - 1 ? PIECE - PAGE : PIECE;
}

/*
 * Look at memory in a way that does no harm if there is none any more, and that
 * takes no reference to a page.
 */
static void flow_check(struct flow *f, int i)
{
	size_t len = piece_len(f->c, i);
	ssize_t bad;

	if (f->c->row->flags & (GONE | WRITES | CHILD))
		return;
	if (pwrite(f->copy_fd, f->c->buf + i * PIECE, len, 0) != (ssize_t)len ||
	    pread(f->copy_fd, f->copy, len, 0) != (ssize_t)len)
		return;
	bad = pat_check(f->copy, len, f->seed[i], i * PIECE);
	if (bad >= 0 && f->bad < 0)
		f->bad = i * PIECE + bad;
}

static void flow_ended(struct flow *f, int i, uint64_t seed, long res)
{
	bool may_fail = f->c->nopin &&
			f->c->row->flags & (GONE | MOVED | PROTECTS | LAST_LOST);

	f->end = now_us();
	/* A page that is out of service makes a transfer short */
	if (may_fail && res == (long)piece_len(f->c, i))
		res = PIECE;
	if (res == (long)PIECE) {
		f->seed[i] = seed;
		flow_check(f, i);
		__atomic_add_fetch(&f->done, 1, __ATOMIC_RELEASE);
	} else if (res == -EFAULT && f->repeat && may_fail) {
		f->errors++;
		usleep(1000);
	} else if (!f->err) {
		f->err = res ?: -EIO;
	}
}

static bool flow_goes_on(struct flow *f)
{
	return f->repeat && !f->err &&
	       !__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE);
}

static void flow_sync(struct flow *f, char *buf, bool write)
{
	uint64_t seed = SEED_NEW;
	int fd = f->c->slow.t.fd;
	long res;

	__atomic_store_n(&f->started, 1, __ATOMIC_RELEASE);
	do {
		res = write ? pwrite(fd, buf, LEN, POS_OUT) :
			      pread(fd, buf, LEN, POS_WHOLE(seed));
		if (res < 0)
			res = -errno;
		for (int i = 0; i < NR_PIECES; i++)
			flow_ended(f, i, write ? SEED_OLD : seed,
				   res == (long)LEN ? (long)PIECE : res);
		seed = seed == SEED_NEW ? SEED_NEXT : SEED_NEW;
	} while (flow_goes_on(f));
}

static int flow_next(struct flow *f, char *buf, bool write, unsigned int i,
		     uint64_t seed)
{
	return ioq_start(&f->q, i, f->c->slow.t.fd, write, buf + i * PIECE, PIECE,
			 write ? POS_OUT + POS_GAP(i) : POS_PIECE(seed, i));
}

static void flow_async(struct flow *f, char *buf, bool write)
{
	unsigned int next = f->repeat ? NR_PIECES / 2 : NR_PIECES;
	uint64_t seed[NR_PIECES];
	bool busy[NR_PIECES] = { 0 };
	long res[NR_PIECES];

	for (unsigned int i = 0; i < next && !f->err; i++) {
		seed[i] = SEED_NEW;
		busy[i] = true;
		f->err = flow_next(f, buf, write, i, seed[i]);
	}
	for (int i = next; i < NR_PIECES; i++)
		seed[i] = SEED_NEXT;
	__atomic_store_n(&f->started, 1, __ATOMIC_RELEASE);
	while (f->q.inflight) {
		for (int i = 0; i < NR_PIECES; i++)
			res[i] = LONG_MIN;
		if (ioq_reap(&f->q, 1, res) < 0) {
			f->err = -EIO;
			return;
		}
		for (unsigned int i = 0; i < NR_PIECES; i++) {
			if (res[i] == LONG_MIN)
				continue;
			busy[i] = false;
			flow_ended(f, i, write ? SEED_OLD : seed[i], res[i]);
		}
		while (f->q.inflight < NR_PIECES / 2 && flow_goes_on(f)) {
			/* The one that has been idle for longest */
			unsigned int i = next++ % NR_PIECES;

			if (busy[i])
				continue;
			busy[i] = true;
			seed[i] = seed[i] == SEED_NEW ? SEED_NEXT : SEED_NEW;
			if (flow_next(f, buf, write, i, seed[i]))
				f->err = -EIO;
		}
	}
}

static void *flow_thread(void *arg)
{
	struct flow *f = arg;
	bool write = f->c->row->flags & WRITES;

	/* The address of the beginning, whatever happens to the memory */
	if (f->queue)
		flow_async(f, f->c->buf, write);
	else
		flow_sync(f, f->c->buf, write);
	return NULL;
}

static int flow_init(struct flow *f, struct cell *c)
{
	int ret = 0;

	f->c = c;
	f->bad = -1;
	f->copy_fd = memfd_create("copy", MFD_CLOEXEC);
	for (int i = 0; i < NR_PIECES; i++)
		f->seed[i] = SEED_OLD;
	f->repeat = c->col == COL_BUSY ||
		    (c->row->flags & DAEMON && c->col != COL_NONE &&
		     c->col != COL_IDLE);
	f->queue = c->col == COL_AIO || c->col == COL_BUSY;
	if (f->queue)
		ret = ioq_init_buffer(&f->q, c->col == COL_AIO ? ENG_AIO :
				      ENG_URING_FIXED, 2 * NR_PIECES, c->buf, LEN);
	if (f->copy_fd < 0)
		ret = -errno;
	return ret;
}

/* In flight on return */
static int flow_start(struct flow *f)
{
	int ret;

	if (!f->repeat) {
		ret = slow_prime(&f->c->slow, f->c->row->flags & WRITES, HEAD_MS);
		if (ret)
			return ret;
	}
	ret = -pthread_create(&f->thread, NULL, flow_thread, f);
	if (ret)
		return ret;
	f->threaded = true;
	while (!__atomic_load_n(&f->started, __ATOMIC_ACQUIRE))
		usleep(500);
	/* Into the system call, or until the throttle has set in */
	if (!f->repeat)
		usleep(f->queue ? 0 : 3000);
	else
		while (__atomic_load_n(&f->done, __ATOMIC_ACQUIRE) < 30 && !f->err)
			usleep(2000);
	return f->err;
}

static void flow_join(struct flow *f)
{
	__atomic_store_n(&f->stop, 1, __ATOMIC_RELEASE);
	if (f->threaded)
		pthread_join(f->thread, NULL);
	f->threaded = false;
}

/* Let a flow that goes on prove it */
static bool flow_alive(struct flow *f)
{
	unsigned int done = __atomic_load_n(&f->done, __ATOMIC_ACQUIRE);

	for (int i = 0; i < 1000 && !f->err; i++) {
		if (__atomic_load_n(&f->done, __ATOMIC_ACQUIRE) >= done + NR_PIECES + 2)
			return true;
		usleep(5000);
	}
	return false;
}

static void flow_exit(struct flow *f)
{
	flow_join(f);
	if (f->queue)
		ioq_exit(&f->q);
	if (f->copy_fd >= 0)
		close(f->copy_fd);
}

/* One transfer with the registered buffer while it is idle */
static long idle_rw(struct cell *c, bool write, off_t pos, size_t len)
{
	return ioq_rw(&c->ring, c->raw.fd, write, c->buf, len, pos);
}

static int idle_init(struct cell *c)
{
	int ret = ioq_init_buffer(&c->ring, ENG_URING_FIXED, 4, c->buf, LEN);

	/* So often that the kernel knows the pages */
	for (int i = 0; i < 12 && !ret; i++)
		if (idle_rw(c, false, POS_WHOLE(SEED_NEXT), LEN) != (long)LEN)
			ret = -EIO;
	if (!ret && pat_check(c->buf, LEN, SEED_NEXT, 0) >= 0)
		ret = -EILSEQ;
	pat_fill(c->buf, LEN, SEED_OLD, 0);
	return ret;
}

/* Without pins it is the address range that is registered, not the pages */
static bool range_lost(struct cell *c)
{
	return c->nopin && c->row->flags & (GONE | MOVED) && !c->row->undo;
}

/* As target_check(), of a pattern that begins at @pos */
static int disk_check(struct target *t, size_t len, uint64_t seed, off_t pos)
{
	char *copy = malloc(len);
	int ret = -EIO;

	if (copy && !target_read(t, copy, len, pos))
		ret = pat_check(copy, len, seed, 0) >= 0 ? -EILSEQ : 0;
	free(copy);
	return ret;
}

/* After the operation: the address range, or the pages, are still usable */
static int idle_check(struct cell *c)
{
	unsigned int flags = c->row->flags;
	size_t len = flags & LAST_LOST ? LEN - PAGE : LEN;
	bool lost = range_lost(c);
	char *at = c->buf;
	long res;

	if (!(flags & (GONE | MOVED | LAST_LOST)) &&
	    pat_check(c->buf, LEN, SEED_OLD, 0) >= 0) {
		because(c, "wrong data after it");
		return -EILSEQ;
	}
	if (flags & MOVED)
		c->buf = c->extra;	/* where it was */
	res = idle_rw(c, false, POS_WHOLE(SEED_NEW), len);
	if (lost) {
		c->buf = at;
		if (res != -EFAULT) {
			because(c, "fixed read of no memory: %ld", res);
			return -EIO;
		}
		if (!(flags & MOVED))
			return 0;
		ioq_exit(&c->ring);
		if (ioq_init_buffer(&c->ring, ENG_URING_FIXED, 4, c->buf, LEN))
			return -EIO;
		res = idle_rw(c, false, POS_WHOLE(SEED_NEW), len);
	}
	if (res != (long)len) {
		because(c, "fixed read: %ld", res);
		return -EIO;
	}
	/* Pinned pages that are not mapped any more show on the disk only */
	if (!(flags & GONE && !c->nopin) && pat_check(at, len, SEED_NEW, 0) >= 0) {
		because(c, "fixed read: wrong data");
		return -EILSEQ;
	}
	res = idle_rw(c, true, POS_OUT, len);
	if (res != (long)len) {
		because(c, "fixed write: %ld", res);
		return -EIO;
	}
	c->buf = at;
	return disk_check(&c->raw, len, SEED_NEW, POS_OUT);
}

/* ---- operations ---- */

/* An errno of somebody who may be asked again: he refuses */
static int refused(struct cell *c, int ret)
{
	if (ret < 0)
		because(c, "%s", strerror(-ret));
	return ret == -EAGAIN || ret == -EBUSY || ret == -EIO ? 1 : ret;
}

/* The operation on the buffer, or on all that is mapped around it, or on the last page */
static int run_op(struct cell *c, enum op_id op)
{
	struct area a = { c->buf, LEN, -1, .node = c->to, .uffd = c->uffd };
	int ret;

	if (c->row->flags & WHOLE)
		a.len = HPAGE;
	if (c->row->flags & LAST)
		a = (struct area) { c->extra, PAGE, -1 };
	ret = op_run(op, &a);
	if (ret < 0)
		return refused(c, ret);
	if (c->row->flags & MOVED) {
		c->extra = c->buf;
		c->buf = a.p;
	}
	return 0;
}

static int judge_moved(struct cell *c, unsigned int want)
{
	unsigned int moved = pages_moved(c);

	because(c, "%u of %zu pages moved", moved, NR_PAGES);
	return moved < want;
}

/* To the end of the zone, where some of them are already */
static int judge_compact(struct cell *c)
{
	return judge_moved(c, NR_PAGES / 2);
}

static int prep_thp(struct cell *c)
{
	c->extra_len = NR_HUGE * HPAGE;
	c->extra = space_get(c->extra_len, HPAGE);
	return 0;
}

static int run_thp(struct cell *c)
{
	int got;

	got = huge_get(c->extra, NR_HUGE);
	because(c, "%d of %d huge pages, %u of the buffer moved", got, NR_HUGE,
		pages_moved(c));
	return got < NR_HUGE;
}

static int prep_hugetlb(struct cell *c)
{
	char path[128];

	snprintf(path, sizeof(path), NODE_PATH HUGE_FILE, SCATTER_NODE);
	c->saved = sysfs_get(path);
	return 0;
}

static int run_hugetlb(struct cell *c)
{
	char path[128];
	int ret, got;

	snprintf(path, sizeof(path), NODE_PATH HUGE_FILE, SCATTER_NODE);
	ret = sysfs_put(path, c->saved + NR_HUGE);
	got = sysfs_get(path) - c->saved;
	because(c, "%d of %d huge pages, %u of the buffer moved", got, NR_HUGE,
		pages_moved(c));
	return ret ?: got < NR_HUGE;
}

static int prep_nodes(struct cell *c)
{
	c->node = mem_node(c->buf);
	c->to = !c->node;
	if (c->node < 0)
		return c->node;
	if (access("/sys/devices/system/node/node1", F_OK)) {
		because(c, "one NUMA node");
		return 1;
	}
	return 0;
}

static int judge_node(struct cell *c, unsigned int want)
{
	struct area a = { c->buf, LEN, -1 };
	int nr = pages_on_node(&a, c->to);

	because(c, "%d of %zu pages moved", nr, NR_PAGES);
	return nr < (int)want;
}

static int judge_all(struct cell *c)
{
	return judge_node(c, NR_PAGES);
}

static int run_mbind(struct cell *c)
{
	if (bind_node(c->buf, LEN, c->to, MPOL_MF_MOVE | MPOL_MF_STRICT) &&
	    errno != EIO)
		return -errno;
	return judge_node(c, NR_PAGES);
}

static int prep_numa(struct cell *c)
{
	int ret;

	if (access(NUMA_SWITCH, W_OK)) {
		because(c, "no NUMA balancing");
		return 1;
	}
	ret = prep_nodes(c);
	/* The thread that does the I/O as well */
	if (!ret)
		pin_to_cpu(c->to);
	return ret;
}

/* Work on the memory from the other node until it has followed */
static int run_numa(struct cell *c)
{
	uint64_t end = now_ms() + NUMA_MS;
	volatile char *p = c->buf;
	int ret = sysfs_write(NUMA_SWITCH, "1");

	while (!ret) {
		for (size_t i = 0; i < NR_PAGES; i++)
			(void)p[i * PAGE];
		if (!judge_node(c, MOST))
			break;
		/* No sleep: what counts is the time that the task runs */
		ret = now_ms() > end;
	}
	sysfs_write(NUMA_SWITCH, "0");
	return ret;
}

/* Is the page, by its number in the area, allocated from it? */
static bool cma_has(unsigned long page)
{
	static char bitmap[16 * KB];
	char *p = bitmap;

	page >>= sysfs_get(cma_file("order_per_bit"));
	if (sysfs_read(cma_file("bitmap"), bitmap, sizeof(bitmap)))
		return true;
	/* Numbers of 32 bits */
	for (unsigned long i = 0; i < page / 32; i++)
		strtoul(p, &p, 10);
	return strtoul(p, NULL, 10) >> page % 32 & 1;
}

static int run_cma(struct cell *c)
{
	long nr = sysfs_get(cma_file("maxchunk"));
	int ret = refused(c, sysfs_put(cma_file("alloc"), nr));

	if (ret)
		return ret == -ENOMEM ? 1 : ret;
	machine->cma_taken = nr;
	/* Not here any more. Some of the area may be somebody else's, and some free */
	for (size_t i = 0; i < NR_PAGES; i++) {
		uint64_t pfn = pfn_of(c->buf + i * PAGE);
		uint64_t base = sysfs_get(cma_file("base_pfn"));

		if (pfn >= base && pfn < base + sysfs_get(cma_file("count")) &&
		    cma_has(pfn - base)) {
			because(c, "page %zu is still in the area", i);
			return -EEXIST;
		}
	}
	because(c, "%ld pages, %u of the buffer moved", nr, pages_moved(c));
	return 0;
}

static void on_signal(int sig)
{
}

static int run_offline(struct cell *c)
{
	/* The kernel goes on until it succeeds or is told to stop */
	const struct itimerval bound = { .it_value.tv_sec = 3 }, none = { 0 };
	const struct sigaction sa = { .sa_handler = on_signal };
	char printk[64] = "7";
	int ret;

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &bound, NULL);
	/* Pages that it has to try again are printed */
	sysfs_read(PRINTK, printk, sizeof(printk));
	sysfs_write(PRINTK, "1");
	ret = block_state(machine->block, "offline");
	sysfs_write(PRINTK, printk);
	setitimer(ITIMER_REAL, &none, NULL);
	because(c, "%u of the buffer moved", pages_moved(c));
	return refused(c, ret == -EINTR ? -EAGAIN : ret);
}

static int judge_out(struct cell *c)
{
	uint64_t e[NR_PAGES];
	size_t nr = 0;
	int ret = pagemap_read(c->buf, e, NR_PAGES);

	for (size_t i = 0; i < NR_PAGES && !ret; i++) {
		c->out[i] |= has_bit(e[i], PM_SWAP);
		nr += c->out[i];
	}
	because(c, "%zu of %zu pages swapped out", nr, NR_PAGES);
	return ret ?: nr < NR_PAGES;
}

static int prep_swap(struct cell *c)
{
	if (!getenv("NOPIN_SWAP")) {
		because(c, "no swap");
		return 1;
	}
	return 0;
}

static int prep_reclaim(struct cell *c)
{
	/* Old enough for the first try */
	return run_op(c, OP_COLD) ?: prep_swap(c);
}

static int run_reclaim(struct cell *c)
{
	int ret = cgroup_put(&machine->cgroup, "memory.reclaim", "16M");

	/* There is less than that */
	return ret && ret != -EAGAIN ? ret : judge_out(c);
}

static int ksm_scans(int nr)
{
	long want = sysfs_get(KSM "full_scans") + nr;

	for (int i = 0; i < 1000; i++) {
		if (sysfs_get(KSM "full_scans") >= want)
			return 0;
		usleep(5000);
	}
	return -ETIME;
}

static int prep_ksm(struct cell *c)
{
	if (access(KSM "run", W_OK)) {
		because(c, "no KSM");
		return 1;
	}
	c->extra_len = LEN;
	c->extra = anon_map(LEN);
	if (c->extra == MAP_FAILED || madvise(c->buf, LEN, MADV_MERGEABLE))
		return -errno;
	pat_fill(c->extra, LEN, SEED_OLD, 0);
	machine->ksm = true;
	ksm_put("smart_scan", 0);
	ksm_put("sleep_millisecs", 5);
	ksm_put("pages_to_scan", 1000);
	ksm_put("run", 1);
	/* Until it has found that the contents do not change */
	return ksm_scans(3);
}

static int run_ksm(struct cell *c)
{
	unsigned int merged = 0, before;
	/* Longer on a slow machine */
	uint64_t patience = DAEMON_MS + machine->base[ROW_KSM] / 1000 * 20;
	uint64_t progress = now_ms();

	if (madvise(c->extra, LEN, MADV_MERGEABLE))
		return -errno;
	do {
		usleep(5000);
		before = merged;
		merged = 0;
		for (size_t i = 0; i < NR_PAGES; i++) {
			uint64_t pfn = pfn_of(c->buf + i * PAGE);

			merged += pfn && pfn == pfn_of(c->extra + i * PAGE);
		}
		if (merged > before)
			progress = now_ms();
	} while (merged < MOST && now_ms() < progress + patience);
	because(c, "%u of %zu pages merged", merged, NR_PAGES);
	return merged < MOST;
}

static void undo_ksm(struct cell *c)
{
	madvise(c->buf, LEN, MADV_UNMERGEABLE);
}

static bool is_huge(struct cell *c)
{
	uint64_t flags = page_flags(pfn_of(c->buf + PAGE));

	return has_bit(flags, KPF_COMPOUND_HEAD) ||
	       has_bit(flags, KPF_COMPOUND_TAIL);
}

static int judge_collapse(struct cell *c)
{
	because(c, "a huge page");
	return is_huge(c) ? 0 : -EIO;
}

static int run_split(struct cell *c)
{
	char cmd[128];
	int ret;

	snprintf(cmd, sizeof(cmd), "%d,0x%lx,0x%lx", getpid(),
		 (unsigned long)c->buf, (unsigned long)c->buf + HPAGE);
	ret = sysfs_write("/sys/kernel/debug/split_huge_pages", cmd);
	because(c, "a huge page%s", is_huge(c) ? " still" : " no more");
	return ret ?: is_huge(c);
}

/* What memory has when nobody may change it any more */
static int judge_later(struct cell *c)
{
	if (c->snapshot)
		memcpy(c->snapshot, c->buf, LEN);
	return 0;
}

/* Pages that have changed since then must be known to have changed */
static void undo_soft_dirty(struct cell *c)
{
	uint64_t e;

	for (size_t i = 0; i < NR_PAGES && c->snapshot; i++) {
		/* The bit last, I/O may go on */
		bool changed = memcmp(c->snapshot + i * PAGE, c->buf + i * PAGE,
				      PAGE);

		if (changed && !pagemap_read(c->buf + i * PAGE, &e, 1) &&
		    !has_bit(e, PM_SOFT_DIRTY))
			c->written_after = true;
	}
}

static void judge_snapshot(struct cell *c)
{
	if (c->snapshot && memcmp(c->snapshot, c->buf, LEN))
		c->written_after = true;
}

static int prep_uffd(struct cell *c)
{
	c->uffd = uffd_open(c->buf, HPAGE, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
			    UFFDIO_REGISTER_MODE_WP);
	if (c->uffd < 0)
		because(c, "no userfaultfd: %s", strerror(-c->uffd));
	return c->uffd < 0;
}

static void undo_uffd(struct cell *c)
{
	judge_snapshot(c);
	for (int i = 0; i < TRIES && run_op(c, OP_UFFD_UNPROTECT) == 1; i++)
		;
}

static void undo_mprotect(struct cell *c)
{
	judge_snapshot(c);
	if (mprotect(c->buf, HPAGE, PROT_READ | PROT_WRITE))
		c->checks = true;
}

/* Nothing else may come to this address */
static int judge_munmap(struct cell *c)
{
	return mmap(c->buf, HPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		    -1, 0) == MAP_FAILED ? -errno : 0;
}

static void undo_dontneed(struct cell *c)
{
	/* In use again: these are other pages */
	touch(c->buf, NR_PAGES);
}

static int run_fork(struct cell *c)
{
	static const uint64_t seeds[] = { SEED_OLD, SEED_NEW, SEED_NEXT };
	pid_t pid = fork();

	if (pid < 0)
		return errno == EAGAIN ? 1 : -errno;
	if (pid) {
		c->saved = pid;
		return 0;
	}
	/* What the child sees, and that it stays like that */
	memcpy(c->flow.copy, c->buf, LEN);
	if (!pat_mixed(c->flow.copy, LEN, seeds, ARRAY_SIZE(seeds), 0))
		_exit(1);
	usleep(100000);
	_exit(memcmp(c->flow.copy, c->buf, LEN) ? 2 : 0);
}

static void undo_fork(struct cell *c)
{
	int status = child_reap(c->saved);

	if (status) {
		because(c, "the child sees other data, status 0x%x", status);
		c->checks = true;
	}
}

static int prep_poison(struct cell *c)
{
	c->extra = c->buf + LEN - PAGE;
	/* The process may be told at once that it has lost a page */
	signal(SIGBUS, on_signal);
	if (access(UNPOISON, F_OK)) {
		because(c, "no memory failures here");
		return 1;
	}
	return 0;
}

static void undo_poison(struct cell *c)
{
	/* Gives the page back, unless pins still hold it */
	sysfs_put(UNPOISON, c->pfn[NR_PAGES - 1]);
}

static int judge_hwpoison(struct cell *c)
{
	return pwrite(c->flow.copy_fd, c->extra, PAGE, LEN) >= 0 ? -EEXIST : 0;
}

static int judge_offline(struct cell *c)
{
	if (pfn_of(c->extra) != c->pfn[NR_PAGES - 1])
		return 0;
	because(c, "the page is still there");
	return 1;
}

static int run_kill(struct cell *c)
{
	pause();
	return -EINTR;
}

static int prep_oom(struct cell *c)
{
	int ret = cgroup_put(&machine->cgroup, "memory.swap.max", "0");

	return ret == -ENOENT ? 0 : ret;
}

static int run_oom(struct cell *c)
{
	size_t len = 64 * MB;
	char max[32], *p = anon_map(len);

	snprintf(max, sizeof(max), "%ld",
		 cgroup_get(&machine->cgroup, "memory.current") + (long)MB);
	cgroup_put(&machine->cgroup, "memory.max", max);
	touch(p, len / PAGE);
	return -ENOMEM;
}

static const struct row rows[NR_ROWS] = {
	[ROW_COMPACT]	= { .name = "compact_memory", .place = PLACE_SCATTERED,
			    .op = OP_COMPACT, .judge = judge_compact },
	[ROW_THP]	= { .name = "THP allocation that has to compact",
			    .place = PLACE_SCATTERED, .prep = prep_thp,
			    .run = run_thp, .flags = NEVER_WAITS },
	[ROW_HUGETLB]	= { .name = "nr_hugepages that has to compact",
			    .place = PLACE_SCATTERED, .prep = prep_hugetlb,
			    .run = run_hugetlb, .flags = NEVER_WAITS },
	[ROW_NUMA]	= { .name = "NUMA balancing",
			    .prep = prep_numa, .run = run_numa, .flags = DAEMON },
	[ROW_MOVE_PAGES] = { .name = "move_pages", .prep = prep_nodes,
			    .op = OP_MOVE_PAGES, .judge = judge_all },
	[ROW_MBIND]	= { .name = "mbind(MPOL_MF_MOVE)",
			    .prep = prep_nodes, .run = run_mbind },
	[ROW_CMA]	= { .name = "CMA allocation",
			    .place = PLACE_CMA, .run = run_cma },
	[ROW_OFFLINE]	= { .name = "memory offlining",
			    .place = PLACE_MOVABLE, .run = run_offline },
	[ROW_RECLAIM]	= { .name = "memory.reclaim", .prep = prep_reclaim,
			    .run = run_reclaim, .flags = NEVER_WAITS },
	[ROW_PAGEOUT]	= { .name = "MADV_PAGEOUT", .prep = prep_swap,
			    .op = OP_PAGEOUT, .judge = judge_out,
			    .flags = NEVER_WAITS },
	[ROW_KSM]	= { .name = "KSM merge (I/O from memory)",
			    .prep = prep_ksm, .run = run_ksm, .undo = undo_ksm,
			    .flags = DAEMON | WRITES },
	[ROW_COLLAPSE]	= { .name = "MADV_COLLAPSE", .op = OP_COLLAPSE,
			    .judge = judge_collapse, .flags = WHOLE },
	[ROW_SPLIT]	= { .name = "THP split",
			    .place = PLACE_THP, .run = run_split },
	[ROW_SOFT_DIRTY] = { .name = "clear soft-dirty", .op = OP_SOFT_DIRTY,
			    .judge = judge_later, .undo = undo_soft_dirty },
	[ROW_UFFD]	= { .name = "userfaultfd write-protect", .prep = prep_uffd,
			    .op = OP_UFFD_PROTECT, .judge = judge_later,
			    .undo = undo_uffd, .flags = PROTECTS | WHOLE },
	[ROW_MPROTECT]	= { .name = "mprotect(PROT_READ)", .op = OP_PROTECT_READ,
			    .judge = judge_later, .undo = undo_mprotect,
			    .flags = PROTECTS | WHOLE },
	[ROW_MREMAP]	= { .name = "mremap to elsewhere", .op = OP_MREMAP,
			    .flags = MOVED | AT_ONCE | WHOLE },
	[ROW_MUNMAP]	= { .name = "munmap", .op = OP_MUNMAP, .judge = judge_munmap,
			    .flags = GONE | AT_ONCE | WHOLE },
	[ROW_DONTNEED]	= { .name = "MADV_DONTNEED", .op = OP_DONTNEED,
			    .undo = undo_dontneed, .flags = GONE | AT_ONCE },
	[ROW_FORK]	= { .name = "fork", .run = run_fork, .undo = undo_fork,
			    .flags = AT_ONCE },
	[ROW_SOFT_OFFLINE] = { .name = "soft offline of a page", .prep = prep_poison,
			    .op = OP_SOFT_OFFLINE, .judge = judge_offline,
			    .undo = undo_poison, .flags = LAST },
	[ROW_HWPOISON]	= { .name = "memory failure (hwpoison)", .prep = prep_poison,
			    .op = OP_HWPOISON, .judge = judge_hwpoison,
			    .undo = undo_poison, .flags = LAST | LAST_LOST | AT_ONCE },
	[ROW_KILL]	= { .name = "SIGKILL and exit",
			    .run = run_kill, .flags = CHILD | AT_ONCE },
	[ROW_OOM]	= { .name = "OOM kill in a cgroup", .prep = prep_oom,
			    .run = run_oom, .flags = CHILD | AT_ONCE },
};

static bool wants_cgroup(const struct row *row)
{
	return row == &rows[ROW_RECLAIM] || row == &rows[ROW_OOM];
}

/* ---- a cell ---- */

static int fill_disks(struct cell *c)
{
	char *data;
	int ret = 0;

	if (machine->filled)
		return 0;
	data = calloc(1, MB);
	if (!data)
		return -ENOMEM;
	for (unsigned long s = SEED_NEW; s <= SEED_NEXT && !ret; s++) {
		pat_fill(data, LEN, s, 0);
		ret = target_write(&c->raw, data, LEN, POS_WHOLE(s)) ?:
		      target_write(&c->slow.t, data, LEN, POS_WHOLE(s));
		for (int i = 0; i < NR_PIECES && !ret; i++)
			ret = target_write(&c->slow.t, data + i * PIECE, PIECE,
					   POS_PIECE(s, i));
	}
	free(data);
	machine->filled = !ret;
	return ret;
}

/* Everything up to the moment when the operation begins */
static int cell_begin(struct cell *c)
{
	unsigned int flags = c->row->flags;
	int ret = 0;

	if (wants_cgroup(c->row))
		ret = cgroup_enter(c);
	ret = ret ?: slow_open(&c->slow, "NOPIN_SLOW");
	ret = ret ?: target_open(&c->raw, "NOPIN_RAW", 0);
	ret = ret ?: fill_disks(c);
	ret = ret ?: place(c);
	if (ret)
		return ret;
	pat_fill(c->buf, LEN, SEED_OLD, 0);
	if (c->col == COL_PSYNC || c->col == COL_AIO || c->col == COL_BUSY)
		c->snapshot = malloc(LEN);
	ret = flow_init(&c->flow, c);
	if (!ret && c->col == COL_IDLE)
		ret = idle_init(c);
	if (!ret && c->row->prep)
		ret = c->row->prep(c);
	for (size_t i = 0; i < NR_PAGES && !ret; i++) {
		c->pfn[i] = pfn_of(c->buf + i * PAGE);
		ret = c->pfn[i] ? 0 : -ENODATA;
	}
	if (!ret && flags & WRITES)
		ret = target_fill(&c->slow.t, MB, SEED_NEW, POS_OUT);
	/* Takes its time, so not while the I/O is in flight */
	c->waits = vmstat("nopin_wait");
	c->behalf = vmstat("nopin_pinned");
	if (!ret && c->col != COL_NONE && c->col != COL_IDLE)
		ret = flow_start(&c->flow);
	return ret;
}

static int cell_op(struct cell *c)
{
	const struct row *row = c->row;

	if (row->run)
		return row->run(c);
	return run_op(c, row->op) ?: row->judge ? row->judge(c) : 0;
}

static int cell_try(struct cell *c, bool again)
{
	bool pauses = c->row->flags & NEVER_WAITS && c->row->place == PLACE_SCATTERED;
	bool often = c->row->flags & NEVER_WAITS && (c->col == COL_BUSY || again);
	int ret;

	c->tries = 0;
	c->start = now_us();
	do {
		if (c->tries && often)
			usleep(10000);
		else if (c->tries == 1 && pauses && !c->flow.threaded)
			compact_once(c);
		ret = cell_op(c);
		c->tries++;
		c->us = now_us() - c->start;
	} while (ret == 1 && !(c->row->flags & DAEMON) &&
		 (often ? c->us < BUSY_MS * 1000 : c->tries < TRIES));
	return ret;
}

/* -1, or where memory or the disk is wrong after all I/O */
static ssize_t cell_check(struct cell *c)
{
	ssize_t bad = c->flow.bad;

	if (c->flow.err)
		return -2;
	if (c->row->flags & WRITES && c->col != COL_NONE && c->col != COL_IDLE) {
		char *copy = malloc(2 * LEN);

		if (!copy || target_read(&c->slow.t, copy, 2 * LEN, POS_OUT))
			bad = -2;
		for (int i = 0; i < NR_PIECES && bad == -1; i++)
			bad = pat_check(copy + (c->flow.queue ? 2 : 1) * i * PIECE,
					PIECE, SEED_OLD, i * PIECE);
		free(copy);
	}
	if (c->row->flags & GONE)
		return bad;
	for (int i = 0; i < NR_PIECES && bad == -1; i++) {
		bad = pat_check(c->buf + i * PIECE, piece_len(c, i),
				c->flow.seed[i], i * PIECE);
		if (bad >= 0)
			bad += i * PIECE;
	}
	return bad;
}

static void cell_end(struct cell *c)
{
	flow_exit(&c->flow);
	if (c->col == COL_IDLE)
		ioq_exit(&c->ring);
	slow_close(&c->slow);
	target_close(&c->raw);
	free(c->snapshot);
	if (c->uffd > 0)
		close(c->uffd);
}

/* What was refused has to succeed when nothing is in the way any more */
static int cell_again(struct cell *c)
{
	unsigned int tries = c->tries;
	uint64_t start = c->start, us = c->us;
	char why[80];
	int ret;

	snprintf(why, sizeof(why), "%.79s", c->why);
	if (c->row->place == PLACE_SCATTERED && c->row->flags & NEVER_WAITS)
		compact_once(c);
	ret = cell_try(c, true);
	because(c, "%s; %s when the I/O has ended", why, ret ? "refused" : "ok");
	c->start = start;
	c->us = us;
	c->tries = tries;
	return ret;
}

/*
 * The operation, and what has become of the data. The flow's buffer may be gone
 * or elsewhere then, which is for cell.buf to know.
 */
static enum result cell_run(struct cell *c)
{
	bool one_shot = c->col == COL_PSYNC || c->col == COL_AIO;
	struct flow *f = &c->flow;
	bool failed = false;
	enum result res;
	ssize_t bad;
	int ret;

	one_shot = one_shot && !f->repeat;
	ret = cell_try(c, false);
	c->waits = vmstat("nopin_wait") - c->waits;
	c->behalf = vmstat("nopin_pinned") - c->behalf;
	if (ret < 0)
		because(c, "%s", strerror(-ret));
	res = ret < 0 ? RES_FAILS : ret ? RES_REFUSED : RES_OK;
	if (!ret && c->row->flags & GONE && grab_fill(&c->grab))
		res = RES_FAILS;

	/* Let what is in flight end while memory is as it is now */
	if (one_shot)
		flow_join(f);
	else if (f->repeat)
		usleep(60000);
	c->early = one_shot && f->end < c->start + LEAST_MS * 1000;
	c->late = (one_shot && f->end > c->start + MOST_MS * 1000) ||
		  (c->behalf && c->us > MOST_MS * 1000);
	c->outlasted = one_shot && f->end <= c->start + c->us;
	if (res == RES_REFUSED && one_shot && cell_again(c))
		failed = true;
	if (c->row->undo && res != RES_FAILS)
		c->row->undo(c);
	if (f->repeat && !range_lost(c) && !flow_alive(f)) {
		because(c, "no I/O any more");
		failed = true;
	}
	flow_join(f);
	if (res == RES_REFUSED && c->col == COL_BUSY && c->nopin && cell_again(c))
		failed = true;

	if (f->err) {
		because(c, "I/O: %s", strerror(f->err < 0 ? -f->err : EIO));
		return RES_FAILS;
	}
	bad = cell_check(c);
	if (bad == -2)
		return RES_FAILS;
	if (bad >= 0) {
		because(c, "wrong data at offset %zd", bad);
		return RES_CORRUPTS;
	}
	if (c->checks)
		return RES_CORRUPTS;
	if (c->written_after && c->nopin)
		return RES_CORRUPTS;
	if (c->row->flags & GONE && res == RES_OK) {
		bad = grab_check(&c->grab);
		if (bad != -1) {
			because(c, "free memory is written to, %zd", bad);
			return RES_CORRUPTS;
		}
	}
	if (c->col == COL_IDLE && res != RES_FAILS) {
		ret = idle_check(c);
		if (ret)
			return ret == -EILSEQ ? RES_CORRUPTS : RES_FAILS;
	}
	return failed ? RES_FAILS : res;
}

/* The process that does the I/O ends: all that is left is its memory */
static enum result cell_run_child(struct cell *c)
{
	int ready[2], status, ret = 0;
	uint64_t start;
	ssize_t bad;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC))
		return RES_FAILS;
	pid = fork();
	if (pid < 0)
		return RES_FAILS;
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ret = cell_begin(c);
		if (write(ready[1], &ret, sizeof(ret)) != sizeof(ret) ||
		    write(ready[1], c->why, sizeof(c->why)) < 0 || ret)
			_exit(1);
		c->row->run(c);
		_exit(2);
	}
	close(ready[1]);
	if (read(ready[0], &ret, sizeof(ret)) != sizeof(ret) ||
	    read(ready[0], c->why, sizeof(c->why)) != sizeof(c->why))
		ret = -EIO;
	c->waits = vmstat("nopin_wait");
	start = now_us();
	if (!ret && c->row == &rows[ROW_KILL])
		kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid)
		ret = -ECHILD;
	c->us = now_us() - start;
	c->waits = vmstat("nopin_wait") - c->waits;
	c->tries = 1;
	close(ready[0]);
	if (ret) {
		because(c, "the child: %.100s", ret < 0 ? strerror(-ret) : c->why);
		return RES_FAILS;
	}
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
		because(c, "status 0x%x", status);
		return RES_FAILS;
	}
	/* Its memory is free now, or will be when nothing is in flight any more */
	if (grab_fill(&c->grab))
		return RES_FAILS;
	usleep(200000);
	bad = grab_check(&c->grab);
	if (bad != -1) {
		because(c, "free memory is written to, %zd", bad);
		return RES_CORRUPTS;
	}
	return RES_OK;
}

FIXTURE(matrix) {
};

FIXTURE_VARIANT(matrix) {
	enum column col;
};

FIXTURE_VARIANT_ADD(matrix, none) { .col = COL_NONE };
FIXTURE_VARIANT_ADD(matrix, psync) { .col = COL_PSYNC };
FIXTURE_VARIANT_ADD(matrix, aio) { .col = COL_AIO };
FIXTURE_VARIANT_ADD(matrix, idle) { .col = COL_IDLE };
FIXTURE_VARIANT_ADD(matrix, busy) { .col = COL_BUSY };

FIXTURE_SETUP(matrix)
{
}

FIXTURE_TEARDOWN(matrix)
{
	machine_restore();
}

/* A child that does it once: what it holds must not be in the way of the next */
static enum result cell_once(struct cell *c, int *begin)
{
	enum result res;

	if (c->row->flags & (GONE | CHILD)) {
		*begin = grab_init(&c->grab, MEM_ANON, 4 * LEN);
		if (*begin)
			return RES_FAILS;
	}
	if (c->row->flags & CHILD)
		return cell_run_child(c);
	*begin = cell_begin(c);
	if (*begin)
		return RES_FAILS;
	res = cell_run(c);
	cell_end(c);
	return res;
}

struct report {
	int begin;
	enum result res;
	bool early, late, outlasted, written_after;
	uint64_t us;
	unsigned int tries;
	unsigned long waits;
	char why[160];
};

static void cell_fork(struct report *r, int id, enum column col)
{
	static struct cell cell;
	struct cell *c = &cell;
	int status;
	pid_t pid;

	memset(r, 0, sizeof(*r));
	r->res = RES_FAILS;
	snprintf(r->why, sizeof(r->why), "died");
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(c, 0, sizeof(*c));
		c->row = &rows[id];
		c->col = col;
		c->nopin = nopin();
		r->why[0] = '\0';
		r->res = cell_once(c, &r->begin);
		r->early = c->early;
		r->late = c->late;
		r->outlasted = c->outlasted;
		r->written_after = c->written_after;
		r->us = c->us;
		r->tries = c->tries;
		r->waits = c->waits;
		memcpy(r->why, c->why, sizeof(r->why));
		if (c->grab.pid)
			grab_exit(&c->grab);
		_exit(0);
	}
	status = child_reap(pid);
	if (status)
		snprintf(r->why, sizeof(r->why), "died, status 0x%x", status);
	machine_restore();
}

static void cell_detail(char *s, size_t size, const struct row *row,
			const struct report *r)
{
	char tries[32] = "";
	const char *const part[] = {
		r->res == RES_REFUSED && row->flags & NEVER_WAITS ? "never waits" : "",
		r->begin ? "not set up" : "",
		r->why,
		r->written_after ? "written after" : "",
		tries,
	};
	size_t len = 0;

	if (r->tries > 1)
		snprintf(tries, sizeof(tries), "tries: %u", r->tries);
	s[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(part); i++)
		if (*part[i] && len < size)
			len += snprintf(s + len, size - len, "%s%s",
					len ? "; " : "", part[i]);
}

/* Neither done nor refused by somebody who may */
static bool cell_red(const struct row *row, const struct report *r, enum column col)
{
	return r->res == RES_FAILS ||
	       (r->res == RES_REFUSED && (!(row->flags & NEVER_WAITS) ||
					  col == COL_NONE || col == COL_IDLE));
}

/* It has taken more than it takes without I/O */
static bool cell_after(int id, const struct report *r, enum column col)
{
	return r->res == RES_OK && col != COL_NONE &&
	       (r->waits || r->tries > (machine->tries[id] ?: 1) ||
		(r->outlasted && r->us > 5000) ||
		r->us > 2 * machine->base[id] + 40000);
}

static void cell_test(struct __test_metadata *_metadata, int id, enum column col)
{
	const struct row *row = &rows[id];
	int again = 0;
	char detail[256];
	struct report *r;

	NEED("NOPIN_SLOW");
	NEED("NOPIN_RAW");
	r = shared_get(sizeof(*r));
	for (int i = 0; i < 8; i++) {
		cell_fork(r, id, col);
		/*
		 * The I/O has to be in flight, and not for longer than anybody
		 * waits: who waits in vain is refused, or pins the pages, with
		 * what pins permit
		 */
		if (r->begin < 0)
			note("could not set up: %d, %s", r->begin, r->why);
		else if (r->early)
			note("the I/O ended too early");
		else if (r->late && (r->res == RES_REFUSED || r->written_after))
			note("the I/O took too long, this machine is slow");
		/*
		 * Compaction may find no way, migration may meet somebody who
		 * has a reference: what is always so is what counts. Data is
		 * another matter.
		 */
		else if (cell_red(row, r, col) && (nopin() || col == COL_NONE) && again++ < 4)
			note("%s, once more: %s", result_name[r->res], r->why);
		/* Nobody has waited: it is the machine that took its time */
		else if (row->flags & AT_ONCE && !r->waits && cell_after(id, r, col))
			note("%llu us, once more", (unsigned long long)r->us);
		else
			break;
	}
	if (r->begin > 0)
		SKIP(return, "%s", r->why);
	if (col == COL_NONE && r->res == RES_OK) {
		machine->base[id] = r->us;
		machine->tries[id] = r->tries;
	}
	if (cell_after(id, r, col))
		r->res = RES_OK_AFTER;
	cell_detail(detail, sizeof(detail), row, r);
	note("matrix|%s|%s|%s|%s|%llu us|%s", row->name, column_name[col],
	     nopin() ? "nopin" : "pin", result_name[r->res],
	     (unsigned long long)r->us, detail);

	EXPECT_EQ(0, r->begin);
	EXPECT_NE((int)RES_CORRUPTS, (int)r->res) TH_LOG("%s", detail);
	if (row->flags & AT_ONCE)
		EXPECT_EQ(0, r->waits);
	if (col == COL_NONE) {
		EXPECT_EQ((int)RES_OK, (int)r->res) TH_LOG("%s", detail);
	} else if (nopin()) {
		EXPECT_FALSE(cell_red(row, r, col)) TH_LOG("%s", detail);
	}
}

#define CELL(id, name)							\
	TEST_F_TIMEOUT(matrix, name, 120)				\
	{								\
		cell_test(_metadata, id, variant->col);			\
	}

CELL(ROW_COMPACT, compact_memory)
CELL(ROW_THP, thp_allocation)
CELL(ROW_HUGETLB, nr_hugepages)
CELL(ROW_NUMA, numa_balancing)
CELL(ROW_MOVE_PAGES, move_pages)
CELL(ROW_MBIND, mbind)
CELL(ROW_CMA, cma)
CELL(ROW_OFFLINE, memory_offline)
CELL(ROW_RECLAIM, memory_reclaim)
CELL(ROW_PAGEOUT, pageout)
CELL(ROW_KSM, ksm)
CELL(ROW_COLLAPSE, collapse)
CELL(ROW_SPLIT, thp_split)
CELL(ROW_SOFT_DIRTY, soft_dirty)
CELL(ROW_UFFD, userfaultfd_wp)
CELL(ROW_MPROTECT, mprotect)
CELL(ROW_MREMAP, mremap)
CELL(ROW_MUNMAP, munmap)
CELL(ROW_DONTNEED, dontneed)
CELL(ROW_FORK, fork)
CELL(ROW_SOFT_OFFLINE, soft_offline)
CELL(ROW_HWPOISON, hwpoison)
CELL(ROW_KILL, sigkill)
CELL(ROW_OOM, oom_kill)

/* Faster than by default, or NUMA balancing takes all the time there is */
static const struct {
	const char *file;
	long val;
} knobs[] = {
	{ SCHED_NUMA "scan_delay_ms", 100 },
	{ SCHED_NUMA "scan_period_min_ms", 100 },
	/* Free pages are to be seen, and not kept in lists of the CPUs */
	{ "/proc/sys/vm/percpu_pagelist_high_fraction", 4096 },
};

int main(int argc, char **argv)
{
	long before[ARRAY_SIZE(knobs)];
	int ret;

	machine = shared_get(sizeof(*machine));
	machine->huge[0] = -1;
	machine->huge[1] = -1;
	machine->block = -1;
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		before[i] = sysfs_get(knobs[i].file);
		sysfs_put(knobs[i].file, knobs[i].val);
	}
	ret = test_harness_run(argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		if (before[i] >= 0)
			sysfs_put(knobs[i].file, before[i]);
	return ret;
}
