/* snapshot_rig.h: a VM of toys with a folder for its snapshots, for test_snapshot*.c: what creates, loads and compares; pagers are stubs.
 */
#ifndef HUSK_TEST_SNAPSHOT_RIG_H
#define HUSK_TEST_SNAPSHOT_RIG_H

#include "toy_vm.h"

#include <dirent.h>
#include <unistd.h>

#include "migration/pager.h"
#include "migration/snapshot.h"
#include "migration/snapshot_files.h"
#include "migration/uffd.h"
#include "migration/working_set.h"

/* A pager of one number: how much it has not brought. */
static u64 missing;

u64 uffd_missing(const struct vm *vm)
{
	(void)vm;
	return missing;
}

int uffd_connect(struct vm *vm, const char *sock, struct uffd **out, struct err *e)
{
	(void)vm;
	(void)sock;
	(void)out;
	return err_set(e, -ENOTCONN, "no pager");
}

/* Memory is mapped, as where there is no userfaultfd. */
int pager_start(struct vm *vm, int fd, struct err *e)
{
	(void)vm;
	(void)fd;
	return err_set(e, -EOPNOTSUPP, "no pager");
}

int working_set_record(struct vm *vm, const char *path, u64 memory_id, u32 seconds, struct err *e)
{
	(void)vm;
	(void)path;
	(void)memory_id;
	(void)seconds;
	return err_set(e, -EINVAL, "no list");
}

int working_set_prefetch(struct vm *vm, const char *path, u64 memory_id, int fd, struct err *e)
{
	(void)fd;
	return working_set_record(vm, path, memory_id, 0, e);
}

#define PAGES (TOY_RAM / MEM_PAGE_SIZE)

static u64 dirty[PAGES / 64]; /* what the accelerator has logged */

static inline int dirty_get(struct vm *vm, const struct mem_region *r, u64 *bitmap, struct err *e)
{
	(void)vm;
	(void)e;
	for (u64 i = 0; i < mem_bitmap_words(r); i++)
		bitmap[i] |= dirty[i];
	memset(dirty, 0, sizeof(dirty));
	return 0;
}

static const struct accel_ops accel = {.name = "toy", .vcpu_pull = toy_pull, .vm_pull = toy_vm_pull, .dirty_get = dirty_get};

/* A VM, its folder, the files in it. */
struct rig {
	struct toy_vm t;
	struct config config;
	struct cfg_machine machine;
	char folder[64], state[80], memory[80];
};

static inline void guest_writes(struct rig *r, u64 page, const char *text)
{
	snprintf((char *)r->t.vm.mem.regions[0].hva + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE, "%s", text);
	dirty[page / 64] |= BIT(page % 64);
}

static inline void rig_vm(struct rig *r)
{
	struct err e;

	toy_vm_init(&r->t);
	r->config.machine = &r->machine;
	r->machine.track_dirty_pages = true;
	r->t.vm.config = &r->config;
	r->t.vm.accel = &accel;
	r->t.vm.state = VM_PAUSED;
	assert_int_equal(mem_track(&r->t.vm.mem, true, &e), 0);
	memset(dirty, 0, sizeof(dirty));
}

static inline struct rig *rig_new(void)
{
	struct rig *r = xzalloc(sizeof(*r));

	snprintf(r->folder, sizeof(r->folder), "/tmp/husk-snapshot-XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	snprintf(r->state, sizeof(r->state), "%s/state", r->folder);
	snprintf(r->memory, sizeof(r->memory), "%s/memory", r->folder);
	rig_vm(r);
	toy_vm_live(&r->t);
	guest_writes(r, 0, "the beginning of the guest's memory, more than a mark");
	guest_writes(r, 5, "five");
	return r;
}

static inline void empty_folder(const char *folder)
{
	DIR *d = opendir(folder);
	struct dirent *entry;

	assert_non_null(d);
	while ((entry = readdir(d)))
		unlinkat(dirfd(d), entry->d_name, 0);
	closedir(d);
}

static inline void rig_free(struct rig *r)
{
	empty_folder(r->folder);
	rmdir(r->folder);
	toy_vm_fini(&r->t);
	free(r);
}

static inline int nr_files(const struct rig *r)
{
	DIR *d = opendir(r->folder);
	int n = 0;

	assert_non_null(d);
	for (struct dirent *entry; (entry = readdir(d));)
		n += *entry->d_name != '.';
	closedir(d);
	return n;
}

static inline int create_at(struct rig *r, const char *state, const char *memory, enum snapshot_type type, struct err *e)
{
	struct snapshot_create req = {.state_path = state, .mem_path = memory, .type = type};
	struct snapshot_result res;

	return snapshot_create(&r->t.vm, &req, &res, e);
}

static inline void create(struct rig *r, enum snapshot_type type)
{
	struct err e = {0};

	if (create_at(r, r->state, r->memory, type, &e) < 0)
		fail_msg("%s", e.msg);
}

static inline int open_pair(const char *state, const char *memory, struct snapshot **out, struct err *e)
{
	struct snapshot_load req = {.state_path = state, .mem_path = memory, .resume = true};

	return snapshot_open(out, &req, e);
}

/* What page of a VM restored from the pair has; the rest is compared with like, if there is one. */
static inline void check_load(const struct rig *like, const char *state, const char *memory, u64 page, const char *text)
{
	struct rig *r = xzalloc(sizeof(*r));
	const struct vm_restore *restore;
	struct snapshot *s;
	struct err e = {0};

	rig_vm(r);
	if (open_pair(state, memory, &s, &e) < 0)
		fail_msg("%s", e.msg);
	restore = snapshot_restore(s);
	assert_int_equal(restore->origin, VM_RESTORED);
	assert_false(restore->paused);
	if (restore->memory(&r->t.vm, restore->opaque, &e) < 0 || restore->state(&r->t.vm, restore->opaque, &e) < 0)
		fail_msg("%s", e.msg);
	assert_string_equal((char *)r->t.vm.mem.regions[0].hva + page * MEM_PAGE_SIZE, text);
	if (like) {
		assert_memory_equal(r->t.vm.mem.regions[0].hva, like->t.vm.mem.regions[0].hva, TOY_RAM);
		assert_string_equal(r->t.toys[1].state.name, like->t.toys[1].state.name);
		assert_int_equal(r->t.vm.memory_id, like->t.vm.memory_id);
	}
	snapshot_close(s);
	toy_vm_fini(&r->t);
	free(r);
}

#endif
