// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: looks into the page tables of mappings of all kinds.
 */

#include <linux/err.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/hrtimer.h>
#include <linux/hugetlb.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/pkeys.h>
#include <linux/secretmem.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>
#ifdef CONFIG_X86_64
#include <asm/syscall.h>
#endif

#include "common.h"

/* All kinds of offsets and lengths in at least four pages */
static void check_spans(struct kunit *test, unsigned long addr, size_t len,
			enum nopin_dir dir)
{
	static const struct {
		size_t off;
		size_t len;
	} pieces[] = {
		{ 0, 1 },
		{ 0, PAGE_SIZE },
		{ PAGE_SIZE - 1, 1 },
		{ PAGE_SIZE - 1, 2 },
		{ 512, 512 },
		{ 512, PAGE_SIZE },
		{ PAGE_SIZE, 2 * PAGE_SIZE },
		{ PAGE_SIZE - 512, 2 * PAGE_SIZE + 1024 },
		{ 3, 3 * PAGE_SIZE },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pieces); i++) {
		/* with none of them known */
		mmu_notifier_clear_young(current->mm, addr, addr + len);
		nt_check_at(test, addr + pieces[i].off, pieces[i].len, dir);
	}
	nt_check_at(test, addr, len, dir);
	mmu_notifier_clear_young(current->mm, addr, addr + len);
	nt_check_at(test, addr + 100, len - 200, dir);
	nt_check_at(test, addr + len - 512, 512, dir);
}

/* R9, R11: what a mapping does not permit, and what mends it */
static void check_access(struct kunit *test, unsigned long addr, size_t len,
			 unsigned long step)
{
	unsigned long a;

	EXPECT_WALK(test, addr, len, 0, 0);

	KUNIT_ASSERT_EQ(test, nt_protect(addr, len, PROT_NONE), 0);
	EXPECT_WALK(test, addr, len, -EFAULT, -EFAULT);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, -EFAULT);

	KUNIT_ASSERT_EQ(test, nt_protect(addr, len, PROT_READ), 0);
	EXPECT_WALK(test, addr, len, -EFAULT, 0);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, 0);

	KUNIT_ASSERT_EQ(test, nt_protect(addr, len, PROT_READ | PROT_WRITE), 0);
	for (a = addr; a < addr + len; a += step)
		nt_write(test, a, 1);
	EXPECT_WALK(test, addr, len, 0, 0);
	nt_check_at(test, addr, len, NOPIN_FROM_DEVICE);

	/* one PTE, behind others that permit everything */
	if (step != PAGE_SIZE)
		return;
	a = addr + len - step;
	KUNIT_ASSERT_EQ(test, nt_protect(a, step, PROT_READ), 0);
	EXPECT_WALK(test, addr, len, -EFAULT, 0);
	KUNIT_ASSERT_EQ(test, nt_protect(a, step, PROT_NONE), 0);
	EXPECT_WALK(test, addr, len, -EFAULT, -EFAULT);
	KUNIT_ASSERT_EQ(test, nt_protect(a, step, PROT_READ | PROT_WRITE), 0);
	nt_write(test, a, 1);
	EXPECT_WALK(test, addr, len, 0, 0);
}

/* R9: a PTE that is writable but clean is not good enough to be written to */
static void check_clean(struct kunit *test, unsigned long addr, size_t len,
			unsigned long step)
{
	unsigned long a;

	/* the lazily freed page of a process that has not written it again */
	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, len, MADV_FREE),
			0);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, 0);
	EXPECT_WALK(test, addr, len, -EFAULT, 0);
	nt_write(test, addr, len);
	EXPECT_WALK(test, addr, len, 0, 0);
}

/* Nothing there, before the first touch and after MADV_DONTNEED */
static void check_missing(struct kunit *test, unsigned long addr, size_t len,
			  unsigned long step)
{
	unsigned long a;

	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, len,
					 MADV_DONTNEED), 0);
	for (a = addr; a < addr + len; a += step)
		EXPECT_WALK(test, a, 1, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr, len, -EFAULT, -EFAULT);
	nt_write(test, addr, len);
	EXPECT_WALK(test, addr, len, 0, 0);
	nt_check_at(test, addr, len, NOPIN_FROM_DEVICE);
}

/* Anonymous pages of the base size */
static void test_anon(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, SMALL_LEN);

	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, -EFAULT);
	nt_write(test, addr, SMALL_LEN);
	check_spans(test, addr, SMALL_LEN, NOPIN_FROM_DEVICE);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);
	check_access(test, addr, SMALL_LEN, PAGE_SIZE);
	check_clean(test, addr, SMALL_LEN, PAGE_SIZE);
	check_missing(test, addr, SMALL_LEN, PAGE_SIZE);
}

