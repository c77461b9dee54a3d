// SPDX-License-Identifier: GPL-2.0
/*
 * From user addresses to pages, for pages that have been entered.
 *
 * This reads page tables the way GUP-fast does and refuses what GUP-fast
 * refuses. The differences follow from the pages being entered:
 *
 * - No reference is taken, and so nothing is checked again after taking it:
 *   until nopin_exit() the PTE stays as it was read.
 * - Nothing is unshared for devices that read memory. An anonymous page that
 *   is mapped copy-on-write is what the process sees as long as it is mapped,
 *   and it stays mapped.
 * - Pages that a device writes must have a dirty PTE besides a writable one.
 *   The dirty bit cannot move to the folio while the page is entered, so there
 *   is no need to mark the folio dirty before and after the I/O: writeback
 *   finds it dirty in time, and never cleans it too early.
 */

#include <linux/bvec.h>
#include <linux/huge_mm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/nopin.h>
#include <linux/nopin_break.h>
#include <linux/pgtable.h>
#include <linux/secretmem.h>
#include <xen/xen.h>

#include "nopin.h"

/**
 * struct nopin_walk - where a walk has got to
 * @bvec: where the next bio_vec goes
 * @next: page that would continue the last bio_vec, from the offset that the
 *	  walk is at; NULL if none would
 * @write: the device writes memory
 * @found: what else there is to say
 */
struct nopin_walk {
	struct bio_vec		*bvec;
	struct page		*next;
	bool			write;
	struct nopin_walked	found;
};

/* Is it possible to put @page, which is next to it, into the last bio_vec? */
bool nopin_mergeable(const struct bio_vec *last, struct page *page)
{
	if (IS_ENABLED(CONFIG_KMSAN))
		return false;
	return !xen_domain() || xen_biovec_phys_mergeable(last, page);
}

/*
 * The bytes from @addr to @end are in @page and those that follow it. No struct
 * page is looked at: the walk may be too late, see nopin_check(). So memory of
 * devices, of which there may be several, is not merged.
 */
static __always_inline void nopin_add(struct nopin_walk *walk,
				      struct page *page, unsigned long addr,
				      unsigned long end, bool devmap)
{
	unsigned int len = end - addr;

	if (page == walk->next && !devmap &&
	    nopin_mergeable(walk->bvec - 1, page))
		walk->bvec[-1].bv_len += len;
	else
		bvec_set_page(walk->bvec++, page, len, offset_in_page(addr));

	/* If @end is not the end of a page, it is that of the walk */
	walk->next = devmap ? NULL : page + DIV_ROUND_UP(len, PAGE_SIZE);
}

/* Note what a huge leaf says; false if it is special */
static bool nopin_huge_ok(struct nopin_walk *walk, bool special, bool devmap,
			  bool young)
{
	walk->found.devmap |= devmap;
	walk->found.old |= !young;
	return !special;
}

/* Is it memory that may have no struct page? */
static __always_inline bool nopin_pte_special(pte_t pte)
{
	return pte_special(pte) && !pte_devmap(pte) &&
	       !is_zero_pfn(pte_pfn(pte));
}

static __always_inline int nopin_ptes(struct nopin_walk *walk, pmd_t pmd,
				      unsigned long addr, unsigned long end)
{
	/* With interrupts off the page table cannot go: no pte_offset_map() */
	pte_t *ptep = pte_offset_kernel(&pmd, addr);

	walk->found.huge = false;
	do {
		unsigned long next = min((addr & PAGE_MASK) + PAGE_SIZE, end);
		pte_t pte = ptep_get_lockless(ptep);

		if (pte_protnone(pte) ||
		    !pte_access_permitted(pte, walk->write))
			return -EFAULT;
		if (walk->write && !pte_dirty(pte) && !nopin_broken(DIRTY))
			return -EFAULT;
		if (unlikely(nopin_pte_special(pte)))
			return -EPERM;
		walk->found.devmap |= pte_devmap(pte);
		walk->found.old |= !pte_young(pte);
		nopin_add(walk, pte_page(pte), addr, next, pte_devmap(pte));
		addr = next;
		ptep++;
	} while (addr != end);
	return 0;
}

