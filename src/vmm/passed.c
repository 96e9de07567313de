/* passed.c: see passed.h. */
#include "vmm/passed.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int passed_add(struct passed *p, const char *name, int fd, u64 value, struct err *e)
{
	struct passed_item *item = &p->items[p->nr];

	ASSERT(strlen(name) < PASSED_NAME);
	if (p->nr == PASSED_MAX)
		return err_set(e, -ENOSPC, "%s: a VM can hand over at most %u descriptors; use mode precopy", name, PASSED_MAX);
	*item = (struct passed_item){.fd = fd, .value = value};
	snprintf(item->name, sizeof(item->name), "%s", name);
	p->nr++;
	return 0;
}

/* Not taken yet. */
static struct passed_item *find(struct passed *p, const char *name)
{
	for (u32 i = 0; p && i < p->nr; i++) {
		if (p->items[i].fd >= 0 && !strcmp(p->items[i].name, name))
			return &p->items[i];
	}
	return NULL;
}

bool passed_has(struct passed *p, const char *name)
{
	return find(p, name);
}

int passed_take(struct passed *p, const char *name, u64 *value)
{
	struct passed_item *item = find(p, name);

	if (!item)
		return -1;
	if (value)
		*value = item->value;
	return fd_take(&item->fd);
}

void passed_close(struct passed *p)
{
	for (u32 i = 0; p && i < p->nr; i++)
		fd_close(&p->items[i].fd);
	if (p)
		p->nr = 0;
}
