/* snapshot_load.c: opening a snapshot and making a VM of it; see snapshot.h. Both files are somebody else's: they are believed nothing. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/snapshot.h"
#include "migration/snapshot_files.h"
#include "migration/pager.h"
#include "migration/saved_config.h"
#include "migration/uffd.h"
#include "migration/working_set.h"
#include "vmm/config.h"

struct snapshot {
	u8 *bytes; /* owned: the package */
	u64 length;
	struct package *package; /* owned */
	int fd;			 /* owned: memory; -1: a pager has it */
	char *mem_path;		 /* owned: of the memory, or of the pager's socket */
	bool compressed;
	enum snapshot_backend backend;
	enum working_set working_set;
	char *working_set_path;	      /* owned, or NULL */
	struct json_object *document; /* owned */
	struct vm_restore restore;
};

/* ---- The state ---- */

static int open_regular(const char *path, int *fd, struct err *e)
{
	struct stat st;

	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0 || fstat(*fd, &st) < 0)
		return err_errno(e, "cannot open \"%s\"", path);
	return S_ISREG(st.st_mode) ? 0 : err_set(e, -EINVAL, "\"%s\" is no regular file", path);
}

static int open_state(struct snapshot *s, const char *path, struct err *e)
{
	auto_fd int fd = -1;
	int ret = open_regular(path, &fd, e);

	if (ret < 0)
		return ret;
	ret = package_read(fd, PACKAGE_SOFT_CAP, &s->bytes, &s->length, e);
	if (ret == 0)
		ret = package_open(&s->package, s->bytes, s->length, e);
	if (ret == 0)
		ret = package_check_arch(s->package, e);
	if (ret == 0)
		s->restore.host_tsc_khz = package_host_tsc_khz(s->package);
	if (ret == 0 && !package_info(s->package)->memory_id)
		ret = err_set(e, -EINVAL, "it is the state of a VM without its memory, no snapshot");
	return ret < 0 ? err_prefix(e, "\"%s\"", path) : 0;
}

/* ---- The memory ---- */

static int check_mark(const struct snapshot_mark *mark, const struct package_vm *info, const char *path, struct err *e)
{
	if (!mark->memory_id)
		return err_set(e, -EINVAL, "\"%s\" is no memory file of a snapshot", path);
	if (mark->memory_id != info->memory_id)
		return err_set(e, -EINVAL, "\"%s\" is the memory of another snapshot than the state", path);
	if (mark->base_id)
		return err_set(e, -EINVAL, "\"%s\" is a diff: merge it onto what it builds on first (husk snapshot merge BASE DIFF)", path);
	return 0;
}

