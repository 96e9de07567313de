/*
 * package.h: the packaged device state: one blob whose length its header alone tells, read whole before any of it is parsed. Snapshots,
 * clones, live migration and live upgrade use the same bytes; FORMAT.md draws them.
 *
 *   save:  dry run (package_measure, guest runs) ─ pause ─ pull ─ package_save
 *   load:  header ─ length <= cap ─ read whole ─ package_verify: lengths, CRCs, names ─ package_load: decode all on scratch, check all,
 *          then load all in the VM's order. Until the first load nothing has changed; a message names section and field.
 */
#ifndef HUSK_PACKAGE_H
#define HUSK_PACKAGE_H

#include "vmm/base/buf.h"
#include "vmm/state.h"

#define PACKAGE_MAGIC	    "HUSKPKG\n"
#define PACKAGE_VERSION	    1u
#define PACKAGE_HEADER_SIZE 48u
#define PACKAGE_HARD_CAP    UINT32_MAX /* 4 GiB - 1 */
#define PACKAGE_SOFT_CAP    (64 * MIB) /* unless configured otherwise */
#define PACKAGE_CPU	    "cpu"      /* name of the sections of vCPUs, on every architecture */

/* The "vm" section: what the VM is, for whoever has to make the same one. First in every package. */
struct package_vm {
	char husk_version[32], arch[16], accelerator[16];
	u64 ram_bytes; /* of all regions in the memory file */
	u32 nr_vcpus, nr_regions;
	struct package_region {
		u64 gpa, size, file_offset; /* offset in the memory file */
		bool ram;		    /* false: hot-plugged */
	} regions[32];
	char boot_id[40];   /* of the host's kernel: who restores under the same need not measure what follows; "": not known */
	u64 host_tsc_khz;   /* 0: not known */
	u64 memory_id;	    /* random, also in the memory file's mark (snapshot_files.h): the two belong together; 0: no memory file */
	u64 base_id;	    /* diff: memory_id of the snapshot that it builds on; 0: full */
	u8 memory_head[32]; /* what the guest has where the memory file has its mark */
	u32 nr_document;
	u8 document[512 * 1024]; /* configuration, JSON */
};
extern const struct state_table package_vm_table;

struct package_part {  /* of package_measure, largest first */
	char name[64]; /* section */
	char instance[96];
	u64 bytes;
};

/* Bytes that package_save would give now, or an upper bound: works while the guest runs. parts (room for nr_parts, may be NULL): the
 * largest sections. ctx: loop */
int package_measure(struct vm *vm, u64 *bytes, struct package_part *parts, u32 nr_parts, struct err *e) MUST_CHECK;
/* Refusal of a package of this size, naming the largest sections and the setting; 0 when it is below cap. */
int package_check_cap(u64 bytes, u64 cap, const struct package_part *parts, u32 nr_parts, struct err *e) MUST_CHECK;
/* The whole package, appended to out (empty). The VM is paused. vm_info: the "vm" section, filled by the caller (package_describe). */
int package_save(struct vm *vm, const struct package_vm *vm_info, u64 cap, struct buf *out, struct err *e) MUST_CHECK;
/* Fills what the VM knows of itself; ids stay 0. -EFBIG: its configuration is too long. */
int package_describe(struct vm *vm, struct package_vm *out, struct err *e) MUST_CHECK;

/* What package_check_offer looks at: a package of "vm" and the vCPUs' sections alone, and the list of the others. Both are appended
 * (empty). The vCPUs are parked for that moment. ctx: loop, the VM runs */
int package_save_offer(struct vm *vm, const struct package_vm *vm_info, struct buf *out, struct buf *devices, struct err *e) MUST_CHECK;

/* What tells one boot of a host from all others; "" where /proc is missing (a jail). size: at least 40 */
void package_boot_id(char *out, size_t size);

/* Length of the package that begins with this header (PACKAGE_HEADER_SIZE bytes), header included. -EINVAL: it is none, or of another
 * version; -EFBIG: over cap, e says how long. */
int package_length(const u8 *header, u64 cap, u64 *length, struct err *e) MUST_CHECK;
/* Reads one from a file or stream, and no byte beyond it: header first, the rest as it comes (never the announced length at once). The
 * caller's, free it. -EINVAL: it is cut off, or as package_length. ctx: any */
int package_read(int fd, u64 cap, u8 **out, u64 *length, struct err *e) MUST_CHECK;

struct package; /* verified bytes */
/* Takes the bytes (borrowed) apart without changing anything: CRCs, lengths, no section double. */
int package_open(struct package **out, const u8 *bytes, u64 length, struct err *e) MUST_CHECK;
void package_close(struct package *p); /* accepts NULL */
/* The "vm" section. */
const struct package_vm *package_info(const struct package *p);
/* For vm_restore: rate of this host's TSC, when the package was made since the host was started; else 0. */
u64 package_host_tsc_khz(const struct package *p);
/* Whether it is of a VM that this husk's architecture can be: before a VM is made from its configuration. -EINVAL */
int package_check_arch(const struct package *p, struct err *e) MUST_CHECK;
/* Whether the VM's memory has the layout of the package's: for vm_restore.memory, which package_load comes after. -EINVAL by field. */
int package_check_memory(const struct package *p, const struct vm *vm, struct err *e) MUST_CHECK;
/* All of it into a VM that was made from its configuration: decode, check, load. Sections that the VM has not, or that are missing: -EINVAL
 * by name, unless optional. ctx: before start */
int package_load(const struct package *p, struct vm *vm, struct err *e) MUST_CHECK;
/* Whether a VM whose package has only "vm" and the "cpu" sections, and further sections as devices says (len bytes of
 * "name instance version\n", "-": no instance; of all that are not optional), can come into this VM, which was made from its configuration:
 * memory, vCPUs, and each device by name and version. Loads nothing. -EINVAL: e names the section. ctx: before start */
int package_check_offer(const struct package *p, const char *devices, u64 len, struct vm *vm, struct err *e) MUST_CHECK;

/* For `husk inspect`: every section, also of machines that this build cannot make. The caller's. */
struct json_object *package_json(const struct package *p);
/* Every table of this build: the package's own, machine_tables, those of device_classes; NULL behind the last. For inspect, the schema and
 * fuzzers. */
const struct state_table *package_table(u32 i);

#endif