/* Shared memory */
static void test_shmem(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, SMALL_LEN, MAP_SHARED);

	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, -EFAULT);
	/* R9: shared and writable, but nobody has written */
	nt_read(test, addr, SMALL_LEN);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	nt_write(test, addr, SMALL_LEN);
	check_spans(test, addr, SMALL_LEN, NOPIN_FROM_DEVICE);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);
	check_access(test, addr, SMALL_LEN, PAGE_SIZE);
	check_missing(test, addr, SMALL_LEN, PAGE_SIZE);
}

/* A private mapping of a file: its own pages can be read, copies written */
static void test_file_private(struct kunit *test)
{
	unsigned long addr = nt_map_shmem(test, SMALL_LEN, MAP_PRIVATE);

	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, -EFAULT);
	nt_read(test, addr, SMALL_LEN);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);

	/* copied, some of them */
	nt_write(test, addr + 5 * PAGE_SIZE, 3 * PAGE_SIZE);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	EXPECT_WALK(test, addr + 5 * PAGE_SIZE, 3 * PAGE_SIZE, 0, 0);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);

	nt_write(test, addr, SMALL_LEN);
	check_spans(test, addr, SMALL_LEN, NOPIN_FROM_DEVICE);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);
	check_access(test, addr, SMALL_LEN, PAGE_SIZE);
}

/* Are the pages from @addr to the end of its chunk behind each other in memory? */
static bool contiguous(unsigned long addr)
{
	struct nopin_chunk *chunk = nopin_mm_chunk(current->mm, addr);
	struct nopin_range *range = chunk->range;
	unsigned int start = nopin_start(addr);

	return range->apart ||
	       nopin_contiguous(range, nopin_index(range, addr),
				chunk->bvec + start, NOPIN_CHUNK_PAGES - start);
}

/* One look at a PMD makes known what is in the same chunk, for that direction */
static void check_huge(struct kunit *test, unsigned long addr)
{
	struct nopin_range *range = nt_range(test, addr);
	unsigned int first = nopin_index(range, addr);
	unsigned int base = round_down(first, NOPIN_CHUNK_PAGES);
	enum nopin_dir dir;

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nt_count_known(range, base,
						     NOPIN_CHUNK_PAGES, dir),
				0);
		nt_check_at(test, addr + 5 * PAGE_SIZE, 1, dir);
		EXPECT_KNOWN(test, range, first, min_t(unsigned int,
						       NOPIN_CHUNK_PAGES,
						       PMD_SIZE / PAGE_SIZE),
			     dir);
	}
	KUNIT_EXPECT_TRUE(test, contiguous(addr));
	/* that of all the chunk is known */
	if (PMD_SIZE >= NOPIN_CHUNK_SIZE)
		KUNIT_EXPECT_TRUE(test, range->apart ||
				  test_bit(base / NOPIN_CHUNK_PAGES,
					   range->adjacent));
}

/* Transparent huge pages */
static void test_thp(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test);
	size_t len = 2 * PMD_SIZE;

	check_huge(test, addr);
	check_spans(test, addr, len, NOPIN_FROM_DEVICE);
	check_spans(test, addr + PMD_SIZE - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_TO_DEVICE);
	check_access(test, addr, len, PMD_SIZE / 2);
	check_clean(test, addr, len, PMD_SIZE / 2);
	KUNIT_EXPECT_TRUE(test, nt_is_huge(addr));
	KUNIT_EXPECT_TRUE(test, nt_is_huge(addr + PMD_SIZE));
	check_missing(test, addr, len, PMD_SIZE / 2);
}

/* R11: zero pages are good to read from, and never written */
static void test_zero_page(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, SMALL_LEN);
	unsigned int i;

	nt_read(test, addr, SMALL_LEN);
	EXPECT_WALK(test, addr, SMALL_LEN, -EFAULT, 0);
	KUNIT_EXPECT_EQ(test, nt_enter_at(test, addr, 4 * PAGE_SIZE,
					  NOPIN_TO_DEVICE), 0);
	for (i = 0; i < 4; i++)
		KUNIT_EXPECT_TRUE(test, is_zero_page(nt_page(addr +
							     i * PAGE_SIZE)));
	nt_leave_all(test);
	check_spans(test, addr, SMALL_LEN, NOPIN_TO_DEVICE);

	nt_write(test, addr + PAGE_SIZE, 1);
	EXPECT_WALK(test, addr + PAGE_SIZE, PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, addr, 3 * PAGE_SIZE, -EFAULT, 0);
	nt_check_at(test, addr, 3 * PAGE_SIZE, NOPIN_TO_DEVICE);
}

