/* openapi.h: the routes told to others: OpenAPI 3. ctx: any */
#ifndef HUSK_API_OPENAPI_H
#define HUSK_API_OPENAPI_H

#include <stdio.h>

struct json_object;

/* Every path, method, field, default, limit and help text. The caller's (json_object_put). */
struct json_object *openapi_schema(void);
/* The table of routes in docs/api.md, in Markdown. */
void openapi_docs(FILE *out);

#endif
