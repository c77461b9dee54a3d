// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/dm-ioctl.h>
#include <linux/io_uring.h>
#include <linux/nvme_ioctl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nopin_util.h"

#define SWITCH		"/sys/kernel/mm/nopin/direct_io"
#define FALLBACK_DIR	"/sys/kernel/mm/nopin/fallback"

const char *const mem_name[NR_MEM] = {
	[MEM_ANON]		= "anon",
	[MEM_ANON_GIB]		= "anon across 1 GiB",
	[MEM_THP]		= "thp",
	[MEM_THP_PTE]		= "thp mapped by ptes",
	[MEM_HUGETLB]		= "hugetlb 2M",
	[MEM_HUGETLB_1G]	= "hugetlb 1G",
	[MEM_SHMEM]		= "shmem",
	[MEM_SHMEM_THP]		= "shmem thp",
	[MEM_PRIVATE_FILE]	= "private file",
	[MEM_SHARED_EXT4]	= "shared ext4",
	[MEM_SHARED_XFS]	= "shared xfs",
};

const char *const engine_name[NR_ENGINES + 1] = {
	[ENG_PSYNC]		= "psync",
	[ENG_PVSYNC]		= "pvsync",
	[ENG_AIO]		= "aio",
	[ENG_AIOV]		= "aio vectored",
	[ENG_URING]		= "io_uring",
	[ENG_URINGV]		= "io_uring vectored",
	[ENG_URING_WQ]		= "io_uring async",
	[ENG_URING_SQPOLL]	= "io_uring sqpoll",
	[ENG_URING_FIXED]	= "io_uring fixed",
};

/* ---- the switch and the counters ---- */

int sysfs_write(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, val, strlen(val)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int sysfs_read(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0)
		n = -errno;
	else
		buf[n] = '\0';
	close(fd);
	return n < 0 ? n : 0;
}

bool nopin_present(void)
{
	return access(SWITCH, R_OK) == 0;
}

enum mode mode_get(void)
{
	char buf[64];

	if (sysfs_read(SWITCH, buf, sizeof(buf)))
		return MODE_PIN;
	return strstr(buf, "[nopin]") ? MODE_NOPIN : MODE_PIN;
}

int mode_set(enum mode mode)
{
	if (!nopin_present())
		return mode == MODE_PIN ? 0 : -ENOENT;
	return sysfs_write(SWITCH, mode == MODE_PIN ? "pin" : "nopin");
}

int vmstat_read(struct vmstat *all, bool refresh)
{
	size_t n;
	FILE *f;

	all->text[0] = '\n';
	all->text[1] = '\0';
	/* Some counters are per CPU and folded once in a while */
	if (refresh)
		sysfs_write("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/vmstat", "r");
	if (!f)
		return -errno;
	n = fread(all->text + 1, 1, sizeof(all->text) - 2, f);
	all->text[1 + n] = '\0';
	fclose(f);
	return 0;
}

unsigned long vmstat_in(const struct vmstat *all, const char *name)
{
	char key[66];
	const char *p;

	snprintf(key, sizeof(key), "\n%s ", name);
	p = strstr(all->text, key);
	return p ? strtoul(p + strlen(key), NULL, 10) : 0;
}

unsigned long vmstat(const char *name)
{
	struct vmstat all;

	vmstat_read(&all, true);
	return vmstat_in(&all, name);
}

unsigned long fallback(const char *cause)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), FALLBACK_DIR "/%s", cause);
	if (sysfs_read(path, buf, sizeof(buf)))
		return 0;
	return strtoul(buf, NULL, 10);
}

int wait_ms_set(unsigned int ms)
{
	char val[16];

	if (!nopin_present())
		return 0;
	snprintf(val, sizeof(val), "%u", ms);
	return sysfs_write("/sys/kernel/mm/nopin/rmap_wait_ms", val);
}

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

unsigned int test_ms(unsigned int quick)
{
	return getenv("NOPIN_LONG") ? quick * 6 : quick;
}

