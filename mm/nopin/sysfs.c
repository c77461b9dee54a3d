// SPDX-License-Identifier: GPL-2.0
/*
 * Switches and counters in /sys/kernel/mm/nopin/, and the boot parameter.
 */

#include <linux/init.h>
#include <linux/kobject.h>
#include <linux/kstrtox.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/printk.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <trace/events/nopin.h>

#include "nopin.h"

DEFINE_STATIC_KEY_FALSE(nopin_direct_io_key);

static bool nopin_boot __initdata = true;

static int __init nopin_setup(char *str)
{
	if (kstrtobool(str, &nopin_boot))
		pr_warn("nopin=%s: expected on or off\n", str);
	return 1;
}
__setup("nopin=", nopin_setup);

static ssize_t direct_io_show(struct kobject *kobj, struct kobj_attribute *attr,
			      char *buf)
{
	return sysfs_emit(buf, "%s\n",
			  static_key_enabled(&nopin_direct_io_key) ?
			  "pin [nopin]" : "[pin] nopin");
}

static ssize_t direct_io_store(struct kobject *kobj,
			       struct kobj_attribute *attr, const char *buf,
			       size_t count)
{
	/* I/O in flight ends the way it began */
	if (sysfs_streq(buf, "nopin"))
		static_branch_enable(&nopin_direct_io_key);
	else if (sysfs_streq(buf, "pin"))
		static_branch_disable(&nopin_direct_io_key);
	else
		return -EINVAL;
	return count;
}

static struct kobj_attribute direct_io_attr = __ATTR_RW(direct_io);

/* How io_uring registers buffers; read without locks */
enum nopin_io_uring nopin_io_uring = NOPIN_IO_URING_FLAG;

static const char * const nopin_io_uring_name[NOPIN_NR_IO_URING] = {
	[NOPIN_IO_URING_PIN]	= "pin",
	[NOPIN_IO_URING_FLAG]	= "flag",
	[NOPIN_IO_URING_NOPIN]	= "nopin",
};

static ssize_t io_uring_show(struct kobject *kobj, struct kobj_attribute *attr,
			     char *buf)
{
	enum nopin_io_uring now = READ_ONCE(nopin_io_uring);
	ssize_t len = 0;
	int i;

	for (i = 0; i < NOPIN_NR_IO_URING; i++)
		len += sysfs_emit_at(buf, len, i == now ? "%s[%s]" : "%s%s",
				     i ? " " : "", nopin_io_uring_name[i]);
	return len + sysfs_emit_at(buf, len, "\n");
}

static ssize_t io_uring_store(struct kobject *kobj, struct kobj_attribute *attr,
			      const char *buf, size_t count)
{
	int i = sysfs_match_string(nopin_io_uring_name, buf);

	if (i < 0)
		return i;
	/* Buffers stay the way they were registered */
	WRITE_ONCE(nopin_io_uring, i);
	return count;
}

static struct kobj_attribute io_uring_attr = __ATTR_RW(io_uring);

static ssize_t nopin_store_uint(const char *buf, size_t count,
				unsigned int *value, unsigned int max)
{
	unsigned int new;
	int ret;

	ret = kstrtouint(buf, 10, &new);
	if (ret)
		return ret;
	if (new > max)
		return -EINVAL;
	WRITE_ONCE(*value, new);
	return count;
}

static ssize_t rmap_wait_ms_show(struct kobject *kobj,
				 struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(nopin_rmap_wait_ms));
}

static ssize_t rmap_wait_ms_store(struct kobject *kobj,
				  struct kobj_attribute *attr, const char *buf,
				  size_t count)
{
	return nopin_store_uint(buf, count, &nopin_rmap_wait_ms, NOPIN_RMAP_WAIT_MAX);
}

static struct kobj_attribute rmap_wait_ms_attr = __ATTR_RW(rmap_wait_ms);

