// SPDX-License-Identifier: GPL-2.0
/*
 * Devices and file systems whose I/O user space completes, from memory, and what
 * else paths.sh needs that has no command:
 *
 *	paths_serve nbd /dev/nbdN	until somebody disconnects it
 *	paths_serve ublk N		/dev/ublkbN, until the process ends
 *	paths_serve ublk N DISK		the same, which has the data on DISK, and never
 *					copies them. Ends with 77 if ublk cannot do that
 *	paths_serve fuse DIRECTORY	a file "data" with FOPEN_DIRECT_IO
 *	paths_serve encrypt DIRECTORY	make it, with a key for what will be in it
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fscrypt.h>
#include <linux/fuse.h>
#include <linux/nbd.h>
#include <linux/ublk_cmd.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECTOR		512
#define MB		(1024UL * 1024)
#define DISK_SIZE	(32 * MB)
#define MAX_IO		(1 * MB)

static char *disk;

static int die(const char *what)
{
	fprintf(stderr, "# paths_serve: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *memory(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* All of it, unless the other end is gone */
static int transfer(int fd, bool out, void *p, size_t len)
{
	while (len) {
		ssize_t n = out ? write(fd, p, len) : read(fd, p, len);

		if (n <= 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

/* ---- nbd ---- */

static int nbd_serve(int fd)
{
	struct nbd_request req;
	struct nbd_reply reply = { .magic = htobe32(NBD_REPLY_MAGIC) };

	while (!transfer(fd, false, &req, sizeof(req))) {
		unsigned long from = be64toh(req.from);
		unsigned int len = be32toh(req.len);
		unsigned int type = be32toh(req.type) & 0xffff;

		if (type == NBD_CMD_DISC)
			break;
		if (from > DISK_SIZE || len > DISK_SIZE - from)
			return 1;
		if (type == NBD_CMD_WRITE && transfer(fd, false, disk + from, len))
			return 1;
		memcpy(reply.handle, req.handle, sizeof(reply.handle));
		if (transfer(fd, true, &reply, sizeof(reply)))
			return 1;
		if (type == NBD_CMD_READ && transfer(fd, true, disk + from, len))
			return 1;
	}
	return 0;
}

static int run_nbd(const char *path)
{
	int fd = open(path, O_RDWR);
	int s[2];

	if (fd < 0)
		die(path);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
		die("socketpair");
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(s[0]);
		return nbd_serve(s[1]);
	}
	close(s[1]);
	if (ioctl(fd, NBD_SET_BLKSIZE, SECTOR) ||
	    ioctl(fd, NBD_SET_SIZE_BLOCKS, DISK_SIZE / SECTOR) ||
	    ioctl(fd, NBD_SET_FLAGS, NBD_FLAG_HAS_FLAGS) ||
	    ioctl(fd, NBD_SET_SOCK, s[0]))
		die("nbd");
	return ioctl(fd, NBD_DO_IT) ? 1 : 0;
}

/* ---- ublk ---- */

#define UBLK_DEPTH	8

/* The headers may be older than the kernel */
#ifndef UBLK_F_AUTO_BUF_REG
#define UBLK_F_AUTO_BUF_REG	0x800ULL
#endif
#define NO_ZERO_COPY	77
/* In user_data: the answer of the disk, not a request */
#define UBLK_OF_DISK	0x10000U

/* A command; of which kind is for the caller to fill in */
static struct io_uring_sqe *ublk_command(struct io_uring *ring, int fd,
					 unsigned int op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		die("io_uring");
	/* Twice as long as others: IORING_SETUP_SQE128 */
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->cmd_op = op;
	return sqe;
}

static int ublk_control(struct io_uring *ring, int fd, int id, unsigned int op,
			void *arg, size_t len, unsigned long data)
{
	struct io_uring_sqe *sqe = ublk_command(ring, fd, op);
	struct ublksrv_ctrl_cmd *cmd = (void *)sqe->cmd;

	cmd->dev_id = id;
	cmd->queue_id = -1;
	cmd->addr = (unsigned long)arg;
	cmd->len = len;
	cmd->data[0] = data;
	return io_uring_submit(ring) == 1 ? 0 : -1;
}

static int ublk_control_wait(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int ret = io_uring_wait_cqe(ring, &cqe);

	if (!ret) {
		ret = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	errno = -ret;
	return ret;
}

/*
 * Tell the result of the request before, if there was one, and ask for the next. Without
 * @data, the ring's buffer of index @tag will have the pages of that one.
 */
static void ublk_next(struct io_uring *ring, int fd, unsigned int op,
		      unsigned int tag, int result, char *data)
{
	struct io_uring_sqe *sqe = ublk_command(ring, fd, op);
	struct ublksrv_io_cmd *cmd = (void *)sqe->cmd;

	sqe->user_data = tag;
	if (!data)
		sqe->addr = tag;
	cmd->tag = tag;
	cmd->result = result;
	cmd->addr = (unsigned long)data;
}

/* Let the disk work on the pages of a request; false if it is no read or write */
static bool ublk_pass_on(struct io_uring *ring, const struct ublksrv_io_desc *d,
			 unsigned int tag, int disk_fd)
{
	unsigned int op = ublksrv_get_op(d);
	struct io_uring_sqe *sqe;

	if (op != UBLK_IO_OP_READ && op != UBLK_IO_OP_WRITE)
		return false;
	sqe = io_uring_get_sqe(ring);
	if (!sqe)
		die("io_uring");
	memset(sqe, 0, 2 * sizeof(*sqe));
	/* The address is an offset in the request */
	if (op == UBLK_IO_OP_READ)
		io_uring_prep_read_fixed(sqe, disk_fd, NULL, d->nr_sectors * SECTOR,
					 d->start_sector * SECTOR, tag);
	else
		io_uring_prep_write_fixed(sqe, disk_fd, NULL, d->nr_sectors * SECTOR,
					  d->start_sector * SECTOR, tag);
	sqe->user_data = tag | UBLK_OF_DISK;
	return true;
}

/* An empty table of buffers. With or without pins: these are pages of the kernel */
static int ublk_table(struct io_uring *ring)
{
	struct io_uring_rsrc_register rr = {
		.nr = UBLK_DEPTH,
		.flags = IORING_RSRC_REGISTER_SPARSE | 2, /* IORING_RSRC_REGISTER_NOPIN */
	};

	if (!syscall(__NR_io_uring_register, ring->ring_fd, IORING_REGISTER_BUFFERS2,
		     &rr, sizeof(rr)))
		return 0;
	return io_uring_register_buffers_sparse(ring, UBLK_DEPTH);
}

static int ublk_io(const struct ublksrv_io_desc *d, char *data)
{
	unsigned long from = d->start_sector * SECTOR;
	unsigned long len = (unsigned long)d->nr_sectors * SECTOR;

	switch (ublksrv_get_op(d)) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
		if (from > DISK_SIZE || len > DISK_SIZE - from || len > MAX_IO)
			return -EIO;
		if (ublksrv_get_op(d) == UBLK_IO_OP_READ)
			memcpy(data, disk + from, len);
		else
			memcpy(disk + from, data, len);
		return len;
	case UBLK_IO_OP_FLUSH:
		return 0;
	}
	return -EOPNOTSUPP;
}

static int run_ublk(int id, const char *disk_name)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues		= 1,
		.queue_depth		= UBLK_DEPTH,
		.max_io_buf_bytes	= MAX_IO,
		.dev_id			= id,
		.ublksrv_pid		= getpid(),
	};
	struct ublk_params params = {
		.len	= sizeof(params),
		.types	= UBLK_PARAM_TYPE_BASIC,
		.basic	= {
			.logical_bs_shift	= 9,
			.physical_bs_shift	= 12,
			.io_min_shift		= 9,
			.io_opt_shift		= 12,
			.max_sectors		= MAX_IO / SECTOR,
			.dev_sectors		= DISK_SIZE / SECTOR,
		},
	};
	struct io_uring control, ring;
	const struct ublksrv_io_desc *desc;
	char *data = memory(UBLK_DEPTH * MAX_IO);
	int ctl, fd, disk_fd = -1;
	char path[32];

	ctl = open("/dev/ublk-control", O_RDWR);
	if (ctl < 0)
		die("/dev/ublk-control");
	if (io_uring_queue_init(4, &control, IORING_SETUP_SQE128) ||
	    io_uring_queue_init(UBLK_DEPTH, &ring, IORING_SETUP_SQE128))
		die("io_uring");
	if (disk_name) {
		uint64_t size;

		disk_fd = open(disk_name, O_RDWR | O_DIRECT);
		if (disk_fd < 0 || ioctl(disk_fd, BLKGETSIZE64, &size))
			die(disk_name);
		params.basic.dev_sectors = size / SECTOR;
		info.flags = UBLK_F_AUTO_BUF_REG;
		if (ublk_table(&ring))
			die("table of buffers");
		/* What a server that has ended has left */
		if (!ublk_control(&control, ctl, id, UBLK_CMD_DEL_DEV, NULL, 0, 0))
			ublk_control_wait(&control);
	}
	if (ublk_control(&control, ctl, id, UBLK_CMD_ADD_DEV, &info, sizeof(info), 0) ||
	    ublk_control_wait(&control))
		die("ADD_DEV");
	if (disk_name && !(info.flags & UBLK_F_AUTO_BUF_REG)) {
		if (!ublk_control(&control, ctl, id, UBLK_CMD_DEL_DEV, NULL, 0, 0))
			ublk_control_wait(&control);
		return NO_ZERO_COPY;
	}
	if (ublk_control(&control, ctl, id, UBLK_CMD_SET_PARAMS, &params,
			 sizeof(params), 0) ||
	    ublk_control_wait(&control))
		die("SET_PARAMS");
	snprintf(path, sizeof(path), "/dev/ublkc%d", id);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die(path);
	desc = mmap(NULL, UBLK_DEPTH * sizeof(*desc), PROT_READ, MAP_SHARED, fd,
		    UBLKSRV_CMD_BUF_OFFSET);
	if (desc == MAP_FAILED)
		die("mmap of the queue");
	for (int i = 0; i < UBLK_DEPTH; i++)
		ublk_next(&ring, fd, UBLK_IO_FETCH_REQ, i, 0,
			  disk_name ? NULL : data + i * MAX_IO);
	io_uring_submit(&ring);
	/* Ends when the first requests, which look for partitions, have been served */
	if (ublk_control(&control, ctl, id, UBLK_CMD_START_DEV, NULL, 0, getpid()))
		die("START_DEV");
	for (;;) {
		struct io_uring_cqe *cqe;
		unsigned int tag;
		bool passed;
		int ret = io_uring_wait_cqe(&ring, &cqe);

		if (ret == -EINTR)
			continue;
		if (ret)
			return 1;
		tag = cqe->user_data & ~UBLK_OF_DISK;
		passed = cqe->user_data & UBLK_OF_DISK;
		ret = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
		if (!passed && ret != UBLK_IO_RES_OK) {
			errno = -ret;
			die("ublk");
		}
		if (disk_name && !passed) {
			if (ublk_pass_on(&ring, &desc[tag], tag, disk_fd)) {
				io_uring_submit(&ring);
				continue;
			}
		}
		if (!passed)
			ret = ublk_io(&desc[tag], data + tag * MAX_IO);
		ublk_next(&ring, fd, UBLK_IO_COMMIT_AND_FETCH_REQ, tag, ret,
			  disk_name ? NULL : data + tag * MAX_IO);
		io_uring_submit(&ring);
	}
}

