/* vhost_user_fs.c: a directory of the host, shared with the guest (virtio 1.2 §5.11) by another process, virtiofsd: section "shares". */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/virtio_fs.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/vhost_user.h"
#include "vmm/config.h"

#define VIRTIO_ID_FS   26
#define QUEUE_HIPRIO   0
#define NR_QUEUES      2 /* high priority (forgets), requests */
#define CHILD_FD       3 /* where virtiofsd finds its listening socket */
#define CHILD_GRACE_MS 1000u

struct fs_cfg {
	char *tag, *socket, *path;
};

struct vhost_user_fs {
	struct vhost_user u; /* first */
	pid_t child;	     /* virtiofsd of ours, or 0 */
	bool unmounted;	     /* the peer that knew the guest's files is gone: only a mount may pass */
};

static struct vhost_user_fs *to_fs(struct vhost_user *u)
{
	return container_of(u, struct vhost_user_fs, u);
}

/* ---- the peer ---- */

static int meet(struct vhost_user *u, struct err *e)
{
	if (u->protocol & BIT(VU_P_MQ) && u->peer_queues < NR_QUEUES)
		return err_set(e, -EPROTO, "it has %u queues; %u are needed", u->peer_queues, NR_QUEUES);
	return 0;
}

static bool read_header(const struct virtq_chain *c, struct fuse_in_header *h)
{
	return iov_read(c->iov, c->nr_out, 0, h, sizeof(*h)) == sizeof(*h);
}

/* Inode numbers that the guest has are those of the lost peer; to a new one they may mean other files. So nothing passes until the guest
 * mounts again. */
static bool admit(struct vhost_user *u, u16 queue, struct virtq_chain *c)
{
	struct vhost_user_fs *fs = to_fs(u);
	struct fuse_in_header h;

	if (fs->unmounted && queue != QUEUE_HIPRIO && read_header(c, &h) && h.opcode == FUSE_INIT)
		fs->unmounted = false;
	return !fs->unmounted;
}

static u32 fail(struct vhost_user *u, struct virtq_chain *c)
{
	struct fuse_out_header out = {.len = sizeof(out), .error = -ENOTCONN};
	struct fuse_in_header in;

	(void)u;
	if (c->in_len < sizeof(out) || !read_header(c, &in))
		return 0; /* forgets have no answer */
	out.unique = in.unique;
	return iov_write(chain_in(c), c->nr_in, 0, &out, sizeof(out));
}

static void lost(struct vhost_user *u)
{
	to_fs(u)->unmounted = true;
}

static const struct vhost_user_ops peer_ops = {.meet = meet, .admit = admit, .fail = fail, .lost = lost};

static const struct virtio_ops fs_ops = {
	.activate = vhost_user_activate,
	.queue_kick = vhost_user_queue_kick,
	.reset = vhost_user_reset,
	.config_read = vhost_user_config_read,
};

/* ---- virtiofsd started by husk ---- */

/* The one of its own (in Rust), and QEMU's old one, as Debian 12 has it; both take QEMU's -o. */
struct virtiofsd {
	const char *path, *quiet; /* option that lets it report errors only */
};

static const struct virtiofsd *find_virtiofsd(void)
{
	static const struct virtiofsd known[] = {
		{"/usr/libexec/virtiofsd", "--log-level=error"},
		{"/usr/lib/virtiofsd", "--log-level=error"},
		{"/usr/lib/qemu/virtiofsd", "-olog_level=err"},
	};

	for (u32 i = 0; i < ARRAY_SIZE(known); i++) {
		if (access(known[i].path, X_OK) == 0)
			return &known[i];
	}
	return NULL;
}

static int check_directory(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_errno(e, "cannot share \"%s\"", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, "cannot share \"%s\": it is not a directory", path);
	if (!find_virtiofsd())
		return err_set(e, -ENOENT, "cannot share \"%s\": virtiofsd is not installed (Debian 12: qemu-system-common)", path);
	return 0;
}

/* A socket that listens under a name that the kernel picks, and a connection to it: the first that virtiofsd accepts is ours. */
static int make_connection(int *listening, int *connected, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(addr);

	*listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*listening < 0 || *connected < 0 || bind(*listening, (struct sockaddr *)&addr, sizeof(sa_family_t)) < 0 ||
	    listen(*listening, 1) < 0 || getsockname(*listening, (struct sockaddr *)&addr, &len) < 0 ||
	    connect(*connected, (struct sockaddr *)&addr, len) < 0)
		return err_errno(e, "cannot make a socket for virtiofsd");
	return 0;
}

