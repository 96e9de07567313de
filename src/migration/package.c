/* package.c: writes packages of a VM's state, and says before how large they will be; see package.h. */
#include "migration/package_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "config.h"
#include "vmm/vm.h"

static const struct state_field region_fields[] = {
	STATE_NUM(struct package_region, gpa, 1, .hex = true),
	STATE_NUM(struct package_region, size, 2, .hex = true),
	STATE_NUM(struct package_region, file_offset, 3, .hex = true),
	STATE_FLAG(struct package_region, ram, 4),
	STATE_END,
};
static const struct state_table region_table = {
	.name = "vm-region", .version = 1, .min_version = 1, .size = sizeof(struct package_region), .fields = region_fields};

static const struct state_field vm_fields[] = {
	STATE_STR(struct package_vm, husk_version, 1),
	STATE_STR(struct package_vm, arch, 2),
	STATE_STR(struct package_vm, accelerator, 3),
	STATE_NUM(struct package_vm, ram_bytes, 4),
	STATE_NUM(struct package_vm, nr_vcpus, 5, .max = VM_MAX_VCPUS),
	STATE_NUM(struct package_vm, nr_regions, 6),
	STATE_MANY(struct package_vm, regions, 7, &region_table, STATE_NR(struct package_vm, nr_regions)),
	STATE_NUM(struct package_vm, memory_id, 8, .hex = true),
	STATE_NUM(struct package_vm, base_id, 9, .hex = true),
	STATE_NUM(struct package_vm, nr_document, 10),
	STATE_BUF(struct package_vm, document, 11, STATE_NR(struct package_vm, nr_document)),
	STATE_BUF(struct package_vm, memory_head, 12),
	STATE_STR(struct package_vm, boot_id, 13),
	STATE_NUM(struct package_vm, host_tsc_khz, 14),
	STATE_END,
};
const struct state_table package_vm_table = {
	.name = "vm", .version = 1, .min_version = 1, .size = sizeof(struct package_vm), .fields = vm_fields};

u32 package_section_crc(const u8 *at, u64 len)
{
	uLong crc = crc32_z(0, at, SECTION_CRC);

	return (u32)crc32_z(crc, at + SECTION_CRC + 4, len - SECTION_CRC - 4);
}

void package_label(char *out, size_t size, const char *name, const char *instance)
{
	snprintf(out, size, "%s%s%s", name, *instance ? " " : "", instance);
}

static int describe_regions(struct vm *vm, struct package_vm *out, struct err *e)
{
	for (u32 i = 0; i < vm->mem.nr_regions; i++) {
		const struct mem_region *r = &vm->mem.regions[i];

		if (r->file)
			continue;
		if (out->nr_regions == ARRAY_SIZE(out->regions))
			return err_set(e, -E2BIG, "the VM has more than %zu regions of memory", ARRAY_SIZE(out->regions));
		out->regions[out->nr_regions++] = (struct package_region){
			.gpa = r->gpa, .size = r->size, .file_offset = r->fd_offset, .ram = r->ram};
	}
	out->ram_bytes = vm->mem.size;
	return 0;
}

void package_boot_id(char *out, size_t size)
{
	auto_fd int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);

	out[MAX(n, 0)] = 0;
	out[strcspn(out, "\n")] = 0;
}

int package_describe(struct vm *vm, struct package_vm *out, struct err *e)
{
	const char *text = vm->document && *vm->document ? json_object_to_json_string_ext(*vm->document, JSON_C_TO_STRING_PLAIN) : "";
	size_t len = strlen(text);

	memset(out, 0, sizeof(*out));
	if (len > sizeof(out->document))
		return err_set(e, -EFBIG, "the configuration of the VM takes %zu bytes, of which a snapshot holds %zu", len,
			       sizeof(out->document));
	snprintf(out->husk_version, sizeof(out->husk_version), "%s", HUSK_VERSION);
	snprintf(out->arch, sizeof(out->arch), "%s", PACKAGE_ARCH);
	snprintf(out->accelerator, sizeof(out->accelerator), "%s", vm->accel->name);
	out->nr_vcpus = vm->nr_vcpus;
	out->nr_document = (u32)len;
	out->host_tsc_khz = vm->host_tsc_khz;
	package_boot_id(out->boot_id, sizeof(out->boot_id));
	memcpy(out->document, text, len);
	return describe_regions(vm, out, e);
}