static int nopin_pmd_leaf(struct nopin_walk *walk, pmd_t pmd,
			  unsigned long addr, unsigned long end)
{
	struct page *page = pmd_page(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);

	if (pmd_protnone(pmd) || !pmd_access_permitted(pmd, walk->write))
		return -EFAULT;
	if (walk->write && !pmd_dirty(pmd) && !nopin_broken(DIRTY))
		return -EFAULT;
	if (!nopin_huge_ok(walk, pmd_special(pmd), pmd_devmap(pmd),
			   pmd_young(pmd)))
		return -EPERM;
	/* Elsewhere a PMD maps less than a chunk, with base pages of 64 KiB say */
	if (PMD_SIZE < NOPIN_CACHE_SIZE)
		walk->found.huge = false;
	nopin_add(walk, page, addr, end, pmd_devmap(pmd));
	return 0;
}

/* Not all architectures have pud_dirty(). The bits are those of a PTE, as hugetlb has it */
static bool nopin_pud_dirty(pud_t pud)
{
	return pte_dirty(__pte(pud_val(pud)));
}

static int nopin_pud_leaf(struct nopin_walk *walk, pud_t pud,
			  unsigned long addr, unsigned long end)
{
	struct page *page = pud_page(pud) + ((addr & ~PUD_MASK) >> PAGE_SHIFT);

	if (!pud_access_permitted(pud, walk->write))
		return -EFAULT;
	if (walk->write && !nopin_pud_dirty(pud) && !nopin_broken(DIRTY))
		return -EFAULT;
	if (!nopin_huge_ok(walk, pud_special(pud), pud_devmap(pud),
			   pud_young(pud)))
		return -EPERM;
	nopin_add(walk, page, addr, end, pud_devmap(pud));
	return 0;
}

/*
 * From the top again for each page table: a loop per level, as in GUP-fast,
 * costs more than that saves.
 */
static __always_inline int nopin_tables(struct nopin_walk *walk,
					struct mm_struct *mm,
					unsigned long addr, unsigned long end)
{
	unsigned long next;
	int ret;

	lockdep_assert_irqs_disabled();

	do {
		pgd_t *pgdp = pgd_offset(mm, addr), pgd = pgdp_get(pgdp);
		p4d_t *p4dp, p4d;
		pud_t *pudp, pud;
		pmd_t *pmdp, pmd;

		if (unlikely(!pgd_present(pgd) || pgd_leaf(pgd)))
			return -EFAULT;
		p4dp = p4d_offset_lockless(pgdp, pgd, addr);
		p4d = p4dp_get(p4dp);
		if (unlikely(!p4d_present(p4d)))
			return -EFAULT;

		pudp = pud_offset_lockless(p4dp, p4d, addr);
		pud = pudp_get(pudp);
		if (unlikely(!pud_present(pud)))
			return -EFAULT;
		if (unlikely(pud_leaf(pud))) {
			next = pud_addr_end(addr, end);
			ret = nopin_pud_leaf(walk, pud, addr, next);
			if (ret)
				return ret;
			continue;
		}

		pmdp = pmd_offset_lockless(pudp, pud, addr);
		pmd = pmdp_get_lockless(pmdp);
		next = pmd_addr_end(addr, end);
		if (unlikely(!pmd_present(pmd)))
			return -EFAULT;
		if (pmd_leaf(pmd))
			ret = nopin_pmd_leaf(walk, pmd, addr, next);
		else
			ret = nopin_ptes(walk, pmd, addr, next);
		if (ret)
			return ret;
		/* As GUP-fast: has it been the page table all the time? */
		if (unlikely(pmd_val(pmd) != pmd_val(pmdp_get_lockless(pmdp))))
			return -EFAULT;
	} while (addr = next, addr != end);
	return 0;
}

/*
 * The page that is mapped at @addr, no matter how. NULL if there is none, an
 * error for what may have no struct page.
 */
