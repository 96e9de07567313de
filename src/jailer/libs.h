/*
 * libs.h: the files that a dynamically linked program needs in its jail: its loader, the libraries that the loader finds for it, the
 * loader's cache. A static program needs none.
 * ctx: the jailer's one thread.
 */
#ifndef HUSK_JAILER_LIBS_H
#define HUSK_JAILER_LIBS_H

#include <sys/types.h>

#include "vmm/base/err.h"

#define LIBS_MAX 64

struct libs {
	char *paths[LIBS_MAX]; /* owned; absolute, without "..", none twice */
	u32 n;
};

/*
 * Reads the ELF file that fd is open on and asks its loader. The loader runs as uid:gid when drop is set, for it is the program that names
 * it. -ENOEXEC for what is no ELF program; -ENOENT when a library is missing.
 */
int libs_find(struct libs *l, int fd, const char *path, bool drop, uid_t uid, gid_t gid, struct err *e) MUST_CHECK;
void libs_fini(struct libs *l); /* accepts zeroed */

/* Parts of libs_find, for tests. interp: 256 bytes, "" for a static program. */
int libs_read_interp(int fd, const char *path, char *interp, struct err *e) MUST_CHECK;
/* Takes the loader's list; text is changed. */
int libs_parse_list(struct libs *l, char *text, const char *path, struct err *e) MUST_CHECK;

#endif
