/* snapshot.c: writing a snapshot; see snapshot.h. What is refused is refused before a byte is written. */
#include "migration/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/snapshot_files.h"
#include "migration/uffd.h"
#include "vmm/clock.h"
#include "vmm/config.h"

#define NR_PARTS 5 /* sections that a refusal for size names */

/* One snapshot being made. */
struct job {
	struct vm *vm;
	const struct snapshot_create *req;
	struct snapshot_result *out;
	struct snapshot_mark mark;
	bool merge;  /* a diff that goes into the memory file that is there */
	int base_fd; /* owned: that file, locked against VMs that would run on it */
	struct package_vm *info;
	struct buf package;
	u64 *dirty[MEM_MAX_REGIONS]; /* owned; a diff's pages */
	struct snapshot_file state, memory;
};

/* ---- Refusals ---- */

static int same_file(const char *a, const char *b, bool *same, struct err *e)
{
	struct stat sa, sb;

	*same = !strcmp(a, b);
	if (stat(a, &sa) == 0 && !S_ISREG(sa.st_mode))
		return err_set(e, -EINVAL, "\"%s\" is no regular file", a);
	if (stat(b, &sb) == 0 && !S_ISREG(sb.st_mode))
		return err_set(e, -EINVAL, "\"%s\" is no regular file", b);
	*same = *same || (stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino);
	return 0;
}

static bool backs(const struct vm *vm, const char *path)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 && memfile_backs(vm, fd);
}

static int check_paths(const struct job *j, struct err *e)
{
	bool same;
	int ret = same_file(j->req->state_path, j->req->mem_path, &same, e);

	if (ret == 0 && same)
		return err_set(e, -EINVAL, "state and memory need a file each, and both are to go to \"%s\"", j->req->mem_path);
	if (ret == 0 && (backs(j->vm, j->req->mem_path) || backs(j->vm, j->req->state_path)))
		return err_set(e, -EINVAL, "this VM runs on \"%s\", which it was restored from; give another path", j->req->mem_path);
	return ret;
}

static int check_type(const struct job *j, struct err *e)
{
	u64 missing = mem_is_lazy(&j->vm->mem) && !j->vm->mem.own_pager ? uffd_missing(j->vm) : 0;

	/* A diff's pages were written, so they are here. */
	if (j->req->type != SNAPSHOT_DIFF && missing)
		return err_set(
			e, -EBUSY,
			"%llu MiB of the memory are still with the pager; make a diff snapshot, or load with \"eager\" for a full one",
			(unsigned long long)((missing + MIB - 1) / MIB));
	if (j->req->type != SNAPSHOT_DIFF)
		return 0;
	if (!j->vm->config->machine->track_dirty_pages)
		return err_set(e, -EINVAL,
			       "a diff snapshot needs \"track_dirty_pages\": true in machine-config, or when a snapshot is loaded");
	if (j->req->compress)
		return err_set(e, -EINVAL, "a diff snapshot cannot be compressed: it could not be merged");
	return 0;
}

static int check_now(const struct vm *vm, struct err *e)
{
	if (vm->state != VM_PAUSED)
		return err_set(e, -EBUSY, "save/restore unavailable while running: the microVM should be paused first");
	if (mem_fetch(&vm->mem))
		return err_set(e, -EBUSY,
			       "the guest's memory is still on its way here; a snapshot can be made when the migration is complete");
	if (__atomic_load_n(&vm->mem.moving, __ATOMIC_ACQUIRE))
		return err_set(e, -EBUSY, "this VM is moving to another husk, which needs the record of the pages that it changes");
	if (vm->debug.nr_breaks)
		return err_set(e, -EBUSY, "gdb has %u breakpoints in the guest's memory; delete them first", vm->debug.nr_breaks);
	return 0;
}

/* The package's size, before anything is written. */
static int check_size(const struct job *j, struct err *e)
{
	struct package_part parts[NR_PARTS] = {0};
	u64 bytes;
	int ret = package_measure(j->vm, &bytes, parts, NR_PARTS, e);

	return ret == 0 ? package_check_cap(bytes, j->req->cap ? j->req->cap : PACKAGE_SOFT_CAP, parts, NR_PARTS, e) : ret;
}

