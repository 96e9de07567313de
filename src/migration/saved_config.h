/*
 * saved_config.h: the configuration in a package's "vm" section, for whoever makes the VM again: without what belongs to the process that
 * ran it, and with other network devices and files of the host where they are wanted.
 */
#ifndef HUSK_SAVED_CONFIG_H
#define HUSK_SAVED_CONFIG_H

#include "migration/package.h"

struct json_object;
struct snapshot_override;

struct saved_config_changes {
	const struct snapshot_override *nets, *drives; /* borrowed */
	u32 nr_nets, nr_drives;
	const char *vsock_path;	 /* NULL: as saved */
	const char *huge_pages;	 /* of machine-config; NULL: as saved */
	const bool *track_dirty; /* NULL: as saved */
};

/* what: "snapshot", "VM": for messages. The caller's. -EINVAL: it is no configuration, or a change fits nothing in it; e names it. */
int saved_config_read(const char *what, const struct package_vm *info, const struct saved_config_changes *changes, struct json_object **out,
		      struct err *e) MUST_CHECK;
/* The same with the process's own keys (borrowed) in it: for config_parse. The caller's. */
struct json_object *saved_config_join(struct json_object *document, struct json_object *own);

#endif
