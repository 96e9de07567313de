/* kvm.c: the KVM accelerator: opening /dev/kvm, what it must be able to do, making a VM. */
#include "kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/config_cpu.h"

#define KVM_NODE "/dev/kvm"

static const struct kvm_need needs[] = {
	{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "2.6.25"},
	{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "2.6.20"},
	{KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "2.6.32"},
	{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "2.6.32"},
	{KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "2.6.26"},
	{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "4.11"},
	{0, NULL, NULL},
};

static int kvm_open(int *fd, struct err *e)
{
	*fd = open(KVM_NODE, O_RDWR | O_CLOEXEC);
	if (*fd >= 0)
		return 0;
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return err_set(e, -ENODEV, "no " KVM_NODE ": %s", kvm_arch_missing);
	case EACCES:
	case EPERM:
		return err_set(e, -EACCES, "no permission to open " KVM_NODE ": %s", kvm_arch_forbidden);
	default:
		return err_errno(e, "cannot open " KVM_NODE);
	}
}

static int check_needs(int fd, const struct kvm_need *need, struct err *e)
{
	for (; need->name; need++) {
		if (ioctl(fd, KVM_CHECK_EXTENSION, need->cap) <= 0)
			return err_set(e, -ENOSYS, "this KVM lacks %s, which Linux has since %s: a newer host kernel is needed", need->name,
				       need->since);
	}
	return 0;
}

/* Opens /dev/kvm into *fd and checks that it is one that husk can use. */
static int open_checked(int *fd, struct err *e)
{
	int version, ret = kvm_open(fd, e);

	if (ret < 0)
		return ret;
	version = ioctl(*fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return err_set(e, -ENOSYS, KVM_NODE " speaks KVM API version %d, husk needs %d", version, KVM_API_VERSION);
	ret = check_needs(*fd, needs, e);
	return ret < 0 ? ret : check_needs(*fd, kvm_arch_needs, e);
}

static int kvm_probe(struct err *e)
{
	auto_fd int fd = -1;
	int ret = open_checked(&fd, e);

	return ret < 0 ? ret : kvm_arch_selftest(fd, e);
}

int kvm_cap(const struct kvm_vm *kv, int cap)
{
	int value = ioctl(kv->fd, KVM_CHECK_EXTENSION, cap);

	return MAX(value, 0);
}

int kvm_enable_cap(const struct kvm_vm *kv, u32 cap, u64 arg, const char *name, struct err *e)
{
	struct kvm_enable_cap enable = {.cap = cap, .args = {arg}};

	if (ioctl(kv->fd, KVM_ENABLE_CAP, &enable) < 0)
		return err_errno(e, "KVM refuses to enable %s", name);
	return 0;
}

static int create_vm(struct kvm_vm *kv, struct err *e)
{
	int size;

	do {
		kv->fd = ioctl(kv->dev_fd, KVM_CREATE_VM, 0);
	} while (kv->fd < 0 && errno == EINTR);
	if (kv->fd < 0 && errno == EBUSY)
		return err_set(e, -EBUSY, "KVM cannot make a VM: another hypervisor on this host holds the virtualization hardware");
	if (kv->fd < 0)
		return err_errno(e, "KVM cannot make a VM");
	size = ioctl(kv->dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return err_set(e, -ENOSYS, "KVM shares %d bytes per vCPU, husk needs %zu", size, sizeof(struct kvm_run));
	kv->run_size = (u32)size;
	return 0;
}

/* Those that the user's CPU template asks for. One that it waives is none of husk's needs, or husk could do nothing without it. */
static int check_template_needs(struct kvm_vm *kv, struct err *e)
{
	const struct cfg_cpu *cpu = kv->vm->config ? kv->vm->config->cpu : NULL;
	const struct cfg_kvm_capability *caps = cpu ? cpu->kvm_capabilities.items : NULL;

	for (u32 i = 0; cpu && i < cpu->kvm_capabilities.nr; i++) {
		u64 number;

		if (config_cpu_number(caps[i].number, INT32_MAX, &number) && !kvm_cap(kv, (int)number))
			return err_set(e, -EINVAL, "cpu-config: this host's KVM does not have capability %s", caps[i].number);
	}
	return 0;
}

static int vm_setup(struct kvm_vm *kv, struct err *e)
{
	int ret = open_checked(&kv->dev_fd, e);

	if (!ret)
		ret = create_vm(kv, e);
	if (!ret)
		ret = check_template_needs(kv, e);
	if (!ret)
		ret = kvm_kick_init(e);
	if (!ret)
		ret = kvm_arch_vm_init(kv, e);
	if (!ret)
		ret = kvm_dirty_init(kv, e);
	return ret;
}

static void kvm_vm_fini(struct vm *vm)
{
	struct kvm_vm *kv = kvm_vm_of(vm);

	if (!kv)
		return;
	kvm_dirty_fini(kv);
	kvm_arch_vm_fini(kv);
	fd_close(&kv->fd);
	fd_close(&kv->dev_fd);
	free(kv);
	vm->accel_data = NULL;
}

static int kvm_vm_init(struct vm *vm, struct err *e)
{
	struct kvm_vm *kv = xzalloc(sizeof(*kv));
	int ret;

	kv->vm = vm;
	kv->dev_fd = kv->fd = -1;
	pthread_mutex_init(&kv->dirty.lock, NULL);
	vm->accel_data = kv;
	ret = vm_setup(kv, e);
	if (ret < 0)
		kvm_vm_fini(vm);
	return ret;
}

const struct accel_ops kvm_accel_ops = {
	.name = "kvm",
	.native = true,
	.vcpu_needs = {NULL, kvm_vcpu_ioctls},
	.loop_needs = {NULL, kvm_loop_ioctls},
	.probe = kvm_probe,
	.vm_init = kvm_vm_init,
	.vm_fini = kvm_vm_fini,
	.mem_map = kvm_mem_map,
	.vcpu_init = kvm_vcpu_init,
	.vcpu_fini = kvm_vcpu_fini,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_pull = kvm_arch_pull,
	.vcpu_push = kvm_arch_push,
	.vm_pull = kvm_arch_vm_pull,
	.vm_push = kvm_arch_vm_push,
	.vcpu_debug = kvm_arch_debug,
	.cpu_caps = kvm_arch_cpu_caps,
	.irq_line = kvm_irq_line,
	.dirty_log = kvm_dirty_log,
	.dirty_get = kvm_dirty_get,
	.irqfd = kvm_irqfd,
	.ioeventfd = kvm_ioeventfd,
};