uint32_t rnd(uint32_t *state)
{
	uint32_t x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* ---- patterns ---- */

/* Buffers need not be aligned to 8 */
typedef uint64_t word __attribute__((aligned(1), may_alias));

static uint64_t pat_word(uint64_t seed, uint64_t index)
{
	return (index + seed * 0x9e3779b97f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL + index;
}

void pat_fill(void *buf, size_t len, uint64_t seed, off_t pos)
{
	word *w = buf;

	for (size_t i = 0; i < len / 8; i++)
		w[i] = pat_word(seed, pos / 8 + i);
}

ssize_t pat_check(const void *buf, size_t len, uint64_t seed, off_t pos)
{
	const word *w = buf;

	for (size_t i = 0; i < len / 8; i++)
		if (w[i] != pat_word(seed, pos / 8 + i))
			return i * 8;
	return -1;
}

ssize_t byte_check(const void *buf, size_t len, unsigned char val)
{
	const unsigned char *c = buf;

	if (!len || (*c == val && !memcmp(c, c + 1, len - 1)))
		return -1;
	for (size_t i = 0; i < len; i++)
		if (c[i] != val)
			return i;
	return -1;
}

/* ---- memory ---- */

/* A field of /proc/self/smaps, in KiB, of the mapping that holds @p */
static unsigned long smaps_kb(const void *p, const char *field)
{
	unsigned long start, end, kb = 0, v;
	size_t len = strlen(field);
	bool here = false;
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "r");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = (unsigned long)p >= start && (unsigned long)p < end;
		else if (here && !strncmp(line, field, len) &&
			 sscanf(line + len, ": %lu", &v) == 1)
			kb = v;
	}
	fclose(f);
	return kb;
}

bool mem_is_huge(const void *p)
{
	return smaps_kb(p, "AnonHugePages") || smaps_kb(p, "ShmemPmdMapped");
}

int mem_node(const void *p)
{
	void *page = (void *)((unsigned long)p & ~(PAGE - 1));
	int status;

	if (syscall(SYS_move_pages, 0, 1UL, &page, NULL, &status, 0))
		return -errno;
	return status;
}

