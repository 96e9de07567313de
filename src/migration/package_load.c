/* package_load.c: a verified package into a VM: all of it, or nothing; see package.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "migration/package_impl.h"
#include "vmm/vm.h"

struct load {
	const struct package *p;
	struct vm *vm;
	struct state_section *sections; /* of the VM; owned */
	u32 nr;
	void **data; /* decoded, by section; NULL: the package has none, and it is optional. Owned */
};

static const struct package_section *find_in_package(const struct package *p, const struct state_section *s)
{
	for (u32 i = 0; i < p->nr; i++) {
		if (!strcmp(p->sections[i].name, s->table->name) && !strcmp(p->sections[i].instance, s->instance))
			return &p->sections[i];
	}
	return NULL;
}

static bool vm_has(const struct load *l, const struct package_section *s)
{
	for (u32 i = 0; i < l->nr; i++) {
		if (!strcmp(s->name, l->sections[i].table->name) && !strcmp(s->instance, l->sections[i].instance))
			return true;
	}
	return false;
}

/* What the package has beyond the VM. */
static int check_strangers(const struct load *l, struct err *e)
{
	char label[PACKAGE_LABEL_SIZE];

	for (u32 i = 1; i < l->p->nr; i++) {
		const struct package_section *s = &l->p->sections[i];

		if (vm_has(l, s))
			continue;
		package_label(label, sizeof(label), s->name, s->instance);
		if (!s->optional && package_find_table(s->name))
			return err_set(e, -EINVAL, "section %s: the VM has no such device", label);
		if (!s->optional)
			return err_set(e, -EINVAL, "section %s: this husk does not know what it is, and cannot do without it", label);
		log_info(l->vm->log, "section %s of the state is unknown here, and left out, as it may be", label);
	}
	return 0;
}

static int decode_one(struct load *l, u32 i, struct err *e)
{
	const struct state_section *s = &l->sections[i];
	const struct package_section *in = find_in_package(l->p, s);
	char label[PACKAGE_LABEL_SIZE];

	package_label(label, sizeof(label), s->table->name, s->instance);
	if (!in && s->optional)
		return 0;
	if (!in)
		return err_set(e, -EINVAL, "section %s: it is missing", label);
	l->data[i] = xzalloc(s->table->size);
	if (state_decode_zeroed(s->table, in->version, in->payload, in->len, l->data[i], e) < 0)
		return err_prefix(e, "section %s", label);
	return 0;
}

static int check_one(struct load *l, u32 i, struct err *e)
{
	const struct state_section *s = &l->sections[i];
	char label[PACKAGE_LABEL_SIZE];
	int ret = l->data[i] && s->check ? s->check(l->vm, s, l->data[i], e) : 0;

	package_label(label, sizeof(label), s->table->name, s->instance);
	return ret < 0 ? err_prefix(e, "section %s", label) : 0;
}

static int load_one(struct load *l, u32 i, struct err *e)
{
	const struct state_section *s = &l->sections[i];
	char label[PACKAGE_LABEL_SIZE];
	int ret = l->data[i] ? s->load(l->vm, s, l->data[i], e) : 0;

	package_label(label, sizeof(label), s->table->name, s->instance);
	return ret < 0 ? err_prefix(e, "section %s", label) : 0;
}

static int each(struct load *l, int (*step)(struct load *l, u32 i, struct err *e), struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < l->nr; i++)
		ret = step(l, i, e);
	return ret;
}

