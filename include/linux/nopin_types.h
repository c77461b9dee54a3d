/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_NOPIN_TYPES_H
#define _LINUX_NOPIN_TYPES_H

/*
 * What those who have bios need to know of nopin. The rest is in linux/nopin.h.
 */

#include <linux/jump_label.h>
#include <linux/types.h>

struct nopin_range;

/**
 * struct nopin_extent - pages that a bio has entered
 * @range: the range the pages belong to
 * @many: array of extents, where one is not enough
 * @first: index of the first page within @range; with @many, its capacity
 * @nr: number of pages; with @many, the number of extents
 * @other: the I/O is not prompt
 * @is_array: @many is valid, not @range
 *
 * Embedded in struct bio and kept small for that.
 */
struct nopin_extent {
	union {
		struct nopin_range	*range;
		struct nopin_extent	*many;
	};
	unsigned int	first;
	unsigned int	nr : 30;
	unsigned int	other : 1;
	unsigned int	is_array : 1;
};

#ifdef CONFIG_NOPIN
DECLARE_STATIC_KEY_FALSE(nopin_direct_io_key);
#endif

#if defined(CONFIG_NOPIN) && defined(CONFIG_LOCKDEP)
void nopin_window_begin(void);
void nopin_window_end(void);
#else
static inline void nopin_window_begin(void) { }
static inline void nopin_window_end(void) { }
#endif

#endif /* _LINUX_NOPIN_TYPES_H */