static int file_fd(const char *env)
{
	const char *dir = getenv(env);
	char path[256];
	int fd;

	if (!dir) {
		errno = ENODEV;
		return -1;
	}
	snprintf(path, sizeof(path), "%s/mem.%d", dir, getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	unlink(path);
	return fd;
}

bool mem_of_huge(enum mem_kind kind)
{
	return kind == MEM_THP || kind == MEM_THP_PTE || kind == MEM_HUGETLB ||
	       kind == MEM_SHMEM_THP;
}

int mem_get(struct mem *m, enum mem_kind kind, size_t len)
{
	size_t align = mem_of_huge(kind) ? 2 * MB : PAGE;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	bool huge = false, file = false;
	int ret;

	memset(m, 0, sizeof(*m));
	m->kind = kind;
	m->fd = -1;
	m->map = MAP_FAILED;

	switch (kind) {
	case MEM_ANON_GIB:
		align = GB;
		break;
	case MEM_THP:
	case MEM_THP_PTE:
		huge = true;
		break;
	case MEM_HUGETLB:
		flags |= MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
		break;
	case MEM_HUGETLB_1G:
		align = GB;
		flags |= MAP_HUGETLB | 30 << MAP_HUGE_SHIFT;
		break;
	case MEM_SHMEM_THP:
		huge = true;
		/* fall through */
	case MEM_SHMEM:
		m->fd = memfd_create("nopin", MFD_CLOEXEC);
		file = true;
		break;
	case MEM_PRIVATE_FILE:
	case MEM_SHARED_EXT4:
		m->fd = file_fd("NOPIN_EXT4");
		file = true;
		break;
	case MEM_SHARED_XFS:
		m->fd = file_fd("NOPIN_XFS");
		file = true;
		break;
	default:
		break;
	}

	m->len = ALIGN_UP(len, kind == MEM_ANON_GIB ? PAGE : align);
	if (file) {
		if (m->fd < 0)
			return -errno;
		if (ftruncate(m->fd, m->len))
			goto err;
		flags = kind == MEM_PRIVATE_FILE ? MAP_PRIVATE : MAP_SHARED;
	}

	/* Take the address space first, then put the mapping where it fits */
	m->maplen = m->len + align;
	m->map = mmap(NULL, m->maplen, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->map == MAP_FAILED)
		goto err;
	m->p = (char *)ALIGN_UP((unsigned long)m->map, align);
	if (kind == MEM_ANON_GIB) {
		m->p -= m->len / 2;
		if (m->p < (char *)m->map)
			m->p += GB;
	}
	if (mmap(m->p, m->len, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
		 m->fd, 0) == MAP_FAILED)
		goto err;
	if (kind != MEM_HUGETLB && kind != MEM_HUGETLB_1G)
		madvise(m->p, m->len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(m->p, 0, m->len);

	if (huge && !mem_is_huge(m->p)) {
		note("%s: got no huge page", mem_name[kind]);
		errno = ENOMEM;
		goto err;
	}
	if (kind == MEM_THP_PTE &&
	    (mprotect(m->p + PAGE, PAGE, PROT_READ) ||
	     mprotect(m->p + PAGE, PAGE, PROT_READ | PROT_WRITE)))
		goto err;
	return 0;
err:
	ret = -errno;
	mem_put(m);
	return ret;
}

void mem_put(struct mem *m)
{
	if (m->map != MAP_FAILED)
		munmap(m->map, m->maplen);
	if (m->fd >= 0)
		close(m->fd);
	m->map = MAP_FAILED;
	m->fd = -1;
}

/* ---- I/O ---- */

static bool is_uring(enum engine e)
{
	return e >= ENG_URING;
}

static bool is_aio(enum engine e)
{
	return e == ENG_AIO || e == ENG_AIOV;
}

int ioq_init_flags(struct ioq *q, enum engine eng, unsigned int depth,
		   unsigned int setup_flags)
{
	int ret = 0;

	memset(q, 0, sizeof(*q));
	q->eng = eng;
	q->depth = depth;
	if (is_aio(eng)) {
		q->iocbs = calloc(depth, sizeof(*q->iocbs));
		q->batch = calloc(depth, sizeof(*q->batch));
		if (!q->iocbs || !q->batch)
			return -ENOMEM;
		ret = io_setup(depth, &q->aio);
	} else if (is_uring(eng)) {
		if (eng == ENG_URING_SQPOLL)
			setup_flags |= IORING_SETUP_SQPOLL;
		ret = io_uring_queue_init(depth, &q->ring, setup_flags);
	}
	return ret;
}

int ring_register(struct io_uring *ring, unsigned int op, const void *arg,
		  unsigned int nr)
{
	int ret = syscall(__NR_io_uring_register, ring->ring_fd, op, arg, nr);

	return ret < 0 ? -errno : ret;
}

int ring_buffers_flags(struct io_uring *ring, const struct iovec *iov,
		       unsigned int nr, const uint64_t *tags, unsigned int flags)
{
	struct io_uring_rsrc_register rr = {
		.nr	= nr,
		.flags	= flags,
		.data	= (unsigned long)iov,
		.tags	= (unsigned long)tags,
	};

	return ring_register(ring, IORING_REGISTER_BUFFERS2, &rr, sizeof(rr));
}

int ring_buffers(struct io_uring *ring, const struct iovec *iov,
		 unsigned int nr, const uint64_t *tags)
{
	return ring_buffers_flags(ring, iov, nr, tags, mode_get() == MODE_NOPIN ?
				  IORING_RSRC_REGISTER_NOPIN : 0);
}

int ring_buffer(struct io_uring *ring, void *buf, size_t len)
{
	struct iovec iov = { buf, len };

	return ring_buffers(ring, &iov, 1, NULL);
}

int ioq_init(struct ioq *q, enum engine eng, unsigned int depth)
{
	return ioq_init_flags(q, eng, depth, 0);
}

void ioq_exit(struct ioq *q)
{
	if (q->inflight)
		ioq_reap(q, q->inflight, NULL);
	if (is_aio(q->eng)) {
		io_destroy(q->aio);
		free(q->iocbs);
		free(q->batch);
	} else if (is_uring(q->eng)) {
		io_uring_queue_exit(&q->ring);
	}
}

static void aio_queue(struct ioq *q, unsigned int tag, int fd, bool write,
		      const struct iovec *iov, int nr, off_t pos)
{
	struct iocb *cb = &q->iocbs[tag];

	if (q->eng == ENG_AIOV && write)
		io_prep_pwritev(cb, fd, iov, nr, pos);
	else if (q->eng == ENG_AIOV)
		io_prep_preadv(cb, fd, iov, nr, pos);
	else if (write)
		io_prep_pwrite(cb, fd, iov->iov_base, iov->iov_len, pos);
	else
		io_prep_pread(cb, fd, iov->iov_base, iov->iov_len, pos);
	cb->data = (void *)(unsigned long)tag;
	q->batch[q->nr_batch++] = cb;
}

static int uring_queue(struct ioq *q, unsigned int tag, int fd, bool write,
		       const struct iovec *iov, int nr, off_t pos)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	if (!sqe)
		return -EBUSY;
	if (q->eng == ENG_URING_FIXED && write)
		io_uring_prep_write_fixed(sqe, fd, iov->iov_base, iov->iov_len,
					  pos, 0);
	else if (q->eng == ENG_URING_FIXED)
		io_uring_prep_read_fixed(sqe, fd, iov->iov_base, iov->iov_len,
					 pos, 0);
	else if (q->eng == ENG_URINGV && write)
		io_uring_prep_writev(sqe, fd, iov, nr, pos);
	else if (q->eng == ENG_URINGV)
		io_uring_prep_readv(sqe, fd, iov, nr, pos);
	else if (write)
		io_uring_prep_write(sqe, fd, iov->iov_base, iov->iov_len, pos);
	else
		io_uring_prep_read(sqe, fd, iov->iov_base, iov->iov_len, pos);
	if (q->eng == ENG_URING_WQ)
		sqe->flags |= IOSQE_ASYNC;
	sqe->user_data = tag;
	q->nr_batch++;
	return 0;
}

int ioq_queue(struct ioq *q, unsigned int tag, int fd, bool write,
	      const struct iovec *iov, int nr, off_t pos)
{
	if (tag >= q->depth || (nr != 1 && !engine_is_vectored(q->eng)))
		return -EINVAL;
	if (is_uring(q->eng))
		return uring_queue(q, tag, fd, write, iov, nr, pos);
	if (!is_aio(q->eng))
		return -EINVAL;
	aio_queue(q, tag, fd, write, iov, nr, pos);
	return 0;
}

int ioq_submit(struct ioq *q)
{
	unsigned int nr = q->nr_batch, done = 0;
	int ret = 0;

	while (done < nr) {
		if (is_aio(q->eng)) {
			ret = io_submit(q->aio, nr - done, q->batch + done);
		} else {
			ret = io_uring_submit(&q->ring);
			/* A polled queue's count may have earlier ones in it */
			if (ret > (int)(nr - done))
				ret = nr - done;
		}
		if (ret <= 0)
			break;
		done += ret;
	}
	q->nr_batch = 0;
	q->inflight += done;
	return done == nr ? 0 : ret ?: -EIO;
}

int ioq_start(struct ioq *q, unsigned int tag, int fd, bool write,
	      void *buf, size_t len, off_t pos)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };

	return ioq_queue(q, tag, fd, write, &iov, 1, pos) ?: ioq_submit(q);
}

