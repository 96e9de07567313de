/* kvm_x86.c: what x86-64 adds to a KVM VM: reserved pages, interrupt chips, CPUID that KVM can show, and the dump of a dead vCPU. */
#include "kvm/kvm_x86.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Below the 4 GiB that firmware would start at: nothing in husk's memory map lies there (layout of Firecracker and QEMU). */
#define TSS_ADDR	  0xfffbd000ul
#define IDENTITY_MAP_ADDR 0xfffbc000ull

#define MAX_KVM_CPUID 256

/* CPUID 0x40000001 EAX: what a guest may use. Absent: asynchronous page faults (4, 10, 14): one in flight when a snapshot is taken leaves a
 * task waiting for ever (FC #3020). Linux Documentation/virt/kvm/x86/cpuid.rst */
#define PV_FEATURES \
	(BIT(0) /* CLOCKSOURCE */ | BIT(1) /* NOP_IO_DELAY */ | BIT(3) /* CLOCKSOURCE2 */ | BIT(5) /* STEAL_TIME */ | \
	 BIT(6) /* PV_EOI */ | BIT(7) /* PV_UNHALT */ | BIT(9) /* PV_TLB_FLUSH */ | BIT(11) /* PV_SEND_IPI */ | \
	 BIT(12) /* POLL_CONTROL */ | BIT(13) /* PV_SCHED_YIELD */ | BIT(24) /* CLOCKSOURCE_STABLE */)