/* R11: and so is the huge one */
static void test_huge_zero_page(struct kunit *test)
{
	unsigned long addr = nt_map_huge_zero(test);

	EXPECT_WALK(test, addr, 2 * PMD_SIZE, -EFAULT, 0);
	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_TO_DEVICE);
}

/* hugetlb pages that a PMD maps */
static void test_hugetlb_pmd(struct kunit *test)
{
	unsigned long addr = nt_map_hugetlb(test, PMD_SIZE, 2, MAP_PRIVATE);

	check_huge(test, addr);
	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);
	check_spans(test, addr + PMD_SIZE - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_TO_DEVICE);
	check_access(test, addr, 2 * PMD_SIZE, PMD_SIZE / 2);
}

/* The same, shared */
static void test_hugetlb_pmd_shared(struct kunit *test)
{
	unsigned long addr = nt_map_hugetlb(test, PMD_SIZE, 2, MAP_SHARED);

	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);
	check_access(test, addr, 2 * PMD_SIZE, PMD_SIZE / 2);
}

/* hugetlb pages that a PUD maps */
static void test_hugetlb_pud(struct kunit *test)
{
	unsigned long addr = nt_map_hugetlb(test, PUD_SIZE, 1, MAP_SHARED);

	check_huge(test, addr + PUD_SIZE - NOPIN_CHUNK_SIZE);
	check_spans(test, addr, PMD_SIZE, NOPIN_FROM_DEVICE);
	check_spans(test, addr + PUD_SIZE / 2 - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_FROM_DEVICE);
	check_spans(test, addr + PUD_SIZE - 4 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_TO_DEVICE);
	check_access(test, addr, PUD_SIZE, PUD_SIZE / 2);
}

/* Huge and small pages in one go */
static void test_mixed_sizes(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test);
	unsigned long mid = addr + PMD_SIZE;

	/* the second one becomes small */
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, mid, PMD_SIZE,
					 MADV_DONTNEED), 0);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, mid, PMD_SIZE,
					 MADV_NOHUGEPAGE), 0);
	nt_write(test, mid, PMD_SIZE);
	KUNIT_EXPECT_TRUE(test, nt_is_huge(addr));
	KUNIT_EXPECT_FALSE(test, nt_is_huge(mid));
	check_spans(test, mid - 2 * PAGE_SIZE, 4 * PAGE_SIZE,
		    NOPIN_FROM_DEVICE);
	check_spans(test, addr, 2 * PMD_SIZE, NOPIN_FROM_DEVICE);
	check_access(test, addr, PMD_SIZE, PMD_SIZE / 2);
}

/* From one page table to the next, on every level */
static void test_table_boundaries(struct kunit *test)
{
	const unsigned long sizes[] = { PMD_SIZE, PUD_SIZE, P4D_SIZE };
	unsigned long addr;
	unsigned int i;

	/* gives the thread its mm */
	nt_map_small(test, PAGE_SIZE);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		/* away from what is mapped already */
		addr = SZ_1G * 5UL + sizes[i];
		addr = round_up(addr, sizes[i]);
		if (addr + 2 * PAGE_SIZE > TASK_SIZE)
			continue;
		addr = nt_map_fixed(test, addr - 2 * PAGE_SIZE, 4 * PAGE_SIZE);
		nt_write(test, addr, PAGE_SIZE);
		EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EFAULT, -EFAULT);
		nt_write(test, addr, 4 * PAGE_SIZE);
		check_spans(test, addr, 4 * PAGE_SIZE, NOPIN_FROM_DEVICE);
		check_spans(test, addr, 4 * PAGE_SIZE, NOPIN_TO_DEVICE);
	}
}

