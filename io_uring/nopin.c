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
 *
 * How a buffer is kept in the ring's table is in nopin_rsrc.c.
 */

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
 * io_nopin_flags - may a program use IORING_RSRC_REGISTER_NOPIN?
 * @type: what it registers: IORING_RSRC_BUFFER, or something else
 *
 * Return: the flag if it may, or else 0: then it gets -EINVAL, as from a kernel that
 * does not know the flag.
 */
unsigned int io_nopin_flags(unsigned int type)
{
	if (type != IORING_RSRC_BUFFER ||
	    READ_ONCE(nopin_io_uring) == NOPIN_IO_URING_PIN)
		return 0;
	return IORING_RSRC_REGISTER_NOPIN;
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

	if (!io_nopin_has_table(ctx))
		ctx->nopin_table = (flags & IORING_RSRC_REGISTER_NOPIN) ||
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

/*
 * May this memory of the current task be a buffer? All of it must be mapped, as with
 * pinned buffers, so that programs learn of their mistakes early. Pages that are
 * there are looked up now, for the first I/O to be as fast as later ones.
 */
static int io_nopin_register_user(const struct iovec *iov)
{
	unsigned long start = untagged_addr((unsigned long)iov->iov_base);
	int ret;

	if (!access_ok(iov->iov_base, iov->iov_len))
		return -EFAULT;
	ret = io_nopin_mapped(current->mm, start, start + iov->iov_len);
	if (ret)
		return ret;
	/*
	 * The program has asked for it, so its first I/Os are not pinned. They
	 * are if a signal is pending now; task work counts as one.
	 */
	ret = nopin_mm_create(current->mm);
	if (ret)
		return ret == -EINTR ? 0 : ret;
	if (nopin_direct_io())
		nopin_mm_open(current->mm, start, iov->iov_len);
	return 0;
}

/**
 * io_nopin_new - make some memory of the current task a buffer
 * @ctx: the ring
 * @iov: address and length, checked as for a pinned buffer, not empty
 *
 * Context: Process context with @ctx->uring_lock held, may sleep.
 *
 * Return: the buffer, or an ERR_PTR(): -EFAULT if some of it is not mapped or the
 * memory is not user memory; -ENOMEM; -EINTR on a fatal signal.
 */
struct io_mapped_ubuf *io_nopin_new(struct io_ring_ctx *ctx,
				    const struct iovec *iov)
{
	struct io_mapped_ubuf *imu;
	int ret;

	ret = io_nopin_register_user(iov);
	if (ret)
		return ERR_PTR(ret);
	imu = io_nopin_alloc_imu(ctx, 0);
	if (!imu)
		return ERR_PTR(-ENOMEM);
	imu->ubuf = (unsigned long)iov->iov_base;
	imu->len = iov->iov_len;
	imu->nr_bvecs = 0;
	imu->folio_shift = PAGE_SHIFT;
	refcount_set(&imu->refs, 1);
	/*
	 * Not mmget(): a buffer does not keep memory alive. Pairs with the
	 * mmdrop() in io_nopin_release().
	 */
	mmgrab(current->mm);
	io_nopin_set_mm(imu, current->mm);
	return imu;
}

/*
 * Pin some memory of another mm. Returns an array of @nr pages, or an error of
 * pin_user_pages_remote().
 */
static struct page **io_nopin_pin_pages(struct mm_struct *mm, int ddir,
					unsigned long addr, unsigned int nr)
{
	unsigned int gup_flags = ddir == ITER_DEST ? FOLL_WRITE : 0;
	struct page **pages;
	int locked = 1;
	long got;

	pages = kvmalloc_array(nr, sizeof(*pages), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return ERR_PTR(-ENOMEM);
	mmap_read_lock(mm);
	got = pin_user_pages_remote(mm, addr & PAGE_MASK, nr, gup_flags, pages,
				    &locked);
	if (locked)
		mmap_read_unlock(mm);
	if (got == nr)
		return pages;
	if (got > 0)
		unpin_user_pages(pages, got);
	kvfree(pages);
	return ERR_PTR(got < 0 ? got : -EFAULT);
}

/**
 * io_nopin_pin - make a pinned buffer of some memory of another mm
 * @ctx: the ring
 * @mm: mm that the caller uses (mm_users)
 * @ddir: ITER_DEST or ITER_SOURCE
 * @addr: user address
 * @len: number of bytes, at least 1
 *
 * Context: Process context with @ctx->uring_lock held, may sleep.
 *
 * Return: the buffer, or an ERR_PTR(): those of pin_user_pages_remote(); -ENOMEM,
 * also beyond RLIMIT_MEMLOCK.
 */
struct io_mapped_ubuf *io_nopin_pin(struct io_ring_ctx *ctx,
				    struct mm_struct *mm, int ddir, u64 addr,
				    size_t len)
{
	unsigned long start = untagged_addr((unsigned long)addr);
	unsigned long off = offset_in_page(start);
	unsigned int nr = DIV_ROUND_UP(off + len, PAGE_SIZE), i;
	struct io_mapped_ubuf *imu;
	struct page **pages;
	size_t left = len;
	int ret;

	pages = io_nopin_pin_pages(mm, ddir, start, nr);
	if (IS_ERR(pages))
		return ERR_CAST(pages);
	imu = io_nopin_alloc_imu(ctx, nr);
	ret = -ENOMEM;
	if (!imu)
		goto unpin;
	imu->ubuf = addr;
	imu->len = len;
	imu->nr_bvecs = nr;
	imu->folio_shift = PAGE_SHIFT;
	refcount_set(&imu->refs, 1);
	for (i = 0; i < nr; i++) {
		size_t bytes = min_t(size_t, left, PAGE_SIZE - off);

		bvec_set_page(&imu->bvec[i], pages[i], bytes, off);
		left -= bytes;
		off = 0;
	}
	io_nopin_set_pinned(imu, ddir);
	/* Charged like pinned buffers: these pins may stay for as long */
	ret = io_nopin_account_pin(ctx, pages, nr);
	if (ret)
		goto free;
	kvfree(pages);
	return imu;
free:
	io_nopin_free_imu(ctx, imu);
unpin:
	unpin_user_pages(pages, nr);
	kvfree(pages);
	return ERR_PTR(ret);
}

/**
 * io_nopin_show - describe a buffer in the ring's fdinfo
 * @m: where to
 * @index: index of the buffer
 * @imu: the buffer, which may be an empty slot
 *
 * Context: Process context with the uring_lock of the ring held.
 *
 * Return: whether it has. A pinned buffer and an empty slot are left to the caller.
 */
bool io_nopin_show(struct seq_file *m, unsigned int index,
		   const struct io_mapped_ubuf *imu)
{
	struct mm_struct *mm = io_nopin_mm(imu);
	unsigned int nr = 0;

	if (!mm)
		return false;
	/* What does not fit is shown again, from the start */
	if (!seq_has_overflowed(m) && mmget_not_zero(mm)) {
		nr = nopin_mm_count_known(mm, untagged_addr((unsigned long)imu->ubuf),
					  imu->len);
		/* The last mmput() must not tear down the mm with the lock held */
		mmput_async(mm);
	}
	seq_printf(m, "%5u: 0x%llx/%llu nopin, %u of %lu pages valid\n", index,
		   imu->ubuf, (u64)imu->len, nr,
		   DIV_ROUND_UP(offset_in_page(imu->ubuf) + imu->len, PAGE_SIZE));
	return true;
}
