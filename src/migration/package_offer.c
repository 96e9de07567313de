/* package_offer.c: what a destination compares before any memory moves; see package.h. */
#include <stdlib.h>
#include <string.h>

#include "migration/package_impl.h"
#include "vmm/vm.h"

static void put_device(struct buf *out, const struct state_section *s)
{
	auto_free char *line = xasprintf("%s %s %u\n", s->table->name, *s->instance ? s->instance : "-", s->table->version);

	buf_put(out, line, strlen(line));
}

/* ctx: the vCPUs are parked */
static int put_cpus(struct vm *vm, struct package_writer *w, const struct state_section *sections, u32 nr, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < vm->nr_vcpus; i++)
		ret = vm->accel->vcpu_pull(&vm->vcpus[i], e);
	for (u32 i = 0; ret == 0 && i < nr; i++) {
		if (!strcmp(sections[i].table->name, PACKAGE_CPU))
			ret = package_save_section(vm, w, &sections[i], e);
	}
	return ret;
}

int package_save_offer(struct vm *vm, const struct package_vm *vm_info, struct buf *out, struct buf *devices, struct err *e)
{
	auto_free struct state_section *sections = NULL;
	struct package_writer w = {.out = out, .cap = PACKAGE_HARD_CAP};
	u32 nr = 0;
	int ret;

	ASSERT(!out->len && !devices->len);
	ret = vm_sections(vm, &sections, &nr, e);
	if (ret < 0)
		return ret;
	buf_grow(out, PACKAGE_HEADER_SIZE);
	ret = package_put_section(&w, &package_vm_table, "", false, vm_info, e);
	if (ret < 0)
		return ret;
	vcpus_pause(vm);
	ret = put_cpus(vm, &w, sections, nr, e);
	vcpus_resume(vm);
	for (u32 i = 0; i < nr; i++) {
		if (strcmp(sections[i].table->name, PACKAGE_CPU) && !sections[i].optional)
			put_device(devices, &sections[i]);
	}
	if (ret == 0)
		package_put_header(&w);
	return ret;
}