/* Adjacent in memory is one bio_vec, anything else is not; see nt_check_pages() */
static void test_merging(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test), twice;
	struct nt_op op = { .addr = addr };
	struct nopin_chunk *chunk;
	struct file *file;
	struct page *old;

	/* small pages that are known to be adjacent */
	nt_fill(test, addr, PMD_SIZE);
	KUNIT_ASSERT_EQ(test, nt_op_split(&op), 0);
	KUNIT_ASSERT_FALSE(test, nt_is_huge(addr));
	nt_write(test, addr, PMD_SIZE);
	nt_check_at(test, addr, PMD_SIZE, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_TRUE(test, contiguous(addr));
	/* one of them becomes another one, and is in nobody's way */
	old = nt_page(addr + 70 * PAGE_SIZE);
	get_page(old);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr + 70 * PAGE_SIZE,
					 PAGE_SIZE, MADV_DONTNEED), 0);
	nt_write(test, addr, PMD_SIZE);
	nt_check_at(test, addr, PMD_SIZE, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_PTR_NE(test, nt_page(addr + 70 * PAGE_SIZE), old);
	put_page(old);
	KUNIT_EXPECT_TRUE(test, contiguous(addr + 71 * PAGE_SIZE));

	/* one page at two addresses */
	file = shmem_file_setup("nopin_kunit", PAGE_SIZE, EMPTY_VMA_FLAGS);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	twice = nt_map_anon(test, 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_mmap(file, twice, PAGE_SIZE,
				      PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, 0), twice);
	KUNIT_EXPECT_EQ(test, vm_mmap(file, twice + PAGE_SIZE, PAGE_SIZE,
				      PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, 0),
			twice + PAGE_SIZE);
	fput(file);
	nt_write(test, twice, 2 * PAGE_SIZE);
	nt_check_at(test, twice, 2 * PAGE_SIZE, NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_PTR_EQ(test, nt_page(twice), nt_page(twice + PAGE_SIZE));
	chunk = nopin_mm_chunk(current->mm, twice);
	if (nopin_start(twice) + 1 < NOPIN_CHUNK_PAGES)
		KUNIT_EXPECT_FALSE(test,
				   nopin_contiguous(chunk->range,
						    nopin_index(chunk->range, twice),
						    chunk->bvec + nopin_start(twice),
						    2));
}

/* What could not be looked up takes nothing from what could */
static void test_hole(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 2 * NOPIN_CHUNK_SIZE);
	struct nopin_range *range;
	enum nopin_dir dir;
	unsigned int first;

	addr = ALIGN(addr, NOPIN_CHUNK_SIZE);
	nt_write(test, addr, 3 * PAGE_SIZE);
	nt_write(test, addr + 4 * PAGE_SIZE, 2 * PAGE_SIZE);
	range = nt_range(test, addr);
	first = nopin_index(range, addr);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nopin_open(range, first + 1, 4, dir,
						 true), -EFAULT);
		KUNIT_EXPECT_EQ(test, nt_count_known(range, first,
						     NOPIN_CHUNK_PAGES, dir),
				3);
		EXPECT_KNOWN(test, range, first + 1, 2, dir);
		EXPECT_UNKNOWN(test, range, first + 3, 1, dir);
		EXPECT_KNOWN(test, range, first + 4, 1, dir);
		EXPECT_STATE(test, 0, range, first + 1, 4, dir);
	}
	/* and it need not be closed again to be found later */
	nt_write(test, addr + 3 * PAGE_SIZE, PAGE_SIZE);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nopin_open(range, first + 1, 4, dir,
						 true), 0);
		EXPECT_KNOWN(test, range, first + 1, 4, dir);
	}
}

/* Addresses where nothing is mapped, on every level of the page table */
static void test_unmapped(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 4 * PAGE_SIZE);

	nt_write(test, addr, 4 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr + PAGE_SIZE, PAGE_SIZE), 0);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr + PAGE_SIZE, 1, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr + 2 * PAGE_SIZE, 2 * PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, addr ^ PMD_SIZE, PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, addr ^ PUD_SIZE, PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, P4D_SIZE + SZ_1G, PAGE_SIZE, -EFAULT, -EFAULT);
	EXPECT_WALK(test, PAGE_SIZE, PAGE_SIZE, -EFAULT, -EFAULT);
}

static struct page *special_page;

static vm_fault_t special_fault(const struct vm_special_mapping *sm,
				struct vm_area_struct *vma,
				struct vm_fault *vmf)
{
	return vmf_insert_pfn(vma, vmf->address, page_to_pfn(special_page));
}

static const struct vm_special_mapping special_spec = {
	.name	= "[nopin_kunit]",
	.fault	= special_fault,
};

