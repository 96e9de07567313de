/*
 * snapshot.h: a VM on disk, and back. Two files: `state` (package.h) and `memory` (memfile.h), tied together by a random id. Both are
 * written under temporary names, synced and renamed; a crash leaves the old pair or the new one (snapshot_files.h).
 */
#ifndef HUSK_SNAPSHOT_H
#define HUSK_SNAPSHOT_H

#include "migration/memfile.h"
#include "migration/package.h"
#include "vmm/vm.h"

enum snapshot_type { SNAPSHOT_FULL, SNAPSHOT_DIFF };
enum working_set { WORKING_SET_NONE, WORKING_SET_RECORD, WORKING_SET_PREFETCH };
enum snapshot_backend { SNAPSHOT_FILE, SNAPSHOT_UFFD, SNAPSHOT_EAGER };

struct snapshot_create {
	const char *state_path, *mem_path;
	enum snapshot_type type;
	bool compress;
	u64 cap; /* bytes of the package; 0: PACKAGE_SOFT_CAP */
};

struct snapshot_result {
	struct memfile_stats memory;
	u64 package_bytes;
	u64 drain_ns, state_ns, memory_ns, sync_ns; /* how the time went */
};

/* Writes a snapshot of the paused VM. On failure the VM is as it was, and so are the files; but when the new state has its name already,
 * and the rest fails, the snapshot counts (e says so), and whoever uses the files next completes it. -EBUSY: not now (pages outstanding, a
 * debugger's breakpoints); -EOPNOTSUPP: a device cannot be saved; -EINVAL: a diff without track_dirty_pages, or onto what backs this VM.
 * ctx: loop */
int snapshot_create(struct vm *vm, const struct snapshot_create *req, struct snapshot_result *out, struct err *e) MUST_CHECK;

/* Where a snapshot is. */
struct snapshot_paths {
	const char *state, *memory; /* borrowed */
};
/* Writes base with the pages and the state of diff, which builds on it, to out; that may be base itself (as safe against a crash as
 * create). Both stay as they are but for what a crash had left undone. -EINVAL: diff does not build on base. */
int snapshot_merge(const struct snapshot_paths *base, const struct snapshot_paths *diff, const struct snapshot_paths *out,
		   struct memfile_stats *stats, struct err *e) MUST_CHECK;

struct snapshot_override {
	const char *id, *value; /* iface_id -> host device; drive_id -> path; borrowed */
};

struct snapshot_load {
	const char *state_path, *mem_path; /* mem_path: the pager's socket for SNAPSHOT_UFFD; borrowed */
	enum snapshot_backend backend;
	bool resume, track_dirty;
	const char *huge_pages; /* of machine-config; NULL: as saved */
	bool clock_realtime;	/* the guest's clocks jump over the time that it was on disk */
	bool keep_generation;	/* no new VM generation ID: no other VM goes on from this snapshot */
	const struct snapshot_override *nets, *drives;
	u32 nr_nets, nr_drives;
	const char *vsock_path;	      /* NULL: as saved */
	const char *working_set_path; /* NULL: none */
	enum working_set working_set;
};

struct snapshot; /* opened: files open, package verified */
/* Opens and verifies both files; makes nothing. */
int snapshot_open(struct snapshot **out, const struct snapshot_load *req, struct err *e) MUST_CHECK;
void snapshot_close(struct snapshot *s); /* accepts NULL. After vm_fini of a VM that it restores */
/* The saved configuration with the overrides in it, without what belongs to the process that runs a VM (its log, metrics, accelerator,
 * serial port, ...). Borrowed. */
struct json_object *snapshot_document(const struct snapshot *s);
/* The same with the process's own (borrowed) in it: for config_parse. The caller's. */
struct json_object *snapshot_configure(const struct snapshot *s, struct json_object *own);
/* Top-level keys of a configuration that belong to the process. */
bool snapshot_is_own_key(const char *key);
/* For vm_options.restore. Borrowed. */
const struct vm_restore *snapshot_restore(struct snapshot *s);

#endif