static int ioq_take(struct ioq *q, unsigned int tag, long ret, long *res)
{
	q->inflight--;
	if (tag >= q->depth)
		return -EIO;
	if (res)
		res[tag] = ret;
	return 0;
}

int ioq_reap(struct ioq *q, unsigned int min, long *res)
{
	unsigned int done = 0;
	int ret;

	while (q->inflight) {
		if (is_aio(q->eng)) {
			struct timespec zero = {};
			struct io_event ev;

			ret = io_getevents(q->aio, done < min, 1, &ev,
					   done < min ? NULL : &zero);
			if (ret == -EINTR)
				continue;
			if (ret <= 0)
				break;
			ret = ioq_take(q, (unsigned long)ev.data, ev.res, res);
		} else {
			struct io_uring_cqe *cqe;

			ret = done < min ? io_uring_wait_cqe(&q->ring, &cqe) :
					   io_uring_peek_cqe(&q->ring, &cqe);
			if (ret == -EINTR)
				continue;
			if (ret == -EAGAIN && done >= min)
				break;
			if (ret)
				return ret;
			ret = ioq_take(q, cqe->user_data, cqe->res, res);
			io_uring_cqe_seen(&q->ring, cqe);
		}
		if (ret)
			return ret;
		done++;
	}
	return done;
}