/* ---- FUSE: the root, and one file ---- */

#define FUSE_FILE	2
#define FUSE_FILE_SIZE	(8 * MB)

static void fuse_attr(struct fuse_attr *a, unsigned long node)
{
	memset(a, 0, sizeof(*a));
	a->ino = node;
	a->mode = node == FUSE_FILE ? S_IFREG | 0600 : S_IFDIR | 0700;
	a->nlink = 1;
	a->blksize = 4096;
	a->size = node == FUSE_FILE ? FUSE_FILE_SIZE : 0;
	a->blocks = a->size / SECTOR;
}

/* The length of the answer at @out, or -errno */
static int fuse_answer(const struct fuse_in_header *in, const void *arg, void *out)
{
	const struct fuse_write_in *w = arg;
	const struct fuse_read_in *r = arg;
	struct fuse_init_out *init = out;
	struct fuse_attr_out *attr = out;
	struct fuse_write_out *wrote = out;
	struct fuse_entry_out *entry = out;
	struct fuse_open_out *open = out;

	switch (in->opcode) {
	case FUSE_INIT:
		memset(init, 0, sizeof(*init));
		init->major = FUSE_KERNEL_VERSION;
		init->minor = FUSE_KERNEL_MINOR_VERSION;
		init->max_readahead = 128 << 10;
		init->max_write = 128 << 10;
		init->max_background = 16;
		init->congestion_threshold = 12;
		return sizeof(*init);
	case FUSE_LOOKUP:
		if (strcmp(arg, "data"))
			return -ENOENT;
		memset(entry, 0, sizeof(*entry));
		entry->nodeid = FUSE_FILE;
		entry->entry_valid = 3600;
		entry->attr_valid = 3600;
		fuse_attr(&entry->attr, FUSE_FILE);
		return sizeof(*entry);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		memset(attr, 0, sizeof(*attr));
		attr->attr_valid = 3600;
		fuse_attr(&attr->attr, in->nodeid);
		return sizeof(*attr);
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		memset(open, 0, sizeof(*open));
		open->open_flags = FOPEN_DIRECT_IO;
		return sizeof(*open);
	case FUSE_READ:
		if (r->offset > FUSE_FILE_SIZE || r->size > FUSE_FILE_SIZE - r->offset ||
		    r->size > MAX_IO)
			return -EINVAL;
		memcpy(out, disk + r->offset, r->size);
		return r->size;
	case FUSE_WRITE:
		if (w->offset > FUSE_FILE_SIZE || w->size > FUSE_FILE_SIZE - w->offset)
			return -EFBIG;
		memcpy(disk + w->offset, w + 1, w->size);
		memset(wrote, 0, sizeof(*wrote));
		wrote->size = w->size;
		return sizeof(*wrote);
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
		return 0;
	}
	/* Do not ask again */
	return -ENOSYS;
}

