// SPDX-License-Identifier: GPL-2.0
/*
 * Fixed buffers without pins.
 *
 * Such a buffer is a range of addresses of the mm that registered it, not a set
 * of pages. I/O gets plain user memory. It is about as fast as with a pinned
 * buffer, because direct I/O keeps the translations of memory that it uses again
 * and again, see mm/nopin/cache.c. Files that copy or pin the buffer work
 * unchanged.
 *
 * Plain user memory is that of the task which issues the request. A ring can
 * end up with tasks of another mm, by fork or through a socket. For these
 * io_nopin_foreign() pins the memory, for one request.
 */

#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "nopin.h"
#include "rsrc.h"

/**
 * io_nopin_flag_allowed - may a program use IORING_RSRC_REGISTER_NOPIN?
 *
 * Return: whether it may. If not, it gets -EINVAL, as from a kernel that does not
 * know the flag.
 */
bool io_nopin_flag_allowed(void)
{
	return READ_ONCE(nopin_io_uring) != NOPIN_IO_URING_PIN;
}

/**
 * io_nopin_set_table - decide how the buffers of a ring are registered
 * @ctx: the ring
 * @flags: what the program gave with the table
 *
 * Holds for buffers that are put into the table later as well. To be called before
 * the table is made; changes nothing if there is one.
 *
 * Context: Process context with @ctx->uring_lock held.
 */
void io_nopin_set_table(struct io_ring_ctx *ctx, unsigned int flags)
{
	lockdep_assert_held(&ctx->uring_lock);

	if (!ctx->user_bufs)
		ctx->user_bufs_nopin =
			(flags & IORING_RSRC_REGISTER_NOPIN) ||
			READ_ONCE(nopin_io_uring) == NOPIN_IO_URING_NOPIN;
}

/* Is all of that memory mapped? Whether pages are there does not matter */
static int io_nopin_mapped(struct mm_struct *mm, unsigned long start,
			   unsigned long end)
{
	VMA_ITERATOR(vmi, mm, start);
	struct vm_area_struct *vma;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for_each_vma_range(vmi, vma, end) {
		if (vma->vm_start > start)
			break;
		start = vma->vm_end;
	}
	mmap_read_unlock(mm);
	return start < end ? -EFAULT : 0;
}

/**
 * io_nopin_register - register a buffer of the current task
 * @iov: address and length, checked by io_buffer_validate(), not empty
 * @pimu: set to the buffer
 *
 * Takes about the same time whatever the length, as it looks at VMAs, not at
 * pages. All of the buffer must be mapped, as with pinned buffers, so that programs
 * learn of their mistakes early.
 *
 * Context: Process context, may sleep.
 *
 * Return: 0; -EFAULT if some of it is not mapped or the memory is not user
 * memory; -ENOMEM; -EINTR on a fatal signal.
 */
int io_nopin_register(const struct iovec *iov, struct io_mapped_ubuf **pimu)
{
	unsigned long start = untagged_addr((unsigned long)iov->iov_base);
	struct mm_struct *mm = current->mm;
	struct io_mapped_ubuf *imu;
	int ret;

	if (!access_ok(iov->iov_base, iov->iov_len))
		return -EFAULT;
	ret = io_nopin_mapped(mm, start, start + iov->iov_len);
	if (ret)
		return ret;
	/*
	 * The program has asked for it, so its first I/Os are not pinned. They
	 * are if a signal is pending now; task work counts as one.
	 */
	ret = nopin_mm_create(mm);
	if (ret && ret != -EINTR)
		return ret;

	imu = kzalloc(struct_size(imu, bvec, 0), GFP_KERNEL_ACCOUNT);
	if (!imu)
		return -ENOMEM;
	imu->ubuf = (unsigned long)iov->iov_base;
	imu->len = iov->iov_len;
	imu->folio_shift = PAGE_SHIFT;
	refcount_set(&imu->refs, 1);
	/*
	 * Not mmget(): a buffer does not keep memory alive. Pairs with the
	 * mmdrop() in io_nopin_release().
	 */
	mmgrab(mm);
	imu->mm = mm;
	*pimu = imu;
	return 0;
}

