// SPDX-License-Identifier: GPL-2.0
/*
 * From user addresses to pages.
 *
 * This reads page tables the way GUP-fast does and refuses what GUP-fast
 * refuses. It only looks up pages that are open, with the lock of the range held.
 * An invalidation has to close such a page before its mapping changes, and needs
 * that lock. So the walk takes no reference, and looks at no entry for a second
 * time. Documentation/mm/nopin.rst has the other differences to GUP-fast.
 */

#include <linux/bvec.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/lockdep.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/pkeys.h>
#include <linux/secretmem.h>

#include "nopin.h"

/**
 * struct nopin_leaf - what a huge entry of a page table says
 * @page: the page at the address that was looked up; NULL if it is not huge
 * @end: address behind the memory that the entry maps
 * @special: there may be no struct page
 * @young: accessed by the CPU lately
 */
struct nopin_leaf {
	struct page	*page;
	unsigned long	end;
	bool		special;
	bool		young;
};

/*
 * What protection keys permit depends on the thread, and no notifier tells when a
 * thread changes it. All memory has key 0 by default, so that one is ignored.
 */
static bool nopin_uses_pkeys(struct mm_struct *mm)
{
#if defined(CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS) || \
	defined(CONFIG_ARM64_POE)
	return READ_ONCE(mm_pkey_allocation_map(mm)) & ~BIT(0);
#else
	return IS_ENABLED(CONFIG_ARCH_HAS_PKEYS);
#endif
}

/*
 * Not all architectures have pud_dirty() and pud_young(). The bits are those of a
 * PTE, as hugetlb has it.
 */
static pte_t nopin_pud_pte(pud_t pud)
{
	return __pte(pud_val(pud));
}

/*
 * Everything in a PTE but which page it maps. What one entry permits, another one with
 * the same flags permits. Whether the upper bits of a page frame number count as flags
 * does not matter: then fewer entries are alike.
 */
static __always_inline u64 nopin_pte_flags(pte_t pte)
{
	return pte_val(pte) &
	       ~(u64)pte_val(pfn_pte(BIT(40 - PAGE_SHIFT) - 1, __pgprot(0)));
}

/* Is it memory that may have no struct page? */
static __always_inline bool nopin_special(pte_t pte)
{
	return pte_special(pte) && !is_zero_pfn(pte_pfn(pte));
}

/* If it is not dirty, a page fault for write makes it so */
static __always_inline bool nopin_pte_permits(pte_t pte, bool write)
{
	return !pte_protnone(pte) && pte_access_permitted(pte, write) &&
	       (!write || pte_dirty(pte));
}