/* R11: page frames that a driver has mapped, which may not even have a page */
static void test_special_pte(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 4 * PAGE_SIZE), hole;
	struct vm_area_struct *vma;

	special_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	KUNIT_ASSERT_NOT_NULL(test, special_page);
	nt_write(test, addr, 4 * PAGE_SIZE);
	hole = addr + PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, vm_munmap(hole, PAGE_SIZE), 0);
	mmap_write_lock(current->mm);
	vma = _install_special_mapping(current->mm, hole, PAGE_SIZE,
				       VM_READ | VM_MAYREAD | VM_WRITE |
				       VM_MAYWRITE | VM_SHARED | VM_MAYSHARE |
				       VM_IO | VM_PFNMAP, &special_spec);
	mmap_write_unlock(current->mm);
	KUNIT_EXPECT_NOT_ERR_OR_NULL(test, vma);
	if (!IS_ERR_OR_NULL(vma)) {
		/* once to map it, and once more to make it dirty */
		fault_in_safe_writeable((char __user *)hole, 1);
		fault_in_safe_writeable((char __user *)hole, 1);
		EXPECT_WALK(test, hole, PAGE_SIZE, -EPERM, -EPERM);
		/* there is something, but nothing to be used */
		KUNIT_EXPECT_TRUE(test, nopin_present(current->mm, hole, NOPIN_TO_DEVICE));
		EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EPERM, -EPERM);
		EXPECT_WALK(test, addr, PAGE_SIZE, 0, 0);
		EXPECT_WALK(test, hole + PAGE_SIZE, 2 * PAGE_SIZE, 0, 0);
	}
	KUNIT_EXPECT_EQ(test, vm_munmap(hole, PAGE_SIZE), 0);
	__free_page(special_page);
}

#if defined(CONFIG_SECRETMEM) && defined(CONFIG_X86_64)
asmlinkage long __x64_sys_memfd_secret(const struct pt_regs *regs);

/* The kernel has no other way to make some */
static long secretmem_fd(void)
{
	struct pt_regs regs = {};

	return __x64_sys_memfd_secret(&regs);
}
#elif defined(CONFIG_SECRETMEM) && defined(CONFIG_ARM64)
asmlinkage long __arm64_sys_memfd_secret(const struct pt_regs *regs);

static long secretmem_fd(void)
{
	struct pt_regs regs = {};

	return __arm64_sys_memfd_secret(&regs);
}
#else
static long secretmem_fd(void)
{
	return -EOPNOTSUPP;
}
#endif

/* R11: memory that not even the kernel may look at */
static void test_secretmem(struct kunit *test)
{
	unsigned long addr, own = nt_map_small(test, 4 * PAGE_SIZE);
	unsigned long shared = nt_map_shmem(test, 4 * PAGE_SIZE, MAP_SHARED);
	struct file *file;
	long fd, ret;

	fd = secretmem_fd();
	if (fd < 0)
		kunit_skip(test, "no secretmem: %ld", fd);
	ret = ksys_ftruncate(fd, 2 * PAGE_SIZE, 0);
	file = fget(fd);
	close_fd(fd);
	KUNIT_ASSERT_NOT_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, 2 * PAGE_SIZE,
			     PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	fput(file);
	KUNIT_ASSERT_EQ(test, ret, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	KUNIT_EXPECT_TRUE(test, secretmem_active());

	nt_write(test, addr, 2 * PAGE_SIZE);
	nt_write(test, own, 4 * PAGE_SIZE);
	nt_write(test, shared, 4 * PAGE_SIZE);
	EXPECT_WALK(test, addr, PAGE_SIZE, -EPERM, -EPERM);
	EXPECT_WALK(test, addr, 2 * PAGE_SIZE, -EPERM, -EPERM);
	/* other memory is none the worse for it */
	EXPECT_WALK(test, own, 4 * PAGE_SIZE, 0, 0);
	EXPECT_WALK(test, shared, 4 * PAGE_SIZE, 0, 0);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr, 2 * PAGE_SIZE), 0);
}

/* Memory protection keys are nothing that a page table walk can judge */
static void test_pkeys(struct kunit *test)
{
#if defined(CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS) || \
	defined(CONFIG_ARM64_POE)
	unsigned long addr = nt_map_small(test, 4 * PAGE_SIZE);
	struct mm_struct *mm = current->mm;
	unsigned int map = mm_pkey_allocation_map(mm);
	struct nopin_range *range;
	unsigned int i;

	nt_write(test, addr, 4 * PAGE_SIZE);
	EXPECT_WALK(test, addr, PAGE_SIZE, 0, 0);
	range = nt_range(test, addr);
	i = nopin_index(range, addr);
	/* somebody calls pkey_alloc() */
	mm_pkey_allocation_map(mm) |= BIT(1);
	EXPECT_WALK(test, addr, PAGE_SIZE, -EPERM, -EPERM);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, -EPERM, -EPERM);
	EXPECT_UNKNOWN(test, range, i, 1, NOPIN_FROM_DEVICE);
	EXPECT_UNKNOWN(test, range, i, 1, NOPIN_TO_DEVICE);
	mm_pkey_allocation_map(mm) = map | BIT(0);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, 0, 0);
	mm_pkey_allocation_map(mm) = map;
