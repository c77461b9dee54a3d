/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What this kernel wants of the callback of list_lru_walk(). Included by cache.c only.
 */
#ifndef __MM_NOPIN_LRU_H
#define __MM_NOPIN_LRU_H

#include <linux/list_lru.h>

static enum lru_status nopin_isolate(struct list_head *item,
				     struct list_lru_one *list, void *arg);

/* A callback returns with the lock held, LRU_STOP or not */
static enum lru_status nopin_lru_isolate(struct list_head *item,
					 struct list_lru_one *list,
					 spinlock_t *lock, void *arg)
{
	return nopin_isolate(item, list, arg);
}

#endif /* __MM_NOPIN_LRU_H */
