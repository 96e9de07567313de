/* cgroup.c: see cgroup.h. */
#include "jailer/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096

const struct cgroup_host cgroup_host_proc = {.mounts = "/proc/mounts", .self = "/proc/self/cgroup"};

static bool is_hierarchy(const struct mntent *m, const char *controller)
{
	return controller ? !strcmp(m->mnt_type, "cgroup") && hasmntopt(m, controller) : !strcmp(m->mnt_type, "cgroup2");
}

char *cgroup_hierarchy(const struct cgroup_host *host, const char *controller)
{
	FILE *f = setmntent(host->mounts, "re");
	char line[LINE_MAX_BYTES], *found = NULL;
	struct mntent m;

	if (!f)
		return NULL;
	while (!found && getmntent_r(f, &m, line, sizeof(line))) {
		if (is_hierarchy(&m, controller))
			found = xstrdup(m.mnt_dir);
	}
	endmntent(f);
	return found;
}

/* The first line of a file in dirfd, without its end; -errno. */
static int read_line(int dirfd, const char *file, char *line, size_t size)
{
	auto_fd int fd = openat(dirfd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, size - 1);

	if (n < 0)
		return -errno;
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	return 0;
}

static int write_line(int dirfd, const char *dir, const char *file, const char *value, struct err *e)
{
	auto_fd int fd = openat(dirfd, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	auto_free char *line = xasprintf("%s\n", value);

	/* One write: the kernel takes each as a whole value. */
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		return oserr_set(e, "Failed to write to %s/%s", dir, file);
	return 0;
}

static bool has_word(const char *line, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = line; (p = strstr(p, word)); p += len) {
		if ((p == line || p[-1] == ' ') && (p[len] == 0 || p[len] == ' '))
			return true;
	}
	return false;
}

/* cpuset of version 1: a new cgroup has neither CPUs nor memory nodes, and takes no process before it has both. */
static int inherit_cpuset(int parent_fd, int fd, const char *dir, struct err *e)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
	char line[LINE_MAX_BYTES];
	int r = 0;

	for (u32 i = 0; r == 0 && i < ARRAY_SIZE(files); i++) {
		if (read_line(fd, files[i], line, sizeof(line)) == 0 && *line)
			continue;
		if (read_line(parent_fd, files[i], line, sizeof(line)) < 0 || !*line)
			return err_set(e, -EINVAL, "Failed to inherit cgroups configurations from file %s in path %s", files[i], dir);
		r = write_line(fd, dir, files[i], line, e);
	}
	return r;
}

/* Version 2: a controller works in a cgroup when all above it pass it on. */
static int pass_on_controller(int fd, const char *dir, const char *controller, struct err *e)
{
	auto_free char *value = xasprintf("+%s", controller);
	char line[LINE_MAX_BYTES];

	if (read_line(fd, "cgroup.subtree_control", line, sizeof(line)) == 0 && has_word(line, controller))
		return 0;
	return write_line(fd, dir, "cgroup.subtree_control", value, e);
}

/* From fd, which is the cgroup `dir`, to the one of that name in it. */
static int step_into(struct undo *u, int fd, const char *dir, const char *name, int version, const char *controller, struct err *e)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	int next, r = 0;

	if (version == 2)
		r = pass_on_controller(fd, dir, controller, e);
	if (r < 0)
		return r;
	next = dir_make(u, fd, name, path, e);
	if (next < 0 || version == 2 || strcmp(controller, "cpuset") != 0)
		return next;
	r = inherit_cpuset(fd, next, path, e);
	if (r == 0)
		return next;
	close(next);
	return r;
}

/* Makes mount/rel. Returns a descriptor of it, or -errno. */
static int make_cgroup_once(struct undo *u, const char *mount, const char *rel, int version, const char *controller, struct err *e)
{
	auto_free char *path = xasprintf("%s/%s", mount, rel);
	char *at = path + strlen(mount), *name;
	int fd = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return oserr_set(e, "Failed to open %s", mount);
	*at++ = 0; /* path is what is done, at what is to do */
	while (fd >= 0 && (name = strsep(&at, "/"))) {
		int next;

		if (*name) {
			next = step_into(u, fd, path, name, version, controller, e);
			close(fd);
			fd = next;
		}
		name[-1] = '/';
	}
	return fd;
}

static int make_cgroup(struct undo *u, const char *mount, const char *rel, int version, const char *controller, struct err *e)
{
	int fd = -ENOENT;

	/* Another jailer may take an empty parent back between two steps. */
	for (int i = 0; i < 5 && fd == -ENOENT; i++)
		fd = make_cgroup_once(u, mount, rel, version, controller, e);
	return fd;
}

/* The mount point for a setting, to be freed; NULL with e filled. */
static char *hierarchy_of(const struct cgroup_setting *s, int version, const struct cgroup_host *host, struct err *e)
{
	char *mount = cgroup_hierarchy(host, version == 2 ? NULL : s->controller);
	char line[LINE_MAX_BYTES];
	auto_fd int fd = -1;

	if (!mount) {
		if (version == 2)
			err_set(e, -ENOENT, "Hierarchy not found: cgroupsv2 hierarchy missing");
		else
			err_set(e, -ENOENT, "Controller %s is unavailable", s->controller);
		return NULL;
	}
	if (version == 1)
		return mount;
	fd = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && read_line(fd, "cgroup.controllers", line, sizeof(line)) == 0 && has_word(line, s->controller))
		return mount;
	err_set(e, -ENOENT, "Controller %s is unavailable", s->controller);
	free(mount);
	return NULL;
}