#else
	kunit_skip(test, "no memory protection keys");
#endif
}

/**
 * struct atomic_walk - a walk seen from an interrupt
 * @timer: the interrupt
 * @range: the walk is about a chunk of this
 * @first: its first page
 * @halves: how often it was seen half done
 */
struct atomic_walk {
	struct hrtimer		timer;
	struct nopin_range	*range;
	unsigned int		first;
	unsigned int		halves;
};

static enum hrtimer_restart atomic_walk_fn(struct hrtimer *timer)
{
	struct atomic_walk *aw = container_of(timer, struct atomic_walk,
					      timer);

	/* both are forgotten in the same order as they become known */
	if (nt_count_known(aw->range, aw->first, 1, NOPIN_FROM_DEVICE) &&
	    !nt_count_known(aw->range, aw->first + NOPIN_CHUNK_PAGES - 1, 1,
			    NOPIN_FROM_DEVICE))
		aw->halves++;
	hrtimer_forward_now(timer, 50 * NSEC_PER_USEC);
	return HRTIMER_RESTART;
}

/* R10: no interrupt sees the middle of a walk, as page tables go by IPI */
static void test_walk_is_atomic(struct kunit *test)
{
	unsigned long addr = nt_map_chunk(test);
	struct nopin_chunk *chunk;
	struct atomic_walk *aw;
	unsigned int i;
	int ret;

	aw = kunit_kzalloc(test, sizeof(*aw), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, aw);
	nt_write(test, addr, NOPIN_CHUNK_SIZE);
	nt_check_at(test, addr, NOPIN_CHUNK_SIZE, NOPIN_FROM_DEVICE);
	aw->range = nt_range(test, addr);
	aw->first = nopin_index(aw->range, addr);
	chunk = nopin_chunk_at(aw->range, aw->first);

	migrate_disable();
	hrtimer_setup(&aw->timer, atomic_walk_fn, CLOCK_MONOTONIC,
		      HRTIMER_MODE_REL_PINNED_HARD);
	hrtimer_start(&aw->timer, 0, HRTIMER_MODE_REL_PINNED_HARD);
	for (i = 0; i < 100; i++) {
		mmu_notifier_clear_young(current->mm, addr,
					 addr + NOPIN_CHUNK_SIZE);
		spin_lock(&aw->range->lock);
		ret = nopin_walk(chunk, 0, NOPIN_CHUNK_PAGES,
				 NOPIN_FROM_DEVICE, false);
		spin_unlock(&aw->range->lock);
		if (ret)
			break;
	}
	hrtimer_cancel(&aw->timer);
	migrate_enable();
	KUNIT_EXPECT_EQ(test, ret, 0);
	EXPECT_KNOWN(test, aw->range, aw->first, NOPIN_CHUNK_PAGES,
		     NOPIN_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, aw->halves, 0);
}

/*
 * Of a hugetlb page that others have as well, the last one gets no copy when he
 * writes, whoever has pinned it. So it is left to GUP if a device reads it.
 */
static void test_hugetlb_shared_anon(struct kunit *test)
{
	unsigned long addr = nt_map_hugetlb(test, PMD_SIZE, 2, MAP_PRIVATE);
	struct page *page = nt_get_page(addr + PMD_SIZE), *head;

	KUNIT_ASSERT_NOT_NULL(test, page);
	head = &page_folio(page)->page;
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, 0, 0);
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(head));
	/* what fork() does to it, besides the write protection */
	ClearPageAnonExclusive(head);
	EXPECT_WALK(test, addr, PMD_SIZE, 0, 0);
	EXPECT_WALK(test, addr + PMD_SIZE, 1, 0, -EPERM);
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, 0, -EPERM);
	EXPECT_WALK(test, addr + PMD_SIZE - 1, 2, 0, -EPERM);
	SetPageAnonExclusive(head);
	EXPECT_WALK(test, addr, 2 * PMD_SIZE, 0, 0);
	put_page(page);
}

