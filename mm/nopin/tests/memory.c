// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of nopin: memory of the test, changes of its mapping, and I/O on it.
 */

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/hugetlb.h>
#include <linux/migrate.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include <asm/tlb.h>

#include "common.h"

/* Memory */

static unsigned long map_at(struct kunit *test, struct file *file,
			    unsigned long addr, size_t len, unsigned long prot,
			    unsigned long flags)
{
	unsigned long ret = kunit_vm_mmap(test, file, addr, len, prot, flags, 0);

	KUNIT_ASSERT_NE(test, ret, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(ret));
	return ret;
}

unsigned long nt_map(struct kunit *test, struct file *file, size_t len,
		     unsigned long prot, unsigned long flags)
{
	return map_at(test, file, 0, len, prot, flags);
}

unsigned long nt_map_anon(struct kunit *test, size_t len)
{
	return nt_map(test, NULL, len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS);
}

/* Not huge, whatever the default is */
static void make_small(struct kunit *test, unsigned long addr, size_t len)
{
	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, len,
						 MADV_NOHUGEPAGE), 0);
}

unsigned long nt_map_small(struct kunit *test, size_t len)
{
	unsigned long addr = nt_map_anon(test, len);

	make_small(test, addr, len);
	return addr;
}

unsigned long nt_map_fixed(struct kunit *test, unsigned long addr, size_t len)
{
	KUNIT_ASSERT_EQ(test, map_at(test, NULL, addr, len,
				     PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS |
				     MAP_FIXED_NOREPLACE), addr);
	make_small(test, addr, len);
	return addr;
}

unsigned long nt_map_shmem(struct kunit *test, size_t len, unsigned long flags)
{
	struct file *file = shmem_file_setup("nopin_kunit", len, EMPTY_VMA_FLAGS);
	unsigned long addr;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, len, PROT_READ | PROT_WRITE, flags,
			     0);
	fput(file);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
}

/* Memory of both kinds, of base pages, aligned to those of a word, and written */
unsigned long nt_map_kind(struct kunit *test, bool shmem, size_t len)
{
	size_t align = NOPIN_PAGES_PER_WORD * PAGE_SIZE;
	unsigned long addr;

	if (shmem)
		addr = nt_map_shmem(test, len + align, MAP_SHARED);
	else
		addr = nt_map_small(test, len + align);
	addr = ALIGN(addr, align);
	nt_write(test, addr, len);
	if (nt_is_huge(addr))
		kunit_skip(test, "shared memory is huge");
	return addr;
}

/* Small pages, no less than those of a chunk, at the beginning of one */
unsigned long nt_map_chunk(struct kunit *test)
{
	unsigned long addr = nt_map_small(test, 2 * NOPIN_CHUNK_SIZE);

	return ALIGN(addr, NOPIN_CHUNK_SIZE);
}

/* Two huge pages; skips the test if there are none */
unsigned long nt_map_thp(struct kunit *test)
{
	unsigned long addr;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "no transparent huge pages");
	addr = ALIGN(nt_map_anon(test, 3 * PMD_SIZE), PMD_SIZE);
	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, 2 * PMD_SIZE,
					 MADV_HUGEPAGE), 0);
	nt_write(test, addr, 2 * PMD_SIZE);
	if (!nt_is_huge(addr) || !nt_is_huge(addr + PMD_SIZE))
		kunit_skip(test, "no memory for transparent huge pages");
	return addr;
}

/* The huge zero page, twice */
unsigned long nt_map_huge_zero(struct kunit *test)
{
	unsigned long addr = nt_map_thp(test);

	KUNIT_ASSERT_EQ(test, do_madvise(current->mm, addr, 2 * PMD_SIZE,
					 MADV_DONTNEED), 0);
	nt_read(test, addr, 2 * PMD_SIZE);
	if (!nt_is_huge(addr) || !nt_is_huge(addr + PMD_SIZE))
		kunit_skip(test, "no huge zero page");
	return addr;
}

