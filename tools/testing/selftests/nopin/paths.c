// SPDX-License-Identifier: GPL-2.0
/*
 * Each way to do direct I/O, and the pins that it takes:
 *
 *	paths NAME TARGET [GROUP...]
 *
 * TARGET is a block device, a file (made if it is not there), or what a GROUP of
 * kinds of I/O wants. Without a GROUP it is "file", reads and writes by any system
 * call, and "poll", those that are polled. Each kind does some writes and reads
 * back what it wrote. For each kind, size and direction one line is printed for
 * paths.py:
 *
 *	# path|NAME|KIND|SIZE|DIRECTION|MODE|BIOS|PINS|HELD|CAUSES|ERROR
 *
 * BIOS are those without pins, and PINS pins, per I/O; HELD are pins that exist
 * before the first I/O, those of registered buffers; CAUSES are the fallbacks per
 * I/O that were counted, as "first=1 busy=1". ERROR is why there is nothing to
 * count: the name of an errno, or "data" if what was read is wrong.
 *
 * Exits with 0 unless the target could not be opened: what the lines are worth is
 * for paths.py to say.
 */
#include <dirent.h>
#include <linux/blkzoned.h>
#include <linux/bsg.h>
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>

#include "nopin_util.h"
#include "kselftest.h"

#define NR		4	/* I/Os of a kind, a size and a direction */
#define FILE_SIZE	(2 * MB)
#define PIECES		4
#define MAX_LEN		(64 * KB)
#define MAX_CAUSES	32
#define MAX(a, b)	((a) > (b) ? (a) : (b))

/* As liburing may be older than the kernel */
#define RSRC_PINNED	0
#define NO_BUFFER	(-1)

/* ---- counters ---- */

struct counts {
	unsigned long bios, acquired;
	unsigned long cause[MAX_CAUSES];
};

static char cause_name[MAX_CAUSES][256];
static int nr_causes;

static void find_causes(void)
{
	DIR *d = opendir(FALLBACK_DIR);
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d)) && nr_causes < MAX_CAUSES)
		if (e->d_name[0] != '.')
			snprintf(cause_name[nr_causes++], sizeof(cause_name[0]),
				 "%s", e->d_name);
	closedir(d);
}

/* What takes most of the time here */
static void count(struct counts *c)
{
	struct vmstat all;

	if (vmstat_read(&all, true)) {
		note("no /proc/vmstat");
		exit(1);
	}
	c->acquired = vmstat_in(&all, "nr_foll_pin_acquired");
	c->bios = vmstat_in(&all, "nopin_bio");
	for (int i = 0; i < nr_causes; i++)
		c->cause[i] = fallback(cause_name[i]);
}

/* ---- what I/O is done to ---- */

static struct {
	const char *name;
	const char *path;
	int fd;
	off_t size;
	bool zoned;
	unsigned int block;	/* that commands count in */
	unsigned int nsid;	/* of an NVMe disk */
	off_t pos;		/* of the next write */
} target;

static char *buf;

static int target_blkdev(void)
{
	struct blk_zone_range zone = {};
	unsigned long long size;
	unsigned int sectors;

	if (ioctl(target.fd, BLKGETSIZE64, &size))
		return -errno;
	target.size = size;
	if (ioctl(target.fd, BLKSSZGET, &target.block))
		return -errno;
	if (ioctl(target.fd, BLKGETZONESZ, &sectors) || !sectors)
		return 0;
	/* The first zone, which can be written from its start only */
	target.zoned = true;
	target.size = sectors * SECTOR;
	zone.nr_sectors = sectors;
	return ioctl(target.fd, BLKRESETZONE, &zone) ? -errno : 0;
}