const struct kvm_need kvm_arch_needs[] = {
	{KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "2.6.25"},
	{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "2.6.26"},
	{KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR", "2.6.31"},
	{KVM_CAP_PIT2, "KVM_CAP_PIT2", "2.6.31"},
	{KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", "2.6.33"},
	{KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS", "2.6.34"},
	{KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "2.6.36"},
	{KVM_CAP_XCRS, "KVM_CAP_XCRS", "2.6.36"},
	{KVM_CAP_X2APIC_API, "KVM_CAP_X2APIC_API", "4.8"},
	{0, NULL, NULL},
};

int kvm_x86_reserve_pages(int fd, struct err *e)
{
	u64 identity = IDENTITY_MAP_ADDR;

	if (ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return err_errno(e, "KVM refuses the address of its identity map");
	if (ioctl(fd, KVM_SET_TSS_ADDR, TSS_ADDR) < 0)
		return err_errno(e, "KVM refuses the address of its task state segment");
	return 0;
}

/* As firmware leaves the 8259s, and tcg's begin (arch/x86_64/pic.c). */
static int mask_pics(struct kvm_vm *kv, struct err *e)
{
	for (u32 id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_PIC_SLAVE; id++) {
		struct kvm_irqchip chip = {.chip_id = id};

		if (ioctl(kv->fd, KVM_GET_IRQCHIP, &chip) < 0)
			return err_errno(e, "KVM does not tell the state of its interrupt chips");
		chip.chip.pic.imr = 0xff;
		if (ioctl(kv->fd, KVM_SET_IRQCHIP, &chip) < 0)
			return err_errno(e, "KVM does not take the state of its interrupt chips");
	}
	return 0;
}

/* KVM by itself routes GSI n to pin n of the IOAPIC (24 pins) and, below 16, of the PICs. So GSI 0 is pin 0: the MADT must not move it
 * to 2. */
static int create_irqchips(struct kvm_vm *kv, struct err *e)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY}; /* port 0x61, for guests that calibrate the TSC with it */

	if (ioctl(kv->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_errno(e, "KVM cannot make its interrupt chips");
	if (ioctl(kv->fd, KVM_CREATE_PIT2, &pit) < 0)
		return err_errno(e, "KVM cannot make its timer chip");
	if (mask_pics(kv, e) < 0)
		return -EIO;
	return kvm_enable_cap(kv, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
			      "KVM_CAP_X2APIC_API", e);
}

/* What makes the saved state more exact on kernels that have it. */
static int enable_state_caps(struct kvm_vm *kv, struct err *e)
{
	struct kvm_arch_vm *kx = kv->arch;
	int ret = 0, size = kvm_cap(kv, KVM_CAP_XSAVE2);

	kx->has_xsave2 = size >= (int)sizeof(struct kvm_xsave);
	kx->xsave_size = kx->has_xsave2 ? (u32)size : (u32)sizeof(struct kvm_xsave);
	if (kx->xsave_size > X86_XSAVE_MAX)
		return err_set(e, -EOVERFLOW, "this host's XSAVE area has %u bytes, husk keeps %u", kx->xsave_size, X86_XSAVE_MAX);
	kx->has_sregs2 = kvm_cap(kv, KVM_CAP_SREGS2);
	kx->has_payload = kvm_cap(kv, KVM_CAP_EXCEPTION_PAYLOAD);
	kx->has_triple_fault = kvm_cap(kv, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
	if (kx->has_payload)
		ret = kvm_enable_cap(kv, KVM_CAP_EXCEPTION_PAYLOAD, 1, "KVM_CAP_EXCEPTION_PAYLOAD", e);
	if (!ret && kx->has_triple_fault)
		ret = kvm_enable_cap(kv, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, "KVM_CAP_X86_TRIPLE_FAULT_EVENT", e);
	return ret;
}

int kvm_arch_vm_init(struct kvm_vm *kv, struct err *e)
{
	int ret;

	kv->arch = xzalloc(sizeof(*kv->arch));
	ret = kvm_x86_reserve_pages(kv->fd, e);
	if (!ret)
		ret = create_irqchips(kv, e);
	if (!ret)
		ret = enable_state_caps(kv, e);
	if (!ret)
		ret = kvm_msr_list(kv, e);
	return ret;
}

void kvm_arch_vm_fini(struct kvm_vm *kv)
{
	free(kv->arch);
	kv->arch = NULL;
}

int kvm_arch_vcpu_init(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;

	(void)e;
	kc->arch = xzalloc(sizeof(*kc->arch));
	return 0;
}

void kvm_arch_vcpu_fini(struct vcpu *v)
{
	struct kvm_vcpu *kc = v->accel;

	free(kc->arch);
	kc->arch = NULL;
}

void kvm_arch_clock_stopped(struct kvm_vcpu *kc)
{
	/* EINVAL: the guest does not use kvmclock, or not yet. */
	(void)ioctl(kc->fd, KVM_KVMCLOCK_CTRL, 0);
}

/* KVM's numbers are pins of the IOAPIC, and so are husk's. */
u32 kvm_arch_irq(u32 gsi)
{
	return gsi;
}

/* The bytes at a guest virtual address, as hex in text (3 per byte); empty when it is not mapped. */
static void fetch_insn(struct vcpu *v, u64 linear, char *text, size_t size)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_translation tr = {.linear_address = linear};
	u8 insn[15];
	u64 len = MIN(sizeof(insn), MEM_PAGE_SIZE - linear % MEM_PAGE_SIZE);

	text[0] = '\0';
	if (ioctl(kc->fd, KVM_TRANSLATE, &tr) < 0 || !tr.valid || mem_read(&v->vm->mem, tr.physical_address, insn, len) < 0)
		return;
	for (u64 i = 0; i < len && 3 * i + 4 <= size; i++)
		snprintf(text + 3 * i, size - 3 * i, " %02x", insn[i]);
}

void kvm_arch_log_state(struct vcpu *v)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	char insn[64];

	/* Pages that nobody brings any more are not to be touched (uffd_lose_missing). */
	if (__atomic_load_n(&v->vm->end, __ATOMIC_ACQUIRE) != VM_END_NONE)
		return;
	if (ioctl(kc->fd, KVM_GET_REGS, &regs) < 0 || ioctl(kc->fd, KVM_GET_SREGS, &sregs) < 0)
		return;
	fetch_insn(v, sregs.cs.base + regs.rip, insn, sizeof(insn));
	log_error(v->vm->log, "vCPU %u: RIP %04x:%016llx RSP %016llx RFLAGS %llx CR0 %llx CR2 %llx CR3 %llx CR4 %llx EFER %llx, code:%s",
		  v->index, sregs.cs.selector, regs.rip, regs.rsp, regs.rflags, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer,
		  insn[0] ? insn : " not mapped");
}

/* Takes away what husk cannot save and load, or has not asked the host for. False: leave the leaf out. */
static bool limit_leaf(struct kvm_cpuid_entry2 *c)
{
	switch (c->function) {
	case 0x1:
		c->ecx &= ~(u32)BIT(5); /* VMX: nested state is not saved */
		break;
	case 0x7: /* AMX: its 8 KiB of state need arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM) */
		if (c->index == 0)
			c->edx &= ~(u32)(BIT(22) | BIT(24) | BIT(25));
		if (c->index == 1) {
			c->eax &= ~(u32)BIT(21);
			c->edx &= ~(u32)BIT(8);
		}
		break;
	case 0x1d: /* AMX tiles */
	case 0x1e:
	case 0x8000000a: /* SVM */
		return false;
	case 0x40000001:
		c->eax &= (u32)PV_FEATURES;
		c->edx = 0; /* KVM_HINTS_REALTIME is for vCPUs with a CPU of their own */
		break;
	case 0x80000001:
		c->ecx &= ~(u32)BIT(2); /* SVM */
		break;
	}
	/* A leaf that is not there reads as zeros, too. */
	return c->eax || c->ebx || c->ecx || c->edx;
}

static int compare_leaves(const void *pa, const void *pb)
{
	const struct x86_cpuid *a = pa, *b = pb;

	if (a->leaf != b->leaf)
		return a->leaf < b->leaf ? -1 : 1;
	return a->subleaf < b->subleaf ? -1 : a->subleaf > b->subleaf;
}

/* The processor's name: KVM leaves it to its user, and without it a guest shows numbers. */
static int add_name(struct x86_cpuid_table *t, struct err *e)
{
	for (u32 leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
		struct x86_cpuid c = {.leaf = leaf};

		if (x86_cpuid_find(t, leaf, 0) || !__get_cpuid(leaf, &c.eax, &c.ebx, &c.ecx, &c.edx))
			continue;
		if (t->nr == X86_CPUID_MAX)
			return err_set(e, -E2BIG, "KVM supports more than %u CPUID leaves", X86_CPUID_MAX);
		t->e[t->nr++] = c;
	}
	return 0;
}

static int supported_cpuid(const struct kvm_vm *kv, struct x86_cpuid_table *t, struct err *e)
{
	auto_free struct kvm_cpuid2 *k = xzalloc(sizeof(*k) + MAX_KVM_CPUID * sizeof(k->entries[0]));

	k->nent = MAX_KVM_CPUID;
	if (ioctl(kv->dev_fd, KVM_GET_SUPPORTED_CPUID, k) < 0)
		return err_errno(e, "KVM does not say which CPUID leaves it supports");
	t->nr = 0;
	for (u32 i = 0; i < k->nent; i++) {
		struct kvm_cpuid_entry2 *c = &k->entries[i];

		if (!limit_leaf(c))
			continue;
		if (t->nr == X86_CPUID_MAX)
			return err_set(e, -E2BIG, "KVM supports more than %u CPUID leaves", X86_CPUID_MAX);
		t->e[t->nr++] = (struct x86_cpuid){
			.leaf = c->function,
			.subleaf = c->index,
			.has_subleaf = c->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = c->eax,
			.ebx = c->ebx,
			.ecx = c->ecx,
			.edx = c->edx,
		};
	}
	if (add_name(t, e) < 0)
		return -E2BIG;
	qsort(t->e, t->nr, sizeof(t->e[0]), compare_leaves);
	return 0;
}

/* Of the VM since Linux 5.16, before that of a vCPU. 0 = not known. */
static u64 tsc_khz(const struct vm *vm)
{
	int khz = ioctl(kvm_vm_of(vm)->fd, KVM_GET_TSC_KHZ, 0);

	if (khz <= 0 && vm->nr_vcpus && vm->vcpus[0].accel)
		khz = ioctl(((struct kvm_vcpu *)vm->vcpus[0].accel)->fd, KVM_GET_TSC_KHZ, 0);
	return khz > 0 ? (u64)khz : 0;
}

/* Processors of AMD have no IA32_ARCH_CAPABILITIES. KVM shows it there all the same, and later kernels (seen with 6.18) then refuse each
 * value but 0: a guest from elsewhere that has it would not load. */
static void drop_arch_capabilities(struct x86_cpuid_table *t)
{
	const struct x86_cpuid *vendor = x86_cpuid_find(t, 0, 0);
	struct x86_cpuid *ext = x86_cpuid_find(t, 7, 0);

	if (vendor && ext && x86_maker_is_amd(vendor->ebx))
		ext->edx &= ~(u32)BIT(29);
}

int kvm_arch_cpu_caps(struct vm *vm, struct arch_cpu_caps *caps, struct err *e)
{
	const struct kvm_vm *kv = kvm_vm_of(vm);
	int ret = supported_cpuid(kv, &caps->cpuid, e);
	struct x86_cpuid *features;

	if (ret < 0)
		return ret;
	drop_arch_capabilities(&caps->cpuid);
	kvm_feature_msrs(vm, caps);
	caps->tsc_khz = tsc_khz(vm);
	caps->tsc_deadline = kvm_cap(kv, KVM_CAP_TSC_DEADLINE_TIMER);
	caps->tsc_scaling = kvm_cap(kv, KVM_CAP_TSC_CONTROL);
	caps->smm = kvm_cap(kv, KVM_CAP_X86_SMM);
	caps->nr_msrs = kv->arch->nr_msrs;
	memcpy(caps->msrs, kv->arch->msrs, sizeof(caps->msrs));
	features = x86_cpuid_find(&caps->cpuid, 1, 0);
	if (!features)
		return err_set(e, -EIO, "KVM's list of CPUID leaves lacks leaf 1");
	/* Depends on the in-kernel LAPIC, which husk has: kernels before 6.x leave the bit to us. SDM 2A CPUID.01H:ECX[24] */
	if (caps->tsc_deadline)
		features->ecx |= (u32)BIT(24);
	caps->x2apic = features->ecx & BIT(21);
	return 0;
}