/* A look for I/O is an access, of which reclaim is told */
static void test_referenced(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 8 * PAGE_SIZE);
	struct folio *folio, *next;
	struct page *page[2];
	enum nopin_dir dir;

	nt_write(test, addr, 8 * PAGE_SIZE);
	page[0] = nt_get_page(addr + 5 * PAGE_SIZE);
	page[1] = nt_get_page(addr + 6 * PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, page[0]);
	KUNIT_ASSERT_NOT_NULL(test, page[1]);
	folio = page_folio(page[0]);
	next = page_folio(page[1]);
	lru_add_drain_all();

	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr,
						 8 * PAGE_SIZE, MADV_COLD), 0);
		folio_clear_referenced(folio);
		folio_clear_referenced(next);
		KUNIT_EXPECT_EQ(test, nt_look_up(test, addr, 6 * PAGE_SIZE,
						 dir), 0);
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
		KUNIT_EXPECT_FALSE(test, folio_test_referenced(next));
		/* as long as it is known there is no look, see test_young() */
		folio_clear_referenced(folio);
		KUNIT_EXPECT_EQ(test, nt_enter_at(test, addr, 6 * PAGE_SIZE,
						  dir), 0);
		nt_leave_all(test);
		KUNIT_EXPECT_FALSE(test, folio_test_referenced(folio));
	}
	put_page(page[0]);
	put_page(page[1]);
}

static void expect_there(int line, struct kunit *test, unsigned long addr,
			 bool there)
{
	bool present = nopin_present(current->mm, addr, NOPIN_TO_DEVICE);

	KUNIT_EXPECT_EQ_MSG(test, present, there, "in line %d", line);
}

/* That there is a page, or none */
#define EXPECT_THERE(...)	expect_there(__LINE__, __VA_ARGS__)

/* Is there a page to use? Asked of tables of all kinds, and where there are none */
static void test_present(struct kunit *test)
{
	unsigned long small = nt_map_small(test, 4 * PAGE_SIZE), thp;

	EXPECT_THERE(test, small, false);
	nt_write(test, small + PAGE_SIZE, 1);
	nt_read(test, small + 2 * PAGE_SIZE, 1);
	EXPECT_THERE(test, small, false);
	EXPECT_THERE(test, small + PAGE_SIZE, true);
	EXPECT_THERE(test, small + PAGE_SIZE + 42, true);
	EXPECT_THERE(test, small + 2 * PAGE_SIZE, true);
	EXPECT_THERE(test, small + 3 * PAGE_SIZE, false);
	EXPECT_THERE(test, PAGE_SIZE, false);
	EXPECT_THERE(test, small ^ PUD_SIZE, false);
	EXPECT_THERE(test, P4D_SIZE + SZ_1G, false);
	/* and may it be used like that */
	KUNIT_EXPECT_TRUE(test, nopin_present(current->mm, small + PAGE_SIZE,
					      NOPIN_FROM_DEVICE));
	KUNIT_EXPECT_FALSE(test, nopin_present(current->mm, small + 2 * PAGE_SIZE,
					       NOPIN_FROM_DEVICE));
	KUNIT_ASSERT_EQ(test, nt_protect(small, 4 * PAGE_SIZE, PROT_NONE), 0);
	EXPECT_THERE(test, small + PAGE_SIZE, false);
	KUNIT_ASSERT_EQ(test, nt_protect(small, 4 * PAGE_SIZE,
					 PROT_READ | PROT_WRITE), 0);
	EXPECT_THERE(test, small + PAGE_SIZE, true);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, small, 4 * PAGE_SIZE,
					 MADV_DONTNEED), 0);
	EXPECT_THERE(test, small + PAGE_SIZE, false);

	thp = nt_map_thp(test);
	EXPECT_THERE(test, thp, true);
	EXPECT_THERE(test, thp + PMD_SIZE - 1, true);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, thp, PMD_SIZE,
					 MADV_DONTNEED), 0);
	EXPECT_THERE(test, thp, false);
	EXPECT_THERE(test, thp + PMD_SIZE, true);
}

/* The same of hugetlb */
static void test_present_hugetlb(struct kunit *test)
{
	unsigned long addr = nt_map_hugetlb(test, PUD_SIZE, 1, MAP_SHARED);

	EXPECT_THERE(test, addr, true);
	EXPECT_THERE(test, addr + PUD_SIZE - 1, true);
	EXPECT_THERE(test, addr + PUD_SIZE / 2, true);
}

