# SPDX-License-Identifier: GPL-2.0
# Of the Makefile here: what the files of mm/nopin/ and its tests want of this kernel

subdir-ccflags-y := -include linux/nopin_compat.h
