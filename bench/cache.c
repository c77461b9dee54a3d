// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin with a model of the caches and TLBs of a processor.
 *
 *	gcc -O2 -Wall -shared -fPIC -o cache.so cache.c
 *	qemu-system-x86_64 ... -plugin cache.so,mark=0xADDRESS,marks=N,out=FILE
 *
 * with skip=0xFROM,until=0xTO besides, where wanted.
 *
 * The plugin looks at all loads and stores from the first of N times that the
 * guest executes the instruction at ADDRESS to the last one. Then it waits for
 * the next N. Each time but the first it appends to FILE what it has counted
 * since the one before:
 *
 *	region NAME COUNT...	by what kind of memory was accessed
 *	user COUNT...		by the program, or by a library
 *	ADDRESS COUNT...	by an instruction of the kernel
 *	end
 *
 * The counts are those of enum count. What a processor does from FROM to TO is as if
 * it did not do it: an interrupt of the timer, which comes too often in a guest that
 * the plugin makes slow.
 *
 * Each processor has an L1D of 32 KiB, an L2 of 1 MiB, which has all lines of the
 * L1D, a TLB for data with 64 entries, and behind it one with 1536. All processors
 * have one last level cache of 16 MiB. Who is replaced is who was used least
 * recently. A line is modified, exclusive or shared. There is no prefetcher, and
 * no access of a page walk or of a device. Instructions are not looked at either.
 * Memory that the kernel maps with large pages has TLB entries of 2 MiB, all other
 * memory has entries of 4 KiB. Changes of mappings do not flush anything.
 *
 * With several processors, QEMU has a thread for each. The plugin has one lock
 * then. It holds up a processor that is too far ahead of another one that is not
 * idle either: how busy the host is must not decide how they take turns.
 */
#include <sched.h>

enum count {
	ACCESSES,
	L1_MISSES,
	L2_MISSES,
	LLC_MISSES,
	TLB_MISSES,
	STLB_MISSES,
	MOVED_READ,	/* another processor has written the line */
	MOVED_WRITE,	/* the same, and now it is lost there */
	TAKEN,		/* written, another processor had it to read */
	COUNTS
};

#define SITE_COUNTS	COUNTS
#include "plugin.h"

#define KERNEL		0xff00000000000000ULL
#define CPUS		8
#define LINE_SHIFT	6

#define L1_SETS		64
#define L1_WAYS		8
#define L2_SETS		1024
#define L2_WAYS		16
#define LLC_SETS	16384
#define LLC_WAYS	16
#define TLB_SETS	16
#define TLB_WAYS	4
#define STLB_SETS	128
#define STLB_WAYS	12

/* How many accesses a processor may be ahead, and how long that is seen to */
#define AHEAD		200
#define PATIENCE	2000

/* An entry of a cache or TLB: a key, and of lines two flags. No entry is 0 */
#define VALID		0x8000000000000000ULL
#define LARGE		0x4000000000000000ULL	/* a TLB entry of 2 MiB */
#define OWN		1		/* no other processor has the line */
#define DIRTY		2
#define FLAGS		(OWN | DIRTY)
#define KEY(n)		(VALID | (n) << 2)

/* An address that is not that of the direct map: not the same line, ever */
#define MAPPED		0x0004000000000000ULL

enum region { DIRECT_MAP, STRUCT_PAGES, KERNEL_IMAGE, VMALLOC, USER, REGIONS };

static const char * const region_names[] = {
	"direct-map", "struct-pages", "kernel-image", "vmalloc", "user",
};

struct cpu {
	uint64_t l1[L1_SETS][L1_WAYS];
	uint64_t l2[L2_SETS][L2_WAYS];
	uint64_t tlb[TLB_SETS][TLB_WAYS];
	uint64_t stlb[STLB_SETS][STLB_WAYS];
	uint64_t last;
	bool skipping;
	/* What others read is in lines of its own */
	uint64_t before[16];
	uint64_t clock;
	bool busy;
	uint64_t behind[16];
};

static struct cpu cpus[CPUS];
static unsigned int nr_cpus;
static uint64_t llc[LLC_SETS][LLC_WAYS];

static struct site user;
static uint64_t regions[REGIONS][COUNTS];
static uint64_t mark, skip, until;
static unsigned int marks, marked_so_far;
static FILE *out;
static bool on, locked;

static void lock(void)
{
	unsigned int spins = 0;

	while (__atomic_test_and_set(&locked, __ATOMIC_ACQUIRE))
		if (++spins % 256)
			__builtin_ia32_pause();
		else
			sched_yield();
}

static void unlock(void)
{
	__atomic_clear(&locked, __ATOMIC_RELEASE);
}

