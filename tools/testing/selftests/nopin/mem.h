/* SPDX-License-Identifier: GPL-2.0 */
/* Patterns, kinds of memory, page tables, and a taker of pages that are freed */
#ifndef NOPIN_MEM_H
#define NOPIN_MEM_H

/* Patterns: every 8 bytes depend on the position and the seed */
void pat_fill(void *buf, size_t len, uint64_t seed, off_t pos);
/* Offset of the first wrong byte's word, or -1 */
ssize_t pat_check(const void *buf, size_t len, uint64_t seed, off_t pos);
/* The same for one byte value all over */
ssize_t byte_check(const void *buf, size_t len, unsigned char val);
/*
 * Does each byte of @p come from the pattern of one of the @nr seeds? So it is in a child,
 * if fork() copied a page while a device wrote to it.
 */
bool pat_mixed(const char *p, size_t len, const uint64_t *seeds, int nr, off_t pos);

enum mem_kind {
	MEM_ANON,
	MEM_ANON_GIB,		/* an address divisible by 1 GiB in the middle */
	MEM_THP,
	MEM_THP_PTE,		/* a large folio mapped by PTEs */
	MEM_HUGETLB,
	MEM_HUGETLB_1G,
	MEM_SHMEM,
	MEM_SHMEM_THP,
	MEM_PRIVATE_FILE,
	MEM_SHARED_EXT4,
	MEM_SHARED_XFS,
	NR_MEM
};

extern const char *const mem_name[NR_MEM];
/* Of pages of 2 MiB, however they are mapped */
bool mem_of_huge(enum mem_kind kind);

struct mem {
	enum mem_kind kind;
	char *p;
	size_t len;
	int fd;			/* of the file mapped, or -1 */
	void *map;
	size_t maplen;
};

/* 0 or -errno; the pages are present and written to */
int mem_get(struct mem *m, enum mem_kind kind, size_t len);
void mem_put(struct mem *m);

/* New anonymous memory without any pages, or MAP_FAILED */
char *anon_map(size_t len);
/* Address space without memory, PROT_NONE. It begins at a multiple of @align */
char *space_get(size_t len, size_t align);

/* The mapping that has this name, as "[stack]", or NULL */
char *map_named(const char *name);
/* Is the memory at @p mapped by PMDs? */
bool mem_is_huge(const void *p);
/* The NUMA node of a page, or -errno */
int mem_node(const void *p);

/* Entries of /proc/PID/pagemap */
#define PM_PFN(e)	((e) & ((1ULL << 55) - 1))
#define PM_SOFT_DIRTY	55
#define PM_SWAP		62
#define PM_PRESENT	63

int pagemap_read(const void *p, uint64_t *entry, size_t nr);

/*
 * Takes free pages and fills them. If I/O still uses a page that was freed, a byte in
 * here is wrong, or the disk gets a GRAB_BYTE.
 */
#define GRAB_BYTE	0x5a

struct grab {
	enum mem_kind kind;
	size_t len;
	struct mem m;
	pid_t pid;
	int to[2], from[2];
};

/* @len bytes in this process, and as much in another one */
int grab_init(struct grab *g, enum mem_kind kind, size_t len);
int grab_fill(struct grab *g);
/* -1, or the offset of the first byte that somebody changed */
ssize_t grab_check(struct grab *g);
void grab_exit(struct grab *g);

#endif