/* Whether a line of /proc/self/cgroup, "4:cpu,cpuacct:/path", is about the hierarchy. Its path, or NULL. */
static const char *line_path(char *line, int version, const char *controller)
{
	char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

	if (!path)
		return NULL;
	*list++ = 0;
	*path++ = 0;
	path[strcspn(path, "\n")] = 0;
	if (version == 2)
		return !strcmp(line, "0") ? path : NULL;
	for (char *name; (name = strsep(&list, ","));) {
		if (!strcmp(name, controller))
			return path;
	}
	return NULL;
}

/* A descriptor of cgroup.procs of where this process is now, or, where that is not to be found, of the hierarchy's root. */
static int open_home(const char *mount, int version, const char *controller, const struct cgroup_host *host)
{
	auto_free char *path = NULL;
	char line[LINE_MAX_BYTES];
	FILE *f = fopen(host->self, "re");
	int fd;

	while (f && !path && fgets(line, sizeof(line), f)) {
		const char *found = line_path(line, version, controller);

		if (found)
			path = xasprintf("%s%s/cgroup.procs", mount, found);
	}
	if (f)
		fclose(f);
	fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;
	if (fd >= 0)
		return fd;
	free(path);
	path = xasprintf("%s/cgroup.procs", mount);
	return open(path, O_WRONLY | O_CLOEXEC);
}

/* Moves this process to the cgroup that fd is open on. */
static int enter(struct undo *u, int fd, const char *mount, const char *dir, int version, const char *controller,
		 const struct cgroup_host *host, struct err *e)
{
	auto_fd int home = open_home(mount, version, controller, host);
	int r = 0;

	if (home >= 0)
		r = undo_add_cgroup(u, home, e);
	return r < 0 ? r : write_line(fd, dir, version == 1 ? "tasks" : "cgroup.procs", "0", e);
}

/* One --cgroup: `entering` makes the difference between the two rounds of cgroups_enter. */
static int do_setting(const struct jail_options *o, const struct cgroup_setting *s, const char *parent, bool entering,
		      const struct cgroup_host *host, struct undo *u, struct err *e)
{
	auto_free char *mount = hierarchy_of(s, o->cgroup_version, host, e);
	auto_free char *rel = xasprintf("%s/%s", parent, o->id), *dir = NULL;
	auto_fd int fd = -1;

	if (!mount)
		return -ENOENT;
	dir = xasprintf("%s/%s", mount, rel);
	fd = make_cgroup(u, mount, rel, o->cgroup_version, s->controller, e);
	if (fd < 0)
		return fd;
	if (entering)
		return enter(u, fd, mount, dir, o->cgroup_version, s->controller, host, e);
	return write_line(fd, dir, s->file, s->value, e);
}

/* Version 2 with a parent and nothing to set: the process goes to the parent itself, if there is one. */
static int enter_parent(const char *parent, const struct cgroup_host *host, struct undo *u, struct err *e)
{
	auto_free char *mount = cgroup_hierarchy(host, NULL), *dir = NULL;
	auto_fd int fd = -1;

	if (!mount)
		return err_set(e, -ENOENT, "Hierarchy not found: cgroupsv2 hierarchy missing");
	dir = xasprintf("%s/%s", mount, parent);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? 0 : enter(u, fd, mount, dir, 2, NULL, host, e);
}

int cgroups_enter(const struct jail_options *o, const char *parent, const struct cgroup_host *host, struct undo *u, struct err *e)
{
	int r = 0;

	/* All are set before one is entered: a cpuset takes no process before it has CPUs and nodes. */
	for (u32 round = 0; round < 2; round++) {
		for (u32 i = 0; r == 0 && i < o->n_cgroups; i++)
			r = do_setting(o, &o->cgroups[i], parent, round == 1, host, u, e);
	}
	if (r == 0 && !o->n_cgroups && o->cgroup_version == 2 && o->parent_cgroup)
		r = enter_parent(parent, host, u, e);
	return r;
}

static int remove_cgroup(const char *dir, struct err *e)
{
	for (int i = 0; i < 100; i++) {
		if (rmdir(dir) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			break;
		usleep(10000);
	}
	return oserr_set(e, "Failed to remove cgroup %s", dir);
}

int cgroups_remove(const char *parent, const char *id, const struct cgroup_host *host, struct err *e)
{
	FILE *f = setmntent(host->mounts, "re");
	char line[LINE_MAX_BYTES];
	struct mntent m;
	int r = 0;

	while (f && getmntent_r(f, &m, line, sizeof(line))) {
		auto_free char *dir = NULL;

		if (strcmp(m.mnt_type, "cgroup") != 0 && strcmp(m.mnt_type, "cgroup2") != 0)
			continue;
		dir = xasprintf("%s/%s/%s", m.mnt_dir, parent, id);
		if (remove_cgroup(dir, e) < 0)
			r = -EBUSY;
	}
	if (f)
		endmntent(f);
	return r;
}
