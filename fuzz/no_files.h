/*
 * no_files.h: while a fuzz target runs, what husk opens by name is made up: no input reaches files of the host. Linked with
 * -Wl,--wrap for each name of opening (meson.build).
 *   /disk0, /disk1   4 MiB each, of this process
 *   /null            as /dev/null
 * Everything else is not there. ctx: any
 */
#ifndef HUSK_FUZZ_NO_FILES_H
#define HUSK_FUZZ_NO_FILES_H

#include "vmm/base/base.h"

#define NO_FILES_DISKS	   2u
#define NO_FILES_DISK_SIZE (4 * MIB)

void no_files_begin(void); /* the disks are zero */
void no_files_end(void);

#endif
