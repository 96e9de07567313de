/* device.c: see device.h. */
#include "vmm/device.h"

#include <stdio.h>

#include "vmm/vm.h"

void device_init(struct device *dev, struct vm *vm, const struct device_class *cls, const char *id, const struct dev_slot *slot)
{
	dev->cls = cls;
	dev->vm = vm;
	dev->slot = slot ? *slot : (struct dev_slot){0};
	snprintf(dev->id, sizeof(dev->id), "%s", id);
	pthread_mutex_init(&dev->lock, NULL);
}

void device_fini(struct device *dev)
{
	pthread_mutex_destroy(&dev->lock);
}