/* A pinned buffer for some memory of another mm */
static struct io_mapped_ubuf *io_nopin_pin(struct io_ring_ctx *ctx,
					   struct mm_struct *mm, int ddir,
					   u64 addr, size_t len)
{
	unsigned int gup_flags = ddir == ITER_DEST ? FOLL_WRITE : 0;
	unsigned long start = untagged_addr((unsigned long)addr);
	unsigned long off = offset_in_page(start), nr, i;
	struct io_mapped_ubuf *imu;
	struct page **pages;
	long got = 0, ret;
	int locked = 1;

	nr = DIV_ROUND_UP(off + len, PAGE_SIZE);
	imu = kvzalloc(struct_size(imu, bvec, nr), GFP_KERNEL_ACCOUNT);
	pages = kvmalloc_array(nr, sizeof(*pages), GFP_KERNEL_ACCOUNT);
	ret = -ENOMEM;
	if (!imu || !pages)
		goto fail;

	mmap_read_lock(mm);
	while (got < nr) {
		ret = pin_user_pages_remote(mm, (start & PAGE_MASK) +
					    (got << PAGE_SHIFT), nr - got,
					    gup_flags, pages + got, &locked);
		if (ret <= 0)
			break;
		got += ret;
		/* It may have given up the lock after some of the pages */
		if (!locked) {
			mmap_read_lock(mm);
			locked = 1;
		}
	}
	if (locked)
		mmap_read_unlock(mm);
	if (got < nr) {
		ret = ret ?: -EFAULT;
		goto unpin;
	}
	/* Charged like pinned buffers: these pins may stay for as long */
	ret = ctx->user ? __io_account_mem(ctx->user, nr) : 0;
	if (ret)
		goto unpin;
	if (ctx->mm_account)
		atomic64_add(nr, &ctx->mm_account->pinned_vm);
	imu->acct_pages = nr;

	imu->ubuf = addr;
	imu->len = len;
	imu->nr_bvecs = nr;
	imu->folio_shift = PAGE_SHIFT;
	/* A page of a file may be written back, and cleaned, meanwhile */
	imu->dirty = ddir == ITER_DEST;
	refcount_set(&imu->refs, 1);
	for (i = 0; i < nr; i++) {
		size_t bytes = min_t(size_t, len, PAGE_SIZE - off);

		bvec_set_page(&imu->bvec[i], pages[i], bytes, off);
		len -= bytes;
		off = 0;
	}
	kvfree(pages);
	return imu;
unpin:
	unpin_user_pages(pages, got);
fail:
	kvfree(pages);
	kvfree(imu);
	return ERR_PTR(ret);
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

/**
 * io_nopin_show - describe a buffer in the ring's fdinfo
 * @m: where to
 * @index: index of the buffer
 * @imu: the buffer, which may be an empty slot
 *
 * Context: Process context with the uring_lock of the ring held.
 *
 * Return: whether it has. Not for an empty slot, which is left to the caller.
 */
bool io_nopin_show(struct seq_file *m, unsigned int index,
		   const struct io_mapped_ubuf *imu)
{
	struct mm_struct *mm = imu->mm;
	unsigned int nr = 0;

	if (!mm && !imu->nr_bvecs)
		return false;
	seq_printf(m, "%5u: 0x%llx/%u", index, imu->ubuf, imu->len);
	if (!mm) {
		seq_puts(m, " pinned\n");
		return true;
	}
	if (mmget_not_zero(mm)) {
		nr = nopin_mm_count_known(mm, untagged_addr((unsigned long)imu->ubuf),
					  imu->len);
		/* As above */
		mmput_async(mm);
	}
	seq_printf(m, " nopin, %u of %lu pages valid\n", nr,
		   DIV_ROUND_UP(offset_in_page(imu->ubuf) + imu->len, PAGE_SIZE));
	return true;
}
