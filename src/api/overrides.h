/* overrides.h: what a VM that comes from elsewhere has here under another name (bodies of /snapshot/load and /migration). */
#ifndef HUSK_API_OVERRIDES_H
#define HUSK_API_OVERRIDES_H

#include "migration/snapshot.h"

/* The list (NULL: none) of objects {id_key, value_key, ...}. The caller's, free it; its strings are the list's. */
struct snapshot_override *overrides_read(struct json_object *list, const char *id_key, const char *value_key, u32 *nr);

#endif