/* R11: a page fault of a device permits what GUP permits */
static void test_fault(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 8 * PAGE_SIZE), low, below;
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	enum nopin_dir dir;

	/* in part of a page, and into the next one */
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + PAGE_SIZE - 1, 2,
					  NOPIN_FROM_DEVICE), 0);
	EXPECT_WALK(test, addr, 2 * PAGE_SIZE, 0, 0);
	EXPECT_THERE(test, addr + 2 * PAGE_SIZE, false);
	/* no more than it takes */
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 2 * PAGE_SIZE, PAGE_SIZE,
					  NOPIN_TO_DEVICE), 0);
	EXPECT_WALK(test, addr + 2 * PAGE_SIZE, PAGE_SIZE, -EFAULT, 0);
	EXPECT_THERE(test, addr + 3 * PAGE_SIZE, false);
	/* clean is not good enough, nor is what only may be read */
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr, 4 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), 0);
	EXPECT_WALK(test, addr, 4 * PAGE_SIZE, 0, 0);

	KUNIT_ASSERT_EQ(test, nt_protect(addr + 4 * PAGE_SIZE, PAGE_SIZE,
					 PROT_READ), 0);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr, 5 * PAGE_SIZE,
					  NOPIN_FROM_DEVICE), -EFAULT);
	EXPECT_THERE(test, addr + 4 * PAGE_SIZE, false);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr, 5 * PAGE_SIZE,
					  NOPIN_TO_DEVICE), 0);
	EXPECT_WALK(test, addr, 5 * PAGE_SIZE, -EFAULT, 0);

	/* writable memory that nobody may read, and no access at all */
	KUNIT_ASSERT_EQ(test, nt_protect(addr + 5 * PAGE_SIZE, PAGE_SIZE,
					 PROT_WRITE), 0);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 5 * PAGE_SIZE, 1,
					  NOPIN_TO_DEVICE), -EFAULT);
	EXPECT_THERE(test, addr + 5 * PAGE_SIZE, false);
	KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 5 * PAGE_SIZE, 1,
					  NOPIN_FROM_DEVICE), 0);
	KUNIT_ASSERT_EQ(test, nt_protect(addr + 6 * PAGE_SIZE, PAGE_SIZE,
					 PROT_NONE), 0);
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, addr + 6 * PAGE_SIZE, 1,
						  dir), -EFAULT);
		/* and where there is no memory */
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, PAGE_SIZE, 1, dir),
				-EFAULT);
	}
	EXPECT_THERE(test, addr + 6 * PAGE_SIZE, false);

	/* the stack does not grow */
	low = kunit_vm_mmap(test, NULL, 5UL * SZ_1G, 2 * PAGE_SIZE,
			    PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN |
			    MAP_FIXED_NOREPLACE, 0);
	KUNIT_ASSERT_EQ(test, low, 5UL * SZ_1G);
	/* so far below that GUP does not even warn */
	below = low - SZ_128K;
	for (dir = 0; dir < NOPIN_NR_DIRS; dir++) {
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, low, 1, dir), 0);
		KUNIT_EXPECT_EQ(test, nopin_fault(mm, below, 1, dir), -EFAULT);
	}
	EXPECT_THERE(test, below, false);
	mmap_read_lock(mm);
	vma = vma_lookup(mm, low);
	KUNIT_EXPECT_NOT_NULL(test, vma);
	if (vma) {
		KUNIT_EXPECT_TRUE(test, vma->vm_flags & VM_GROWSDOWN);
		KUNIT_EXPECT_EQ(test, vma->vm_start, low);
	}
	mmap_read_unlock(mm);
	/* as it would for the CPU */
	nt_read(test, below, 1);
	EXPECT_THERE(test, below, true);
}

static struct kunit_case walk_cases[] = {
	KUNIT_CASE(test_anon),
	KUNIT_CASE(test_shmem),
	KUNIT_CASE(test_file_private),
	KUNIT_CASE(test_thp),
	KUNIT_CASE(test_zero_page),
	KUNIT_CASE(test_huge_zero_page),
	KUNIT_CASE(test_hugetlb_pmd),
	KUNIT_CASE(test_hugetlb_pmd_shared),
	KUNIT_CASE(test_hugetlb_pud),
	KUNIT_CASE(test_mixed_sizes),
	KUNIT_CASE(test_table_boundaries),
	KUNIT_CASE(test_merging),
	KUNIT_CASE(test_hole),
	KUNIT_CASE(test_unmapped),
	KUNIT_CASE(test_special_pte),
	KUNIT_CASE(test_secretmem),
	KUNIT_CASE(test_pkeys),
	KUNIT_CASE(test_walk_is_atomic),
	KUNIT_CASE(test_hugetlb_shared_anon),
	KUNIT_CASE(test_referenced),
	KUNIT_CASE(test_present),
	KUNIT_CASE(test_present_hugetlb),
	KUNIT_CASE(test_fault),
	{}
};

NT_SUITE(walk, nt_init);
