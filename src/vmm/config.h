/*
 * config.h: one schema for what a VM is made of. The parser, `husk config schema` (JSON Schema), the help texts and docs/config.md are all
 * made from the tables declared here; device classes bring their own (device.h). The sections are those of Firecracker's configuration
 * file.
 */
#ifndef HUSK_CONFIG_H
#define HUSK_CONFIG_H

#include "vmm/base/err.h"
#include "vmm/mem.h"

enum cfg_type {
	CFG_BOOL, /* bool */
	CFG_INT,  /* u64, min..max */
	CFG_STR,  /* char *, owned; NULL when absent; min..max = length in bytes when max != 0 */
	CFG_ENUM, /* u32, index into values */
	CFG_OBJ,  /* pointer to an owned struct of sub->size; NULL when absent */
	CFG_MAP,  /* char *, owned: JSON text of an object whose values are all strings; NULL when absent */
	CFG_LIST, /* struct cfg_list of sub->size structs; with sub->bare the JSON items are no objects but values of the only field */
};

struct cfg_table;

struct cfg_field {
	const char *key; /* JSON key */
	enum cfg_type type;
	size_t offset; /* in the struct of the table */
	bool required;
	u64 min, max;
	const char *const *values;   /* CFG_ENUM: names, NULL-ended; matched exactly */
	const struct cfg_table *sub; /* CFG_OBJ, CFG_LIST */
	const char *dflt; /* default, as JSON text ("128", "false", "\"None\""); NULL = zero/absent. Of a required key: when the whole
			   * object is absent */
	const char *help; /* one sentence, for help and docs */
	bool extension;	  /* husk's own, not Firecracker's */
	bool deprecated;  /* Firecracker's, still accepted: the API's answer has a Deprecation header */
	bool (*accept)(const char *); /* CFG_STR: further syntax check; message comes from expected */
	const char *expected;	      /* "6 bytes in hexadecimal, like 06:00:ac:10:00:02" */
	const char *unique;	      /* in a list: the sentence when two items have the same value (CFG_BOOL: both true) */
	bool any_case;		      /* unique: "0A" and "0a" are the same */
	const char *flag, *metavar;   /* of husk's own sections: `--flag METAVAR` of `husk run`; NULL: none */
	u64 unit;		      /* CFG_INT, when not 0: bytes of one unit, so that the flag takes 512M or 2G */
};

struct cfg_table {
	const char *name; /* for docs: "drive" */
	const char *help;
	size_t size; /* of the struct */
	const struct cfg_field *fields;
	u32 nr_fields;
	bool open;     /* keys that are not listed are ignored, as Firecracker ignores them in this object */
	bool bare;     /* of lists: ["a", "b"] stands for [{"x": "a"}, {"x": "b"}] */
	u32 max_items; /* of lists; 0: CFG_LIST_MAX */
};

struct cfg_list {
	void *items; /* owned, nr * sub->size bytes */
	u32 nr;
};

/* Command-line short form of a section: --drive PATH[,ro][,key=value...] */
struct cfg_alias {
	const char *word;  /* "ro" or "tap" */
	const char *key;   /* "is_read_only" or "host_dev_name" */
	const char *value; /* JSON text that the bare word stands for ("true"); NULL: the word takes =VALUE */
};
struct cfg_flag {
	const char *name;		 /* "drive" */
	const char *positional;		 /* key that a first part without '=' sets, or NULL */
	const char *id_key;		 /* key filled with "<prefix><n>" when not given, or NULL */
	const char *id_prefix;		 /* "drive" -> "drive0" */
	const struct cfg_alias *aliases; /* ends with word NULL; may be NULL */
	const char *usage;		 /* "PATH[,ro][,id=NAME]" */
	const char *help;
};

enum cfg_accel { CFG_ACCEL_AUTO, CFG_ACCEL_KVM, CFG_ACCEL_TCG };

/* Who unpacks the kernel inside a bzImage; auto: the guest under a native accelerator, else husk, if it knows the compression. */
enum cfg_unpack { CFG_UNPACK_AUTO, CFG_UNPACK_HOST, CFG_UNPACK_GUEST };

