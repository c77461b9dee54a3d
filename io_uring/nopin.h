/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Fixed buffers without pins: the hooks of the rest of io_uring. Those that deal with
 * struct io_mapped_ubuf are in nopin_rsrc.h.
 */
#ifndef IOU_NOPIN_H
#define IOU_NOPIN_H

#include <linux/nopin.h>
#include <linux/uio.h>

#include "nopin_rsrc.h"
#include "rsrc.h"

struct seq_file;

#ifdef CONFIG_NOPIN

unsigned int io_nopin_flags(unsigned int type);
void io_nopin_set_table(struct io_ring_ctx *ctx, unsigned int flags);
struct io_mapped_ubuf *io_nopin_new(struct io_ring_ctx *ctx,
				    const struct iovec *iov);
struct io_mapped_ubuf *io_nopin_pin(struct io_ring_ctx *ctx,
				    struct mm_struct *mm, int ddir, u64 addr,
				    size_t len);
bool io_nopin_show(struct seq_file *m, unsigned int index,
		   const struct io_mapped_ubuf *imu);

/* Do new buffers of the ring do without pins? */
static inline bool io_nopin_table(const struct io_ring_ctx *ctx)
{
	return ctx->nopin_table;
}

#else /* !CONFIG_NOPIN */

static inline unsigned int io_nopin_flags(unsigned int type)
{
	return 0;
}

static inline void io_nopin_set_table(struct io_ring_ctx *ctx,
				      unsigned int flags) { }

static inline bool io_nopin_show(struct seq_file *m, unsigned int index,
				 const struct io_mapped_ubuf *imu)
{
	return false;
}

static inline bool io_nopin_table(const struct io_ring_ctx *ctx)
{
	return false;
}

static inline bool io_imu_nopin(const struct io_mapped_ubuf *imu)
{
	return false;
}

static inline int io_nopin_iocb_flags(const struct io_kiocb *req)
{
	return 0;
}

#endif /* CONFIG_NOPIN */
#endif /* IOU_NOPIN_H */