static int run_fuse(const char *dir)
{
	size_t size = sizeof(struct fuse_out_header) + MAX_IO;
	struct fuse_in_header *in = memory(2 * MAX_IO);
	struct fuse_out_header *out = memory(size);
	int fd = open("/dev/fuse", O_RDWR);
	char options[128];

	if (fd < 0)
		die("/dev/fuse");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("nopin", dir, "fuse", 0, options))
		die("mount");
	for (;;) {
		ssize_t n = read(fd, in, 2 * MAX_IO);
		int ret;

		/* The request was interrupted; the file system is unmounted */
		if (n < 0 && (errno == ENOENT || errno == EINTR || errno == EAGAIN))
			continue;
		if (n < (ssize_t)sizeof(*in))
			return n < 0 && errno == ENODEV ? 0 : 1;
		if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET ||
		    in->opcode == FUSE_INTERRUPT)
			continue;
		ret = fuse_answer(in, in + 1, out + 1);
		out->len = sizeof(*out) + (ret > 0 ? ret : 0);
		out->error = ret < 0 ? ret : 0;
		out->unique = in->unique;
		if (write(fd, out, out->len) < 0 && errno != ENOENT)
			die("answer");
	}
}

/* ---- fscrypt ---- */

static int run_encrypt(const char *dir)
{
	struct fscrypt_policy_v2 policy = {
		.version			= FSCRYPT_POLICY_V2,
		.contents_encryption_mode	= FSCRYPT_MODE_AES_256_XTS,
		.filenames_encryption_mode	= FSCRYPT_MODE_AES_256_CTS,
		.flags				= FSCRYPT_POLICY_FLAGS_PAD_32,
	};
	struct fscrypt_add_key_arg *key = memory(4096);
	int fd;

	if (mkdir(dir, 0700))
		die(dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		die(dir);
	key->key_spec.type = FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER;
	key->raw_size = 64;
	for (unsigned int i = 0; i < key->raw_size; i++)
		key->raw[i] = i * 7 + 1;
	if (ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, key))
		die("FS_IOC_ADD_ENCRYPTION_KEY");
	memcpy(policy.master_key_identifier, key->key_spec.u.identifier,
	       sizeof(policy.master_key_identifier));
	if (ioctl(fd, FS_IOC_SET_ENCRYPTION_POLICY, &policy))
		die("FS_IOC_SET_ENCRYPTION_POLICY");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "ublk"))
		return run_ublk(atoi(argv[2]), argv[3]);
	if (argc == 3) {
		disk = memory(DISK_SIZE);
		if (!strcmp(argv[1], "nbd"))
			return run_nbd(argv[2]);
		if (!strcmp(argv[1], "ublk"))
			return run_ublk(atoi(argv[2]), NULL);
		if (!strcmp(argv[1], "fuse"))
			return run_fuse(argv[2]);
		if (!strcmp(argv[1], "encrypt"))
			return run_encrypt(argv[2]);
	}
	fprintf(stderr, "usage: paths_serve nbd|ublk|fuse|encrypt WHERE [DISK]\n");
	return 2;
}
