/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_NOPIN_TYPES_H
#define _LINUX_NOPIN_TYPES_H

#include <linux/types.h>

struct nopin_range;

/**
 * struct nopin_extent - pages that a bio has entered
 * @range: the range the pages belong to
 * @many: array of extents, where one is not enough
 * @word: address of the state of the pages, where all of them have the same
 *	  (NOPIN_EXTENT_WORD), or of the first one of several in a chunk
 *	  (NOPIN_EXTENT_WORDS)
 * @first: index of the first page within @range, or within the first word; with
 *	   @many, its capacity
 * @nr: number of pages; with @many, the number of extents
 * @is_array: @many is valid, not @range
 * @ones: what was added to the state, where there is one
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

/* Added to the address, which is a multiple of more */
#define NOPIN_EXTENT_WORD	1UL
#define NOPIN_EXTENT_WORDS	2UL
#define NOPIN_EXTENT_MASK	3UL

#endif /* _LINUX_NOPIN_TYPES_H */
