/* SPDX-License-Identifier: GPL-2.0 */
/* Ways to do I/O: system calls, AIO, io_uring and NVMe commands */
#ifndef NOPIN_IOQ_H
#define NOPIN_IOQ_H

#include <libaio.h>
#include <liburing.h>

enum engine {
	ENG_PSYNC,		/* pread, pwrite */
	ENG_PVSYNC,		/* preadv2, pwritev2 */
	ENG_AIO,
	ENG_AIOV,
	ENG_URING,
	ENG_URINGV,
	ENG_URING_WQ,		/* issued by a worker thread */
	ENG_URING_SQPOLL,	/* issued by a kernel thread */
	NR_ENGINES,
	/* The buffer has to be registered before: ioq_init_buffer() */
	ENG_URING_FIXED = NR_ENGINES
};

extern const char *const engine_name[NR_ENGINES + 1];

struct ioq {
	enum engine eng;
	unsigned int depth;
	unsigned int inflight;
	io_context_t aio;
	struct iocb *iocbs;
	struct iocb **batch;
	unsigned int nr_batch;
	struct io_uring ring;
};

/*
 * Registering buffers, with IORING_RSRC_REGISTER_NOPIN in nopin mode and pinned
 * otherwise. The numbers are those of the kernel: liburing may be older.
 */
#ifndef IORING_RSRC_REGISTER_NOPIN
#define IORING_RSRC_REGISTER_NOPIN	2U
#endif
#define REGISTER_CLONE_BUFFERS		30

int ring_register(struct io_uring *ring, unsigned int op, const void *arg,
		  unsigned int nr);
int ring_buffers_flags(struct io_uring *ring, const struct iovec *iov,
		       unsigned int nr, unsigned int flags);
int ring_buffer(struct io_uring *ring, void *buf, size_t len);

int ioq_init(struct ioq *q, enum engine eng, unsigned int depth);
int ioq_init_flags(struct ioq *q, enum engine eng, unsigned int depth,
		   unsigned int setup_flags);
/* The same. It registers the buffer if the engine is ENG_URING_FIXED */
int ioq_init_buffer(struct ioq *q, enum engine eng, unsigned int depth, void *buf,
		    size_t len);
/* Waits for the transfers in flight. A second call does nothing */
void ioq_exit(struct ioq *q);
/* Queue a transfer; @tag < depth indexes the results. For asynchronous engines. */
int ioq_queue(struct ioq *q, unsigned int tag, int fd, bool write,
	      const struct iovec *iov, int nr, off_t pos);
int ioq_submit(struct ioq *q);
int ioq_start(struct ioq *q, unsigned int tag, int fd, bool write,
	      void *buf, size_t len, off_t pos);
/*
 * Wait for at least @min completions and take all there are; results go to
 * res[tag] unless @res is NULL. The number of completions, or -errno.
 */
int ioq_reap(struct ioq *q, unsigned int min, long *res);
/*
 * For loops that are the same with any engine. ioq_begin() starts a transfer, and a
 * synchronous engine does all of it. ioq_end() waits for all of them. 0 or -errno.
 */
int ioq_begin(struct ioq *q, unsigned int tag, int fd, bool write, void *buf, size_t len,
	      off_t pos, long *res);
int ioq_end(struct ioq *q, long *res);
/* One transfer from start to end, with any engine: bytes or -errno */
long ioq_rwv(struct ioq *q, int fd, bool write, const struct iovec *iov, int nr,
	     off_t pos);
long ioq_rw(struct ioq *q, int fd, bool write, void *buf, size_t len, off_t pos);

/* NVMe commands */

struct nvme_ns {
	int fd;			/* of the character device or the disk */
	unsigned int id;
	unsigned int block;	/* that commands count in */
};

/* The character device of /dev/nvme..., which is /dev/ng...; 0 or -errno */
int nvme_open(struct nvme_ns *ns, const char *disk);
/* Queues a transfer; NULL if there is no room. For IORING_SETUP_SQE128 */
struct io_uring_sqe *nvme_queue(struct io_uring *ring, const struct nvme_ns *ns,
				bool write, void *buf, size_t len, off_t pos);

#endif