static int check(const struct job *j, struct err *e)
{
	int ret = check_now(j->vm, e);

	if (ret == 0)
		ret = check_type(j, e);
	if (ret == 0)
		ret = check_paths(j, e);
	return ret == 0 ? check_size(j, e) : ret;
}

/* ---- Dirty pages ---- */

static void free_dirty(struct job *j)
{
	for (u32 i = 0; i < MEM_MAX_REGIONS; i++) {
		free(j->dirty[i]);
		j->dirty[i] = NULL;
	}
}

/* All that was written since the last snapshot; the record begins anew. */
static int collect(struct job *j, struct err *e)
{
	struct mem *m = &j->vm->mem;
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		struct mem_region *r = &m->regions[i];

		if (r->file)
			continue;
		j->dirty[i] = calloc(mem_bitmap_words(r), sizeof(u64));
		if (!j->dirty[i])
			return err_set(e, -ENOMEM, "no memory for a bitmap of dirty pages");
		mem_track_collect(r, j->dirty[i]);
		ret = j->vm->accel->dirty_get(j->vm, r, j->dirty[i], e);
	}
	return ret;
}

/* The snapshot came to nothing: its pages count for the next one. */
static void give_back(struct job *j)
{
	for (u32 i = 0; i < j->vm->mem.nr_regions; i++) {
		struct mem_region *r = &j->vm->mem.regions[i];

		for (u64 w = 0; j->dirty[i] && r->vmm_dirty && w < mem_bitmap_words(r); w++)
			__atomic_fetch_or(&r->vmm_dirty[w], j->dirty[i][w], __ATOMIC_RELAXED);
	}
}

/* ---- Where a diff goes ---- */

/*
 * As with Firecracker a diff onto the memory that it builds on is merged into it. Nobody wants another snapshot's memory changed, nor one
 * that another VM runs on; and where nothing can be merged the diff must not take the place of its own base.
 */