/* As long as a VM may run on the file, nobody merges a diff into it (find_base). A file system that has no locks is no obstacle. */
static int lock_memory(int fd, const char *path, struct err *e)
{
	if (flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return err_set(e, -EBUSY, "\"%s\": a diff is being merged into it", path);
	return 0;
}

/* Opens path; returns whether it is the state's memory. */
static int open_candidate(struct snapshot *s, const char *path, struct err *e)
{
	struct snapshot_mark mark;
	u64 bytes;
	int ret;

	fd_close(&s->fd);
	ret = open_regular(path, &s->fd, e);
	if (ret == 0)
		ret = lock_memory(s->fd, path, e);
	if (ret == 0)
		ret = memfile_probe(s->fd, &bytes, e);
	if (ret < 0)
		return ret;
	s->compressed = ret;
	if (bytes != package_info(s->package)->ram_bytes)
		return err_set(e, -EINVAL, "\"%s\" holds %llu bytes of memory, and the VM has %llu", path, (unsigned long long)bytes,
			       (unsigned long long)package_info(s->package)->ram_bytes);
	ret = snapshot_mark_read(s->fd, &mark, e);
	return ret == 0 ? check_mark(&mark, package_info(s->package), path, e) : err_prefix(e, "\"%s\"", path);
}

/* Where a crash has kept the memory from its name, and nobody may rename it here, it is as good under the other one. */
static int open_memory(struct snapshot *s, const char *path, struct err *e)
{
	auto_free char *other = xasprintf("%s.new", path);
	struct err why = {0};
	int ret = open_candidate(s, path, e);

	if (ret == 0 || open_candidate(s, other, &why) == 0)
		return 0;
	fd_close(&s->fd);
	return ret;
}

/* ---- Into a VM ---- */

static int use_working_set(struct vm *vm, struct snapshot *s, struct err *e)
{
	u64 id = package_info(s->package)->memory_id;
	int ret = 0;

	if (s->working_set == WORKING_SET_RECORD)
		ret = working_set_record(vm, s->working_set_path, id, WORKING_SET_TIME_S, e);
	else if (s->working_set == WORKING_SET_PREFETCH)
		ret = working_set_prefetch(vm, s->working_set_path, id, s->fd, e);
	return ret < 0 ? err_prefix(e, "working set \"%s\"", s->working_set_path) : 0;
}

/* While the VM runs, where this user may do that. */
static int unpack_memory(struct vm *vm, struct snapshot *s, struct err *e)
{
	int ret = s->backend == SNAPSHOT_EAGER ? -EOPNOTSUPP : pager_start(vm, s->fd, e);

	return ret == 0 || ret == -EINVAL ? ret : memfile_read_compressed(vm, s->fd, e);
}

static int map_memory(struct vm *vm, struct snapshot *s, struct err *e)
{
	struct uffd *pager;
	int ret;

	if (s->backend == SNAPSHOT_UFFD)
		return uffd_connect(vm, s->mem_path, &pager, e);
	if (s->compressed)
		return unpack_memory(vm, s, e);
	ret = memfile_map(vm, s->fd, s->backend == SNAPSHOT_EAGER, e);
	return ret == 0 ? use_working_set(vm, s, e) : ret;
}

static int restore_memory(struct vm *vm, void *opaque, struct err *e)
{
	struct snapshot *s = opaque;
	const struct package_vm *info = package_info(s->package);
	u8 *head = vm->mem.regions[0].hva;
	struct snapshot_mark mark;
	int ret = package_check_memory(s->package, vm, e);

	if (ret == 0)
		ret = map_memory(vm, s, e);
	if (ret < 0)
		return err_prefix(e, "memory \"%s\"", s->mem_path);
	if (s->fd >= 0 && !memfile_backs(vm, s->fd))
		flock(s->fd, LOCK_UN);
	/* Again, in what was mapped: a pager's memory could not be looked at before. */
	snapshot_mark_decode(&mark, head);
	ret = check_mark(&mark, info, s->mem_path, e);
	if (ret == 0)
		memcpy(head, info->memory_head, SNAPSHOT_MARK_SIZE);
	return ret;
}

static int restore_state(struct vm *vm, void *opaque, struct err *e)
{
	struct snapshot *s = opaque;
	int ret = package_load(s->package, vm, e);

	if (ret == 0)
		vm->memory_id = package_info(s->package)->memory_id;
	return ret;
}

/* ---- The whole ---- */

static int read_document(struct snapshot *s, const struct snapshot_load *req, struct err *e)
{
	const struct saved_config_changes changes = {
		.nets = req->nets,
		.drives = req->drives,
		.nr_nets = req->nr_nets,
		.nr_drives = req->nr_drives,
		.vsock_path = req->vsock_path,
		.huge_pages = req->huge_pages,
		.track_dirty = &req->track_dirty,
	};

	return saved_config_read("snapshot", package_info(s->package), &changes, &s->document, e);
}

static int open_both(struct snapshot *s, const struct snapshot_load *req, struct err *e)
{
	struct err settle = {0};
	int ret, settled = 0;

	if (req->working_set != WORKING_SET_NONE && req->backend != SNAPSHOT_FILE)
		return err_set(e, -EINVAL,
			       "a working set is for memory that is mapped from its file, not for a pager's or what is read at once");
	if (req->backend != SNAPSHOT_UFFD)
		settled = snapshot_settle(req->state_path, req->mem_path, &settle);
	ret = open_state(s, req->state_path, e);
	if (ret == 0 && req->backend != SNAPSHOT_UFFD) {
		ret = open_memory(s, req->mem_path, e);
		if (ret == 0 && settled < 0 && snapshot_is_merging(req->mem_path, package_info(s->package)->memory_id))
			ret = settled;
		if (ret < 0 && settled < 0)
			*e = settle;
	}
	if (ret == 0 && s->compressed && req->working_set != WORKING_SET_NONE)
		ret = err_set(e, -EINVAL, "\"%s\" is compressed: no working set of it can be used", req->mem_path);
	return ret == 0 ? read_document(s, req, e) : ret;
}

int snapshot_open(struct snapshot **out, const struct snapshot_load *req, struct err *e)
{
	struct snapshot *s = xzalloc(sizeof(*s));
	int ret;

	s->fd = -1;
	s->backend = req->backend;
	s->mem_path = xstrdup(req->mem_path);
	s->working_set = req->working_set;
	s->working_set_path = req->working_set_path ? xstrdup(req->working_set_path) : NULL;
	s->restore = (struct vm_restore){
		.origin = VM_RESTORED,
		.paused = !req->resume,
		.realtime = req->clock_realtime,
		.keep_generation = req->keep_generation,
		.opaque = s,
		.memory = restore_memory,
		.state = restore_state,
	};
	ret = open_both(s, req, e);
	if (ret < 0) {
		snapshot_close(s);
		s = NULL;
	}
	*out = s;
	return ret;
}

void snapshot_close(struct snapshot *s)
{
	if (!s)
		return;
	json_object_put(s->document);
	package_close(s->package);
	free(s->bytes);
	fd_close(&s->fd);
	free(s->mem_path);
	free(s->working_set_path);
	free(s);
}

struct json_object *snapshot_document(const struct snapshot *s)
{
	return s->document;
}

const struct vm_restore *snapshot_restore(struct snapshot *s)
{
	return &s->restore;
}

struct json_object *snapshot_configure(const struct snapshot *s, struct json_object *own)
{
	return saved_config_join(s->document, own);
}
