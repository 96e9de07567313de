/*
 * mmds.h: the microVM metadata service: a JSON document that the host writes through the API (PUT and PATCH /mmds) or gives as a file
 * (--metadata), and that the guest reads with HTTP at a link-local address, Firecracker's V1 (plain GET) or V2 (with a session token).
 *
 *   process start    mmds_init, mmds_load for --metadata
 *   API              mmds_put, mmds_patch, mmds_get
 *   VM start         mmds_configure with the section "mmds-config"; between vm_init and vm_run: vm->mmds = &m->service
 *
 * The network devices of the section's interfaces answer then (virtio/backend/net_mmds.h). ctx: any, unless said otherwise.
 */
#ifndef HUSK_API_MMDS_H
#define HUSK_API_MMDS_H

#include <pthread.h>

#include "vmm/base/err.h"
#include "vmm/config.h"
#include "vmm/device.h"
#include "vmm/mmds.h"

struct json_object;

#define MMDS_DEFAULT_LIMIT 51200u /* bytes of the document as compact JSON: --mmds-size-limit */
#define MMDS_TOKEN_BYTES   24u
#define MMDS_MAX_TOKENS	   4096u
#define MMDS_MIN_TTL	   1u /* seconds */
#define MMDS_MAX_TTL	   21600u

/* A session of the guest. Tokens are random numbers of the kernel, kept here until they expire: nothing about them can be computed. */
struct mmds_token {
	u8 secret[MMDS_TOKEN_BYTES];
	u64 expires_ns; /* CLOCK_MONOTONIC */
};

struct mmds {
	struct mmds_service service; /* first; for vm->mmds */
	pthread_mutex_t lock;	     /* guards what follows */
	struct json_object *store;   /* owned; NULL: never put */
	u64 limit;
	u32 version; /* enum cfg_mmds_version */
	bool imds_compat;
	bool in_use; /* put or configured once */
	bool started;
	struct mmds_token *tokens; /* owned; MMDS_MAX_TOKENS; when full, the one that would expire next gives way */
	u32 nr_tokens;
};

/* limit: bytes. ctx: before all others */
void mmds_init(struct mmds *m, u64 limit);
void mmds_fini(struct mmds *m);

/*
 * PUT and PATCH /mmds: value (borrowed, copied) replaces the document, or is merged into it (RFC 7396); on failure nothing changes.
 *   -EINVAL   value is no object: status 400
 *   -EFBIG    larger than the limit: status 413
 *   -ENOENT   "The MMDS data store is not initialized.": PATCH before PUT; PUT in a running VM without mmds-config: status 400
 */
int mmds_put(struct mmds *m, struct json_object *value, struct err *e) MUST_CHECK;
int mmds_patch(struct mmds *m, struct json_object *value, struct err *e) MUST_CHECK;
/* GET /mmds: a copy, the caller's; {} when nothing was put. NULL: out of memory. */
struct json_object *mmds_get(struct mmds *m);
/* --metadata FILE: mmds_put of a file. -EINVAL and others: the sentence names the file. */
int mmds_load(struct mmds *m, const char *path, struct err *e) MUST_CHECK;

/* The VM starts with this section, NULL: without one. Tokens of a VM before (a restored one) end. */
void mmds_configure(struct mmds *m, const struct cfg_mmds *cfg);

/* Firecracker's metrics group "mmds": offsets from the start of struct mmds_counters. */
extern const struct counter_desc mmds_counter_names[];

#endif
