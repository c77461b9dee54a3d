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
 * @huge: nothing but PMDs, or more, mapped it so far
 */
struct nopin_walk {
	struct bio_vec		*bvec;
	struct page		*next;
	bool			write;
	bool			huge;
};

/* Is it possible to put @page, which is next to it, into the last bio_vec? */
bool nopin_mergeable(const struct bio_vec *last, struct page *page)
{
	if (IS_ENABLED(CONFIG_KMSAN))
		return false;
	if (IS_ENABLED(CONFIG_ZONE_DEVICE) &&
	    !zone_device_pages_have_same_pgmap(last->bv_page, page))
		return false;
	return !xen_domain() || xen_biovec_phys_mergeable(last, page);
}

/* The bytes from @addr to @end are in @page and those that follow it */
static __always_inline void nopin_add(struct nopin_walk *walk,
				      struct page *page, unsigned long addr,
				      unsigned long end)
{
	unsigned int len = end - addr;

	if (page == walk->next && nopin_mergeable(walk->bvec - 1, page))
		walk->bvec[-1].bv_len += len;
	else
		bvec_set_page(walk->bvec++, page, len, offset_in_page(addr));

	/* If @end is not the end of a page, it is that of the walk */
	walk->next = page + DIV_ROUND_UP(len, PAGE_SIZE);
}

/* Truncation of a file on fs-DAX unmaps first, so that is safe */
static bool nopin_devmap_ok(struct page *page)
{
	return page->pgmap->type == MEMORY_DEVICE_FS_DAX;
}

/* A huge leaf, @page the one at the address */
static bool nopin_huge_ok(struct page *page, bool special, bool devmap,
			  bool young)
{
	if (special || (devmap && !nopin_devmap_ok(page)))
		return false;
	if (!young)
		folio_set_referenced(page_folio(page));
	return true;
}

static bool nopin_page_special(struct page *page)
{
	struct address_space *mapping;
	struct folio *folio;

	if (is_pci_p2pdma_page(page))
		return true;
	folio = page_folio(page);
	if (folio_test_large(folio) || folio_test_anon(folio))
		return false;
	/* The mapping of a page that stays mapped does not go away */
	mapping = READ_ONCE(folio->mapping);
	return mapping && secretmem_mapping(mapping);
}

/*
 * Is any page special in a way that its PTE does not show? Asked when the walk
 * is over: pages that have been entered stay what they are, and if no
 * secretmem exists by now none of them is.
 */
static bool nopin_any_special(const struct bio_vec *bv,
			      const struct bio_vec *end)
{
	if (!IS_ENABLED(CONFIG_PCI_P2PDMA)) {
		smp_rmb();	/* PTEs before the number of secretmem users */
		if (likely(!secretmem_active()))
			return false;
	}
	if (nopin_broken(SPECIAL))
		return false;
	for (; bv < end; bv++) {
		unsigned int i, nr = DIV_ROUND_UP(bv->bv_offset + bv->bv_len,
						  PAGE_SIZE);

		for (i = 0; i < nr; i++)
			if (nopin_page_special(bv->bv_page + i))
				return true;
	}
	return false;
}

/* A PTE that is special or maps a page of a ZONE_DEVICE */
static noinline bool nopin_pte_ok(pte_t pte)
{
	if (pte_devmap(pte))
		return nopin_devmap_ok(pte_page(pte));
	return is_zero_pfn(pte_pfn(pte));
}

static __always_inline int nopin_ptes(struct nopin_walk *walk, pmd_t pmd,
				      unsigned long addr, unsigned long end)
{
	/* With interrupts off the page table cannot go: no pte_offset_map() */
	pte_t *ptep = pte_offset_kernel(&pmd, addr);

	walk->huge = false;
	do {
		unsigned long next = min((addr & PAGE_MASK) + PAGE_SIZE, end);
		pte_t pte = ptep_get_lockless(ptep);
		struct page *page;

		if (pte_protnone(pte) ||
		    !pte_access_permitted(pte, walk->write))
			return -EFAULT;
		if (walk->write && !pte_dirty(pte) && !nopin_broken(DIRTY))
			return -EFAULT;
		page = pte_page(pte);
		if (unlikely(pte_special(pte) || pte_devmap(pte)) &&
		    !nopin_pte_ok(pte))
			return -EPERM;
		/* What a touch by the CPU would have told reclaim */
		if (unlikely(!pte_young(pte)))
			folio_set_referenced(page_folio(page));
		nopin_add(walk, page, addr, next);
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
	if (!nopin_huge_ok(page, pmd_special(pmd), pmd_devmap(pmd),
			   pmd_young(pmd)))
		return -EPERM;
	nopin_add(walk, page, addr, end);
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
	if (!nopin_huge_ok(page, pud_special(pud), pud_devmap(pud),
			   pud_young(pud)))
		return -EPERM;
	nopin_add(walk, page, addr, end);
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

/* Whatever is mapped at @addr, no matter how */
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
	if (pud_leaf(pud))
		return pud_page(pud) + ((addr & ~PUD_MASK) >> PAGE_SHIFT);
	pmdp = pmd_offset_lockless(pudp, pud, addr);
	pmd = pmdp_get_lockless(pmdp);
	if (!pmd_present(pmd))
		return NULL;
	if (pmd_leaf(pmd))
		return pmd_page(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	pte = ptep_get_lockless(pte_offset_kernel(&pmd, addr));
	return pte_present(pte) ? pte_page(pte) : NULL;
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
	if (*page) {
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
 * nopin_walk - translate user memory that has been entered
 * @mm: the mm
 * @addr: user address, untagged
 * @len: number of bytes, at least 1
 * @dir: what a device is going to do with it
 * @bvec: array of bio_vecs to add to
 * @vcnt: number of bio_vecs in @bvec, updated
 * @huge: set to whether PMDs, or more, map all of it
 *
 * Physically contiguous memory goes into one bio_vec, the last one of before
 * the call included. There must be room for one more per page.
 *
 * Context: Any that can use the mm. Does not sleep. All pages have been
 * entered for @dir by nopin_enter().
 *
 * Return: 0; -EFAULT if something is not mapped, not with the access needed or
 * not dirty, which a page fault may mend; -EPERM if something is mapped that
 * may be pinned at best. Unless 0 was returned, what is behind the first
 * *@vcnt bio_vecs is undefined, and so is the length of the last one.
 */
int nopin_walk(struct mm_struct *mm, unsigned long addr, size_t len,
	       enum nopin_dir dir, struct bio_vec *bvec, unsigned short *vcnt,
	       bool *huge)
{
	struct nopin_walk walk = {
		.bvec	= bvec + *vcnt,
		.write	= dir == NOPIN_FROM_DEVICE,
		.huge	= true,
	};
	struct bio_vec *start = walk.bvec;
	unsigned long flags = 0;
	int ret;

	if (walk.bvec != bvec) {
		size_t stop;

		start--;
		stop = start->bv_offset + start->bv_len;
		if (offset_in_page(stop) == offset_in_page(addr))
			walk.next = start->bv_page + stop / PAGE_SIZE;
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

	if (nopin_any_special(start, walk.bvec))
		return -EPERM;
	*vcnt = walk.bvec - bvec;
	*huge = walk.huge;
	return 0;
}
