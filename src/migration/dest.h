/*
 * dest.h: the side that a VM comes to. It listens, waits for a source and its OFFER, from which comes the configuration; a VM is built from
 * that as for a restore (vm_options.restore), into which memory and state then come.
 *
 *   dest_listen ─ dest_wait_offer ─ dest_configure, config_parse ─ vm_init_options(dest_restore) ─ vm_run
 *                                                                   memory(): empty, may be fetched page by page
 *                                                                   state():  ACCEPT, receive, package_load
 *                                                                   started(): LOADED; on COMMIT the loop resumes the VM
 *
 * Threads: "husk-migrate" (CONTROL, and accepting connections, also for recoveries), one for each BULK channel, one for URGENT, and one for
 * faults. The loop may itself wait for a page, so none of this needs it but the start of the vCPUs.
 */
#ifndef HUSK_DEST_H
#define HUSK_DEST_H

#include "migration/migrate.h"
#include "migration/snapshot.h"
#include "vmm/vm.h"

struct tls_identity; /* tls.h */

struct dest_params {
	const char *address;			       /* channel.h */
	struct tls_identity *tls;		       /* for an address that wants it; outlives the dest. NULL: there is none */
	u64 package_cap;			       /* bytes; 0: PACKAGE_SOFT_CAP */
	u32 patience_ms;			       /* 0: 10000 */
	bool paused;				       /* stays halted when it is there */
	const struct snapshot_override *nets, *drives; /* as for snapshot_load */
	u32 nr_nets, nr_drives;
	const char *vsock_path;
};

struct dest;
/* Listens. What p points to is copied. ctx: main */
int dest_listen(struct dest **out, const struct dest_params *p, struct log *log, struct err *e) MUST_CHECK;
void dest_close(struct dest *d); /* accepts NULL. After vm_fini */
/* The address with the port that was chosen. Borrowed. */
const char *dest_address(const struct dest *d);
/* Waits for a source (for ever) and for its OFFER. A peer that talks nonsense is told so and forgotten; the next one is waited for. -EINTR:
 * dest_abandon was called. ctx: main or any one thread */
int dest_wait_offer(struct dest *d, struct err *e) MUST_CHECK;
/* As snapshot_configure: the VM's configuration with overrides and the process's own keys. The caller's. -EINVAL by name: an override that
 * fits nothing. */
int dest_configure(struct dest *d, struct json_object *own, struct json_object **out, struct err *e) MUST_CHECK;
/* The VM cannot be made here: says why to the source, which runs on. ctx: main */
void dest_refuse(struct dest *d, const struct err *e);
/* For vm_options.restore. Borrowed. */
const struct vm_restore *dest_restore(struct dest *d);
/* Ends the wait, or an unfinished migration whose VM does not run yet. -EBUSY: it runs. ctx: any */
int dest_abandon(struct dest *d, struct err *e) MUST_CHECK;
/* The user says that the source is dead: the VM, which was loaded and waits for COMMIT, runs here. -EINVAL: it does not wait; -EISCONN: the
 * source is connected; -ENODATA: pages are with the source. ctx: any */
int dest_take_over(struct dest *d, struct err *e) MUST_CHECK;
/* As source_break. ctx: any */
int dest_break(struct dest *d, struct err *e) MUST_CHECK;
void dest_status(struct dest *d, struct migrate_status *out); /* ctx: any */

#endif