/* Firecracker's named CPU templates; what each does is the machine's to know. */
enum cfg_cpu_template {
	CFG_CPU_NONE,
	CFG_CPU_C3,
	CFG_CPU_T2,
	CFG_CPU_T2S,
	CFG_CPU_T2CL,
	CFG_CPU_T2A,
	CFG_CPU_V1N1, /* of ARM */
};
extern const char *const config_cpu_template_names[]; /* by enum cfg_cpu_template, NULL-ended */

struct cfg_boot_source {
	char *kernel_image_path, *initrd_path;
	char *boot_args; /* NULL: husk's default */
	u32 unpack;	 /* enum cfg_unpack */
};

struct cfg_machine {
	u64 vcpu_count, mem_size_mib;
	bool smt, track_dirty_pages;
	u32 huge_pages;	       /* enum mem_huge */
	char *gdb_socket_path; /* where a debugger may connect (gdb.h); NULL: none */
	u32 cpu_template;      /* enum cfg_cpu_template */
};

struct cfg_logger {
	char *log_path, *level, *module;
	bool show_level, show_log_origin;
};

struct cfg_metrics {
	char *metrics_path;
	bool emit_id;	  /* lines say which VM they are from */
	char *properties; /* JSON object that every line repeats; NULL: none */
};

enum cfg_mmds_version { CFG_MMDS_V1, CFG_MMDS_V2 };

struct cfg_mmds_iface {
	char *iface_id;
};

/* The metadata service (docs/mmds.md). */
struct cfg_mmds {
	struct cfg_list network_interfaces; /* of struct cfg_mmds_iface; not empty, each exists */
	u32 version;			    /* enum cfg_mmds_version */
	char *ipv4_address;		    /* link-local, in dots */
	bool imds_compat;		    /* text/plain whatever the guest accepts */
};

struct cfg_tcg {
	u64 code_cache_mib; /* 0: by the size of RAM */
	/* For those who look for mistakes in the software accelerator. */
	char *dump; /* tcg/tools.h: dump_new */
	bool verify, lockstep;
};

struct config {
	struct cfg_boot_source *boot; /* never NULL in a parsed config */
	struct cfg_machine *machine;  /* never NULL in a parsed config */
	struct cfg_cpu *cpu;	      /* config_cpu.h; NULL when absent. It goes before machine->cpu_template */
	struct cfg_logger *logger;    /* NULL when absent */
	struct cfg_metrics *metrics;
	struct cfg_mmds *mmds;
	struct cfg_tcg *tcg;
	u32 accelerator; /* enum cfg_accel */
	bool boot_timer;
	char *id;
	struct cfg_list *devices; /* owned; one per entry of device_classes, in that order (single objects: nr 0 or 1) */
};

struct device_class;
struct json_object;

/* The top level but for the device sections, which device_classes bring. */
extern const struct cfg_table config_table;

/* Parses and checks root (borrowed, not needed afterwards) into *c. Opens nothing. origin names root in messages ("vm.json"); a value whose
 * json-c user data is set came from there instead ("--cpus"). On failure *c is empty: -EINVAL, -EOPNOTSUPP for what Firecracker has and
 * husk has not yet. ctx: any */
int config_parse(struct config *c, struct json_object *root, const char *origin, struct err *e) MUST_CHECK;
/* Parses the logger section alone, for the log of a process whose configuration is wrong elsewhere. Free with config_fini. */
int config_parse_logger(struct config *c, struct json_object *root, const char *origin, struct err *e) MUST_CHECK;
void config_fini(struct config *c); /* accepts zeroed */

/* The metadata service answers on the network interface of this name. */
bool config_mmds_on(const struct config *c, const char *iface_id);

/* Items of the section that a class reads: cfg structs for class->create. NULL when cls is not in the class list. */
const struct cfg_list *config_devices(const struct config *c, const struct device_class *cls);

#endif