static struct page *nopin_page(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgdp = pgd_offset(mm, addr), pgd = pgdp_get(pgdp);
	p4d_t *p4dp, p4d;
	pud_t *pudp, pud;
	pmd_t *pmdp, pmd;
	pte_t pte;

	lockdep_assert_irqs_disabled();

	if (!pgd_present(pgd) || pgd_leaf(pgd))
		return NULL;
	p4dp = p4d_offset_lockless(pgdp, pgd, addr);
	p4d = p4dp_get(p4dp);
	if (!p4d_present(p4d))
		return NULL;
	pudp = pud_offset_lockless(p4dp, p4d, addr);
	pud = pudp_get(pudp);
	if (!pud_present(pud))
		return NULL;
	if (pud_leaf(pud) && pud_special(pud))
		return ERR_PTR(-EPERM);
	if (pud_leaf(pud))
		return pud_page(pud) + ((addr & ~PUD_MASK) >> PAGE_SHIFT);
	pmdp = pmd_offset_lockless(pudp, pud, addr);
	pmd = pmdp_get_lockless(pmdp);
	if (!pmd_present(pmd))
		return NULL;
	if (pmd_leaf(pmd) && pmd_special(pmd))
		return ERR_PTR(-EPERM);
	if (pmd_leaf(pmd))
		return pmd_page(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	pte = ptep_get_lockless(pte_offset_kernel(&pmd, addr));
	if (!pte_present(pte))
		return NULL;
	return nopin_pte_special(pte) ? ERR_PTR(-EPERM) : pte_page(pte);
}

/**
 * nopin_walk_get - get a reference to the page at an address
 * @mm: an mm that somebody uses
 * @addr: user address
 * @page: set to the page
 *
 * The caller finds out whether it is the page that is meant: if somebody has
 * entered it and does not exit before this returns, nothing else can have been
 * there.
 *
 * Context: Any with interrupts on. Does not sleep.
 *
 * Return: the folio of the page, with a reference, or NULL if there is nothing
 * or no telling.
 */
struct folio *nopin_walk_get(struct mm_struct *mm, unsigned long addr,
			     struct page **page)
{
	struct folio *folio = NULL;

	/* As for nopin_walk(), and as in GUP-fast pages cannot be reused */
	local_irq_disable();
	*page = nopin_page(mm, addr);
	if (!IS_ERR_OR_NULL(*page)) {
		folio = page_folio(*page);
		if (!folio_try_get(folio))
			folio = NULL;
	}
	local_irq_enable();

	if (folio && unlikely(page_folio(*page) != folio)) {
		folio_put(folio);
		folio = NULL;
	}
	return folio;
}

/**
 * nopin_present - is there a page at an address?
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address, untagged
 *
 * Context: Any. Does not sleep.
 *
 * Return: whether there was a moment ago.
 */
bool nopin_present(struct mm_struct *mm, unsigned long addr)
{
	bool present;

	local_irq_disable();
	present = nopin_page(mm, addr);
	local_irq_enable();
	return present;
}

/**
 * nopin_mapped - is a page mapped at an address?
 * @mm: the mm
 * @addr: user address in a range that the caller is about to change, so that its
 *	  page tables do not go away
 *
 * Context: Process context, does not sleep. Takes the lock of the page table.
 *
 * Return: whether one is that I/O without pins may use. Others who clear a PTE for
 * a moment do so with that lock held, so "no" means no.
 */
bool nopin_mapped(struct mm_struct *mm, unsigned long addr)
{
	bool mapped = false;
	spinlock_t *ptl;	/* of the entry that is looked at */
	pgd_t *pgd;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	pte_t *pte;

	pgd = pgd_offset(mm, addr);
	if (pgd_none(pgdp_get(pgd)))
		return false;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(p4dp_get(p4d)))
		return false;
	pud = pud_offset(p4d, addr);
	ptl = pud_lock(mm, pud);
	mapped = pud_leaf(pudp_get(pud)) && !pud_special(pudp_get(pud));
	spin_unlock(ptl);
	if (mapped)
		return true;
	if (!pud_present(pudp_get(pud)) || pud_leaf(pudp_get(pud)))
		return false;
	pmd = pmd_offset(pud, addr);
	ptl = pmd_lock(mm, pmd);
	mapped = pmd_present(pmdp_get(pmd)) && pmd_leaf(pmdp_get(pmd)) &&
		 !pmd_special(pmdp_get(pmd));
	spin_unlock(ptl);
	if (mapped)
		return true;
	pte = pte_offset_map_nolock(mm, pmd, addr, &ptl);
	if (!pte)
		return false;
	spin_lock(ptl);
	mapped = pte_present(ptep_get(pte)) && !nopin_pte_special(ptep_get(pte));
	spin_unlock(ptl);
	pte_unmap(pte);
	return mapped;
}

