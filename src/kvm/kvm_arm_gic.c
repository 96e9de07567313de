/* kvm_arm_gic.c: the kernel's GICv3. Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst */
#include <errno.h>
#include <sys/ioctl.h>

#include "arch/aarch64/layout.h"
#include "kvm/kvm_arm.h"

/* KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION: count, base, flags, index */
#define REGION_COUNT(n) ((u64)(n) << 52)

static int set_attr(const struct kvm_vm *kv, u32 group, u64 attr, const void *value, const char *what, struct err *e)
{
	struct kvm_device_attr a = {.group = group, .attr = attr, .addr = (u64)(uintptr_t)value};

	if (ioctl(kv->arch->gic_fd, KVM_SET_DEVICE_ATTR, &a) < 0)
		return err_errno(e, "KVM refuses %s of its interrupt controller", what);
	return 0;
}

int kvm_gic_create(struct kvm_vm *kv, struct err *e)
{
	struct kvm_create_device gic = {.type = KVM_DEV_TYPE_ARM_VGIC_V3};

	if (ioctl(kv->fd, KVM_CREATE_DEVICE, &gic) < 0) {
		if (errno == ENODEV)
			return err_set(e, -ENOSYS, "this host's KVM has no GICv3; machines with a GICv2 are not supported");
		return err_errno(e, "KVM cannot make its interrupt controller");
	}
	kv->arch->gic_fd = (int)gic.fd;
	return 0;
}

int kvm_gic_start(struct kvm_vm *kv, u32 nr_vcpus, struct err *e)
{
	u64 dist = ARM_GIC_DIST_GPA, redist = (ARM_GIC_DIST_GPA - nr_vcpus * ARM_GIC_REDIST_SIZE) | REGION_COUNT(nr_vcpus);
	u32 nr = ARM_NR_INTIDS;
	int ret = set_attr(kv, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &dist, "the place of the distributor", e);

	if (ret == 0)
		ret = set_attr(kv, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, &redist,
			       "the place of the redistributors", e);
	if (ret == 0)
		ret = set_attr(kv, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &nr, "the number of interrupts", e);
	if (ret == 0)
		ret = set_attr(kv, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL, "the start", e);
	return ret;
}
