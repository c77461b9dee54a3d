// SPDX-License-Identifier: GPL-2.0
/*
 * Fixed buffers without pins: how they are kept, and how requests get at them.
 */

#include <linux/io_uring.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "nopin.h"
#include "rsrc.h"

/* A buffer with room for so many pages; io_buffer_unmap() frees it */
struct io_mapped_ubuf *io_nopin_alloc_imu(struct io_ring_ctx *ctx, int nr_bvecs)
{
	struct io_mapped_ubuf *imu;

	return kvzalloc(struct_size(imu, bvec, nr_bvecs), GFP_KERNEL_ACCOUNT);
}

void io_nopin_free_imu(struct io_ring_ctx *ctx, struct io_mapped_ubuf *imu)
{
	kvfree(imu);
}

int io_nopin_account_pin(struct io_ring_ctx *ctx, struct page **pages,
			 int nr_pages)
{
	int ret = ctx->user ? __io_account_mem(ctx->user, nr_pages) : 0;

	if (!ret && ctx->mm_account)
		atomic64_add(nr_pages, &ctx->mm_account->pinned_vm);
	return ret;
}

/**
 * io_nopin_register - register a buffer of the current task
 * @ctx: the ring
 * @iov: address and length, checked by io_buffer_validate(), not empty
 * @pimu: set to the buffer
 *
 * Context: Process context with @ctx->uring_lock held, may sleep.
 *
 * Return: 0, or an error of io_nopin_new().
 */
int io_nopin_register(struct io_ring_ctx *ctx, const struct iovec *iov,
		      struct io_mapped_ubuf **pimu)
{
	struct io_mapped_ubuf *imu = io_nopin_new(ctx, iov);

	if (IS_ERR(imu))
		return PTR_ERR(imu);
	*pimu = imu;
	return 0;
}

/**
 * io_nopin_foreign - pin the part of a buffer that a request uses
 * @ctx: the ring
 * @pimu: buffer of an mm that is not the current one; replaced
 * @ddir: ITER_DEST or ITER_SOURCE
 * @addr: address within the buffer
 * @len: number of bytes
 *
 * The pins hang on the current resource node, as a buffer does that is being
 * unregistered: they are dropped when the requests of this node and of earlier
 * ones have ended.
 *
 * Context: Process context with @ctx->uring_lock held, may sleep. The request
 * holds a reference to @ctx->rsrc_node.
 *
 * Return: 0; -EFAULT if the mm of the buffer is gone, or if the memory is not
 * in the buffer or not accessible; -ENOMEM, also beyond RLIMIT_MEMLOCK.
 */
int io_nopin_foreign(struct io_ring_ctx *ctx, struct io_mapped_ubuf **pimu,
		     int ddir, u64 addr, size_t len)
{
	struct io_rsrc_node *node = ctx->rsrc_node, *next;
	struct io_mapped_ubuf *imu = *pimu, *pinned;
	struct mm_struct *mm = imu->mm;

	lockdep_assert_held(&ctx->uring_lock);

	if (!io_nopin_within(imu, addr, len))
		return -EFAULT;
	if (!len)
		return 0;

	next = io_rsrc_node_alloc(ctx);
	if (!next)
		return -ENOMEM;
	if (!mmget_not_zero(mm)) {
		io_rsrc_node_destroy(ctx, next);
		return -EFAULT;
	}
	pinned = io_nopin_pin(ctx, mm, ddir, addr, len);
	/* The last mmput() must not tear down the mm with the lock held */
	mmput_async(mm);
	if (IS_ERR(pinned)) {
		io_rsrc_node_destroy(ctx, next);
		return PTR_ERR(pinned);
	}

	/* As io_queue_rsrc_removal() does it */
	node->item.buf = pinned;
	node->item.tag = 0;
	node->type = IORING_RSRC_BUFFER;
	list_add_tail(&node->node, &ctx->rsrc_ref_list);
	ctx->rsrc_node = next;
	io_put_rsrc_node(ctx, node);
	*pimu = pinned;
	return 0;
}

/**
 * io_nopin_release - drop the mm of a buffer, or unpin its dirty pages
 * @imu: buffer without users
 *
 * Context: Process context, may sleep.
 */
void io_nopin_release(struct io_mapped_ubuf *imu)
{
	unsigned int i;

	if (imu->mm)
		mmdrop(imu->mm);
	if (!imu->dirty)
		return;
	for (i = 0; i < imu->nr_bvecs; i++)
		unpin_user_pages_dirty_lock(&imu->bvec[i].bv_page, 1, true);
	imu->nr_bvecs = 0;
}
