/* handlers.h: what the routes do (routes.c). Each returns 0 with call->reply filled, API_LATER, or -errno and the client's sentence. ctx:
 * main */
#ifndef HUSK_API_HANDLERS_H
#define HUSK_API_HANDLERS_H

#include "api/control.h"

int handle_get_instance(struct api_call *call, struct err *e);
int handle_get_version(struct api_call *call, struct err *e);
int handle_get_config(struct api_call *call, struct err *e);
/* The configuration: husk's own way to set several sections, or what is no section, at once. */
int handle_put_config(struct api_call *call, struct err *e);
int handle_get_section(struct api_call *call, struct err *e);
int handle_put_section(struct api_call *call, struct err *e);
int handle_patch_section(struct api_call *call, struct err *e);
/* The CPU template that was set last is in force: a named one of machine-config, or one of the user's own. */
int handle_put_cpu_config(struct api_call *call, struct err *e);
int handle_put_machine_config(struct api_call *call, struct err *e);
int handle_patch_machine_config(struct api_call *call, struct err *e);
int handle_put_boot_source(struct api_call *call, struct err *e);
int handle_put_logger(struct api_call *call, struct err *e);
int handle_put_metrics(struct api_call *call, struct err *e);
int handle_get_metrics(struct api_call *call, struct err *e);
int handle_get_mmds(struct api_call *call, struct err *e);
int handle_put_mmds(struct api_call *call, struct err *e);
int handle_patch_mmds(struct api_call *call, struct err *e);
int handle_put_mmds_config(struct api_call *call, struct err *e);
int handle_action(struct api_call *call, struct err *e);
int handle_set_state(struct api_call *call, struct err *e);
int handle_update_device(struct api_call *call, struct err *e);
int handle_ask_device(struct api_call *call, struct err *e);
int handle_unplug(struct api_call *call, struct err *e);
/* snapshots.c. A load starts the VM, as InstanceStart does. */
int handle_create_snapshot(struct api_call *call, struct err *e);
int handle_load_snapshot(struct api_call *call, struct err *e);
/* migration.c. quick: ctx: API thread; answers what must not wait for the main thread, which may be waiting for memory. */
int handle_migration_quick(struct api_call *call, struct err *e);
int handle_migration(struct api_call *call, struct err *e);
/* Nothing about the VM may be changed now. ctx: main */
bool migration_is_under_way(struct control *c);

#endif
