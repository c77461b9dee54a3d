// SPDX-License-Identifier: GPL-2.0
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "nopin_util.h"

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

static bool is_uring(enum engine e)
{
	return e >= ENG_URING;
}

static bool is_vectored(enum engine e)
{
	return e == ENG_PVSYNC || e == ENG_AIOV || e == ENG_URINGV;
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
		       unsigned int nr, unsigned int flags)
{
	struct io_uring_rsrc_register rr = {
		.nr	= nr,
		.flags	= flags,
		.data	= (unsigned long)iov,
	};

	return ring_register(ring, IORING_REGISTER_BUFFERS2, &rr, sizeof(rr));
}

int ring_buffer(struct io_uring *ring, void *buf, size_t len)
{
	struct iovec iov = { buf, len };

	return ring_buffers_flags(ring, &iov, 1,
				  nopin() ? IORING_RSRC_REGISTER_NOPIN : 0);
}

int ioq_init(struct ioq *q, enum engine eng, unsigned int depth)
{
	return ioq_init_flags(q, eng, depth, 0);
}

int ioq_init_buffer(struct ioq *q, enum engine eng, unsigned int depth, void *buf,
		    size_t len)
{
	int ret = ioq_init(q, eng, depth);

	if (!ret && eng == ENG_URING_FIXED)
		ret = ring_buffer(&q->ring, buf, len);
	return ret;
}

void ioq_exit(struct ioq *q)
{
	if (!q->depth)
		return;
	if (q->inflight)
		ioq_reap(q, q->inflight, NULL);
	if (is_aio(q->eng)) {
		io_destroy(q->aio);
		free(q->iocbs);
		free(q->batch);
	} else if (is_uring(q->eng)) {
		io_uring_queue_exit(&q->ring);
	}
	q->depth = 0;
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
	if (tag >= q->depth || (nr != 1 && !is_vectored(q->eng)))
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

int ioq_begin(struct ioq *q, unsigned int tag, int fd, bool write, void *buf, size_t len,
	      off_t pos, long *res)
{
	if (q->eng != ENG_PSYNC && q->eng != ENG_PVSYNC)
		return ioq_start(q, tag, fd, write, buf, len, pos);
	res[tag] = ioq_rw(q, fd, write, buf, len, pos);
	return 0;
}

int ioq_end(struct ioq *q, long *res)
{
	int ret = ioq_reap(q, q->inflight, res);

	return ret < 0 ? ret : q->inflight ? -EIO : 0;
}

/* ---- NVMe commands ---- */

int nvme_open(struct nvme_ns *ns, const char *disk)
{
	static const char prefix[] = "/dev/nvme";
	char path[64];
	int id;

	if (strncmp(disk, prefix, strlen(prefix)))
		return -ENODEV;
	ns->fd = open(disk, O_RDONLY);
	if (ns->fd < 0 || ioctl(ns->fd, BLKSSZGET, &ns->block))
		return -errno;
	close(ns->fd);
	snprintf(path, sizeof(path), "/dev/ng%s", disk + strlen(prefix));
	ns->fd = open(path, O_RDWR);
	if (ns->fd < 0)
		return -errno;
	id = ioctl(ns->fd, NVME_IOCTL_ID);
	ns->id = id;
	return id < 0 ? -errno : 0;
}

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
