/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the TCG plugins share: QEMU's functions, and a table of instructions.
 */
#ifndef PLUGIN_H
#define PLUGIN_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Debian has no package with qemu-plugin.h. This is what is needed of it, at
 * version 1 of the API.
 */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;

typedef void (*tb_callback)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*insn_callback)(unsigned int cpu, void *data);
typedef void (*mem_callback)(unsigned int cpu, uint32_t info, uint64_t vaddr,
			     void *data);
typedef void (*vcpu_callback)(uint64_t id, unsigned int cpu);

enum { ADD_U64 };
enum { NO_REGS };
enum { READS_AND_WRITES = 3 };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_callback cb);
void qemu_plugin_register_vcpu_init_cb(uint64_t id, vcpu_callback cb);
void qemu_plugin_register_vcpu_idle_cb(uint64_t id, vcpu_callback cb);
void qemu_plugin_register_vcpu_resume_cb(uint64_t id, vcpu_callback cb);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    insn_callback cb, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op,
						void *counter, uint64_t value);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, mem_callback cb,
				      int flags, int rw, void *data);
bool qemu_plugin_mem_is_store(uint32_t info);
unsigned int qemu_plugin_mem_size_shift(uint32_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(uint32_t info, uint64_t vaddr);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *haddr);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *haddr);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
						 size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

/* QEMU looks these up */
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);
extern int qemu_plugin_version;
int qemu_plugin_version = 1;

#define TABLE_BITS	22

/* SITE_COUNTS, of the plugin: how many counts an instruction has */
struct site {
	uint64_t addr;
	uint64_t count[SITE_COUNTS];
};

/* Open addressing; it may not move, for generated code has addresses of it */
static struct site table[1 << TABLE_BITS];

/* The entry of an instruction */
static struct site *find(uint64_t addr)
{
	size_t i = addr * 0x9e3779b97f4a7c15ULL >> (64 - TABLE_BITS);
	static size_t used;

	for (; table[i].addr != addr; i = (i + 1) % (1 << TABLE_BITS)) {
		if (table[i].addr)
			continue;
		if (++used == (1 << TABLE_BITS) / 4 * 3) {
			fprintf(stderr, "plugin: too much code, increase TABLE_BITS\n");
			exit(1);
		}
		table[i].addr = addr;
		break;
	}
	return &table[i];
}

/* Opens what out=FILE says */
static FILE *open_out(const char *name)
{
	FILE *f = fopen(name, "w");

	if (!f)
		perror(name);
	return f;
}

#endif /* PLUGIN_H */
