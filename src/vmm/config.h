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
	CFG_LIST, /* struct cfg_list of sub->size structs */
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

struct cfg_boot_source {
	char *kernel_image_path, *initrd_path;
	char *boot_args; /* NULL: husk's default */
	u32 unpack;	 /* enum cfg_unpack */
};

struct cfg_machine {
	u64 vcpu_count, mem_size_mib;
	bool smt, track_dirty_pages;
	u32 huge_pages;	  /* enum mem_huge */
	u32 cpu_template; /* 0: none, the only one so far */
};

struct cfg_logger {
	char *log_path, *level, *module;
	bool show_level, show_log_origin;
};

struct cfg_metrics {
	char *metrics_path;
};

/* For those who look for mistakes in the software accelerator. */
struct cfg_tcg {
	char *dump; /* tcg/tools.h: dump_new */
	bool verify, lockstep;
};

struct config {
	struct cfg_boot_source *boot; /* never NULL in a parsed config */
	struct cfg_machine *machine;  /* never NULL in a parsed config */
	struct cfg_logger *logger;    /* NULL when absent */
	struct cfg_metrics *metrics;
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

/* Items of the section that a class reads: cfg structs for class->create. NULL when cls is not in the class list. */
const struct cfg_list *config_devices(const struct config *c, const struct device_class *cls);

#endif
