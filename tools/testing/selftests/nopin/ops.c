// SPDX-License-Identifier: GPL-2.0
#include <linux/falloc.h>
#include <linux/mempolicy.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "nopin_util.h"

#define MAX_PAGES	(2 * MB / PAGE)
#define HPAGE		(2 * MB)

/* Most of them are one system call, which sets errno */
#define OP(name, call)							\
	static int op_##name(struct area *a) { return (call) ? -errno : 0; }

OP(munmap, munmap(a->p, a->len))
/* Leaves a quarter on both sides */
OP(munmap_middle, munmap(a->p + a->len / 4, a->len / 2))
OP(protect_read, mprotect(a->p, a->len, PROT_READ))
OP(protect_none, mprotect(a->p, a->len, PROT_NONE))
OP(mlock, mlock(a->p, a->len))
OP(dontneed, madvise(a->p, a->len, MADV_DONTNEED))
OP(free, madvise(a->p, a->len, MADV_FREE))
OP(cold, madvise(a->p, a->len, MADV_COLD))
OP(exit, (_exit(0), 0))
OP(exec, execl("/proc/self/exe", "nopin", "--exit", NULL))
OP(fsync, fsync(a->fd))
OP(syncfs, syncfs(a->fd))
OP(truncate, ftruncate(a->fd, 0))
/* Short, and as long as before, with new pages */
OP(cut, ftruncate(a->fd, 0) || ftruncate(a->fd, a->len))
OP(punch, fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, a->len))
OP(remove, madvise(a->p, a->len, MADV_REMOVE))
OP(soft_offline, madvise(a->p, a->len, MADV_SOFT_OFFLINE))
OP(hwpoison, madvise(a->p, a->len, MADV_HWPOISON))

