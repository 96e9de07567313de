/*
 * fuzz_config.c: a configuration file of any text, and flags of the command line over it. What is taken can be freed; what is refused says
 * why, and leaves nothing.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli/flags.h"
#include "vmm/base/json.h"
#include "vmm/config.h"
#include "vmm/device.h"

/* The input: the file, then flags, "name" or "name=value". Between them is a byte that no JSON text holds. */
#define SEPARATOR 0x1e
#define MAX_FLAGS 40u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static size_t part_len(const u8 *data, size_t size)
{
	const u8 *end = memchr(data, SEPARATOR, size);

	return end ? (size_t)(end - data) : size;
}

static void check_refusal(int r, const struct err *e)
{
	ASSERT(r < 0 && e->code == r && *e->msg && strlen(e->msg) < sizeof(e->msg));
}

static void apply_flag(char *text, struct json_object *root)
{
	char *value = strchr(text, '=');
	struct config_flag flag;
	struct err e = {0};
	int r;

	if (value)
		*value++ = '\0';
	if (!config_flag_find(text, &flag))
		return;
	if (!flag.metavar)
		value = NULL;
	else if (!value)
		return; /* the command line's parser refuses it */
	r = config_flag_apply(&flag, value, root, &e);
	if (r < 0)
		check_refusal(r, &e);
}

static void apply_flags(const u8 *data, size_t size, struct json_object *root)
{
	for (u32 i = 0; i < MAX_FLAGS && size; i++) {
		size_t len = part_len(data, size);
		char *text = strndup((const char *)data, len);

		ASSERT(text);
		apply_flag(text, root);
		free(text);
		data += MIN(len + 1, size);
		size -= MIN(len + 1, size);
	}
}

/* What a VM would be made of: every device's object is there, in one section. */
static void check_config(const struct config *c)
{
	const struct cfg_machine *m = c->machine;

	ASSERT(c->boot && c->boot->kernel_image_path && m->vcpu_count >= 1 && m->mem_size_mib >= 1);
	for (u32 i = 0; device_classes[i]; i++) {
		const struct cfg_list *list = config_devices(c, device_classes[i]);

		ASSERT(list && !!list->nr == !!list->items && (device_classes[i]->section || !list->nr));
	}
}

static void check_nothing_left(const struct config *c)
{
	static const struct config nothing;

	ASSERT(!memcmp(c, &nothing, sizeof(nothing)));
}

static void parse(struct json_object *root)
{
	struct err e = {0};
	struct config c;
	int r = config_parse(&c, root, "fuzz", &e);

	if (r < 0) {
		ASSERT(r == -EINVAL || r == -EOPNOTSUPP);
		check_refusal(r, &e);
		check_nothing_left(&c);
	} else {
		check_config(&c);
		config_fini(&c);
	}
	r = config_parse_logger(&c, root, "fuzz", &e);
	if (r < 0)
		check_nothing_left(&c);
	else
		config_fini(&c);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	size_t len = part_len(data, size), rest = MIN(len + 1, size);
	char *text = malloc(len + !len); /* of this length, so that a byte read beyond it is found */
	struct json_object *root = NULL;
	struct err e = {0};
	int r;

	ASSERT(text);
	memcpy(text, data, len);
	r = json_parse("fuzz", text, len, &root, &e);
	free(text);
	if (r < 0) {
		check_refusal(r, &e);
		return 0;
	}
	if (json_object_is_type(root, json_type_object))
		apply_flags(data + rest, size - rest, root);
	parse(root);
	json_object_put(root);
	return 0;
}