unsigned long nt_map_hugetlb(struct kunit *test, unsigned long size,
			     unsigned int nr, unsigned long flags)
{
#ifdef CONFIG_HUGETLB_PAGE
	struct hstate *h = size_to_hstate(size);
	unsigned long addr, overcommit;
	struct file *file;
	unsigned int i;

	if (!h)
		kunit_skip(test, "no hugetlb pages of %lu MiB", size / SZ_1M);
	if (hstate_is_gigantic(h) && h->free_huge_pages < nr)
		kunit_skip(test, "boot with hugepagesz=%luM hugepages=%u",
			   size / SZ_1M, nr);

	overcommit = h->nr_overcommit_huge_pages;
	h->nr_overcommit_huge_pages += nr;
	file = hugetlb_file_setup("nopin_kunit", nr * size,
				  mk_vma_flags(VMA_NORESERVE_BIT),
				  HUGETLB_ANONHUGE_INODE, ilog2(size));
	if (IS_ERR(file))
		h->nr_overcommit_huge_pages = overcommit;
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	addr = kunit_vm_mmap(test, file, 0, nr * size, PROT_READ | PROT_WRITE,
			     flags, 0);
	fput(file);
	for (i = 0; addr && !IS_ERR_VALUE(addr) && i < nr; i++)
		fault_in_safe_writeable((char __user *)addr + i * size, 1);
	h->nr_overcommit_huge_pages = overcommit;
	if (addr == -ENOMEM)
		kunit_skip(test, "no memory for hugetlb pages of %lu MiB",
			   size / SZ_1M);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	return addr;
#else
	kunit_skip(test, "no hugetlb pages");
#endif
}

/* A page of the process's own choice, as a write by the CPU would get */
void nt_write(struct kunit *test, unsigned long addr, size_t len)
{
	KUNIT_ASSERT_EQ(test, fault_in_safe_writeable((char __user *)addr,
						      len), 0);
}

void nt_read(struct kunit *test, unsigned long addr, size_t len)
{
	KUNIT_ASSERT_EQ(test, fault_in_readable((char __user *)addr, len), 0);
}

/* No page is like another one, as far as KSM and zero pages go */
void nt_fill(struct kunit *test, unsigned long addr, size_t len)
{
	unsigned long a;

	for (a = addr; a < addr + len; a += PAGE_SIZE)
		KUNIT_ASSERT_EQ(test, put_user(a, (unsigned long __user *)a),
				0);
}

bool nt_is_huge(unsigned long addr)
{
	struct mm_struct *mm = current->mm;
	bool huge = false;
	pmd_t *pmd;

	mmap_read_lock(mm);
	pmd = mm_find_pmd(mm, addr);
	if (pmd)
		huge = pmd_trans_huge(pmdp_get_lockless(pmd));
	mmap_read_unlock(mm);
	return huge;
}

int nt_protect(unsigned long addr, size_t len, unsigned long prot)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma, *prev;
	unsigned long end = addr + len;
	struct mmu_gather tlb;
	int ret = -ENOMEM;

	VMA_ITERATOR(vmi, mm, addr);

	mmap_write_lock(mm);
	vma = vma_find(&vmi, end);
	if (vma && vma->vm_start <= addr && end <= vma->vm_end) {
		vm_flags_t flags = (vma->vm_flags & ~VM_ACCESS_FLAGS) |
				   calc_vm_prot_bits(prot, 0);

		prev = vma_prev(&vmi);
		vma = vma_next(&vmi);
		if (addr > vma->vm_start)
			prev = vma;
		tlb_gather_mmu(&tlb, mm);
		ret = mprotect_fixup(&vmi, &tlb, vma, &prev, addr, end, flags);
		tlb_finish_mmu(&tlb);
	}
	mmap_write_unlock(mm);
	return ret;
}

/* The page at @addr, or NULL: what the process has there, with a reference */
struct page *nt_get_page(unsigned long addr)
{
	struct page *page;
	long got;

	mmap_read_lock(current->mm);
	got = get_user_pages_remote(current->mm, addr, 1, 0, &page, NULL);
	mmap_read_unlock(current->mm);
	return got == 1 ? page : NULL;
}

/* I/O */

struct nopin_range *nt_range(struct kunit *test, unsigned long addr)
{
	struct nopin_range *range = nopin_mm_get(current->mm, addr);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, range);
	return range;
}