long ioq_rwv(struct ioq *q, int fd, bool write, const struct iovec *iov, int nr,
	     off_t pos)
{
	long res;
	int ret;

	if (q->eng == ENG_PSYNC && nr == 1) {
		res = write ? pwrite(fd, iov->iov_base, iov->iov_len, pos) :
			      pread(fd, iov->iov_base, iov->iov_len, pos);
		return res < 0 ? -errno : res;
	}
	if (q->eng == ENG_PVSYNC) {
		res = write ? pwritev2(fd, iov, nr, pos, 0) :
			      preadv2(fd, iov, nr, pos, 0);
		return res < 0 ? -errno : res;
	}
	if (q->inflight)
		return -EBUSY;
	ret = ioq_queue(q, 0, fd, write, iov, nr, pos) ?: ioq_submit(q);
	if (ret)
		return ret;
	ret = ioq_reap(q, 1, &res);
	return ret < 0 ? ret : res;
}

long ioq_rw(struct ioq *q, int fd, bool write, void *buf, size_t len, off_t pos)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };

	return ioq_rwv(q, fd, write, &iov, 1, pos);
}

/* ---- NVMe commands ---- */

struct io_uring_sqe *nvme_queue(struct io_uring *ring, const struct nvme_ns *ns,
				bool write, void *buf, size_t len, off_t pos)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct nvme_uring_cmd *cmd;

	if (!sqe)
		return NULL;
	/* Twice as long as others */
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ns->fd;
	sqe->cmd_op = NVME_URING_CMD_IO;
	cmd = (void *)sqe->cmd;
	cmd->opcode = write ? 1 : 2;
	cmd->nsid = ns->id;
	cmd->addr = (unsigned long)buf;
	cmd->data_len = len;
	cmd->cdw10 = pos / ns->block;
	cmd->cdw12 = len / ns->block - 1;
	return sqe;
}

/* ---- targets ---- */

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

/* ---- disks that hold what they are given ---- */

#define FORGOTTEN_MS	40000

/*
 * Goes up by one when the gate is shut, when somebody is about to open it, and when
 * that is done. So whoever opens it opens it once, and none that was shut later.
 */
enum { GATE_IS_OPEN, GATE_IS_SHUT, GATE_OPENS, GATE_STATES };

struct gate_shared {
	atomic_uint state;
	enum gate_until until;
	unsigned int ms;
	unsigned long waits;
	char name[64];		/* of the gate, for the device mapper */
	char inflight[64];	/* of the device above it */
};

