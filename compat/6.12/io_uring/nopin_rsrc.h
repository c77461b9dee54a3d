/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Fixed buffers without pins: what is different about such a buffer.
 */
#ifndef IOU_NOPIN_RSRC_H
#define IOU_NOPIN_RSRC_H

#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/uio.h>

#include "rsrc.h"

#ifdef CONFIG_NOPIN

int io_nopin_register(struct io_ring_ctx *ctx, const struct iovec *iov,
		      struct io_mapped_ubuf **pimu);
int io_nopin_foreign(struct io_ring_ctx *ctx, struct io_mapped_ubuf **pimu,
		     int ddir, u64 addr, size_t len);
void io_nopin_release(struct io_mapped_ubuf *imu);

/* What nopin.c needs of nopin_rsrc.c */
struct io_mapped_ubuf *io_nopin_alloc_imu(struct io_ring_ctx *ctx, int nr_bvecs);
void io_nopin_free_imu(struct io_ring_ctx *ctx, struct io_mapped_ubuf *imu);
int io_nopin_account_pin(struct io_ring_ctx *ctx, struct page **pages,
			 int nr_pages);

static inline bool io_nopin_has_table(const struct io_ring_ctx *ctx)
{
	return ctx->user_bufs;
}

/* A ring without buffers gets all of another one */
static inline void io_nopin_clone_table(struct io_ring_ctx *ctx,
					const struct io_ring_ctx *src)
{
	ctx->nopin_table = src->nopin_table;
}

/* A buffer is pinned */
static inline void io_nopin_init(struct io_mapped_ubuf *imu)
{
	imu->mm = NULL;
	imu->dirty = false;
}

/* It is so on behalf of a request */
static inline void io_nopin_set_pinned(struct io_mapped_ubuf *imu, int ddir)
{
	imu->acct_pages = imu->nr_bvecs;
	/* A page of a file may be written back, and cleaned, meanwhile */
	imu->dirty = ddir == ITER_DEST;
}

/* It is a range of addresses of an mm */
static inline void io_nopin_set_mm(struct io_mapped_ubuf *imu,
				   struct mm_struct *mm)
{
	imu->mm = mm;
}

/* Is it a range of addresses rather than a set of pages? */
static inline bool io_imu_nopin(const struct io_mapped_ubuf *imu)
{
	return imu->mm;
}

/* The mm of such a buffer, NULL of others */
static inline struct mm_struct *io_nopin_mm(const struct io_mapped_ubuf *imu)
{
	return imu->mm;
}

/* The last reference to a buffer is gone. The caller unpins what is still pinned */
static inline void io_nopin_put(struct io_mapped_ubuf *imu)
{
	if (imu->mm || imu->dirty)
		io_nopin_release(imu);
}

/* Is all of that memory in the buffer? */
static inline bool io_nopin_within(const struct io_mapped_ubuf *imu, u64 addr,
				   size_t len)
{
	u64 end;

	return !check_add_overflow(addr, (u64)len, &end) &&
	       addr >= imu->ubuf && end <= imu->ubuf + imu->len;
}

/*
 * io_import_fixed() for a buffer that may be registered without pins: then it is
 * plain user memory, for which io_nopin_register_user() has checked access_ok().
 */
static inline int io_nopin_import(int ddir, struct iov_iter *iter,
				  struct io_mapped_ubuf *imu, u64 addr,
				  size_t len)
{
	if (!imu || !io_imu_nopin(imu))
		return io_import_fixed(ddir, iter, imu, addr, len);
	if (unlikely(!io_nopin_within(imu, addr, len)))
		return -EFAULT;
	iov_iter_ubuf(iter, ddir, u64_to_user_ptr(addr), len);
	return 0;
}

/*
 * Pin the part of *@pimu that the request uses, if the buffer is of another mm. To
 * be called when the request is prepared, after its resource node was set.
 */
static inline int io_nopin_prep(struct io_ring_ctx *ctx,
				struct io_mapped_ubuf **pimu, int ddir,
				u64 addr, size_t len)
{
	const struct mm_struct *mm = (*pimu)->mm;

	if (likely(!mm || mm == current->mm))
		return 0;
	return io_nopin_foreign(ctx, pimu, ddir, addr, len);
}

/*
 * The flags to set with IOCB_NOWAIT: a worker thread is to fault in a fixed buffer
 * that is not there, unless the program asked for RWF_NOWAIT. With a pinned buffer
 * the flag has no effect.
 */
static inline int io_nopin_iocb_flags(const struct io_kiocb *req)
{
	if (req->opcode != IORING_OP_READ_FIXED &&
	    req->opcode != IORING_OP_WRITE_FIXED)
		return 0;
	return req->flags & REQ_F_NOWAIT ? 0 : IOCB_NOPIN_AGAIN;
}

#else /* !CONFIG_NOPIN */

static inline int io_nopin_register(struct io_ring_ctx *ctx,
				    const struct iovec *iov,
				    struct io_mapped_ubuf **pimu)
{
	return -EINVAL;
}

static inline int io_nopin_import(int ddir, struct iov_iter *iter,
				  struct io_mapped_ubuf *imu, u64 addr,
				  size_t len)
{
	return io_import_fixed(ddir, iter, imu, addr, len);
}

static inline void io_nopin_clone_table(struct io_ring_ctx *ctx,
					const struct io_ring_ctx *src) { }

static inline void io_nopin_init(struct io_mapped_ubuf *imu) { }
static inline void io_nopin_put(struct io_mapped_ubuf *imu) { }

static inline int io_nopin_prep(struct io_ring_ctx *ctx,
				struct io_mapped_ubuf **pimu, int ddir,
				u64 addr, size_t len)
{
	return 0;
}

#endif /* CONFIG_NOPIN */
#endif /* IOU_NOPIN_RSRC_H */
