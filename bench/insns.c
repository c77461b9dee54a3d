// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that counts, exactly, how often each instruction of the guest's
 * kernel is executed:
 *
 *	gcc -O2 -Wall -shared -fPIC -o insns.so insns.c
 *	qemu-system-x86_64 -icount ... -plugin insns.so,mark=0xADDRESS,out=FILE
 *
 * When the guest executes the instruction at ADDRESS, the counts since the last
 * time are appended to FILE: a line "ADDRESS COUNT" for each instruction that was
 * executed, "user COUNT" for those that are not the kernel's, "end". Of one
 * processor only.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Debian has no package with qemu-plugin.h. This is what is needed of it, at
 * version 1 of the API.
 */
struct qemu_plugin_tb;
struct qemu_plugin_insn;

typedef void (*tb_callback)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*insn_callback)(unsigned int cpu, void *data);

enum { ADD_U64 };
enum { NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_callback cb);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    insn_callback cb, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op,
						void *counter, uint64_t value);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
						 size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

/* QEMU looks these up */
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);
extern int qemu_plugin_version;
int qemu_plugin_version = 1;

#define KERNEL		0xffff800000000000ULL
#define BITS		22

struct counter {
	uint64_t addr;
	uint64_t count;
};

/* Open addressing; it may not move, for generated code has addresses of it */
static struct counter table[1 << BITS];
static size_t used;
static uint64_t user;
static uint64_t mark;
static FILE *out;

static struct counter *find(uint64_t addr)
{
	size_t i = addr * 0x9e3779b97f4a7c15ULL >> (64 - BITS);

	for (; table[i].addr != addr; i = (i + 1) % (1 << BITS)) {
		if (table[i].addr)
			continue;
		if (++used == (1 << BITS) / 4 * 3) {
			fprintf(stderr, "insns: too much code, increase BITS\n");
			exit(1);
		}
		table[i].addr = addr;
		break;
	}
	return &table[i];
}

static void marked(unsigned int cpu, void *data)
{
	for (size_t i = 0; i < 1 << BITS; i++) {
		if (!table[i].count)
			continue;
		fprintf(out, "%" PRIx64 " %" PRIu64 "\n", table[i].addr, table[i].count);
		table[i].count = 0;
	}
	fprintf(out, "user %" PRIu64 "\nend\n", user);
	user = 0;
	if (fflush(out)) {
		perror("insns");
		exit(1);
	}
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	/* Not per block: page faults end it in the middle */
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t addr = qemu_plugin_insn_vaddr(insn);
		uint64_t *counter = addr >= KERNEL ? &find(addr)->count : &user;

		qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, counter, 1);
		if (addr == mark)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, NO_REGS,
							       NULL);
	}
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "mark=", 5)) {
			mark = strtoull(argv[i] + 5, NULL, 0);
		} else if (!strncmp(argv[i], "out=", 4)) {
			out = fopen(argv[i] + 4, "w");
			if (!out) {
				perror(argv[i] + 4);
				return -1;
			}
		} else {
			fprintf(stderr, "insns: unknown option '%s'\n", argv[i]);
			return -1;
		}
	}
	if (!mark || !out) {
		fprintf(stderr, "insns: needs mark=ADDRESS and out=FILE\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
