// SPDX-License-Identifier: GPL-2.0
#include <sched.h>
#include <sys/prctl.h>

#include "nopin_util.h"

int proc_start(struct proc *p, proc_main *main, void *arg)
{
	int to[2], from[2];

	/* tell() says it if the child has ended */
	signal(SIGPIPE, SIG_IGN);
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return -errno;
	p->pid = fork();
	if (!p->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		main(to[0], from[1], arg);
		_exit(0);
	}
	p->to = to[1];
	p->from = from[0];
	close(to[0]);
	close(from[1]);
	return p->pid < 0 ? -errno : 0;
}

void say(int out, long val)
{
	if (write(out, &val, sizeof(val)) != sizeof(val))
		_exit(1);
}

void await(int in)
{
	char c;

	if (read(in, &c, 1) != 1)
		_exit(1);
}

int tell(struct proc *p)
{
	return write(p->to, "", 1) == 1 ? 0 : -EPIPE;
}

long hear(struct proc *p)
{
	long val;

	return read(p->from, &val, sizeof(val)) == sizeof(val) ? val : -EPIPE;
}

int proc_wait(struct proc *p)
{
	int status;

	close(p->to);
	status = child_reap(p->pid);
	close(p->from);
	return status;
}

int child_reap(pid_t pid)
{
	int status;

	return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

void *shared_get(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

bool task_blocked(pid_t tid)
{
	char path[64], stat[256], *state;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	if (sysfs_read(path, stat, sizeof(stat)))
		return false;
	state = strrchr(stat, ')');
	return state && !strncmp(state, ") D", 3);
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* ---- cgroups ---- */

#define CGROUP		"/sys/fs/cgroup"

int cgroup_make(struct cgroup *c, const char *controller)
{
	char val[32];

	if (access(CGROUP "/cgroup.controllers", R_OK))
		return -ENOENT;
	snprintf(val, sizeof(val), "+%s", controller);
	sysfs_write(CGROUP "/cgroup.subtree_control", val);
	snprintf(c->dir, sizeof(c->dir), CGROUP "/nopin.%d", getpid());
	return mkdir(c->dir, 0700) && errno != EEXIST ? -errno : 0;
}

static const char *cgroup_path(struct cgroup *c, const char *file)
{
	static __thread char path[128];

	snprintf(path, sizeof(path), "%s/%s", c->dir, file);
	return path;
}

int cgroup_put(struct cgroup *c, const char *file, const char *val)
{
	return sysfs_write(cgroup_path(c, file), val);
}

long cgroup_get(struct cgroup *c, const char *file)
{
	return sysfs_get(cgroup_path(c, file));
}

void cgroup_remove(struct cgroup *c)
{
	for (int i = 0; i < 300 && c->dir[0] && rmdir(c->dir) && errno == EBUSY; i++)
		usleep(10000);
}
