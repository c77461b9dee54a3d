/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_NOPIN_TYPES_H
#define _LINUX_NOPIN_TYPES_H

#include <linux/types.h>

struct nopin_range;

/**
 * struct nopin_extent - pages that a bio has entered
 * @range: the range the pages belong to
 * @many: array of extents, where one is not enough
 * @word: NOPIN_EXTENT_WORD + address of the state of the pages, where all of
 *	  them have the same
 * @first: index of the first page within @range; with @many, its capacity
 * @nr: number of pages; with @many, the number of extents
 * @is_array: @many is valid, not @range
 * @ones: what was added to that state
 *
 * Embedded in struct bio and kept small for that.
 */
struct nopin_extent {
	union {
		struct nopin_range	*range;
		struct nopin_extent	*many;
		unsigned long		word;
	};
	union {
		struct {
			unsigned int	first;
			unsigned int	nr : 31;
			unsigned int	is_array : 1;
		};
		u64			ones;
	};
};

/* Pointers are multiples of more */
#define NOPIN_EXTENT_WORD	1UL

#endif /* _LINUX_NOPIN_TYPES_H */
