/*
 * device.h: what a device is. A device is one .c file with one class; the class list (src/class_list.c) names the class and nothing else
 * includes it. From the class come its configuration section (keys, help, docs, flags), and how it is made.
 */
#ifndef HUSK_DEVICE_H
#define HUSK_DEVICE_H

#include <pthread.h>

#include "vmm/base/log.h"
#include "vmm/bus.h"
#include "vmm/counter.h"
#include "vmm/irq.h"

struct cfg_table;
struct config;
struct cfg_flag;
struct device;
struct device_state; /* state.h */
struct device_disk;  /* disk.h */
struct disk_dirty;
struct json_object;
struct passed; /* passed.h */

/* Where the machine puts a device. */
struct dev_slot {
	u64 mmio_base, mmio_len; /* len 0: none */
	u64 pio_base, pio_len;
	u32 gsi;
	bool has_gsi;
};

/* What can be asked of a device while the VM runs: PATCH and GET of the API, at the section's path ("/drives/{id}", "/balloon") plus this.
 * ctx: loop */
struct device_op {
	const char *path; /* "" or "/statistics"; NULL ends a table */
	const struct cfg_table
		*patch; /* fields of PATCH's body; NULL: none. An absent object or string is NULL, a number has its default */
	/* Changes all or, on failure, nothing. -EINVAL and others: the sentence is the client's answer. NULL: no PATCH */
	int (*update)(struct device *dev, const void *patch, struct err *e);
	/* Adds what GET answers to out, an empty object. NULL: no GET */
	int (*status)(struct device *dev, struct json_object *out, struct err *e);
	const char *help;  /* one sentence */
	bool before_start; /* path "" with status: before the start GET answers the section as it is configured */
};

struct device_class {
	const char *name; /* "virtio-blk" */

	/* Configuration; section NULL: the machine makes the device itself. */
	const char *section;		/* top-level key: "drives" */
	bool list;			/* the section is an array of objects, one device each; else one object, one device */
	const struct cfg_table *config; /* fields of one object */
	const struct cfg_flag *flag;	/* command-line short form, or NULL */
	/* For lists: orders devices before they are made (root drive first); NULL keeps the order of the file. */
	int (*order)(const void *cfg_a, const void *cfg_b);
	/* Checks of one device's configuration that no type expresses; opens nothing. May be NULL. */
	int (*check)(const void *cfg, struct err *e);
	/* The same against the rest of the configuration; the order of sections does not matter. May be NULL. */
	int (*check_fit)(const void *cfg, const struct config *c, struct err *e);
	/* Bytes of guest memory that the device plugs in and out (virtio-mem): a region of their own, which is there at create. May be
	 * NULL. */
	u64 (*hotplug_memory)(const void *cfg);

	const char *api_path; /* of the section in the REST API, when it is not "/" + section: "/hotplug/memory" */
	/* Optional. Opens and closes again what create would open, so that the one who configures hears of a mistake at once. ctx: any */
	int (*probe)(const void *cfg, struct err *e);
	const struct device_op *ops; /* NULL: nothing can be changed or asked while the VM runs */
	/* What loop and vCPU threads ask of the kernel for it once the guest runs, beyond sandbox_lists.c: names, NULL-ended, and requests
	 * of ioctl, 0-ended. NULL: none. */
	const char *const *syscalls;
	const u32 *ioctls;
	/* The same for its ops and the threads that these start: only where there is an API. */
	const char *const *op_syscalls;
	const u32 *op_ioctls;

	bool mmio_slot;			     /* wants a virtio-mmio slot (4 KiB of MMIO and an edge GSI) from the machine */
	const char *metrics_group;	     /* "block"; NULL: no counters */
	const struct counter_desc *counters; /* offsets from the start of the struct that embeds struct device */
	const char *acpi_hid;		     /* how the DSDT names it, e.g. "LNRO0005"; NULL: not in the DSDT by class */

	/* Makes one device: allocates a struct that embeds struct device first, opens its host resources, claims its bus ranges.
	 * cfg is the parsed object (struct that class->config describes), or NULL for a machine device; it outlives the device.
	 * On failure nothing is left behind. ctx: before start */
	int (*create)(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e);
	void (*destroy)(struct device *dev);

	/* Optional. ctx: loop; start: just before the first vCPU runs; quiesce: vCPUs parked, finish or hold all I/O */
	int (*start)(struct device *dev, struct err *e);
	void (*quiesce)(struct device *dev);
	void (*resume)(struct device *dev);
	/* Optional: what on the host is for one VM at a time (a disk's lock). mine false: another husk is to have it, this VM is on its way
	 * there; true: it is this VM's, again, or after it came here: create leaves it alone for a VM_MOVED one. -EBUSY and the like.
	 * ctx: loop, quiesced */
	int (*claim)(struct device *dev, bool mine, struct err *e);
	/* Optional: what on the host can be open once only and cannot be let go of first (a tap): adds its descriptors, which stay the
	 * device's, for another husk on this host that takes the VM over; create finds them with vm_inherit. -EOPNOTSUPP: that cannot be,
	 * e says what to do instead. ctx: loop */
	int (*pass)(struct device *dev, struct passed *out, struct err *e);
	/* Optional: contents on the host that a migration may have to copy (disk.h). -ENOENT: nothing that the guest can change;
	 * -EOPNOTSUPP: they cannot be copied, e says why and what to do instead. ctx: loop */
	int (*disk)(struct device *dev, struct device_disk *out, struct err *e);
	/* With disk: from now on marks in d what was written, at the latest before quiesce returns; NULL: no more. ctx: loop, or vm_run is
	 * over */
	void (*disk_track)(struct device *dev, struct disk_dirty *d);
	/* What of it goes into snapshots and migration (state.h): NULL-ended, or NULL: nothing, since it has no state. A class that has
	 * state and cannot save it says why in unsaved ("its process on the host has it"). */
	const struct device_state *const *states;
	const char *unsaved;
	/* Text that the device wants at the end of the kernel command line ("root=/dev/vda rw"), appended to buf; may be NULL. */
	void (*cmdline)(struct device *dev, char *buf, size_t size);
};

struct device {
	const struct device_class *cls;
	struct vm *vm; /* borrowed */
	char id[65];   /* unique in its class: "rootfs", "eth0"; or the class name */
	struct dev_slot slot;
	pthread_mutex_t lock; /* guards everything in the device that both vCPU and loop threads touch; order vm -> dev -> irq */
	struct log_limit guest_log;
};

/* Every device class of this build, NULL-ended, in the order in which devices are made (it names vda, eth0, ...): src/class_list.c */
extern const struct device_class *const device_classes[];
/* Borrowed, or NULL. */
const struct device_class *device_class_find(const char *name);

/* For create and destroy. */
void device_init(struct device *dev, struct vm *vm, const struct device_class *cls, const char *id, const struct dev_slot *slot);
void device_fini(struct device *dev);

static inline void device_lock(struct device *dev)
{
	pthread_mutex_lock(&dev->lock);
}
static inline void device_unlock(struct device *dev)
{
	pthread_mutex_unlock(&dev->lock);
}

#endif