/* Of a set: the place of a key, or the number of ways */
static inline unsigned int place(const uint64_t *set, unsigned int ways, uint64_t key)
{
	unsigned int i;

	for (i = 0; i < ways; i++)
		if ((set[i] ^ key) <= FLAGS)
			break;
	return i;
}

/* Whether the key is there. Moves it to the front */
static inline bool hit(uint64_t *set, unsigned int ways, uint64_t key)
{
	unsigned int i = place(set, ways, key);
	uint64_t entry;

	if (i == ways)
		return false;
	for (entry = set[i]; i; i--)
		set[i] = set[i - 1];
	set[0] = entry;
	return true;
}

/* Returns who had to go */
static inline uint64_t insert(uint64_t *set, unsigned int ways, uint64_t entry)
{
	uint64_t last = set[ways - 1];

	memmove(set + 1, set, (ways - 1) * sizeof(*set));
	set[0] = entry;
	return last;
}

static inline void remove_key(uint64_t *set, unsigned int ways, uint64_t key)
{
	unsigned int i = place(set, ways, key);

	if (i == ways)
		return;
	memmove(set + i, set + i + 1, (ways - 1 - i) * sizeof(*set));
	set[ways - 1] = 0;
}

static inline uint64_t *set_of_l1(struct cpu *c, uint64_t key)
{
	return c->l1[(key & ~VALID) >> 2 & (L1_SETS - 1)];
}

static inline uint64_t *set_of_l2(struct cpu *c, uint64_t key)
{
	return c->l2[(key & ~VALID) >> 2 & (L2_SETS - 1)];
}

static inline uint64_t *set_of_llc(uint64_t key)
{
	return llc[(key & ~VALID) >> 2 & (LLC_SETS - 1)];
}

static inline void count(uint64_t *region, struct site *s, enum count what)
{
	region[what]++;
	s->count[what]++;
}

/*
 * A processor wants a line that it does not have, or not for itself: from others.
 * Returns its flags. *@moved: not from the last level, another processor has it.
 */
static uint64_t snoop(struct cpu *c, uint64_t key, bool store, uint64_t *region,
		      struct site *s, bool *moved)
{
	bool shared = false;
	unsigned int i, p;

	for (i = 0; i < nr_cpus; i++) {
		struct cpu *other = &cpus[i];
		uint64_t *l1 = set_of_l1(other, key), *l2 = set_of_l2(other, key);

		if (other == c)
			continue;
		p = place(l2, L2_WAYS, key);
		if (p == L2_WAYS)
			continue;
		shared = true;
		if (l2[p] & DIRTY) {
			*moved = true;
			count(region, s, store ? MOVED_WRITE : MOVED_READ);
		} else if (store) {
			count(region, s, TAKEN);
		}
		if (store) {
			remove_key(l2, L2_WAYS, key);
			remove_key(l1, L1_WAYS, key);
		} else {
			l2[p] &= ~(uint64_t)FLAGS;
			p = place(l1, L1_WAYS, key);
			if (p < L1_WAYS)
				l1[p] &= ~(uint64_t)FLAGS;
		}
	}
	if (store)
		return OWN | DIRTY;
	return shared ? 0 : OWN;
}

static void use_line(struct cpu *c, uint64_t line, bool store, uint64_t *region,
		     struct site *s)
{
	uint64_t key = KEY(line), old;
	uint64_t *l1 = set_of_l1(c, key), *l2 = set_of_l2(c, key);
	bool moved = false;

	if (hit(l1, L1_WAYS, key)) {
		if (!store || l1[0] & DIRTY)
			return;
		/* There as well */
		hit(l2, L2_WAYS, key);
	} else {
		count(region, s, L1_MISSES);
		if (!hit(l2, L2_WAYS, key)) {
			count(region, s, L2_MISSES);
			key |= snoop(c, key, store, region, s, &moved);
			if (!hit(set_of_llc(key), LLC_WAYS, KEY(line))) {
				if (!moved)
					count(region, s, LLC_MISSES);
				insert(set_of_llc(key), LLC_WAYS, KEY(line));
			}
			old = insert(l2, L2_WAYS, key);
			if (old & ~(uint64_t)FLAGS)
				remove_key(set_of_l1(c, old), L1_WAYS,
					   old & ~(uint64_t)FLAGS);
			/* What was written goes to the last level */
			if (old & DIRTY) {
				old &= ~(uint64_t)FLAGS;
				if (!hit(set_of_llc(old), LLC_WAYS, old))
					insert(set_of_llc(old), LLC_WAYS, old);
			}
		}
		insert(l1, L1_WAYS, l2[0]);
	}
	if (!store)
		return;
	if (!(l2[0] & OWN))
		snoop(c, KEY(line), true, region, s, &moved);
	l2[0] |= OWN | DIRTY;
	l1[0] |= OWN | DIRTY;
}