/* ---- how large ---- */

/* Keeps parts ordered, largest first. */
static void note_part(struct package_part *parts, u32 nr, const char *name, const char *instance, u64 bytes)
{
	u32 at = nr;

	while (at > 0 && parts[at - 1].bytes < bytes) {
		if (at < nr)
			parts[at] = parts[at - 1];
		at--;
	}
	if (at == nr)
		return;
	parts[at] = (struct package_part){.bytes = bytes};
	snprintf(parts[at].name, sizeof(parts[at].name), "%s", name);
	snprintf(parts[at].instance, sizeof(parts[at].instance), "%s", instance);
}

static u64 section_overhead(const struct state_table *t, const char *instance)
{
	return SECTION_HEADER + strlen(t->name) + strlen(instance);
}

static int measure_vm(struct vm *vm, u64 *bytes, struct err *e)
{
	auto_free struct package_vm *info = xzalloc(sizeof(*info));
	struct buf b = {0};
	int ret = package_describe(vm, info, e);

	state_encode(&package_vm_table, info, &b);
	*bytes = section_overhead(&package_vm_table, "") + b.len;
	buf_fini(&b);
	return ret;
}

int package_measure(struct vm *vm, u64 *bytes, struct package_part *parts, u32 nr_parts, struct err *e)
{
	auto_free struct state_section *sections = NULL;
	u64 sum = PACKAGE_HEADER_SIZE, one;
	u32 nr;
	int ret;

	for (u32 i = 0; i < nr_parts; i++)
		parts[i] = (struct package_part){0};
	ret = measure_vm(vm, &one, e);
	if (ret == 0)
		ret = vm_sections(vm, &sections, &nr, e);
	if (ret < 0)
		return ret;
	sum += one;
	note_part(parts, nr_parts, package_vm_table.name, "", one);
	for (u32 i = 0; i < nr; i++) {
		one = section_overhead(sections[i].table, sections[i].instance) + state_size_max(sections[i].table);
		note_part(parts, nr_parts, sections[i].table->name, sections[i].instance, one);
		sum += one;
	}
	*bytes = sum;
	return 0;
}

int package_check_cap(u64 bytes, u64 cap, const struct package_part *parts, u32 nr_parts, struct err *e)
{
	char list[512] = "", label[PACKAGE_LABEL_SIZE];
	bool hard = cap >= PACKAGE_HARD_CAP;
	size_t len = 0;

	if (bytes <= (hard ? PACKAGE_HARD_CAP : cap))
		return 0;
	for (u32 i = 0; i < nr_parts && parts[i].bytes && len < sizeof(list); i++) {
		package_label(label, sizeof(label), parts[i].name, parts[i].instance);
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s (%llu bytes)", i ? ", " : "; the largest parts: ", label,
					(unsigned long long)parts[i].bytes);
	}
	return err_set(e, -EFBIG, "the state of this VM takes %llu bytes, more than %s of %llu%s%s", (unsigned long long)bytes,
		       hard ? "the format's limit" : "the limit", (unsigned long long)(hard ? PACKAGE_HARD_CAP : cap), list,
		       hard ? "" : "; raise the limit on the size of the state, or have fewer devices");
}

/* ---- save ---- */

/* What a table's bounds refuse, load would refuse: better to hear of it while there is a VM that runs. */
static int check_readable(const struct state_table *t, const u8 *payload, size_t len, struct err *e)
{
	auto_free void *scratch = xzalloc(t->size);
	int ret = state_decode(t, t->version, payload, len, scratch, e);

	return ret < 0 ? err_prefix(e, "husk's own state cannot be read back, which is a mistake in husk") : 0;
}

