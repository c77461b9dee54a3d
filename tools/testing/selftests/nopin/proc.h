/* SPDX-License-Identifier: GPL-2.0 */
/* Children that do as they are told, threads, cgroups */
#ifndef NOPIN_PROC_H
#define NOPIN_PROC_H

/* A child that does as it is told. The kernel kills it when its parent ends */
struct proc {
	pid_t pid;
	int to, from;
};

typedef void proc_main(int in, int out, void *arg);

int proc_start(struct proc *p, proc_main *main, void *arg);
/* The child calls these: it says a number, and waits until it may go on */
void say(int out, long val);
void await(int in);
/* Its parent lets it go on, and hears the number. -EPIPE if the child has ended */
int tell(struct proc *p);
long hear(struct proc *p);
/* The status of the child when it has ended */
int proc_wait(struct proc *p);
/* The same of any child, or -1 */
int child_reap(pid_t pid);

/* Memory of zeros that children share */
void *shared_get(size_t len);

/* Is the thread of this process asleep until something is done, as I/O is? */
bool task_blocked(pid_t tid);
void pin_to_cpu(int cpu);

/* A cgroup of this test with a @controller. -ENOENT without cgroup v2 */
struct cgroup {
	char dir[64];
};

int cgroup_make(struct cgroup *c, const char *controller);
int cgroup_put(struct cgroup *c, const char *file, const char *val);
long cgroup_get(struct cgroup *c, const char *file);
/* Waits for those in it to go */
void cgroup_remove(struct cgroup *c);

#endif
