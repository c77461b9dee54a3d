/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a process, another process or the kernel can do to memory while a device works on
 * it. This is the one list of these operations. lifetime.c, throttle.c, edges.c, nomem.c,
 * reclaim.c, matrix.c and others take operations from it, and say what has to come of
 * them in the case that they test.
 */
#ifndef NOPIN_OPS_H
#define NOPIN_OPS_H

#include <linux/userfaultfd.h>

/* The C library may be older than the kernel */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/* Memory, and the file that is mapped there */
struct area {
	char *p;		/* OP_MREMAP changes it */
	size_t len;
	int fd;			/* of the file, or -1 */
	pid_t pid;		/* whose memory it is, 0: of the caller */
	char *to;		/* for OP_MREMAP: where to, NULL: anywhere */
	int node;		/* for OP_MOVE_PAGES: where to */
	int uffd;		/* for OP_UFFD_*: see uffd_open() */
};

enum op_id {
	/* A process changes its own mapping */
	OP_MUNMAP, OP_MUNMAP_MIDDLE, OP_MMAP_OVER, OP_MREMAP, OP_PROTECT_READ,
	OP_PROTECT_NONE, OP_MLOCK, OP_DONTNEED, OP_FREE, OP_COLD,
	OP_UFFD_PROTECT, OP_UFFD_UNPROTECT,
	/* A process ends, or becomes another program */
	OP_EXIT, OP_EXEC,
	/* Somebody changes the file, or writes it back */
	OP_FSYNC, OP_SYNCFS, OP_TRUNCATE, OP_CUT, OP_PUNCH, OP_REMOVE,
	/* Somebody has the kernel move, take, protect or merge the pages */
	OP_MOVE_PAGES, OP_PAGEOUT, OP_COLLAPSE, OP_SOFT_DIRTY,
	OP_SOFT_OFFLINE, OP_HWPOISON, OP_COMPACT,
	NR_OPS
};

/* What memory an operation applies to */
#define ON_ANON		0x1
#define ON_FILE		0x2
#define ON_ANY		(ON_ANON | ON_FILE)

/* What is found there afterwards, or in the file */
enum found {
	FOUND_DATA,		/* what was there, or came by I/O */
	FOUND_ZEROS,
	FOUND_EITHER,		/* the one or the other, page by page */
	FOUND_GRAB,		/* GRAB_BYTE */
	FOUND_NONE		/* no memory */
};

struct op {
	const char *name;
	/* 0 or -errno; OP_MOVE_PAGES: how many pages are not moved */
	int (*run)(struct area *a);
	unsigned int memory;
	enum found found;
	bool protects;		/* from then on nobody may write to the memory */
};

extern const struct op ops[NR_OPS];

/* 0 or more, or -errno */
int op_run(enum op_id id, struct area *a);
/* The time that it takes, in ms, or -errno */
long op_timed(enum op_id id, struct area *a);

/* How many pages are on the node, or -errno */
int pages_on_node(const struct area *a, int node);

/* A userfaultfd of the memory, UFFDIO_REGISTER_MODE_*: area.uffd, or -errno */
int uffd_open(char *p, size_t len, uint64_t features, uint64_t mode);

/* Whether this program was run by OP_EXEC, to end at once */
bool op_exec_ends(int argc, char **argv);

#endif