static void use_tlb(struct cpu *c, uint64_t key, uint64_t *region, struct site *s)
{
	uint64_t page = (key & ~(VALID | LARGE)) >> 2;
	uint64_t *tlb = c->tlb[page % TLB_SETS], *stlb = c->stlb[page % STLB_SETS];

	if (hit(tlb, TLB_WAYS, key))
		return;
	count(region, s, TLB_MISSES);
	if (!hit(stlb, STLB_WAYS, key)) {
		count(region, s, STLB_MISSES);
		insert(stlb, STLB_WAYS, key);
	}
	insert(tlb, TLB_WAYS, key);
}

/* With page tables of four levels and of five */
static enum region region_of(uint64_t vaddr)
{
	if (vaddr < KERNEL)
		return USER;
	if (vaddr >= 0xffffffff80000000 && vaddr < 0xffffffffa0000000)
		return KERNEL_IMAGE;
	if ((vaddr >= 0xffff888000000000 && vaddr < 0xffffc88000000000) ||
	    (vaddr >= 0xff11000000000000 && vaddr < 0xff91000000000000))
		return DIRECT_MAP;
	if ((vaddr >= 0xffffea0000000000 && vaddr < 0xffffeb0000000000) ||
	    (vaddr >= 0xffd4000000000000 && vaddr < 0xffd6000000000000))
		return STRUCT_PAGES;
	return VMALLOC;
}

/*
 * Whether it is memory. *@paddr: its address, only to be compared with others. The
 * same memory has two of them if it is used by the direct map and otherwise too.
 */
static bool where(uint32_t info, uint64_t vaddr, enum region r, uint64_t *paddr)
{
	struct qemu_plugin_hwaddr *haddr;

	/* As QEMU takes long to find it out, not for these */
	if (r == DIRECT_MAP || r == KERNEL_IMAGE) {
		*paddr = vaddr & ~(0xffffULL << 48);
		return true;
	}
	haddr = qemu_plugin_get_hwaddr(info, vaddr);
	if (!haddr || qemu_plugin_hwaddr_is_io(haddr))
		return false;
	*paddr = MAPPED | qemu_plugin_hwaddr_phys_addr(haddr);
	return true;
}

/* Let others keep up. No wait is for long: they may be waiting for this one */
static void wait_for_others(struct cpu *c)
{
	unsigned int i, spins = 0;

	__atomic_store_n(&c->clock, c->clock + 1, __ATOMIC_RELAXED);
	for (i = 0; i < nr_cpus; i++) {
		struct cpu *other = &cpus[i];

		while (__atomic_load_n(&other->busy, __ATOMIC_RELAXED) &&
		       (int64_t)(c->clock -
				 __atomic_load_n(&other->clock, __ATOMIC_RELAXED)) > AHEAD) {
			if (++spins == PATIENCE) {
				__atomic_store_n(&c->clock, other->clock, __ATOMIC_RELAXED);
				return;
			}
			if (spins % 64)
				__builtin_ia32_pause();
			else
				sched_yield();
		}
	}
}

static void access_memory(unsigned int cpu, uint32_t info, uint64_t vaddr, void *data)
{
	struct cpu *c = &cpus[cpu];
	uint64_t paddr, last, *region;
	struct site *s = data;
	enum region r;
	bool store;

	if (!on || c->skipping)
		return;
	store = qemu_plugin_mem_is_store(info);
	r = region_of(vaddr);
	region = regions[r];
	if (nr_cpus == 1) {
		/* Most of the time */
		if (c->last >> 1 == vaddr >> LINE_SHIFT && (!store || c->last & 1)) {
			count(region, s, ACCESSES);
			return;
		}
		c->last = vaddr >> LINE_SHIFT << 1 | store;
	}
	if (!where(info, vaddr, r, &paddr)) {
		c->last = 0;
		return;
	}
	if (nr_cpus > 1) {
		wait_for_others(c);
		lock();
	}
	count(region, s, ACCESSES);
	use_tlb(c, r == USER || r == VMALLOC ? KEY(vaddr >> 12) : KEY(vaddr >> 21) | LARGE,
		region, s);
	use_line(c, paddr >> LINE_SHIFT, store, region, s);
	/* The rest of it may be in the next one */
	last = paddr + (1 << qemu_plugin_mem_size_shift(info)) - 1;
	if (paddr >> LINE_SHIFT != last >> LINE_SHIFT && paddr >> 12 == last >> 12) {
		use_line(c, last >> LINE_SHIFT, store, region, s);
		c->last = 0;
	}
	if (nr_cpus > 1)
		unlock();
}

