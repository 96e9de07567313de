/* logger.c: see logger.h. */
#include "api/logger.h"

#include <errno.h>

int logger_apply(struct log *log, const struct cfg_logger *l, struct err *e)
{
	enum log_level level;
	int r = 0;

	if (!l)
		return 0;
	level = log->level;
	if (l->level && log_level_parse(l->level, &level) < 0)
		return err_set(e, -EINVAL, "log level \"%s\" is unknown", l->level);
	if (l->log_path)
		r = log_open(log, l->log_path, e);
	if (r < 0)
		return r;
	log_set_level(log, level);
	log_show(log, l->show_level, l->show_log_origin);
	if (l->module)
		log_set_module(log, l->module);
	return 0;
}