static bool nopin_pmd(struct nopin_leaf *leaf, pmd_t pmd, unsigned long addr,
		      bool write)
{
	if (pmd_protnone(pmd) || !pmd_access_permitted(pmd, write))
		return false;
	if (write && !pmd_dirty(pmd))
		return false;
	leaf->page = pmd_page(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	leaf->end = (addr & PMD_MASK) + PMD_SIZE;
	leaf->special = pmd_special(pmd) && !is_huge_zero_pmd(pmd);
	leaf->young = pmd_young(pmd);
	return true;
}

static bool nopin_pud(struct nopin_leaf *leaf, pud_t pud, unsigned long addr,
		      bool write)
{
	if (!pud_access_permitted(pud, write))
		return false;
	if (write && !pte_dirty(nopin_pud_pte(pud)))
		return false;
	leaf->page = pud_page(pud) + ((addr & ~PUD_MASK) >> PAGE_SHIFT);
	leaf->end = (addr & PUD_MASK) + PUD_SIZE;
	leaf->special = pud_special(pud);
	leaf->young = pte_young(nopin_pud_pte(pud));
	return true;
}

/*
 * Find what maps @addr: either a huge entry that permits the access, or the page
 * table of the last level in *@pmdp. False if there is neither. All of that holds up
 * to @leaf->end.
 * Interrupts are off, so that no page table goes away.
 */
static bool nopin_find(struct nopin_leaf *leaf, struct mm_struct *mm,
		       unsigned long addr, bool write, pmd_t *pmdp)
{
	pgd_t *pgdp = pgd_offset(mm, addr), pgd = pgdp_get(pgdp);
	p4d_t *p4dp, p4d;
	pud_t *pudp, pud;

	lockdep_assert_irqs_disabled();

	leaf->page = NULL;
	leaf->end = (addr | ~PUD_MASK) + 1;
	if (!pgd_present(pgd) || pgd_leaf(pgd))
		return false;
	p4dp = p4d_offset_lockless(pgdp, pgd, addr);
	p4d = p4dp_get(p4dp);
	if (!p4d_present(p4d))
		return false;
	pudp = pud_offset_lockless(p4dp, p4d, addr);
	pud = pudp_get(pudp);
	if (!pud_present(pud))
		return false;
	if (pud_leaf(pud))
		return nopin_pud(leaf, pud, addr, write);
	leaf->end = (addr | ~PMD_MASK) + 1;
	*pmdp = pmdp_get_lockless(pmd_offset_lockless(pudp, pud, addr));
	if (!pmd_present(*pmdp))
		return false;
	return !pmd_leaf(*pmdp) || nopin_pmd(leaf, *pmdp, addr, write);
}

/**
 * nopin_present - is there a page at an address?
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address, untagged
 * @dir: what a device is going to do with it
 *
 * Context: Any. Does not sleep.
 *
 * Return: whether there was a moment ago, and the page table permits the access.
 */
bool nopin_present(struct mm_struct *mm, unsigned long addr, enum nopin_dir dir)
{
	bool write = dir == NOPIN_FROM_DEVICE;
	struct nopin_leaf leaf;
	bool present;
	pte_t *ptep;
	pmd_t pmd;

	local_irq_disable();
	present = nopin_find(&leaf, mm, addr, write, &pmd);
	if (present && !leaf.page) {
		ptep = pte_offset_kernel(&pmd, addr);
		present = nopin_pte_permits(ptep_get_lockless(ptep), write);
	}
	local_irq_enable();
	return present;
}

/**
 * nopin_skip - skip memory without page tables
 * @mm: mm that the caller uses (mm_users)
 * @addr: user address, untagged
 * @end: address behind the last one to look at
 *
 * Context: Any. Does not sleep.
 *
 * Return: the first address from @addr on around which something may be mapped, or
 * one that is not below @end.
 */
unsigned long nopin_skip(struct mm_struct *mm, unsigned long addr,
			 unsigned long end)
{
	struct nopin_leaf leaf;
	bool found = false;
	pmd_t pmd;

	while (addr < end && !found) {
		local_irq_disable();
		found = nopin_find(&leaf, mm, addr, false, &pmd);
		local_irq_enable();
		if (!found)
			addr = leaf.end;
	}
	return addr;
}

/* Does GUP have to judge this page? */
static __always_inline bool nopin_page_special(struct nopin_range *range,
					       struct page *page,
					       enum nopin_dir dir)
{
	struct folio *folio = page_folio(page);
	struct address_space *mapping;

	if (unlikely(is_zone_device_page(page))) {
		WRITE_ONCE(range->apart, true);
		/* Truncation of a file on fs-DAX unmaps first, so that is safe */
		return page_pgmap(page)->type != MEMORY_DEVICE_FS_DAX;
	}
	if (folio_test_anon(folio))
		/*
		 * hugetlb decides by the mapcount alone whether it can reuse a
		 * page for a write. If this one were pinned on behalf of I/O of
		 * the parent, a child would write into what the device reads.
		 * GUP makes the page exclusive first.
		 */
		return dir == NOPIN_TO_DEVICE && folio_test_hugetlb(folio) &&
		       !PageAnonExclusive(&folio->page);
	if (!secretmem_active() || folio_test_large(folio))
		return false;
	/* The mapping of a page that stays mapped does not go away */
	mapping = READ_ONCE(folio->mapping);
	return mapping && secretmem_mapping(mapping);
}

/**
 * struct nopin_walk - pages of a chunk that are looked up
 * @chunk: the chunk
 * @dir: what a device is going to do with them
 * @all: no I/O has asked for them: leave out pages that the CPU has not accessed
 *	 lately, or reclaim would see none grow old
 * @found: has any become known?
 * @ret: result
 */
struct nopin_walk {
	struct nopin_chunk	*chunk;
	enum nopin_dir		dir;
	bool			all;
	bool			found;
	int			ret;
};

/*
 * The pages in the word of @page, up to @end, that are open but not known, as the
 * OLD bits of a word
 */
static __always_inline u64 nopin_wanted(const struct nopin_walk *walk,
					unsigned int page, unsigned int end)
{
	u64 word = atomic64_read(nopin_word(walk->chunk, page, walk->dir));

	return word & nopin_open_bytes(word) & nopin_bytes(page, end);
}

/* Make these translations known, of pages in the word of @page */
static __always_inline void nopin_publish(struct nopin_walk *walk,
					  unsigned int page, u64 known)
{
	walk->found = true;
	/* The bio_vecs before the bits. Pairs with that in nopin_enter_word() */
	smp_mb__before_atomic();
	atomic64_andnot(known, nopin_word(walk->chunk, page, walk->dir));
}

/* An entry maps @page at index @i; returns whether to make that known */
static __always_inline bool nopin_add(struct nopin_chunk *chunk, unsigned int i,
				      struct page *page)
{
	struct bio_vec *bv = &chunk->bvec[i];

	if (likely(bv->bv_page == page))
		return true;
	/* No bio can be pointing to it, see cache.c */
	if (bv->bv_page &&
	    WARN_ON_ONCE(nopin_count(chunk, i, NOPIN_FROM_DEVICE) ||
			 nopin_count(chunk, i, NOPIN_TO_DEVICE)))
		return false;
	/*
	 * nopin_publish() comes later, and a bio reads it after that. Pairs with the
	 * test_bit() in nopin_contiguous().
	 */
	if (test_bit(chunk->index, chunk->range->adjacent))
		clear_bit(chunk->index, chunk->range->adjacent);
	bvec_set_page(bv, page, PAGE_SIZE, 0);
	return true;
}

/* Look up the pages from @page to @stop, whose PTEs begin at @ptep */
static void nopin_walk_ptes(struct nopin_walk *walk, pte_t *ptep,
			    unsigned int page, unsigned int stop)
{
	struct nopin_chunk *chunk = walk->chunk;
	enum nopin_dir dir = walk->dir;
	unsigned int first = page, i;
	/*
	 * The flags of entries that permit the access, and are young and not special.
	 * No entry has all bits set.
	 */
	u64 plain = U64_MAX;

	for (; page < stop; page = nopin_next_word(page)) {
		u64 wanted = nopin_wanted(walk, page, stop), known = 0;

		for (; wanted; wanted &= wanted - 1) {
			bool young = true;
			int ret = -EFAULT;
			struct page *p;
			pte_t pte;

			i = nopin_page(page, wanted);
			pte = ptep_get_lockless(ptep + (i - first));
			p = pte_page(pte);
			if (unlikely(nopin_pte_flags(pte) != plain)) {
				if (!nopin_pte_permits(pte, dir == NOPIN_FROM_DEVICE))
					goto fail;
				ret = -EPERM;
				if (nopin_special(pte))
					goto fail;
				/* A device does not make PTEs young */
				young = pte_young(pte);
				if (walk->all && !young)
					continue;
				if (young && !pte_special(pte))
					plain = nopin_pte_flags(pte);
			}
			ret = -EPERM;
			if (unlikely(nopin_page_special(chunk->range, p, dir)))
				goto fail;
			/* Tell reclaim, as a touch by the CPU would have */
			if (unlikely(!young))
				folio_set_referenced(page_folio(p));
			if (nopin_add(chunk, i, p))
				known |= wanted & -wanted;
			continue;
fail:
			walk->ret = walk->ret ?: ret;
		}
		if (known)
			nopin_publish(walk, page, known);
	}
}

/* Look up the pages from @page to @stop, all of which one entry maps */
static void nopin_walk_leaf(struct nopin_walk *walk,
			    const struct nopin_leaf *leaf, unsigned int page,
			    unsigned int stop)
{
	unsigned int first = page, i;

	if (walk->all && !leaf->young)
		return;
	if (leaf->special ||
	    nopin_page_special(walk->chunk->range, leaf->page, walk->dir)) {
		walk->ret = walk->ret ?: -EPERM;
		return;
	}
	if (!leaf->young)
		folio_set_referenced(page_folio(leaf->page));
	for (; page < stop; page = nopin_next_word(page)) {
		u64 wanted = nopin_wanted(walk, page, stop), known = 0;

		for (; wanted; wanted &= wanted - 1) {
			i = nopin_page(page, wanted);
			if (nopin_add(walk->chunk, i, leaf->page + (i - first)))
				known |= wanted & -wanted;
		}
		if (known)
			nopin_publish(walk, page, known);
	}
}

/**
 * nopin_walk - look up pages of a chunk
 * @chunk: the chunk
 * @start: index in @chunk of the first page
 * @end: index behind the last page
 * @dir: what a device is going to do with them
 * @all: no I/O has asked for these pages, see &struct nopin_walk
 *
 * Makes the translations known of pages that are open and OLD.
 *
 * Context: Process context of a task that uses the mm, with &nopin_range.lock
 * held. Does not sleep.
 *
 * Return: 0, or positive if a PMD or PUD maps the last page; -EFAULT if a page is
 * not mapped, not with the access needed or not dirty, which a page fault may mend;
 * -EPERM if only GUP can judge what is mapped. If there are several such pages, the
 * error is that of the first. With @all, whether any has become known.
 */
int nopin_walk(struct nopin_chunk *chunk, unsigned int start, unsigned int end,
	       enum nopin_dir dir, bool all)
{
	unsigned int base = chunk->index * NOPIN_CHUNK_PAGES, page, next;
	struct mm_struct *mm = chunk->range->notifier.mm;
	struct nopin_walk walk = {
		.chunk	= chunk,
		.dir	= dir,
		.all	= all,
	};
	struct nopin_leaf leaf = {};
	unsigned long flags;

	lockdep_assert_held(&chunk->range->lock);

	if (nopin_uses_pkeys(mm))
		return -EPERM;
	/*
	 * Page tables are freed after an IPI or a grace period, both of which
	 * need interrupts on.
	 */
	local_irq_save(flags);
	for (page = start; page < end; page = next) {
		unsigned long addr = nopin_addr(chunk->range, base + page);
		unsigned long last = nopin_addr(chunk->range, base + end);
		bool found;
		pmd_t pmd;

		found = nopin_find(&leaf, mm, addr, dir == NOPIN_FROM_DEVICE, &pmd);
		next = page + ((min(leaf.end, last) - addr) >> PAGE_SHIFT);
		if (!found) {
			walk.ret = walk.ret ?: -EFAULT;
		} else if (leaf.page) {
			nopin_walk_leaf(&walk, &leaf, page, next);
		} else {
			/* Interrupts are off: no need for pte_offset_map() */
			nopin_walk_ptes(&walk, pte_offset_kernel(&pmd, addr), page,
					next);
		}
	}
	local_irq_restore(flags);
	return all ? walk.found : walk.ret ?: !!leaf.page;
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
 * Context: Process context, may sleep. The caller has entered nothing for prompt I/O.
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