static int gate_suspend(struct gate_shared *s, bool suspend)
{
	struct dm_ioctl arg = {
		.version = { DM_VERSION_MAJOR, 0, 0 },
		.data_size = sizeof(arg),
		.data_start = sizeof(arg),
		.flags = suspend ? DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG : 0,
	};
	int ret = 0, fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	snprintf(arg.name, sizeof(arg.name), "%s", s->name);
	if (ioctl(fd, DM_DEV_SUSPEND, &arg))
		ret = -errno;
	close(fd);
	return ret;
}

static int gate_release(struct gate_shared *s, unsigned int seen)
{
	int ret = 0;

	if (seen % GATE_STATES == GATE_IS_SHUT &&
	    atomic_compare_exchange_strong(&s->state, &seen, seen + 1)) {
		ret = gate_suspend(s, false);
		atomic_store(&s->state, seen + 2);
	}
	while (atomic_load(&s->state) % GATE_STATES == GATE_OPENS)
		usleep(1000);
	return ret;
}

/* Who gains nothing by a wait, or has waited in vain a moment ago, pins at once */
static unsigned long gate_waits(void)
{
	struct vmstat all;

	vmstat_read(&all, false);
	return vmstat_in(&all, "nopin_wait") + vmstat_in(&all, "nopin_pinned");
}

static void gate_keep(struct gate_shared *s, pid_t parent)
{
	unsigned int last = GATE_IS_OPEN;
	uint64_t since = 0, due = 0;

	/* Outlives the test's process group, and runs where no test hogs the CPU */
	setsid();
	pin_to_cpu(0);
	while (getppid() == parent) {
		unsigned int state = atomic_load(&s->state);
		uint64_t now = now_ms();

		if (state != last) {
			last = state;
			since = now;
			due = s->until == GATE_TIME ? now + s->ms : 0;
		}
		if (state % GATE_STATES == GATE_IS_SHUT) {
			if (s->until == GATE_WAIT && !due && gate_waits() != s->waits)
				due = now_ms() + s->ms;
			if (now >= since + FORGOTTEN_MS) {
				note("nothing happens: let the I/O go");
				due = now;
			}
			if (due && now >= due)
				gate_release(s, state);
		}
		usleep(2000);
	}
	gate_suspend(s, false);
	_exit(0);
}

int gate_init(struct gate *g, const char *env)
{
	char var[64], *name;
	struct stat st;
	pid_t parent;
	dev_t dev;
	int ret;

	snprintf(var, sizeof(var), "%s_GATE", env);
	name = getenv(var);
	if (!name)
		return -ENODEV;
	g->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->shared == MAP_FAILED)
		return -ENOMEM;
	snprintf(g->shared->name, sizeof(g->shared->name), "%s", name);
	/* A test that was killed may have left it shut */
	ret = gate_suspend(g->shared, false) ?: target_open(&g->t, env, 8 * MB);
	if (ret)
		return ret;
	if (fstat(g->t.fd, &st))
		return -errno;
	dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	snprintf(g->shared->inflight, sizeof(g->shared->inflight),
		 "/sys/dev/block/%u:%u/inflight", major(dev), minor(dev));
	parent = getpid();
	g->keeper = fork();
	if (!g->keeper)
		gate_keep(g->shared, parent);
	return g->keeper < 0 ? -errno : 0;
}

void gate_exit(struct gate *g)
{
	gate_open(g);
	kill(g->keeper, SIGKILL);
	waitpid(g->keeper, NULL, 0);
	munmap(g->shared, PAGE);
	target_close(&g->t);
}

int gate_shut(struct gate *g, enum gate_until until, unsigned int ms)
{
	struct gate_shared *s = g->shared;
	int ret = gate_suspend(s, true);

	if (ret)
		return ret;
	s->until = until;
	s->ms = ms;
	s->waits = gate_waits();
	atomic_fetch_add(&s->state, 1);
	return 0;
}

int gate_open(struct gate *g)
{
	return gate_release(g->shared, atomic_load(&g->shared->state));
}