/**
 * nopin_walk - look up user memory in the page tables
 * @mm: the mm
 * @addr: user address, untagged
 * @len: number of bytes, at least 1
 * @dir: what a device is going to do with it
 * @bvec: array of bio_vecs to add to
 * @vcnt: number of bio_vecs in @bvec, updated
 * @walked: set to what else there is to say
 *
 * Physically contiguous memory goes into one bio_vec, the last one of before
 * the call included. There must be room for one more per page.
 *
 * Context: Any that can use the mm. Does not sleep. All pages have been
 * entered for @dir by nopin_enter(). It may have been too late, though, as
 * nopin_check() tells; until then no struct page may be touched.
 *
 * Return: 0; -EFAULT if something is not mapped, not with the access needed or
 * not dirty, which a page fault may mend; -EPERM if something is mapped that
 * may be pinned at best. Unless 0 was returned, what is behind the first
 * *@vcnt bio_vecs is undefined, and so is the length of the last one.
 */
int nopin_walk(struct mm_struct *mm, unsigned long addr, size_t len,
	       enum nopin_dir dir, struct bio_vec *bvec, unsigned short *vcnt,
	       struct nopin_walked *walked)
{
	struct nopin_walk walk = {
		.bvec	= bvec + *vcnt,
		.write	= dir == NOPIN_FROM_DEVICE,
		.found	= { .huge = true },
	};
	unsigned long flags = 0;
	int ret;

	if (walk.bvec != bvec) {
		struct bio_vec *last = walk.bvec - 1;
		size_t stop = last->bv_offset + last->bv_len;

		/* That one was judged before */
		if (offset_in_page(stop) == offset_in_page(addr) &&
		    !is_zone_device_page(last->bv_page))
			walk.next = last->bv_page + stop / PAGE_SIZE;
	}

	/*
	 * Page tables are freed after an IPI or a grace period, both of which
	 * need interrupts on.
	 */
	if (!nopin_broken(IRQS))
		local_irq_save(flags);
	ret = nopin_tables(&walk, mm, addr, addr + len);
	if (!nopin_broken(IRQS))
		local_irq_restore(flags);
	if (unlikely(ret))
		return ret;

	*vcnt = walk.bvec - bvec;
	*walked = walk.found;
	return 0;
}

/* Does GUP have to judge this page? */
static bool nopin_page_special(struct page *page, struct folio *folio,
			       enum nopin_dir dir, bool devmap)
{
	struct address_space *mapping;

	/* Truncation of a file on fs-DAX unmaps first, so that is safe */
	if (devmap && is_zone_device_page(page))
		return page->pgmap->type != MEMORY_DEVICE_FS_DAX;
	if (IS_ENABLED(CONFIG_PCI_P2PDMA) && is_pci_p2pdma_page(page))
		return true;
	/*
	 * hugetlb reuses a page for a write by its mapcount alone. If this one
	 * were pinned on behalf of I/O of the parent, a child would write into
	 * what the I/O reads. GUP makes the page exclusive first.
	 */
	if (folio_test_hugetlb(folio))
		return dir == NOPIN_TO_DEVICE && folio_test_anon(folio) &&
		       !PageAnonExclusive(&folio->page);
	/* nopin_check() has ordered this behind the look at the PTE */
	if (!secretmem_active() || folio_test_large(folio) ||
	    folio_test_anon(folio))
		return false;
	/* The mapping of a page that stays mapped does not go away */
	mapping = READ_ONCE(folio->mapping);
	return mapping && secretmem_mapping(mapping);
}

