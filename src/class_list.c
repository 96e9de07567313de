/* class_list.c: the device classes and accelerators of this build. A new device is one line here. */
#include <string.h>

#include "config.h"
#include "vmm/accel.h"
#include "vmm/device.h"

#define DEVICE_CLASSES(X) \
	HUSK_MACHINE_CLASSES(X) \
	X(boot_timer) \
	X(pvpanic) \
	X(uart16550) \
	X(vmgenid) \
	X(virtio_balloon) \
	X(virtio_blk) \
	X(virtio_net) \
	X(virtio_pmem) \
	X(virtio_vsock) \
	X(virtio_console) \
	X(virtio_rng) \
	X(virtio_mem) \
	X(vhost_user_fs)

#define DECLARE_CLASS(name) extern const struct device_class name##_class;
#define LIST_CLASS(name)    &name##_class,
DEVICE_CLASSES(DECLARE_CLASS)
const struct device_class *const device_classes[] = {DEVICE_CLASSES(LIST_CLASS) NULL};

#define DECLARE_ACCEL(name) extern const struct accel_ops name##_accel_ops;
#define LIST_ACCEL(name)    &name##_accel_ops,
HUSK_ACCELS(DECLARE_ACCEL)
const struct accel_ops *const accel_list[] = {HUSK_ACCELS(LIST_ACCEL) NULL};

const struct device_class *device_class_find(const char *name)
{
	for (u32 i = 0; device_classes[i]; i++) {
		if (!strcmp(device_classes[i]->name, name))
			return device_classes[i];
	}
	return NULL;
}