/* Its own process group: Ctrl-C on the terminal is for husk. When husk is gone so is the connection, and virtiofsd ends by itself. */
static int spawn(struct vhost_user_fs *fs, const char *path, int listening, struct err *e)
{
	const struct virtiofsd *found = find_virtiofsd();
	auto_free char *program = xstrdup(found->path), *quiet = xstrdup(found->quiet);
	auto_free char *source = xasprintf("-osource=%s", path);
	auto_free char *fd_arg = xasprintf("--fd=%d", CHILD_FD);
	char *argv[] = {program, fd_arg, quiet, source, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int rc;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&files, listening, CHILD_FD);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	rc = posix_spawn(&fs->child, argv[0], &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	if (rc) {
		fs->child = 0;
		return err_set(e, -rc, "cannot start %s: %s", argv[0], strerror(rc));
	}
	return 0;
}

static int start_virtiofsd(struct vhost_user_fs *fs, const char *path, struct err *e)
{
	auto_fd int listening = -1, connected = -1;
	int ret = check_directory(path, e);

	if (ret == 0)
		ret = make_connection(&listening, &connected, e);
	if (ret == 0)
		ret = spawn(fs, path, listening, e);
	if (ret < 0)
		return ret;
	fs->u.fd = fd_take(&connected);
	fs->u.no_reconnect = true;
	return fd_set_nonblock(fs->u.fd);
}

/* Its connection is closed: it ends soon, or is made to. */
static void end_virtiofsd(struct vhost_user_fs *fs)
{
	const struct timespec pause = {.tv_nsec = (long)(10 * NSEC_PER_MSEC)};

	for (u32 waited = 0; fs->child && waited < CHILD_GRACE_MS; waited += 10) {
		if (waitpid(fs->child, NULL, WNOHANG) != 0)
			fs->child = 0;
		else
			nanosleep(&pause, NULL);
	}
	if (!fs->child)
		return;
	kill(fs->child, SIGKILL);
	waitpid(fs->child, NULL, 0);
	fs->child = 0;
}

/* ---- the device ---- */

static void fs_destroy(struct device *dev)
{
	struct vhost_user_fs *fs = to_fs(to_vhost_user(to_virtio(dev)));

	vhost_user_fini(&fs->u);
	end_virtiofsd(fs);
	device_fini(dev);
	free(fs);
}

static int fs_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		     struct err *e)
{
	struct vhost_user_fs *fs = xzalloc(sizeof(*fs));
	struct virtio_fs_config space = {.num_request_queues = NR_QUEUES - 1};
	struct vhost_user *u = &fs->u;
	const struct fs_cfg *c = cfg;
	int ret = 0;

	device_init(&u->vdev.dev, vm, cls, c->tag, slot);
	vhost_user_prepare(u, &peer_ops, c->socket ? c->socket : c->path);
	memcpy(space.tag, c->tag, strlen(c->tag));
	memcpy(u->config, &space, sizeof(space));
	u->queues_wanted = NR_QUEUES;
	u->vdev.ops = &fs_ops;
	u->vdev.type = VIRTIO_ID_FS;
	u->vdev.config_len = sizeof(space);
	if (c->path)
		ret = start_virtiofsd(fs, c->path, e);
	if (ret == 0)
		ret = vhost_user_open(u, e);
	if (ret == 0)
		ret = vhost_user_init(u, NR_QUEUES, e);
	if (ret < 0) {
		fs_destroy(&u->vdev.dev);
		return ret;
	}
	*out = &u->vdev.dev;
	return 0;
}

static int fs_check(const void *cfg, struct err *e)
{
	const struct fs_cfg *c = cfg;

	if (!c->socket == !c->path)
		return err_set(e, -EINVAL, "give either \"path\", a directory, or \"socket\", where a virtiofsd of yours listens");
	/* virtiofsd's options are separated by commas. */
	if (c->path && strchr(c->path, ','))
		return err_set(e, -EINVAL, "a directory with a comma in its name cannot be shared by \"path\"; start virtiofsd yourself");
	return 0;
}

static int fs_probe(const void *cfg, struct err *e)
{
	const struct fs_cfg *c = cfg;

	return c->path ? check_directory(c->path, e) : vhost_user_probe(c->socket, e);
}

#define FIELD(k) .key = #k, .type = CFG_STR, .offset = offsetof(struct fs_cfg, k), .min = 1
static const struct cfg_field fs_fields[] = {
	{FIELD(tag), .max = 36, .required = true, .unique = "another share has this tag",
	 .help = "the guest mounts it by this name: mount -t virtiofs TAG DIR"},
	{FIELD(path), .max = 4095, .help = "directory of the host: husk starts virtiofsd for it"},
	{FIELD(socket), .max = 107, .help = "or: unix socket on which a virtiofsd (vhost-user-fs) listens"},
};

static const struct cfg_table fs_table = {
	.name = "share",
	.help = "a directory of the host that the guest can mount (virtiofs), served by virtiofsd",
	.size = sizeof(struct fs_cfg),
	.fields = fs_fields,
	.nr_fields = ARRAY_SIZE(fs_fields),
};

static const struct cfg_flag fs_flag = {
	.name = "share",
	.positional = "path",
	.id_key = "tag",
	.id_prefix = "share",
	.usage = "DIR[,tag=NAME] or socket=PATH[,tag=NAME]",
	.help = "a directory of the host, for the guest to mount: mount -t virtiofs share0 /mnt",
};

const struct device_class vhost_user_fs_class = {
	.name = "vhost-user-fs",
	.section = "shares",
	.list = true,
	.config = &fs_table,
	.flag = &fs_flag,
	.check = fs_check,
	.probe = fs_probe,
	.syscalls = vhost_user_syscalls,
	.mmio_slot = true,
	.metrics_group = "vhost_user_fs",
	.counters = vhost_user_counters,
	.acpi_hid = "LNRO0005",
	.create = fs_create,
	.destroy = fs_destroy,
	.quiesce = vhost_user_quiesce,
	.resume = vhost_user_resume,
	.unsaved = "virtiofsd, another process, has part of its state; take the share out of the configuration",
};