/* Enters the pages if it returns 0. Otherwise nothing stays entered */
int nt_enter_at(struct kunit *test, unsigned long addr, size_t len,
		enum nopin_dir dir)
{
	unsigned long end = PAGE_ALIGN(addr + len), next;

	for (addr &= PAGE_MASK; addr < end; addr = next) {
		struct nopin_range *range = nt_range(test, addr);
		int ret;

		next = min(end, nopin_addr(range, range->nr_pages));
		ret = nt_enter_opened(test, range, nopin_index(range, addr),
				      (next - addr) >> PAGE_SHIFT, dir);
		if (ret) {
			nt_leave_all(test);
			return ret;
		}
	}
	return 0;
}

/* Looks into the page tables, whatever is known */
int nt_look_up(struct kunit *test, unsigned long addr, size_t len,
	       enum nopin_dir dir)
{
	int ret;

	mmu_notifier_clear_young(current->mm, addr & PAGE_MASK,
				 PAGE_ALIGN(addr + len));
	ret = nt_enter_at(test, addr, len, dir);
	nt_leave_all(test);
	return ret;
}

/* Where a bio that has entered the page at @addr would have it */
struct page *nt_page(unsigned long addr)
{
	struct nopin_chunk *chunk = nopin_mm_chunk(current->mm, addr);

	return chunk->bvec[nopin_start(addr)].bv_page;
}

/* Compares with what get_user_pages() finds; the pages must be entered */
void nt_check(struct kunit *test, struct nopin_range *range, unsigned int first,
	      unsigned int nr)
{
	unsigned int wrong = 0, apart = 0, i;
	struct page **pages;
	long got;

	pages = kvcalloc(nr, sizeof(*pages), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, pages);
	mmap_read_lock(current->mm);
	got = get_user_pages_remote(current->mm, nopin_addr(range, first), nr,
				    0, pages, NULL);
	mmap_read_unlock(current->mm);
	KUNIT_EXPECT_EQ(test, got, nr);

	for (i = 0; i < nr && got == nr; i++) {
		struct nopin_chunk *chunk = nopin_chunk_at(range, first + i);
		unsigned int at = (first + i) % NOPIN_CHUNK_PAGES;

		wrong += chunk->bvec[at].bv_page != pages[i] ||
			 chunk->bvec[at].bv_len != PAGE_SIZE ||
			 chunk->bvec[at].bv_offset;
		/* a bio needs one bio_vec for those that are behind each other */
		if (i && at)
			apart += nopin_contiguous(range, first + i - 1,
						  chunk->bvec + at - 1, 2) !=
				 (!range->apart &&
				  pages[i] == pages[i - 1] + 1);
	}
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "pages %u+%u", first, nr);
	KUNIT_EXPECT_EQ_MSG(test, apart, 0, "pages %u+%u", first, nr);
	while (got > 0)
		put_page(pages[--got]);
	kvfree(pages);
}

/* The same by address, of one range or of several */
void nt_check_pages(struct kunit *test, unsigned long addr, size_t len)
{
	unsigned long end = PAGE_ALIGN(addr + len), next;

	for (addr &= PAGE_MASK; addr < end; addr = next) {
		struct nopin_range *range = nopin_mm_find(current->mm, addr);

		next = min(end, nopin_addr(range, range->nr_pages));
		nt_check(test, range, nopin_index(range, addr),
			 (next - addr) >> PAGE_SHIFT);
	}
}

/* The pages can be entered, and are those that they should be */
void nt_check_at(struct kunit *test, unsigned long addr, size_t len,
		 enum nopin_dir dir)
{
	int ret = nt_enter_at(test, addr, len, dir);

	KUNIT_EXPECT_EQ_MSG(test, ret, 0, "%#lx+%#zx", addr, len);
	if (!ret)
		nt_check_pages(test, addr, len);
	nt_leave_all(test);
}

void nt_expect_walk(int line, struct kunit *test, unsigned long addr,
		    size_t len, int from, int to)
{
	KUNIT_EXPECT_EQ_MSG(test, nt_look_up(test, addr, len,
					     NOPIN_FROM_DEVICE), from,
			    "in line %d", line);
	KUNIT_EXPECT_EQ_MSG(test, nt_look_up(test, addr, len,
					     NOPIN_TO_DEVICE), to,
			    "in line %d", line);
}