int package_put_section(struct package_writer *w, const struct state_table *t, const char *instance, bool optional, const void *data,
			struct err *e)
{
	size_t name_len = strlen(t->name), instance_len = strlen(instance), start = w->out->len, begin;
	u8 *h;
	int ret;

	ASSERT(name_len < PACKAGE_NAME_SIZE && instance_len < PACKAGE_INSTANCE_SIZE);
	buf_grow(w->out, SECTION_HEADER);
	buf_put(w->out, t->name, name_len);
	buf_put(w->out, instance, instance_len);
	begin = w->out->len;
	state_encode(t, data, w->out);
	note_part(w->parts, ARRAY_SIZE(w->parts), t->name, instance, w->out->len - start);
	w->nr++;
	ret = package_check_cap(w->out->len, w->cap, w->parts, ARRAY_SIZE(w->parts), e); /* before a length could wrap */
	if (ret == 0)
		ret = check_readable(t, w->out->data + begin, w->out->len - begin, e);
	if (ret < 0)
		return ret;
	h = w->out->data + start;
	st_le32(h + SECTION_LENGTH, (u32)(w->out->len - begin));
	st_le16(h + SECTION_VERSION, t->version);
	st_le16(h + SECTION_MIN_VERSION, t->version);
	st_le16(h + SECTION_FLAGS, optional ? SECTION_OPTIONAL : 0);
	h[SECTION_NAME_LEN] = (u8)name_len;
	h[SECTION_INSTANCE_LEN] = (u8)instance_len;
	st_le32(h + SECTION_CRC, package_section_crc(h, w->out->len - start));
	return 0;
}

int package_save_section(struct vm *vm, struct package_writer *w, const struct state_section *s, struct err *e)
{
	auto_free void *data = xzalloc(s->table->size);
	char label[PACKAGE_LABEL_SIZE];
	int ret = s->save(vm, s, data, e);

	if (ret == 0)
		ret = package_put_section(w, s->table, s->instance, s->optional, data, e);
	package_label(label, sizeof(label), s->table->name, s->instance);
	return ret < 0 ? err_prefix(e, "%s", label) : 0;
}

/* Accelerator -> vcpus[].cpu and chips. A vCPU that was only pulled need not be pushed to run on. */
static int pull(struct vm *vm, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < vm->nr_vcpus; i++)
		ret = vm->accel->vcpu_pull(&vm->vcpus[i], e);
	return ret == 0 ? vm->accel->vm_pull(vm, e) : ret;
}

void package_put_header(struct package_writer *w)
{
	u8 *h = w->out->data;

	memcpy(h, PACKAGE_MAGIC, 8);
	st_le32(h + HEADER_VERSION, PACKAGE_VERSION);
	st_le64(h + HEADER_LENGTH, w->out->len);
	st_le32(h + HEADER_SECTIONS, w->nr);
	st_le32(h + HEADER_CRC, (u32)crc32_z(0, h, HEADER_CRC));
}

int package_save(struct vm *vm, const struct package_vm *vm_info, u64 cap, struct buf *out, struct err *e)
{
	auto_free struct state_section *sections = NULL;
	struct package_writer w = {.out = out, .cap = cap};
	u32 nr = 0;
	int ret;

	ASSERT(!out->len);
	ret = vm_sections(vm, &sections, &nr, e);
	if (ret == 0)
		ret = pull(vm, e);
	if (ret < 0)
		return ret;
	buf_grow(out, PACKAGE_HEADER_SIZE);
	ret = package_put_section(&w, &package_vm_table, "", false, vm_info, e);
	for (u32 i = 0; ret == 0 && i < nr; i++)
		ret = package_save_section(vm, &w, &sections[i], e);
	if (ret == 0)
		package_put_header(&w);
	return ret;
}