/* Blocks that exist and have been written to: no writes that are special */
static int target_file(void)
{
	int fd = open(target.path, O_RDWR | O_CREAT, 0600);
	int ret = 0;

	if (fd < 0)
		return -errno;
	memset(buf, 0, MAX_LEN);
	for (off_t pos = 0; pos < FILE_SIZE && !ret; pos += MAX_LEN)
		if (pwrite(fd, buf, MAX_LEN, pos) != MAX_LEN)
			ret = -errno ?: -EIO;
	if (!ret && fsync(fd))
		ret = -errno;
	close(fd);
	target.size = FILE_SIZE;
	return ret;
}

static int path_open(void)
{
	bool direct = true;
	struct stat st;
	int ret = 0;

	if (stat(target.path, &st)) {
		if (errno != ENOENT)
			return -errno;
		st.st_mode = S_IFREG;
	}
	if (S_ISREG(st.st_mode))
		ret = target_file();
	if (S_ISCHR(st.st_mode))
		direct = false;
	if (ret)
		return ret;
	target.fd = open(target.path, O_RDWR | (direct ? O_DIRECT : 0));
	if (target.fd < 0)
		return -errno;
	target.block = SECTOR;
	target.size = FILE_SIZE;
	/*
	 * Some file systems hold locks and disable page faults: there the first I/O of
	 * a process gets pins, and has done what later I/O needs to be without
	 */
	if (S_ISREG(st.st_mode) && pread(target.fd, buf, MAX_LEN, 0) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		return target_blkdev();
	return 0;
}

/* Where @len bytes may be written next */
static off_t next_pos(size_t len)
{
	off_t pos = ALIGN_UP(target.pos, len);

	if (target.zoned)
		pos = target.pos;
	else if (pos + (off_t)len > target.size)
		pos = 0;
	target.pos = pos + len;
	return pos;
}

/* ---- kinds of I/O ---- */

struct kind {
	const char *group;
	const char *name;
	/* Done before the first I/O of a size; the buffers are registered here */
	int (*begin)(const struct kind *k);
	long (*io)(const struct kind *k, bool write, size_t len, off_t pos);
	void (*end)(const struct kind *k);
	enum engine engine;
	unsigned int ring_flags;
	int rsrc_flags;		/* of the registered buffer, or NO_BUFFER */
	unsigned long cmd;
	int flags;		/* of the system call */
	size_t min;		/* bytes */
};

static struct ioq q;

static long io_pread(const struct kind *k, bool write, size_t len, off_t pos)
{
	struct iovec iov = { buf, len };
	ssize_t ret;

	if (write)
		ret = pwritev2(target.fd, &iov, 1, pos, k->flags);
	else
		ret = preadv2(target.fd, &iov, 1, pos, k->flags);
	return ret < 0 ? -errno : ret;
}

/* Every other piece of the buffer, so that they do not merge */
static long io_pieces(const struct kind *k, bool write, size_t len, off_t pos)
{
	struct iovec iov[PIECES];
	size_t piece = len / PIECES;
	char copy[MAX_LEN];
	long ret;

	for (int i = 0; i < PIECES; i++) {
		iov[i].iov_base = buf + 2 * i * piece;
		iov[i].iov_len = piece;
	}
	memcpy(copy, buf, len);
	for (int i = 0; i < PIECES && write; i++)
		memcpy(iov[i].iov_base, copy + i * piece, piece);
	if (write)
		ret = pwritev(target.fd, iov, PIECES, pos);
	else
		ret = preadv(target.fd, iov, PIECES, pos);
	ret = ret < 0 ? -errno : ret;
	for (int i = 0; i < PIECES; i++)
		memcpy(copy + i * piece, iov[i].iov_base, piece);
	memcpy(buf, copy, len);
	return ret;
}

static int queue_begin(const struct kind *k)
{
	struct iovec iov = { buf, MAX_LEN };
	int ret = ioq_init_flags(&q, k->engine, 4, k->ring_flags);

	if (ret || k->rsrc_flags == NO_BUFFER)
		return ret;
	ret = ring_buffers_flags(&q.ring, &iov, 1, k->rsrc_flags);
	if (ret)
		ioq_exit(&q);
	return ret;
}

static long queue_io(const struct kind *k, bool write, size_t len, off_t pos)
{
	return ioq_rw(&q, target.fd, write, buf, len, pos);
}

static void queue_end(const struct kind *k)
{
	ioq_exit(&q);
}

/* READ(10) and WRITE(10) */
static void scsi_cdb(unsigned char *cdb, bool write, size_t len, off_t pos)
{
	unsigned int lba = pos / target.block, nr = len / target.block;

	memset(cdb, 0, 10);
	cdb[0] = write ? 0x2a : 0x28;
	cdb[2] = lba >> 24;
	cdb[3] = lba >> 16;
	cdb[4] = lba >> 8;
	cdb[5] = lba;
	cdb[7] = nr >> 8;
	cdb[8] = nr;
}

static long io_sg(const struct kind *k, bool write, size_t len, off_t pos)
{
	unsigned char cdb[10], sense[32];
	struct sg_io_hdr hdr = {
		.interface_id	 = 'S',
		.dxfer_direction = write ? SG_DXFER_TO_DEV : SG_DXFER_FROM_DEV,
		.cmd_len	 = sizeof(cdb),
		.mx_sb_len	 = sizeof(sense),
		.dxfer_len	 = len,
		.dxferp		 = buf,
		.cmdp		 = cdb,
		.sbp		 = sense,
		.timeout	 = 30000,
		.flags		 = k->flags,
	};

	scsi_cdb(cdb, write, len, pos);
	if (ioctl(target.fd, SG_IO, &hdr))
		return -errno;
	return hdr.info & SG_INFO_CHECK ? -EIO : (long)len - hdr.resid;
}

static long io_bsg(const struct kind *k, bool write, size_t len, off_t pos)
{
	unsigned char cdb[10], sense[32];
	struct sg_io_v4 hdr = {
		.guard			= 'Q',
		.protocol		= BSG_PROTOCOL_SCSI,
		.subprotocol		= BSG_SUB_PROTOCOL_SCSI_CMD,
		.request_len		= sizeof(cdb),
		.request		= (unsigned long)cdb,
		.max_response_len	= sizeof(sense),
		.response		= (unsigned long)sense,
		.timeout		= 30000,
	};

	scsi_cdb(cdb, write, len, pos);
	if (write) {
		hdr.dout_xfer_len = len;
		hdr.dout_xferp = (unsigned long)buf;
	} else {
		hdr.din_xfer_len = len;
		hdr.din_xferp = (unsigned long)buf;
	}
	if (ioctl(target.fd, SG_IO, &hdr))
		return -errno;
	return hdr.info & SG_INFO_CHECK ? -EIO : (long)len;
}

static int nvme_begin(const struct kind *k)
{
	int id = ioctl(target.fd, NVME_IOCTL_ID);

	if (id < 0)
		return -errno;
	target.nsid = id;
	return 0;
}

static long io_nvme_ioctl(const struct kind *k, bool write, size_t len, off_t pos)
{
	struct nvme_passthru_cmd cmd = {
		.opcode		= write ? 1 : 2,
		.nsid		= target.nsid,
		.addr		= (unsigned long)buf,
		.data_len	= len,
		.cdw10		= pos / target.block,
		.cdw12		= len / target.block - 1,
	};
	int ret = ioctl(target.fd, NVME_IOCTL_IO_CMD, &cmd);

	return ret < 0 ? -errno : ret ? -EIO : (long)len;
}

static int nvme_cmd_begin(const struct kind *k)
{
	return nvme_begin(k) ?: queue_begin(k);
}

static long io_nvme_cmd(const struct kind *k, bool write, size_t len, off_t pos)
{
	struct nvme_ns ns = { target.fd, target.nsid, target.block };
	struct iovec iov = { buf, len };
	struct nvme_uring_cmd *cmd;
	struct io_uring_sqe *sqe;
	long res;
	int ret;

	sqe = nvme_queue(&q.ring, &ns, write, buf, len, pos);
	if (!sqe)
		return -EBUSY;
	sqe->cmd_op = k->cmd;
	if (k->rsrc_flags != NO_BUFFER)
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	if (k->cmd == NVME_URING_CMD_IO_VEC) {
		cmd = (void *)sqe->cmd;
		cmd->addr = (unsigned long)&iov;
		cmd->data_len = 1;
	}
	q.nr_batch++;
	ret = ioq_submit(&q);
	if (ret)
		return ret;
	ret = ioq_reap(&q, 1, &res);
	if (ret < 0)
		return ret;
	return res < 0 ? res : res ? -EIO : (long)len;
}

#define SYNC(_name, _io, ...)						\
	{ .group = "file", .name = _name, .io = _io, .rsrc_flags = NO_BUFFER, __VA_ARGS__ }
#define RING(_group, _name, _engine, _rsrc, _ring)			\
	{ .group = _group, .name = _name, .begin = queue_begin, .io = queue_io,	\
	  .end = queue_end, .engine = _engine, .rsrc_flags = _rsrc, .ring_flags = _ring }
#define QUEUE(_name, _engine, _rsrc)					\
	RING("file", _name, _engine, _rsrc, 0)
#define POLL(_name, _engine, _rsrc)					\
	RING("poll", _name, _engine, _rsrc, IORING_SETUP_IOPOLL)
#define SCSI(_group, _io, _flags)					\
	{ .group = _group, .name = _group, .io = _io, .flags = _flags,		\
	  .rsrc_flags = NO_BUFFER }
#define NVME_CMD(_name, _cmd, _rsrc, _ring)				\
	{ .group = "nvme", .name = _name, .begin = nvme_cmd_begin,		\
	  .io = io_nvme_cmd, .end = queue_end, .engine = ENG_URING,		\
	  .cmd = _cmd, .rsrc_flags = _rsrc,					\
	  .ring_flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 | (_ring) }

static const struct kind kinds[] = {
	SYNC("sync", io_pread),
	SYNC("sync-hipri", io_pread, .flags = RWF_HIPRI),
	SYNC("sync-4-pieces", io_pieces, .min = PIECES * PAGE),
	QUEUE("aio", ENG_AIO, NO_BUFFER),
	QUEUE("uring", ENG_URING, NO_BUFFER),
	QUEUE("uring-fixed", ENG_URING_FIXED, RSRC_PINNED),
	QUEUE("uring-fixed-nopin", ENG_URING_FIXED, IORING_RSRC_REGISTER_NOPIN),
	POLL("iopoll", ENG_URING, NO_BUFFER),
	POLL("iopoll-fixed", ENG_URING_FIXED, RSRC_PINNED),
	POLL("iopoll-fixed-nopin", ENG_URING_FIXED, IORING_RSRC_REGISTER_NOPIN),

	SCSI("sg", io_sg, 0),
	SCSI("sg-direct", io_sg, SG_FLAG_DIRECT_IO),
	SCSI("bsg", io_bsg, 0),

	{ .group = "nvme-ioctl", .name = "nvme-ioctl", .begin = nvme_begin,
	  .io = io_nvme_ioctl, .rsrc_flags = NO_BUFFER },
	NVME_CMD("nvme-cmd", NVME_URING_CMD_IO, NO_BUFFER, 0),
	NVME_CMD("nvme-cmd-vec", NVME_URING_CMD_IO_VEC, NO_BUFFER, 0),
	NVME_CMD("nvme-cmd-fixed", NVME_URING_CMD_IO, RSRC_PINNED, 0),
	NVME_CMD("nvme-cmd-fixed-nopin", NVME_URING_CMD_IO, IORING_RSRC_REGISTER_NOPIN, 0),
	NVME_CMD("nvme-cmd-iopoll", NVME_URING_CMD_IO, NO_BUFFER, IORING_SETUP_IOPOLL),
	NVME_CMD("nvme-cmd-iopoll-fixed", NVME_URING_CMD_IO, RSRC_PINNED,
		 IORING_SETUP_IOPOLL),
	NVME_CMD("nvme-cmd-iopoll-fixed-nopin", NVME_URING_CMD_IO,
		 IORING_RSRC_REGISTER_NOPIN, IORING_SETUP_IOPOLL),
};

/* ---- one line ---- */

static void report(const struct kind *k, size_t len, bool write, unsigned long held,
		   const struct counts *a, const struct counts *b, const char *error)
{
	printf("# path|%s|%s|%luk|%s|%s|%g|%g|%lu|", target.name, k->name,
	       (unsigned long)len / KB, write ? "write" : "read",
	       nopin() ? "nopin" : "pin",
	       (double)(b->bios - a->bios) / NR,
	       (double)(b->acquired - a->acquired) / NR, held);
	for (int i = 0, n = 0; i < nr_causes; i++)
		if (b->cause[i] != a->cause[i])
			printf("%s%s=%g", n++ ? " " : "", cause_name[i],
			       (double)(b->cause[i] - a->cause[i]) / NR);
	printf("|%s\n", error);
	fflush(stdout);
}

static const char *error_of(long ret, size_t len)
{
	if (ret == (long)len)
		return "";
	if (ret >= 0)
		return "short";
	return strerrorname_np(-ret) ?: "unknown";
}

static void run_size(const struct kind *k, size_t len)
{
	struct counts c[4];
	off_t pos[NR];
	const char *error[2] = { "", "" };
	unsigned long held;
	int ret = 0;

	count(&c[0]);
	if (k->begin)
		ret = k->begin(k);
	count(&c[1]);
	if (ret) {
		report(k, len, true, 0, &c[0], &c[0], error_of(ret, 0));
		return;
	}
	held = c[1].acquired - c[0].acquired;

	for (int i = 0; i < NR && !*error[0]; i++) {
		pos[i] = next_pos(len);
		pat_fill(buf, len, i + 1, pos[i]);
		error[0] = error_of(k->io(k, true, len, pos[i]), len);
		/* Nothing was written, and the write pointer is where it was */
		if (*error[0])
			target.pos = pos[i];
	}
	count(&c[2]);
	report(k, len, true, held, &c[1], &c[2], error[0]);
	for (int i = 0; i < NR && !*error[1] && !*error[0]; i++) {
		memset(buf, 0, MAX_LEN);
		error[1] = error_of(k->io(k, false, len, pos[i]), len);
		if (!*error[1] && pat_check(buf, len, i + 1, pos[i]) >= 0)
			error[1] = "data";
	}
	count(&c[3]);
	if (!*error[0])
		report(k, len, false, held, &c[2], &c[3], error[1]);
	if (k->end)
		k->end(k);
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { 4 * KB, 64 * KB };
	static const char *const usual[] = { "file", "poll" };
	const char *const *groups = usual;
	int nr_groups = ARRAY_SIZE(usual), done = 0;
	struct mem m;
	int ret;

	if (argc < 3) {
		fprintf(stderr, "usage: paths NAME TARGET [GROUP...]\n");
		return 2;
	}
	target.name = argv[1];
	target.path = argv[2];
	if (argc > 3) {
		groups = (const char *const *)argv + 3;
		nr_groups = argc - 3;
	}
	find_causes();

	/* Twice, as pieces have gaps between them */
	ret = mem_get(&m, MEM_ANON, 2 * MAX_LEN);
	buf = m.p;
	if (!ret)
		ret = path_open();
	if (ret) {
		note("%s: %s: %s", target.name, target.path, strerror(-ret));
		return 1;
	}
	for (int g = 0; g < nr_groups; g++)
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
			for (size_t s = 0; s < ARRAY_SIZE(sizes); s++)
				if (!strcmp(kinds[i].group, groups[g])) {
					run_size(&kinds[i], MAX(sizes[s], kinds[i].min));
					done++;
				}
	if (!done) {
		note("%s: no such kind of I/O", target.name);
		return 2;
	}
	return 0;
}
