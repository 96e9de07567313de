/* logger.h: the logger section, from a file, flags or PUT /logger, into the log. */
#ifndef HUSK_API_LOGGER_H
#define HUSK_API_LOGGER_H

#include "vmm/base/log.h"
#include "vmm/config.h"

/* What l (NULL: nothing) does not say stays as it is, but for the two show_*, which are always set. ctx: main; others may be logging */
int logger_apply(struct log *log, const struct cfg_logger *l, struct err *e) MUST_CHECK;

#endif