int package_check_memory(const struct package *p, const struct vm *vm, struct err *e)
{
	u32 nr = 0;

	for (u32 i = 0; i < vm->mem.nr_regions; i++) {
		const struct mem_region *r = &vm->mem.regions[i];
		const struct package_region *saved = &p->info->regions[nr];

		if (r->file)
			continue;
		if (nr++ >= p->info->nr_regions || saved->gpa != r->gpa || saved->size != r->size || saved->file_offset != r->fd_offset ||
		    saved->ram != r->ram)
			return err_set(
				e, -EINVAL,
				"section vm: field regions[%u]: the VM of this configuration has 0x%llx bytes of memory at 0x%llx there",
				nr - 1, (unsigned long long)r->size, (unsigned long long)r->gpa);
	}
	if (nr != p->info->nr_regions)
		return err_set(e, -EINVAL, "section vm: field regions: %u of them, and the VM of this configuration has %u",
			       p->info->nr_regions, nr);
	if (p->info->ram_bytes != vm->mem.size)
		return err_set(e, -EINVAL, "section vm: field ram_bytes: %llu, and the VM of this configuration has %llu",
			       (unsigned long long)p->info->ram_bytes, (unsigned long long)vm->mem.size);
	return 0;
}

int package_check_arch(const struct package *p, struct err *e)
{
	if (strcmp(p->info->arch, PACKAGE_ARCH))
		return err_set(e, -EINVAL, "section vm: field arch: the state is that of a VM for %s, and this husk runs %s", p->info->arch,
			       PACKAGE_ARCH);
	return 0;
}

static int check_machine(const struct package *p, const struct vm *vm, struct err *e)
{
	int ret = package_check_arch(p, e);

	if (ret < 0)
		return ret;
	if (p->info->nr_vcpus != vm->nr_vcpus)
		return err_set(e, -EINVAL, "section vm: field nr_vcpus: %u, and the VM of this configuration has %u", p->info->nr_vcpus,
			       vm->nr_vcpus);
	return package_check_memory(p, vm, e);
}

u64 package_host_tsc_khz(const struct package *p)
{
	char here[sizeof(p->info->boot_id)];

	package_boot_id(here, sizeof(here));
	return *here && !strcmp(here, p->info->boot_id) ? p->info->host_tsc_khz : 0;
}

/* ---- what a source offers ---- */

/* "name instance version" */
struct offered {
	char name[PACKAGE_NAME_SIZE], instance[PACKAGE_INSTANCE_SIZE];
	u32 version;
};

/* The next line of the text; false: that was the last. */
static bool next_line(const char **at, const char *end, const char **line, size_t *len)
{
	const char *stop = memchr(*at, '\n', (size_t)(end - *at));

	if (*at == end)
		return false;
	stop = stop ? stop : end;
	*line = *at;
	*len = (size_t)(stop - *at);
	*at = stop < end ? stop + 1 : end;
	return true;
}

/* An instance may have spaces. */
static int parse_offered(const char *line, size_t len, struct offered *o, struct err *e)
{
	const char *name_end = memchr(line, ' ', len), *last = memrchr(line, ' ', len);
	char version[8] = "", *end = version;
	size_t name_len = name_end ? (size_t)(name_end - line) : 0, instance_len = last > name_end ? (size_t)(last - name_end) - 1 : 0;
	size_t version_len = last ? (size_t)(line + len - last) - 1 : 0;

	if (!name_len || name_len >= sizeof(o->name) || instance_len >= sizeof(o->instance) || !version_len ||
	    version_len >= sizeof(version))
		return err_set(e, -EINVAL, "the list of devices has a line that is none: \"%.*s\"", (int)MIN(len, (size_t)80), line);
	*o = (struct offered){0};
	memcpy(o->name, line, name_len);
	if (instance_len != 1 || name_end[1] != '-') /* "-": none */
		memcpy(o->instance, name_end + 1, instance_len);
	memcpy(version, last + 1, version_len);
	o->version = (u32)strtoul(version, &end, 10);
	if (*end || !o->version)
		return err_set(e, -EINVAL, "the list of devices has a version that is none: \"%s\"", version);
	return 0;
}

static u32 find_section(const struct load *l, const char *name, const char *instance)
{
	u32 i;

	for (i = 0; i < l->nr; i++) {
		if (!strcmp(name, l->sections[i].table->name) && !strcmp(instance, l->sections[i].instance))
			break;
	}
	return i;
}

