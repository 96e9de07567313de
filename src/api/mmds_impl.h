/* mmds_impl.h: what the parts of the metadata service share: mmds.c (document, tokens), mmds_http.c (the guest's requests). */
#ifndef HUSK_API_MMDS_IMPL_H
#define HUSK_API_MMDS_IMPL_H

#include "api/mmds.h"

#define MMDS_TOKEN_TEXT (2 * MMDS_TOKEN_BYTES + 1) /* hexadecimal digits and NUL */

/* A new session of ttl seconds (MMDS_MIN_TTL..MMDS_MAX_TTL). -errno when the kernel has no random numbers. ctx: any, lock held */
int mmds_token_new(struct mmds *m, u32 ttl, char text[MMDS_TOKEN_TEXT]) MUST_CHECK;
/* True for a token that was given out and has not expired. len bytes of text, whatever they are. ctx: any, lock held */
bool mmds_token_ok(struct mmds *m, const char *text, size_t len);

/* struct mmds_service's serve. ctx: loop */
u32 mmds_serve(struct mmds_service *s, const u8 *data, u32 len, struct buf *reply, bool *close);

#endif