static int op_mmap_over(struct area *a)
{
	if (mmap(a->p, a->len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	memset(a->p, GRAB_BYTE, a->len);
	return 0;
}

static int op_mremap(struct area *a)
{
	char *to = a->to ?: space_get(a->len, HPAGE);

	if (to == MAP_FAILED ||
	    mremap(a->p, a->len, a->len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return -errno;
	a->p = to;
	return 0;
}

static int uffd_set(struct area *a, uint64_t mode)
{
	struct uffdio_writeprotect wp = {
		.range = { (unsigned long)a->p, a->len },
		.mode = mode,
	};

	return ioctl(a->uffd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

static int op_uffd_protect(struct area *a)
{
	return uffd_set(a, UFFDIO_WRITEPROTECT_MODE_WP);
}

static int op_uffd_unprotect(struct area *a)
{
	return uffd_set(a, 0);
}

/* The nodes of the pages; or @to, to which they move */
static long nodes_of(const struct area *a, const int *to, int *status)
{
	size_t nr = a->len / PAGE;
	void *pages[MAX_PAGES];

	for (size_t i = 0; i < nr; i++) {
		pages[i] = a->p + i * PAGE;
		status[i] = -ENODATA;
	}
	return syscall(SYS_move_pages, a->pid, nr, pages, to, status,
		       to ? MPOL_MF_MOVE : 0);
}

static int op_move_pages(struct area *a)
{
	int to[MAX_PAGES], status[MAX_PAGES];
	long ret;

	for (size_t i = 0; i < a->len / PAGE; i++)
		to[i] = a->node;
	ret = nodes_of(a, to, status);
	return ret < 0 ? -errno : ret;
}

int pages_on_node(const struct area *a, int node)
{
	int status[MAX_PAGES], nr = 0;

	if (nodes_of(a, NULL, status))
		return -errno;
	for (size_t i = 0; i < a->len / PAGE; i++) {
		if (status[i] < 0)
			return status[i];
		nr += status[i] == node;
	}
	return nr;
}

static int op_advise(struct area *a, int advice)
{
	struct iovec iov = { a->p, a->len };
	long ret;
	int fd;

	if (!a->pid)
		return madvise(a->p, a->len, advice) ? -errno : 0;
	fd = syscall(SYS_pidfd_open, a->pid, 0);
	if (fd < 0)
		return -errno;
	ret = syscall(SYS_process_madvise, fd, &iov, 1, advice, 0);
	ret = ret < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int op_pageout(struct area *a)
{
	return op_advise(a, MADV_PAGEOUT);
}

static int op_collapse(struct area *a)
{
	return op_advise(a, MADV_COLLAPSE);
}

static int op_soft_dirty(struct area *a)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", a->pid ?: getpid());
	return sysfs_write(path, "4");
}

static int op_compact(struct area *a)
{
	return sysfs_write("/proc/sys/vm/compact_memory", "1");
}

#define ROW(id, _run, _memory, _found, ...)				\
	[OP_##id] = { .name = #_run, .run = op_##_run, .memory = _memory,	\
		      .found = FOUND_##_found, __VA_ARGS__ }

const struct op ops[NR_OPS] = {
	ROW(MUNMAP, munmap, ON_ANY, NONE),
	ROW(MUNMAP_MIDDLE, munmap_middle, ON_ANY, NONE),
	ROW(MMAP_OVER, mmap_over, ON_ANON, GRAB),
	ROW(MREMAP, mremap, ON_ANY, DATA),
	ROW(PROTECT_READ, protect_read, ON_ANY, DATA, .protects = true),
	ROW(PROTECT_NONE, protect_none, ON_ANY, DATA, .protects = true),
	ROW(MLOCK, mlock, ON_ANY, DATA),
	/* Of a file, the mapping loses the pages, not the file */
	ROW(DONTNEED, dontneed, ON_ANY, ZEROS),
	ROW(FREE, free, ON_ANON, EITHER),
	ROW(COLD, cold, ON_ANY, DATA),
	ROW(UFFD_PROTECT, uffd_protect, ON_ANY, DATA, .protects = true),
	ROW(UFFD_UNPROTECT, uffd_unprotect, ON_ANY, DATA),
	ROW(EXIT, exit, ON_ANY, NONE),
	ROW(EXEC, exec, ON_ANY, NONE),
	ROW(FSYNC, fsync, ON_FILE, DATA),
	ROW(SYNCFS, syncfs, ON_FILE, DATA),
	ROW(TRUNCATE, truncate, ON_FILE, ZEROS),
	ROW(CUT, cut, ON_FILE, ZEROS),
	ROW(PUNCH, punch, ON_FILE, ZEROS),
	ROW(REMOVE, remove, ON_FILE, ZEROS),
	ROW(MOVE_PAGES, move_pages, ON_ANY, DATA),
	ROW(PAGEOUT, pageout, ON_ANY, DATA),
	ROW(COLLAPSE, collapse, ON_ANY, DATA),
	ROW(SOFT_DIRTY, soft_dirty, ON_ANY, DATA),
	ROW(SOFT_OFFLINE, soft_offline, ON_ANY, DATA),
	ROW(HWPOISON, hwpoison, ON_ANY, NONE),
	ROW(COMPACT, compact, ON_ANY, DATA),
};

int op_run(enum op_id id, struct area *a)
{
	if (!(ops[id].memory & (a->fd >= 0 ? ON_FILE : ON_ANON)))
		return -EINVAL;
	return ops[id].run(a);
}

long op_timed(enum op_id id, struct area *a)
{
	uint64_t start = now_ms();
	int ret = op_run(id, a);

	return ret < 0 ? ret : (long)(now_ms() - start);
}

int uffd_open(char *p, size_t len, uint64_t features, uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register reg = {
		.range = { (unsigned long)p, len },
		.mode = mode,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		return -errno;
	return fd;
}

bool op_exec_ends(int argc, char **argv)
{
	return argc > 1 && !strcmp(argv[1], "--exit");
}
