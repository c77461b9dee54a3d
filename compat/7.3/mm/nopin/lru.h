/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What this kernel wants of the callback of list_lru_walk(). Included by cache.c only.
 */
#ifndef __MM_NOPIN_LRU_H
#define __MM_NOPIN_LRU_H

#include <linux/list_lru.h>
#include <linux/spinlock.h>

static enum lru_status nopin_isolate(struct list_head *item,
				     struct list_lru_one *list, void *arg);

static enum lru_status nopin_lru_isolate(struct list_head *item,
					 struct list_lru_one *list, void *arg)
{
	enum lru_status ret = nopin_isolate(item, list, arg);

	/* A callback that returns LRU_STOP has to unlock the list */
	if (ret == LRU_STOP)
		spin_unlock(&list->lock);
	return ret;
}

#endif /* __MM_NOPIN_LRU_H */