static int find_base(struct job *j, struct err *e)
{
	const char *path = j->req->mem_path;
	struct snapshot_mark there = {0};
	u64 bytes;

	j->mark.base_id = j->vm->memory_id;
	j->base_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (j->base_fd < 0 || snapshot_mark_read(j->base_fd, &there, NULL) < 0 || !there.memory_id)
		return 0;
	if (there.memory_id != j->vm->memory_id)
		return err_set(e, -EINVAL,
			       "\"%s\" is the memory of another snapshot than the one that this diff builds on; give a new path", path);
	if (memfile_probe(j->base_fd, &bytes, e) != 0 || bytes != j->vm->mem.size)
		return err_set(e, -EINVAL,
			       "\"%s\" is what this diff builds on, and compressed: nothing can be merged into it; give a new path", path);
	if (flock(j->base_fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return err_set(e, -EBUSY, "another VM runs on \"%s\", and the diff would be merged into it; give a new path", path);
	j->merge = true;
	j->mark.base_id = there.base_id;
	return 0;
}

static bool is_diff(const struct job *j)
{
	return j->req->type == SNAPSHOT_DIFF && j->vm->memory_id;
}

/* ---- State ---- */

static int save_state(struct job *j, struct err *e)
{
	u64 start_ns = clock_host_ns();
	int ret;

	j->info = xzalloc(sizeof(*j->info));
	ret = package_describe(j->vm, j->info, e);
	if (ret < 0)
		return ret;
	j->info->memory_id = j->mark.memory_id;
	j->info->base_id = is_diff(j) ? j->vm->memory_id : 0;
	memcpy(j->info->memory_head, j->vm->mem.regions[0].hva, SNAPSHOT_MARK_SIZE);
	ret = package_save(j->vm, j->info, j->req->cap ? j->req->cap : PACKAGE_SOFT_CAP, &j->package, e);
	j->out->package_bytes = j->package.len;
	j->out->state_ns = clock_host_ns() - start_ns;
	return ret;
}

/* ---- Memory ---- */

static int write_memory_as_it_is(struct job *j, struct err *e)
{
	if (is_diff(j)) {
		j->dirty[0][0] |= 1; /* the mark's page, whole */
		return memfile_write_diff(j->vm, j->memory.fd, j->dirty, &j->out->memory, e);
	}
	if (j->req->compress)
		return memfile_write_compressed(j->vm, j->memory.fd, &j->out->memory, e);
	return memfile_write_full(j->vm, j->memory.fd, &j->out->memory, e);
}

/* Nobody else looks at guest memory now, so the mark may lie in it while it is written. */
static int write_memory(struct job *j, struct err *e)
{
	u8 *head = j->vm->mem.regions[0].hva;
	u64 start_ns = clock_host_ns();
	int ret;

	snapshot_mark_encode(&j->mark, head);
	ret = write_memory_as_it_is(j, e);
	memcpy(head, j->info->memory_head, SNAPSHOT_MARK_SIZE);
	j->out->memory_ns = clock_host_ns() - start_ns;
	return ret < 0 ? err_prefix(e, "\"%s\"", j->req->mem_path) : 0;
}

static int write_files(struct job *j, struct err *e)
{
	int ret = fd_write_all(j->state.fd, j->package.data, j->package.len);

	if (ret < 0)
		return err_set(e, ret, "cannot write \"%s\": %s", j->req->state_path, strerror(-ret));
	return write_memory(j, e);
}

/* ---- The whole ---- */

static int put_in_place(struct job *j, struct err *e)
{
	u64 start_ns = clock_host_ns();
	int ret = snapshot_file_sync(&j->memory, e);

	if (ret == 0)
		ret = snapshot_file_sync(&j->state, e);
	if (ret == 0 && j->merge)
		ret = snapshot_file_commit(&j->memory, ".merge", e);
	if (ret == 0)
		ret = snapshot_state_commit(&j->state, &j->memory, e);
	if (ret == 0)
		ret = j->merge ? snapshot_merge_pending(j->req->mem_path, e) : snapshot_file_commit(&j->memory, "", e);
	if (ret < 0 && j->merge && !j->memory.keep && !j->memory.tmp)
		snapshot_forget_merge(j->req->mem_path);
	j->out->sync_ns = clock_host_ns() - start_ns;
	return ret < 0 && j->memory.keep ? err_prefix(e, "the snapshot was taken, and the next load or snapshot there completes it") : ret;
}

static int make(struct job *j, struct err *e)
{
	int ret = snapshot_settle(j->req->state_path, j->req->mem_path, e);

	if (ret == 0 && is_diff(j))
		ret = find_base(j, e);
	if (ret == 0)
		ret = snapshot_file_begin(&j->state, j->req->state_path, e);
	if (ret == 0)
		ret = snapshot_file_begin(&j->memory, j->req->mem_path, e);
	if (ret == 0) {
		snapshot_forget_merge(j->req->mem_path);
		ret = save_state(j, e);
	}
	/* After the state: what devices wrote while it was taken is in the memory. */
	if (ret == 0 && j->vm->config->machine->track_dirty_pages)
		ret = collect(j, e);
	if (ret == 0)
		ret = write_files(j, e);
	return ret == 0 ? put_in_place(j, e) : ret;
}

static int new_id(u64 *id, struct err *e)
{
	*id = 0;
	while (!*id) {
		if (getrandom(id, sizeof(*id), 0) != sizeof(*id))
			return err_errno(e, "no random numbers");
	}
	return 0;
}

int snapshot_create(struct vm *vm, const struct snapshot_create *req, struct snapshot_result *out, struct err *e)
{
	struct job j = {.vm = vm, .req = req, .out = out, .base_fd = -1, .state = SNAPSHOT_FILE_NONE, .memory = SNAPSHOT_FILE_NONE};
	int ret;

	*out = (struct snapshot_result){.drain_ns = vm->drain_ns};
	ret = check(&j, e);
	if (ret == 0)
		ret = new_id(&j.mark.memory_id, e);
	if (ret == 0)
		ret = make(&j, e);
	/* Also when the memory is still on its way: the state that says so is there, and the old snapshot's is not. */
	if (ret == 0 || j.memory.keep)
		vm->memory_id = j.mark.memory_id;
	else
		give_back(&j);
	snapshot_file_end(&j.memory);
	snapshot_file_end(&j.state);
	fd_close(&j.base_fd);
	free_dirty(&j);
	buf_fini(&j.package);
	free(j.info);
	return ret;
}
