/*
 * snapshot_files.h: the two files of a snapshot, and how one pair takes the place of another so that a crash at any moment leaves a pair
 * that loads.
 *
 *   PATH.new    what is being written; a name of its own, locked, the same one each time: a crash leaves at most one
 *   PATH.merge  (memory) pages of a diff that are on their way into PATH
 *
 *   state.new and memory.new written, synced ─ rename state.new -> state: from here on it is the new snapshot ─ rename memory.new -> memory
 *
 * Which memory belongs to a state says an id: in the state, and in the first bytes of the memory, its mark. They survive what a
 * file's name, times or extended attributes do not: copies, uploads, pagers. What the guest has there is in the state. Whoever finds a
 * state whose id memory does not have looks at memory.new and memory.merge: snapshot_settle.
 */
#ifndef HUSK_SNAPSHOT_FILES_H
#define HUSK_SNAPSHOT_FILES_H

#include "vmm/base/err.h"

#define SNAPSHOT_MARK_SIZE 32u

/* The first bytes of a memory file. */
struct snapshot_mark {
	u64 memory_id; /* the state's; 0: the file has no mark */
	u64 base_id;   /* a diff's: the id of the memory that it is to be merged onto; 0: all memory is here */
};

void snapshot_mark_encode(const struct snapshot_mark *m, u8 *out);
/* False: these bytes are no mark. */
bool snapshot_mark_decode(struct snapshot_mark *m, const u8 *bytes);
/* The mark of a memory file, plain or compressed; zeroed when it has none. */
int snapshot_mark_read(int fd, struct snapshot_mark *m, struct err *e) MUST_CHECK;

/* One file on its way to its name. */
struct snapshot_file {
	const char *path; /* borrowed */
	char *tmp;	  /* owned */
	int fd;		  /* owned */
	bool keep;	  /* memory: the state that it belongs to is in place, so PATH.new stays where snapshot_settle finds it */
};

#define SNAPSHOT_FILE_NONE \
	{ \
		.fd = -1 \
	}

/* Makes an empty PATH.new. -EBUSY: somebody else is writing it. Errors name the path. */
int snapshot_file_begin(struct snapshot_file *f, const char *path, struct err *e) MUST_CHECK;
int snapshot_file_sync(struct snapshot_file *f, struct err *e) MUST_CHECK;
/* Gives it its name, or the one with this suffix, for good (the folder is synced). On failure it has the name or not: tmp tells. */
int snapshot_file_commit(struct snapshot_file *f, const char *suffix, struct err *e) MUST_CHECK;
/* Gives the state its name, by which the new snapshot takes the old one's place: memory->keep from then on, also when this fails. */
int snapshot_state_commit(struct snapshot_file *state, struct snapshot_file *memory, struct err *e) MUST_CHECK;
/* Removes what was not committed, nor is to be kept; accepts SNAPSHOT_FILE_NONE. */
void snapshot_file_end(struct snapshot_file *f);

/* Completes what a crash has left of a create: the memory that belongs to the state at state_path comes to lie at mem_path. Nothing to do
 * is no error, nor are files that are missing or wrong: who opens them says so. -errno: it is needed, and cannot be done. */
int snapshot_settle(const char *state_path, const char *mem_path, struct err *e) MUST_CHECK;
/* Moves the pages of mem_path.merge, with their mark, into the memory file. May be repeated after a crash. */
int snapshot_merge_pending(const char *mem_path, struct err *e) MUST_CHECK;
/* Whether some of this memory's pages may still be in mem_path.merge, whatever the mark of mem_path says: its mark goes first. */
bool snapshot_is_merging(const char *mem_path, u64 memory_id);
/* Removes a merge that was interrupted before the new state was there: after snapshot_settle nobody needs it. */
void snapshot_forget_merge(const char *mem_path);
/* Ids of the state at path: 0 when there is no such state. */
void snapshot_state_ids(const char *path, u64 *memory_id, u64 *base_id);

#endif
