# SPDX-License-Identifier: GPL-2.0
#
# Entry points only: the work is in tools/testing/vm and bench.

FLAVOR ?= plain
# Of make deb and make check-deb
CONFIG ?= cloud
# Or 7.3
KERNEL ?= 6.12
export KERNEL
VM := tools/testing/vm
# As tools/testing/vm/lib.sh has it
BUILD := build$(addprefix /,$(filter-out 6.12,$(KERNEL)))

.DEFAULT_GOAL := help
.PHONY: help deps tree refresh series kernel deb demo bench check check-apps check-deb \
	check-mutants check-long clean

help:
	@echo 'make demo            fio with pinned pages and without, side by side'
	@echo 'make bench           all the benchmarks, an hour: build/bench/report.md'
	@echo 'make check           the tests; ALSO=kasan adds the KASAN selftests'
	@echo 'make check-deb       the package in Debian 12 and 13: systemd, suspend, kdump, removal'
	@echo 'make check-mutants   break each rule: does a test notice?'
	@echo 'make check-apps      databases, QEMU and others, with pinned pages and without'
	@echo 'make check-long      what takes too long for make check'
	@echo
	@echo 'make deps            install the Debian packages that are missing'
	@echo 'make tree            build/linux: kernel source, overlay, patches'
	@echo 'make refresh         take edits in build/linux back into the patches'
	@echo 'make series          build/series: the patches as one would mail them'
	@echo 'make kernel          build build/FLAVOR; FLAVOR=plain kunit kasan kcsan off arm64'
	@echo 'make deb             packages for real machines, CONFIG=cloud, amd64 or a file'
	@echo 'make clean           remove what was built (not the kernel source)'
	@echo
	@echo 'KERNEL=7.3 with any of these: another kernel, in build/7.3 instead of build'
	@echo
	@echo '$(VM)/run -- COMMAND  runs a command in a kernel that was built'

deps:
	@$(VM)/deps

tree: deps
	@$(VM)/tree

refresh:
	@$(VM)/refresh

series: deps
	@$(VM)/makeseries

kernel: deps
	@$(if $(filter arm64%,$(FLAVOR)),$(VM)/deps arm64)
	@$(VM)/kernel $(FLAVOR)

deb: deps
	@$(VM)/deps deb
	@$(VM)/deb $(CONFIG)

demo: deps
	@bench/demo

bench: deps
	@bench/run

# ALSO=kasan: more groups, see tools/testing/vm/check --list
check: deps
	@$(VM)/check check $(ALSO)

check-deb: deb
	@$(VM)/checkdeb --config $(CONFIG)

check-mutants: deps
	@$(VM)/check mutants

check-apps: deps
	@$(VM)/deps apps
	@$(VM)/check apps; status=$$?; ! [ -r $(BUILD)/apps/table.txt ] || \
		cat $(BUILD)/apps/table.txt; exit $$status

check-long: deps
	@$(VM)/deps arm64
	@$(VM)/check long

clean:
	rm -rf $(foreach f,$(wildcard configs/*.config),$(BUILD)/$(basename $(notdir $f))) \
		$(BUILD)/check $(BUILD)/vm $(BUILD)/selftests $(BUILD)/selftests-arm64 $(BUILD)/demo $(BUILD)/pools $(BUILD)/bench \
		$(BUILD)/warn $(BUILD)/warn-stock $(BUILD)/linux-stock $(BUILD)/series $(BUILD)/linux-step \
		$(BUILD)/apps $(BUILD)/deb $(BUILD)/cache $(BUILD)/step-off $(BUILD)/step-plain \
		$(BUILD)/linux-mutant $(BUILD)/mutant $(BUILD)/mutants $(BUILD)/kunit.py