static int gate_wait(struct gate *g, unsigned long least, unsigned long most)
{
	uint64_t end = now_ms() + FORGOTTEN_MS / 2;
	unsigned long reads, writes;
	char buf[64];
	int ret;

	do {
		ret = sysfs_read(g->shared->inflight, buf, sizeof(buf));
		if (ret)
			return ret;
		if (sscanf(buf, "%lu %lu", &reads, &writes) != 2)
			return -EIO;
		if (reads + writes >= least && reads + writes <= most)
			return 0;
		usleep(1000);
	} while (now_ms() < end);
	return -ETIME;
}

int gate_held(struct gate *g, unsigned int nr)
{
	return gate_wait(g, nr, ULONG_MAX);
}

int gate_idle(struct gate *g)
{
	return gate_open(g) ?: gate_wait(g, 0, 0);
}

/* ---- transfers in flight ---- */

enum engine flight_possible(enum engine eng)
{
	return eng == ENG_URING_FIXED && mode_get() == MODE_PIN ? ENG_URING : eng;
}

int flight_open(struct flight *f)
{
	memset(f, 0, sizeof(*f));
	return gate_init(&f->gate, "NOPIN_HELD");
}

int flight_engine(struct flight *f, enum engine eng)
{
	int ret;

	eng = flight_possible(eng);
	ret = ioq_init(&f->q, eng, FLIGHT_NR);
	if (!ret && eng == ENG_URING_FIXED)
		ret = ring_buffer(&f->q.ring, f->buf, FLIGHT_LEN);
	return ret;
}

void flight_close(struct flight *f)
{
	gate_exit(&f->gate);
}

static off_t flight_pos(struct flight *f, int i)
{
	return f->base + 2 * i * FLIGHT_IO;
}

int flight_fill(struct flight *f, uint64_t seed, off_t base)
{
	char *copy = calloc(2, FLIGHT_LEN);
	int ret;

	if (!copy)
		return -ENOMEM;
	for (int i = 0; i < FLIGHT_NR; i++)
		pat_fill(copy + 2 * i * FLIGHT_IO, FLIGHT_IO, seed, i * FLIGHT_IO);
	ret = target_write(&f->gate.t, copy, 2 * FLIGHT_LEN, base);
	free(copy);
	return ret;
}

ssize_t flight_check(struct flight *f, uint64_t seed)
{
	char *copy = malloc(2 * FLIGHT_LEN);
	ssize_t bad = -2;

	if (copy && !target_read(&f->gate.t, copy, 2 * FLIGHT_LEN, f->base)) {
		for (int i = 0; i < FLIGHT_NR; i++)
			memmove(copy + i * FLIGHT_IO, copy + 2 * i * FLIGHT_IO,
				FLIGHT_IO);
		bad = pat_check(copy, FLIGHT_LEN, seed, 0);
	}
	free(copy);
	return bad;
}

