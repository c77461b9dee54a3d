// SPDX-License-Identifier: GPL-2.0
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "nopin_util.h"

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

bool pat_mixed(const char *p, size_t len, const uint64_t *seeds, int nr, off_t pos)
{
	for (size_t o = 0; o < len; o += 8) {
		unsigned int ok = 0;

		for (int s = 0; s < nr; s++) {
			uint64_t w = pat_word(seeds[s], (pos + o) / 8);

			for (int b = 0; b < 8; b++)
				ok |= (p[o + b] == ((char *)&w)[b]) << b;
		}
		if (ok != 0xff)
			return false;
	}
	return true;
}

/* ---- memory ---- */

char *anon_map(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

char *space_get(size_t len, size_t align)
{
	char *p = mmap(NULL, len + align, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? p : (char *)ALIGN_UP((unsigned long)p, align);
}

char *map_named(const char *name)
{
	unsigned long start, found = 0;
	char line[256];
	FILE *f = fopen("/proc/self/maps", "r");

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, name) && sscanf(line, "%lx-", &start) == 1)
			found = start;
	if (f)
		fclose(f);
	return (char *)found;
}

int pagemap_read(const void *p, uint64_t *entry, size_t nr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = pread(fd, entry, nr * 8, (unsigned long)p / PAGE * 8);
	close(fd);
	return n == (ssize_t)(nr * 8) ? 0 : -EIO;
}

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
