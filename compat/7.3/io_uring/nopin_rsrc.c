// SPDX-License-Identifier: GPL-2.0
/*
 * Fixed buffers without pins: how they are kept, and how requests get at them.
 *
 * Such a buffer has IO_REGBUF_F_NOPIN, no bio_vecs, and a reference to the mm in
 * @priv.
 */

#include <linux/io_uring.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "nopin.h"
#include "rsrc.h"

static void io_nopin_release(void *priv)
{
	mmdrop(priv);
}

/* A buffer is a range of addresses of an mm */
void io_nopin_set_mm(struct io_mapped_ubuf *imu, struct mm_struct *mm)
{
	imu->flags = IO_REGBUF_F_NOPIN;
	imu->dir = IO_BUF_DEST | IO_BUF_SOURCE;
	imu->priv = mm;
	imu->release = io_nopin_release;
}

static void io_nopin_unpin(void *priv)
{
	struct io_mapped_ubuf *imu = priv;
	unsigned int i;

	/* A page of a file may have been written back, and cleaned, meanwhile */
	for (i = 0; i < imu->nr_bvecs; i++)
		unpin_user_pages_dirty_lock(&imu->bvec[i].bv_page, 1,
					    imu->dir & IO_BUF_DEST);
}

/* A buffer is pinned on behalf of a request */
void io_nopin_set_pinned(struct io_mapped_ubuf *imu, int ddir)
{
	imu->flags = 0;
	imu->dir = 1 << ddir;
	imu->priv = imu;
	imu->release = io_nopin_unpin;
}

/**
 * io_nopin_register - register a buffer of the current task
 * @ctx: the ring
 * @iov: address and length, checked by io_validate_user_buf_range()
 *
 * Context: Process context with @ctx->uring_lock held, may sleep.
 *
 * Return: its node, or an error of io_nopin_new().
 */
struct io_rsrc_node *io_nopin_register(struct io_ring_ctx *ctx,
				       const struct iovec *iov)
{
	struct io_mapped_ubuf *imu;
	struct io_rsrc_node *node;

	node = io_rsrc_node_alloc(ctx, IORING_RSRC_BUFFER);
	if (!node)
		return ERR_PTR(-ENOMEM);
	imu = io_nopin_new(ctx, iov);
	if (IS_ERR(imu)) {
		io_cache_free(&ctx->node_cache, node);
		return ERR_CAST(imu);
	}
	node->buf = imu;
	return node;
}

/**
 * io_nopin_foreign - pin the part of a buffer that a request uses
 * @req: request, or notification of one, with a buffer of an mm that is not the
 *	current one
 * @addr: address within the buffer
 * @len: number of bytes, at least 1
 * @ddir: ITER_DEST or ITER_SOURCE
 * @issue_flags: those of the request
 *
 * The node of the request is replaced by one of its own, as if that part had been
 * registered and was unregistered now: the pins go with the request.
 *
 * Context: Process context, may sleep; with the uring_lock held, unless @issue_flags
 * say that it is not.
 *
 * Return: 1; -EFAULT if the mm of the buffer is gone, or if the memory is not
 * accessible; -ENOMEM, also beyond RLIMIT_MEMLOCK.
 */
int io_nopin_foreign(struct io_kiocb *req, u64 addr, size_t len, int ddir,
		     unsigned int issue_flags)
{
	struct mm_struct *mm = io_nopin_mm(req->buf_node->buf);
	struct io_ring_ctx *ctx = req->ctx;
	struct io_mapped_ubuf *pinned;
	struct io_rsrc_node *node;
	int ret = -ENOMEM;

	if (!mmget_not_zero(mm))
		return -EFAULT;
	io_ring_submit_lock(ctx, issue_flags);
	node = io_rsrc_node_alloc(ctx, IORING_RSRC_BUFFER);
	if (!node)
		goto unlock;
	pinned = io_nopin_pin(ctx, mm, ddir, addr, len);
	if (IS_ERR(pinned)) {
		io_cache_free(&ctx->node_cache, node);
		ret = PTR_ERR(pinned);
		goto unlock;
	}
	node->buf = pinned;
	io_put_rsrc_node(ctx, req->buf_node);
	req->buf_node = node;
	ret = 1;
unlock:
	io_ring_submit_unlock(ctx, issue_flags);
	/* The last mmput() must not tear down the mm with the lock held */
	mmput_async(mm);
	return ret;
}

/**
 * io_nopin_import_vec - io_nopin_import() of several parts
 * @req: as there
 * @iter: as there
 * @iov: the parts; as long as the request
 * @nr: number of parts
 * @ddir: as there
 * @issue_flags: as there
 *
 * If the buffer is of another mm, all that is between the lowest and the highest
 * address is pinned: it has to be accessible, and no more than one request may have.
 *
 * Return: as there; what is not allowed as there is not allowed of any part.
 */
int io_nopin_import_vec(struct io_kiocb *req, struct iov_iter *iter,
			const struct iovec *iov, unsigned int nr, int ddir,
			unsigned int issue_flags)
{
	const struct io_mapped_ubuf *imu = req->buf_node->buf;
	u64 start = U64_MAX, end = 0;
	size_t total = 0;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		u64 addr = (u64)(uintptr_t)iov[i].iov_base;
		size_t len = iov[i].iov_len;

		if (!len || !io_nopin_within(imu, addr, len))
			return -EFAULT;
		if (check_add_overflow(total, len, &total))
			return -EOVERFLOW;
		start = min(start, addr);
		end = max(end, addr + len);
	}
	if (total > MAX_RW_COUNT)
		return -EINVAL;
	if (io_nopin_mm(imu) != current->mm && total) {
		if (end - start > MAX_RW_COUNT)
			return -EFAULT;
		return io_nopin_foreign(req, start, end - start, ddir,
					issue_flags);
	}
	iov_iter_init(iter, ddir, iov, nr, total);
	return 0;
}
