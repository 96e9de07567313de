/* state_vm.c: which sections the state of a VM has; see state.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/machine.h"
#include "vmm/state.h"
#include "vmm/vm.h"

static int save_device(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)vm;
	return s->dev_state->save(s->dev, data, e);
}

static int check_device(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	(void)vm;
	return s->dev_state->check ? s->dev_state->check(s->dev, data, e) : 0;
}

static int load_device(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	(void)vm;
	(void)e;
	s->dev_state->load(s->dev, data);
	return 0;
}

/* Ids are unique in their section only: a drive may be called "rng". */
static void name_instance(const struct device *dev, char *out, size_t size)
{
	const struct device_class *cls = dev->cls;
	bool list = cls->section && cls->list;

	snprintf(out, size, "%s%s%s", list ? cls->section : "", list ? "/" : "", dev->id);
}

static u32 add_device(struct device *dev, struct state_section *out)
{
	u32 n = 0;

	for (const struct device_state *const *st = dev->cls->states; st && *st; st++) {
		out[n] = (struct state_section){
			.table = (*st)->table,
			.dev = dev,
			.dev_state = *st,
			.optional = (*st)->optional,
			.save = save_device,
			.check = check_device,
			.load = load_device,
		};
		name_instance(dev, out[n].instance, sizeof(out->instance));
		n++;
	}
	return n;
}

int vm_sections(struct vm *vm, struct state_section **out, u32 *nr, struct err *e)
{
	struct state_section *all = xzalloc(STATE_MAX_SECTIONS * sizeof(*all));
	u32 n = machine_sections(vm, all);

	for (u32 i = 0; i < vm->nr_devices; i++) {
		struct device *dev = vm->devices[i];

		if (dev->cls->unsaved) {
			free(all);
			return err_set(e, -EOPNOTSUPP, "%s %s cannot be saved: %s", dev->cls->name, dev->id, dev->cls->unsaved);
		}
		n += add_device(dev, all + n);
	}
	*out = all;
	*nr = n;
	return 0;
}