static void *flight_thread(void *arg)
{
	struct flight *f = arg;
	int i = __atomic_fetch_add(&f->started, 1, __ATOMIC_SEQ_CST);
	char *buf = f->buf + i * FLIGHT_IO;
	int fd = f->gate.t.fd;
	cpu_set_t all;

	/* Whatever the test is bound to */
	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);

	if (f->write)
		f->res[i] = pwrite(fd, buf, FLIGHT_IO, flight_pos(f, i));
	else
		f->res[i] = pread(fd, buf, FLIGHT_IO, flight_pos(f, i));
	__atomic_fetch_add(&f->ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

int flight_start(struct flight *f, bool write, off_t base, enum gate_until until,
		 unsigned int ms)
{
	int ret;

	f->write = write;
	f->base = base;
	f->done = 0;
	f->started = 0;
	f->ended = 0;
	memset(f->res, 0, sizeof(f->res));
	ret = gate_shut(&f->gate, until, ms);
	for (int i = 0; i < FLIGHT_NR && !ret; i++) {
		if (f->q.eng == ENG_PSYNC)
			ret = -pthread_create(&f->th[i], NULL, flight_thread, f);
		else
			ret = ioq_start(&f->q, i, f->gate.t.fd, write,
					f->buf + i * FLIGHT_IO, FLIGHT_IO,
					flight_pos(f, i));
	}
	return ret ?: gate_held(&f->gate, FLIGHT_NR);
}

int flight_done(struct flight *f)
{
	int ret;

	if (f->q.eng == ENG_PSYNC)
		return __atomic_load_n(&f->ended, __ATOMIC_SEQ_CST);
	ret = ioq_reap(&f->q, 0, f->res);
	if (ret < 0)
		return ret;
	f->done += ret;
	return f->done;
}

int flight_finish(struct flight *f)
{
	int ret = gate_open(&f->gate);

	if (ret)
		return ret;
	if (f->q.eng == ENG_PSYNC) {
		for (int i = 0; i < FLIGHT_NR; i++)
			pthread_join(f->th[i], NULL);
	} else {
		ret = ioq_reap(&f->q, FLIGHT_NR - f->done, f->res);
		if (ret < 0)
			return ret;
	}
	for (int i = 0; i < FLIGHT_NR; i++)
		if (f->res[i] != (long)FLIGHT_IO) {
			note("transfer %d: %ld", i, f->res[i]);
			return -EIO;
		}
	return 0;
}

/* ---- taking free pages ---- */

static int grab_take(struct grab *g)
{
	int ret = mem_get(&g->m, g->kind, g->len);

	if (!ret)
		memset(g->m.p, GRAB_BYTE, g->m.len);
	return ret;
}

static int grab_ask(struct grab *g, ssize_t *answer)
{
	char c = 0;

	if (write(g->to[1], &c, 1) != 1 ||
	    read(g->from[0], answer, sizeof(*answer)) != sizeof(*answer))
		return -EIO;
	return 0;
}

static void grab_other(struct grab *g)
{
	ssize_t ret;
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(g->to[0], &c, 1) != 1)
		_exit(1);
	ret = grab_take(g);
	if (write(g->from[1], &ret, sizeof(ret)) != sizeof(ret) || ret ||
	    read(g->to[0], &c, 1) != 1)
		_exit(1);
	ret = byte_check(g->m.p, g->m.len, GRAB_BYTE);
	_exit(write(g->from[1], &ret, sizeof(ret)) != sizeof(ret));
}

int grab_init(struct grab *g, enum mem_kind kind, size_t len)
{
	memset(g, 0, sizeof(*g));
	g->kind = kind;
	g->len = len;
	g->m.map = MAP_FAILED;
	g->m.fd = -1;
	if (pipe2(g->to, O_CLOEXEC) || pipe2(g->from, O_CLOEXEC))
		return -errno;
	g->pid = fork();
	if (g->pid < 0)
		return -errno;
	if (!g->pid)
		grab_other(g);
	return 0;
}

int grab_fill(struct grab *g)
{
	int ret = grab_take(g);
	ssize_t other;

	if (!ret)
		ret = grab_ask(g, &other) ?: other;
	return ret;
}

ssize_t grab_check(struct grab *g)
{
	ssize_t mine = byte_check(g->m.p, g->m.len, GRAB_BYTE);
	ssize_t other;

	if (grab_ask(g, &other))
		return -2;
	return mine != -1 ? mine : other;
}

void grab_exit(struct grab *g)
{
	mem_put(&g->m);
	close(g->to[1]);
	close(g->from[0]);
	kill(g->pid, SIGKILL);
	waitpid(g->pid, NULL, 0);
	close(g->to[0]);
	close(g->from[1]);
}

bool with_lockdep(void)
{
	return access("/proc/lockdep", F_OK) == 0;
}

bool task_blocked(pid_t tid)
{
	char path[64], stat[256], *state;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	if (sysfs_read(path, stat, sizeof(stat)))
		return false;
	state = strrchr(stat, ')');
	return state && !strncmp(state, ") D", 3);
}
