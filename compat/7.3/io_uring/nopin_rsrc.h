/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Fixed buffers without pins: what is different about such a buffer.
 */
#ifndef IOU_NOPIN_RSRC_H
#define IOU_NOPIN_RSRC_H

#include <linux/fs.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/uio.h>

#include "rsrc.h"

#ifdef CONFIG_NOPIN

struct io_rsrc_node *io_nopin_register(struct io_ring_ctx *ctx,
				       const struct iovec *iov);
int io_nopin_foreign(struct io_kiocb *req, u64 addr, size_t len, int ddir,
		     unsigned int issue_flags);
int io_nopin_import_vec(struct io_kiocb *req, struct iov_iter *iter,
			const struct iovec *iov, unsigned int nr, int ddir,
			unsigned int issue_flags);

/* What nopin.c needs of nopin_rsrc.c and rsrc.c */
void io_nopin_set_mm(struct io_mapped_ubuf *imu, struct mm_struct *mm);
void io_nopin_set_pinned(struct io_mapped_ubuf *imu, int ddir);
struct io_mapped_ubuf *io_nopin_alloc_imu(struct io_ring_ctx *ctx, int nr_bvecs);
void io_nopin_free_imu(struct io_ring_ctx *ctx, struct io_mapped_ubuf *imu);
int io_nopin_account_pin(struct io_ring_ctx *ctx, struct page **pages,
			 int nr_pages);

static inline bool io_nopin_has_table(const struct io_ring_ctx *ctx)
{
	return ctx->buf_table.nr;
}

/*
 * A ring gets buffers of another one, at @off to @end of its table. If it keeps buffers
 * of its own, it keeps its way to register them.
 */
static inline void io_nopin_clone_table(struct io_ring_ctx *ctx,
					const struct io_ring_ctx *src,
					unsigned int off, unsigned int end)
{
	if (!io_nopin_has_table(ctx) || (!off && end >= ctx->buf_table.nr))
		ctx->nopin_table = src->nopin_table;
}

/* Is it a range of addresses rather than a set of pages? */
static inline bool io_imu_nopin(const struct io_mapped_ubuf *imu)
{
	return imu->flags & IO_REGBUF_F_NOPIN;
}

/* The mm of such a buffer, NULL of others */
static inline struct mm_struct *io_nopin_mm(const struct io_mapped_ubuf *imu)
{
	return io_imu_nopin(imu) ? imu->priv : NULL;
}

/* Is all of that memory in the buffer, and no more than one request may have? */
static inline bool io_nopin_within(const struct io_mapped_ubuf *imu, u64 addr,
				   size_t len)
{
	u64 end;

	return !check_add_overflow(addr, (u64)len, &end) &&
	       addr >= imu->ubuf && end <= imu->ubuf + imu->len &&
	       len <= MAX_RW_COUNT;
}

/*
 * Part of a buffer for a request whose buffer node was set: plain user memory, for
 * which io_nopin_register_user() has checked access_ok(). Positive if the memory is of
 * another mm and was pinned: then the node is that of a pinned buffer now.
 */
static inline int io_nopin_import(struct io_kiocb *req, struct iov_iter *iter,
				  u64 addr, size_t len, int ddir,
				  unsigned int issue_flags)
{
	const struct io_mapped_ubuf *imu = req->buf_node->buf;

	if (unlikely(!io_nopin_within(imu, addr, len)))
		return -EFAULT;
	if (unlikely(io_nopin_mm(imu) != current->mm && len))
		return io_nopin_foreign(req, addr, len, ddir, issue_flags);
	iov_iter_ubuf(iter, ddir, u64_to_user_ptr(addr), len);
	return 0;
}

/*
 * The flags to set with IOCB_NOWAIT: a worker thread is to fault in a fixed buffer
 * that is not there, unless the program asked for RWF_NOWAIT. With a pinned buffer
 * the flag has no effect.
 */
static inline int io_nopin_iocb_flags(const struct io_kiocb *req)
{
	if (!(req->flags & REQ_F_BUF_NODE))
		return 0;
	return req->flags & REQ_F_NOWAIT ? 0 : IOCB_NOPIN_AGAIN;
}

#else /* !CONFIG_NOPIN */

static inline void io_nopin_clone_table(struct io_ring_ctx *ctx,
					const struct io_ring_ctx *src,
					unsigned int off, unsigned int end) { }

static inline struct io_rsrc_node *io_nopin_register(struct io_ring_ctx *ctx,
						     const struct iovec *iov)
{
	return ERR_PTR(-EINVAL);
}

static inline int io_nopin_import(struct io_kiocb *req, struct iov_iter *iter,
				  u64 addr, size_t len, int ddir,
				  unsigned int issue_flags)
{
	return -EFAULT;
}

static inline int io_nopin_import_vec(struct io_kiocb *req,
				      struct iov_iter *iter,
				      const struct iovec *iov, unsigned int nr,
				      int ddir, unsigned int issue_flags)
{
	return -EFAULT;
}

#endif /* CONFIG_NOPIN */
#endif /* IOU_NOPIN_RSRC_H */