static ssize_t first_ios_show(struct kobject *kobj,
			      struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(nopin_first_ios));
}

static ssize_t first_ios_store(struct kobject *kobj,
			       struct kobj_attribute *attr, const char *buf,
			       size_t count)
{
	return nopin_store_uint(buf, count, &nopin_first_ios, NOPIN_FIRST_IOS_MAX);
}

static struct kobj_attribute first_ios_attr = __ATTR_RW(first_ios);

static struct attribute *nopin_attrs[] = {
	&direct_io_attr.attr,
	&first_ios_attr.attr,
	&io_uring_attr.attr,
	&rmap_wait_ms_attr.attr,
	NULL
};

static const struct attribute_group nopin_group = {
	.attrs = nopin_attrs,
};

static DEFINE_PER_CPU(unsigned long [NOPIN_NR_FALLBACKS], nopin_fallbacks);

/**
 * nopin_count_fallback - a bio had to be pinned
 * @cause: why
 * @dev: the device, 0 if there is none
 *
 * Context: Any.
 */
void nopin_count_fallback(enum nopin_fallback cause, dev_t dev)
{
	count_vm_event(NOPIN_FALLBACK);
	this_cpu_inc(nopin_fallbacks[cause]);
	trace_nopin_fallback(cause, dev);
}

struct nopin_fallback_attr {
	struct kobj_attribute	attr;
	enum nopin_fallback	cause;
};

static ssize_t fallback_show(struct kobject *kobj, struct kobj_attribute *attr,
			     char *buf)
{
	struct nopin_fallback_attr *fb =
		container_of(attr, struct nopin_fallback_attr, attr);
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(nopin_fallbacks, cpu)[fb->cause];
	return sysfs_emit(buf, "%lu\n", sum);
}

#define NOPIN_FALLBACK_ATTR(_name, _cause)				\
	static struct nopin_fallback_attr fallback_##_name = {		\
		.attr = __ATTR(_name, 0444, fallback_show, NULL),	\
		.cause = NOPIN_FALLBACK_##_cause,			\
	}

NOPIN_FALLBACK_ATTR(first, FIRST);
NOPIN_FALLBACK_ATTR(nomem, NOMEM);
NOPIN_FALLBACK_ATTR(invalid, INVALID);
NOPIN_FALLBACK_ATTR(special, SPECIAL);
NOPIN_FALLBACK_ATTR(busy, BUSY);
NOPIN_FALLBACK_ATTR(extents, EXTENTS);
NOPIN_FALLBACK_ATTR(nowait, NOWAIT);
NOPIN_FALLBACK_ATTR(race, RACE);

static struct attribute *nopin_fallback_attrs[] = {
	&fallback_first.attr.attr,
	&fallback_nomem.attr.attr,
	&fallback_invalid.attr.attr,
	&fallback_special.attr.attr,
	&fallback_busy.attr.attr,
	&fallback_extents.attr.attr,
	&fallback_nowait.attr.attr,
	&fallback_race.attr.attr,
	NULL
};

static const struct attribute_group nopin_fallback_group = {
	.name = "fallback",
	.attrs = nopin_fallback_attrs,
};

static const struct attribute_group *nopin_groups[] = {
	&nopin_group,
	&nopin_fallback_group,
	NULL
};

static int __init nopin_init(void)
{
	struct kobject *kobj;
	int ret;

	/* If there is no memory at boot, I/O is pinned as ever */
	ret = nopin_range_init() ?: nopin_pin_init() ?: nopin_cache_init();
	if (ret)
		return ret;
	if (nopin_boot)
		static_branch_enable(&nopin_direct_io_key);

	kobj = kobject_create_and_add("nopin", mm_kobj);
	if (!kobj)
		return -ENOMEM;
	ret = sysfs_create_groups(kobj, nopin_groups);
	if (ret)
		kobject_put(kobj);
	return ret;
}
subsys_initcall(nopin_init);