static bool any(const uint64_t *count)
{
	for (int i = 0; i < COUNTS; i++)
		if (count[i])
			return true;
	return false;
}

static void write_counts(uint64_t *count)
{
	for (int i = 0; i < COUNTS; i++)
		fprintf(out, " %" PRIu64, count[i]);
	fprintf(out, "\n");
	memset(count, 0, COUNTS * sizeof(*count));
}

static void write_section(void)
{
	for (int i = 0; i < REGIONS; i++) {
		fprintf(out, "region %s", region_names[i]);
		write_counts(regions[i]);
	}
	fprintf(out, "user");
	write_counts(user.count);
	for (size_t i = 0; i < 1 << TABLE_BITS; i++) {
		if (!any(table[i].count))
			continue;
		fprintf(out, "%" PRIx64, table[i].addr);
		write_counts(table[i].count);
	}
	fprintf(out, "end\n");
	if (fflush(out)) {
		perror("cache");
		exit(1);
	}
}

static void marked(unsigned int cpu, void *data)
{
	lock();
	if (!marked_so_far++) {
		for (int i = 0; i < CPUS; i++) {
			memset(&cpus[i], 0, offsetof(struct cpu, clock));
			cpus[i].clock = 0;
		}
		memset(llc, 0, sizeof(llc));
		on = true;
	} else {
		write_section();
		if (marked_so_far == marks) {
			on = false;
			marked_so_far = 0;
		}
	}
	unlock();
}

static void skip_from(unsigned int cpu, void *data)
{
	cpus[cpu].skipping = true;
}

static void skip_to(unsigned int cpu, void *data)
{
	cpus[cpu].skipping = false;
}

static void at(struct qemu_plugin_insn *insn, uint64_t address, insn_callback cb)
{
	if (address && qemu_plugin_insn_vaddr(insn) == address)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, cb, NO_REGS, NULL);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t addr = qemu_plugin_insn_vaddr(insn);
		struct site *s = addr >= KERNEL ? find(addr) : &user;

		qemu_plugin_register_vcpu_mem_cb(insn, access_memory, NO_REGS,
						 READS_AND_WRITES, s);
		at(insn, mark, marked);
		at(insn, skip, skip_from);
		at(insn, until, skip_to);
	}
}

static void vcpu_init(uint64_t id, unsigned int cpu)
{
	if (cpu >= CPUS) {
		fprintf(stderr, "cache: more than %d processors\n", CPUS);
		exit(1);
	}
	cpus[cpu].busy = true;
	if (cpu >= nr_cpus)
		nr_cpus = cpu + 1;
}

static void vcpu_idle(uint64_t id, unsigned int cpu)
{
	__atomic_store_n(&cpus[cpu].busy, false, __ATOMIC_RELAXED);
}

/* What it has not done meanwhile it need not do now */
static void vcpu_resume(uint64_t id, unsigned int cpu)
{
	uint64_t clock = cpus[cpu].clock;

	for (unsigned int i = 0; i < nr_cpus; i++) {
		uint64_t other = __atomic_load_n(&cpus[i].clock, __ATOMIC_RELAXED);

		if (other > clock)
			clock = other;
	}
	__atomic_store_n(&cpus[cpu].clock, clock, __ATOMIC_RELAXED);
	__atomic_store_n(&cpus[cpu].busy, true, __ATOMIC_RELAXED);
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "mark=", 5)) {
			mark = strtoull(argv[i] + 5, NULL, 0);
		} else if (!strncmp(argv[i], "marks=", 6)) {
			marks = strtoul(argv[i] + 6, NULL, 0);
		} else if (!strncmp(argv[i], "skip=", 5)) {
			skip = strtoull(argv[i] + 5, NULL, 0);
		} else if (!strncmp(argv[i], "until=", 6)) {
			until = strtoull(argv[i] + 6, NULL, 0);
		} else if (!strncmp(argv[i], "out=", 4)) {
			out = open_out(argv[i] + 4);
			if (!out)
				return -1;
		} else {
			fprintf(stderr, "cache: unknown option '%s'\n", argv[i]);
			return -1;
		}
	}
	if (!mark || marks < 2 || !out) {
		fprintf(stderr, "cache: needs mark=ADDRESS, marks=N and out=FILE\n");
		return -1;
	}
	qemu_plugin_register_vcpu_init_cb(id, vcpu_init);
	qemu_plugin_register_vcpu_idle_cb(id, vcpu_idle);
	qemu_plugin_register_vcpu_resume_cb(id, vcpu_resume);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
