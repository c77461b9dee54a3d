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

struct nopin_uint_attr {
	struct kobj_attribute	attr;
	unsigned int		*value;
	unsigned int		max;
};

static ssize_t uint_show(struct kobject *kobj, struct kobj_attribute *attr,
			 char *buf)
{
	struct nopin_uint_attr *ua = container_of(attr, struct nopin_uint_attr, attr);

	return sysfs_emit(buf, "%u\n", READ_ONCE(*ua->value));
}

static ssize_t uint_store(struct kobject *kobj, struct kobj_attribute *attr,
			  const char *buf, size_t count)
{
	struct nopin_uint_attr *ua = container_of(attr, struct nopin_uint_attr, attr);
	unsigned int new;
	int ret;

	ret = kstrtouint(buf, 10, &new);
	if (ret)
		return ret;
	if (new > ua->max)
		return -EINVAL;
	WRITE_ONCE(*ua->value, new);
	return count;
}

static struct nopin_uint_attr rmap_wait_ms = {
	.attr	= __ATTR(rmap_wait_ms, 0644, uint_show, uint_store),
	.value	= &nopin_rmap_wait_ms,
	.max	= NOPIN_RMAP_WAIT_MAX,
};

static struct nopin_uint_attr first_ios = {
	.attr	= __ATTR(first_ios, 0644, uint_show, uint_store),
	.value	= &nopin_first_ios,
	.max	= NOPIN_FIRST_IOS_MAX,
};

static struct attribute *nopin_attrs[] = {
	&direct_io_attr.attr,
	&first_ios.attr.attr,
	&io_uring_attr.attr,
	&rmap_wait_ms.attr.attr,
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

static ssize_t fallback_show(struct kobject *kobj, struct kobj_attribute *attr,
			     char *buf);

#define NOPIN_FALLBACK_ATTR(_name, _cause)	\
	[NOPIN_FALLBACK_##_cause] = __ATTR(_name, 0444, fallback_show, NULL)

static struct kobj_attribute nopin_fallback[NOPIN_NR_FALLBACKS] = {
	NOPIN_FALLBACK_ATTR(first, FIRST),
	NOPIN_FALLBACK_ATTR(nomem, NOMEM),
	NOPIN_FALLBACK_ATTR(invalid, INVALID),
	NOPIN_FALLBACK_ATTR(special, SPECIAL),
	NOPIN_FALLBACK_ATTR(busy, BUSY),
	NOPIN_FALLBACK_ATTR(extents, EXTENTS),
	NOPIN_FALLBACK_ATTR(nowait, NOWAIT),
	NOPIN_FALLBACK_ATTR(race, RACE),
};

static ssize_t fallback_show(struct kobject *kobj, struct kobj_attribute *attr,
			     char *buf)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(nopin_fallbacks, cpu)[attr - nopin_fallback];
	return sysfs_emit(buf, "%lu\n", sum);
}

static struct attribute *nopin_fallback_attrs[] = {
	&nopin_fallback[NOPIN_FALLBACK_FIRST].attr,
	&nopin_fallback[NOPIN_FALLBACK_NOMEM].attr,
	&nopin_fallback[NOPIN_FALLBACK_INVALID].attr,
	&nopin_fallback[NOPIN_FALLBACK_SPECIAL].attr,
	&nopin_fallback[NOPIN_FALLBACK_BUSY].attr,
	&nopin_fallback[NOPIN_FALLBACK_EXTENTS].attr,
	&nopin_fallback[NOPIN_FALLBACK_NOWAIT].attr,
	&nopin_fallback[NOPIN_FALLBACK_RACE].attr,
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
