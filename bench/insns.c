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
#define SITE_COUNTS	1
#include "plugin.h"

#define KERNEL		0xffff800000000000ULL

static uint64_t user;
static uint64_t mark;
static FILE *out;

static void marked(unsigned int cpu, void *data)
{
	for (size_t i = 0; i < 1 << TABLE_BITS; i++) {
		if (!table[i].count[0])
			continue;
		fprintf(out, "%" PRIx64 " %" PRIu64 "\n", table[i].addr,
			table[i].count[0]);
		table[i].count[0] = 0;
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
		uint64_t *counter = addr >= KERNEL ? find(addr)->count : &user;

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
			out = open_out(argv[i] + 4);
			if (!out)
				return -1;
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
