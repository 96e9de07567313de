/* table.c: see ctl.h. */
#include <stdlib.h>
#include <string.h>

#include "cli/ctl.h"

void table_add(struct table *t, const char *const *cells)
{
	size_t used = (size_t)t->rows * t->columns;
	char **more = realloc(t->cells, (used + t->columns) * sizeof(*more));

	ASSERT(more);
	t->cells = more;
	for (u32 i = 0; i < t->columns; i++)
		t->cells[used + i] = xstrdup(cells[i] ? cells[i] : "-");
	t->rows++;
}

void table_init(struct table *t, const char *const *head, u32 columns)
{
	ASSERT(columns <= TABLE_COLUMNS);
	*t = (struct table){.columns = columns};
	table_add(t, head);
}

void table_print(struct table *t, FILE *out)
{
	int width[TABLE_COLUMNS] = {0};

	for (u32 i = 0; i < t->rows * t->columns; i++)
		width[i % t->columns] = MAX(width[i % t->columns], (int)strlen(t->cells[i]));
	for (u32 i = 0; i < t->rows * t->columns; i++) {
		bool last = i % t->columns == t->columns - 1;

		fprintf(out, "%-*s%s", last ? 0 : width[i % t->columns], t->cells[i], last ? "\n" : "  ");
		free(t->cells[i]);
	}
	free(t->cells);
	*t = (struct table){0};
}