/* Pins */

bool nt_is_pinned(struct page *page)
{
	return folio_maybe_dma_pinned(page_folio(page));
}

/* Is a page that has been entered pinned, so that its mapping may change? */
bool nt_was_pinned(unsigned long addr, enum nopin_dir dir)
{
	struct nopin_range *range = nopin_mm_find(current->mm, addr);
	unsigned int page = nopin_index(range, addr);
	struct nopin_chunk *chunk;
	bool pinned;

	rcu_read_lock();
	chunk = nopin_chunk_at(range, page);
	pinned = chunk && nopin_pinned_bytes(chunk, page, dir) &
			  nopin_bytes(page, page + 1);
	rcu_read_unlock();
	return pinned;
}

/* The pin on behalf of I/O is dropped when the I/O has ended */
void nt_expect_unpinned(struct kunit *test, struct page *page)
{
	unsigned int i;

	for (i = 0; i < 1000 && nt_is_pinned(page); i++)
		msleep(20);
	KUNIT_EXPECT_FALSE(test, nt_is_pinned(page));
}

/* The same, told by the states of the pages */
void nt_expect_drops(struct kunit *test, unsigned long addr,
		     enum nopin_dir dir)
{
	unsigned int i;

	for (i = 0; i < 1000 && nt_was_pinned(addr, dir); i++)
		msleep(20);
	KUNIT_EXPECT_FALSE(test, nt_was_pinned(addr, dir));
}

/* Changes */

int nt_op_munmap(struct nt_op *op)
{
	return vm_munmap(op->addr, op->len);
}

int nt_op_dontneed(struct nt_op *op)
{
	return do_madvise(current->mm, op->addr, op->len, MADV_DONTNEED);
}

int nt_op_protect(struct nt_op *op)
{
	return nt_protect(op->addr, op->len, PROT_READ);
}

/* Elsewhere on the same node; 0 or how many pages stayed where they are */
int nt_op_migrate(struct nt_op *op)
{
	struct migration_target_control mtc = {
		.nid		= NUMA_NO_NODE,
		.gfp_mask	= GFP_HIGHUSER_MOVABLE,
		.reason		= MR_SYSCALL,
	};
	struct page *page;
	struct folio *folio;
	LIST_HEAD(list);
	int ret = -EBUSY;

	page = nt_get_page(op->addr);
	if (!page)
		return -EFAULT;
	folio = page_folio(page);
	/* this look may have it on its way to another list, with a reference */
	lru_add_drain_all();
	if (folio_isolate_lru(folio)) {
		node_stat_mod_folio(folio, NR_ISOLATED_ANON +
				    folio_is_file_lru(folio),
				    folio_nr_pages(folio));
		list_add(&folio->lru, &list);
	}
	folio_put(folio);
	if (list_empty(&list))
		return ret;
	ret = migrate_pages(&list, alloc_migration_target, NULL,
			    (unsigned long)&mtc, MIGRATE_SYNC, MR_SYSCALL,
			    NULL);
	if (!list_empty(&list))
		putback_movable_pages(&list);
	return ret;
}

/* As writeback does it */
int nt_op_mkclean(struct nt_op *op)
{
	struct page *page = nt_get_page(op->addr);
	struct folio *folio;
	int ret;

	if (!page)
		return -EFAULT;
	folio = page_folio(page);
	folio_lock(folio);
	ret = folio_mkclean(folio);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

int nt_op_split(struct nt_op *op)
{
	struct page *page = nt_get_page(op->addr);
	struct folio *folio;
	int ret;

	if (!page)
		return -EFAULT;
	folio = page_folio(page);
	lru_add_drain_all();
	folio_lock(folio);
	ret = folio_test_large(folio) ? split_folio(folio) : -EINVAL;
	folio_unlock(folio);
	/* the reference stays with the head, wherever @page was */
	folio_put(folio);
	return ret;
}

const struct nt_change_case nt_change_cases[] = {
	{ "munmap",		nt_op_munmap,	-EFAULT,	-EFAULT },
	{ "MADV_DONTNEED",	nt_op_dontneed,	-EFAULT,	-EFAULT },
	{ "mprotect",		nt_op_protect,	-EFAULT,	0,	true },
};