static int check_offered(const struct load *l, const struct offered *o, bool *seen, struct err *e)
{
	u32 i = find_section(l, o->name, o->instance);
	char label[PACKAGE_LABEL_SIZE];

	package_label(label, sizeof(label), o->name, o->instance);
	if (i == l->nr && !package_find_table(o->name))
		return err_set(e, -EINVAL, "section %s: this husk does not know what it is", label);
	if (i == l->nr)
		return err_set(e, -EINVAL, "section %s: the VM has no such device here", label);
	if (o->version > l->sections[i].table->version)
		return err_set(e, -EINVAL, "section %s: it has version %u, and this husk reads versions up to %u", label, o->version,
			       l->sections[i].table->version);
	if (o->version < l->sections[i].table->min_version)
		return err_set(e, -EINVAL, "section %s: it has version %u, and this husk reads versions from %u on", label, o->version,
			       l->sections[i].table->min_version);
	seen[i] = true;
	return 0;
}

static bool is_cpu(const struct state_section *s)
{
	return !strcmp(s->table->name, PACKAGE_CPU);
}

static int check_devices(const struct load *l, const char *devices, u64 len, struct err *e)
{
	auto_free bool *seen = xzalloc(l->nr + 1);
	const char *at = devices, *line;
	char label[PACKAGE_LABEL_SIZE];
	struct offered o;
	size_t line_len;
	int ret = 0;

	while (ret == 0 && next_line(&at, devices + len, &line, &line_len)) {
		ret = parse_offered(line, line_len, &o, e);
		if (ret == 0)
			ret = check_offered(l, &o, seen, e);
	}
	for (u32 i = 0; ret == 0 && i < l->nr; i++) {
		const struct state_section *s = &l->sections[i];

		package_label(label, sizeof(label), s->table->name, s->instance);
		if (!seen[i] && !s->optional && !is_cpu(s))
			ret = err_set(e, -EINVAL, "section %s: the VM has it here, and not where it comes from", label);
	}
	return ret;
}

static int check_cpus(struct load *l, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < l->nr; i++) {
		if (!is_cpu(&l->sections[i]))
			continue;
		ret = decode_one(l, i, e);
		if (ret == 0)
			ret = check_one(l, i, e);
	}
	return ret;
}

static void free_load(struct load *l)
{
	for (u32 i = 0; l->data && i < l->nr; i++)
		free(l->data[i]);
	free(l->data);
	free(l->sections);
}

int package_check_offer(const struct package *p, const char *devices, u64 len, struct vm *vm, struct err *e)
{
	struct load l = {.p = p, .vm = vm};
	int ret = check_machine(p, vm, e);

	if (ret == 0)
		ret = vm_sections(vm, &l.sections, &l.nr, e);
	if (ret < 0)
		return ret;
	l.data = xzalloc((l.nr + 1) * sizeof(*l.data));
	ret = check_strangers(&l, e);
	if (ret == 0)
		ret = check_devices(&l, devices, len, e);
	if (ret == 0)
		ret = check_cpus(&l, e);
	free_load(&l);
	return ret;
}

/* ---- the whole ---- */

int package_load(const struct package *p, struct vm *vm, struct err *e)
{
	struct load l = {.p = p, .vm = vm};
	int ret = check_machine(p, vm, e);

	if (ret == 0)
		ret = vm_sections(vm, &l.sections, &l.nr, e);
	if (ret < 0)
		return ret;
	l.data = xzalloc((l.nr + 1) * sizeof(*l.data));
	ret = check_strangers(&l, e);
	if (ret == 0)
		ret = each(&l, decode_one, e);
	if (ret == 0)
		ret = each(&l, check_one, e);
	if (ret == 0)
		ret = each(&l, load_one, e);
	free_load(&l);
	return ret;
}