/**
 * nopin_judge - look at pages that a walk has found
 * @bv: the first bio_vec that the walk has added to
 * @end: behind the last one
 * @dir: as for nopin_walk()
 * @walked: what the walk has said
 *
 * Refuses what GUP-fast refuses and PTEs do not show, and tells reclaim of the
 * access, as a touch by the CPU would have.
 *
 * Context: As for nopin_walk(), and nopin_check() has returned 0: pages that have
 * been entered stay what they are.
 *
 * Return: 0, or -EPERM if some of it may be pinned at best.
 */
int nopin_judge(const struct bio_vec *bv, const struct bio_vec *end,
		enum nopin_dir dir, const struct nopin_walked *walked)
{
	for (; bv < end; bv++) {
		unsigned int nr = DIV_ROUND_UP(bv->bv_offset + bv->bv_len,
					       PAGE_SIZE), i = 0;

		while (i < nr) {
			struct page *page = bv->bv_page + i;
			struct folio *folio = page_folio(page);

			if (nopin_page_special(page, folio, dir,
					       walked->devmap) &&
			    !nopin_broken(SPECIAL))
				return -EPERM;
			if (unlikely(walked->old))
				folio_set_referenced(folio);
			i += folio_nr_pages(folio) - folio_page_idx(folio, page);
		}
	}
	return 0;
}

/**
 * nopin_translate - translate user memory that has been entered
 * @range: range of the pages
 * @first: index of the first page in @range
 * @nr: number of pages
 * @addr: user address, untagged
 * @len: number of bytes, at least 1
 * @dir: what a device is going to do with it
 * @bvec: as for nopin_walk()
 * @vcnt: as for nopin_walk()
 * @huge: set to whether PMDs, or more, map all of it
 *
 * Context: As for nopin_walk().
 *
 * Return: as nopin_walk(); also -EAGAIN if a page was closed meanwhile. The pages
 * are still entered in any case.
 */
int nopin_translate(struct nopin_range *range, unsigned int first,
		    unsigned int nr, unsigned long addr, size_t len,
		    enum nopin_dir dir, struct bio_vec *bvec,
		    unsigned short *vcnt, bool *huge)
{
	/* The walk may have made the last one longer */
	struct bio_vec *start = bvec + (*vcnt ? *vcnt - 1 : 0);
	struct nopin_walked walked;
	int ret;

	ret = nopin_walk(range->notifier.mm, addr, len, dir, bvec, vcnt,
			 &walked);
	if (likely(!ret))
		ret = nopin_check(range, first, nr, dir);
	if (likely(!ret))
		ret = nopin_judge(start, bvec + *vcnt, dir, &walked);
	*huge = !ret && walked.huge;
	return ret;
}

/**
 * nopin_fault - fault in user memory
 * @mm: mm of the current task
 * @addr: user address, untagged
 * @len: number of bytes, at least 1
 * @dir: what a device is going to do with it
 *
 * As GUP would, and not as an access by the CPU would: the stack does not grow,
 * and memory that may only be written, or only executed, is not readable.
 *
 * Context: Process context, may sleep. No prompt I/O has been entered.
 *
 * Return: 0, or the error of fixup_user_fault().
 */
int nopin_fault(struct mm_struct *mm, unsigned long addr, size_t len,
		enum nopin_dir dir)
{
	unsigned int flags = dir == NOPIN_FROM_DEVICE ? FAULT_FLAG_WRITE : 0;
	unsigned long end = addr + len;
	bool unlocked = false;
	int ret = 0;

	mmap_read_lock(mm);
	for (addr &= PAGE_MASK; addr < end && !ret; addr += PAGE_SIZE)
		ret = fixup_user_fault(mm, addr, flags, &unlocked);
	mmap_read_unlock(mm);
	return ret;
}
