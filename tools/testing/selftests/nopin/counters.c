// SPDX-License-Identifier: GPL-2.0
#include <time.h>

#include "nopin_util.h"

int sysfs_write(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, val, strlen(val)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int sysfs_read(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0)
		n = -errno;
	else
		buf[n] = '\0';
	close(fd);
	return n < 0 ? n : 0;
}

long sysfs_get(const char *path)
{
	char buf[256];

	return sysfs_read(path, buf, sizeof(buf)) ? -1 : strtol(buf, NULL, 10);
}

int sysfs_put(const char *path, long val)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "%ld", val);
	return sysfs_write(path, buf);
}

bool nopin_present(void)
{
	return access(SWITCH, R_OK) == 0;
}

enum mode mode_get(void)
{
	char buf[64];

	if (sysfs_read(SWITCH, buf, sizeof(buf)))
		return MODE_PIN;
	return strstr(buf, "[nopin]") ? MODE_NOPIN : MODE_PIN;
}

int mode_set(enum mode mode)
{
	if (!nopin_present())
		return mode == MODE_PIN ? 0 : -ENOENT;
	return sysfs_write(SWITCH, mode == MODE_PIN ? "pin" : "nopin");
}

bool nopin(void)
{
	return mode_get() == MODE_NOPIN;
}

int vmstat_read(struct vmstat *all, bool refresh)
{
	size_t n;
	FILE *f;

	all->text[0] = '\n';
	all->text[1] = '\0';
	/* Some counters are per CPU and folded once in a while */
	if (refresh)
		sysfs_write("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/vmstat", "r");
	if (!f)
		return -errno;
	n = fread(all->text + 1, 1, sizeof(all->text) - 2, f);
	all->text[1 + n] = '\0';
	fclose(f);
	return 0;
}

unsigned long vmstat_in(const struct vmstat *all, const char *name)
{
	char key[66];
	const char *p;

	snprintf(key, sizeof(key), "\n%s ", name);
	p = strstr(all->text, key);
	return p ? strtoul(p + strlen(key), NULL, 10) : 0;
}

unsigned long vmstat(const char *name)
{
	struct vmstat all;

	vmstat_read(&all, true);
	return vmstat_in(&all, name);
}

unsigned long fallback(const char *cause)
{
	char path[128];
	long nr;

	snprintf(path, sizeof(path), FALLBACK_DIR "/%s", cause);
	nr = sysfs_get(path);
	return nr < 0 ? 0 : nr;
}

unsigned long proc_kb(const char *path, const char *field)
{
	unsigned long kb = 0;
	char line[256];
	FILE *f = fopen(path, "r");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			kb = strtoul(line + strlen(field) + 1, NULL, 10);
	if (f)
		fclose(f);
	return kb;
}

unsigned long pins_held(void)
{
	struct vmstat all;

	vmstat_read(&all, true);
	return vmstat_in(&all, "nr_foll_pin_acquired") -
	       vmstat_in(&all, "nr_foll_pin_released");
}

unsigned long pins_left(void)
{
	unsigned long left = pins_held();

	for (int i = 0; i < 100 && left; i++) {
		usleep(50000);
		left = pins_held();
	}
	return left;
}

long slab_objects(const char *name)
{
	char path[256], format[64];
	long nr = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", name);
	sysfs_write(path, "1");
	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/objects", name);
	nr = sysfs_get(path);
	if (nr >= 0)
		return nr;
	snprintf(format, sizeof(format), "%s %%ld", name);
	f = fopen("/proc/slabinfo", "r");
	while (f && nr < 0 && fgets(path, sizeof(path), f))
		sscanf(path, format, &nr);
	if (f)
		fclose(f);
	return nr;
}

int wait_ms_set(unsigned int ms)
{
	return nopin_present() ? sysfs_put(RMAP_WAIT, ms) : 0;
}

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

unsigned int test_ms(unsigned int quick)
{
	return getenv("NOPIN_LONG") ? quick * 6 : quick;
}

bool with_lockdep(void)
{
	return access("/proc/lockdep", F_OK) == 0;
}

uint32_t rnd(uint32_t *state)
{
	uint32_t x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}
