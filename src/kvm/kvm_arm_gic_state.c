/*
 * kvm_arm_gic_state.c: the state of the kernel's GICv3, from and to KVM. Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst
 *
 * Order of a load: the distributor is on before any interrupt is pending and enabled, since KVM forgets to deliver one that comes while it
 * is off. How lines behave comes before what they are at. Registers that set and clear have one of each: all bits are cleared first.
 * ISPENDR is the exception: KVM takes it as it is. What is pending only because a line is high is in `level`.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "arch/aarch64/vm_state.h"
#include "kvm/kvm_arm.h"

/* IHI 0069 §12.8, §12.10; SGIs and PPIs have theirs in the redistributor's second page at the same offsets */
enum {
	GICD_CTLR = 0x0,
	GICD_IIDR = 0x8,
	GICR_PROPBASER = 0x70,
	GICR_PENDBASER = 0x78,
	IGROUPR = 0x80,
	ISENABLER = 0x100,
	ICENABLER = 0x180,
	ISPENDR = 0x200,
	ISACTIVER = 0x300,
	ICACTIVER = 0x380,
	IPRIORITYR = 0x400,
	ICFGR = 0xc00,
	IROUTER = 0x6000,
	SGI_PAGE = 0x10000,
};

#define ICC_REG(crn, crm, op2) ARM_ENCODING(3u, 0u, crn, crm, op2)
#define ICC_PMR		       ICC_REG(4u, 6u, 0u)
#define ICC_BPR0	       ICC_REG(12u, 8u, 3u)
#define ICC_AP0R(n)	       ICC_REG(12u, 8u, 4u + (n))
#define ICC_AP1R(n)	       ICC_REG(12u, 9u, (n))
#define ICC_BPR1	       ICC_REG(12u, 12u, 3u)
#define ICC_CTLR	       ICC_REG(12u, 12u, 4u)
#define ICC_SRE		       ICC_REG(12u, 12u, 5u)
#define ICC_IGRPEN0	       ICC_REG(12u, 12u, 6u)
#define ICC_IGRPEN1	       ICC_REG(12u, 12u, 7u)

/* One pass over the registers, in either direction; after a failure nothing more is asked. */
struct pass {
	int fd;
	unsigned long request; /* KVM_GET_DEVICE_ATTR or KVM_SET_DEVICE_ATTR */
	u64 mpidr;	       /* affinity of the vCPU, as the attributes have it */
	int ret;
	struct err *e;
};

static bool loads(const struct pass *p)
{
	return p->request == KVM_SET_DEVICE_ATTR;
}

static void move(struct pass *p, u32 group, u64 attr, void *value, const char *what)
{
	struct kvm_device_attr a = {.group = group, .attr = attr, .addr = (u64)(uintptr_t)value};

	if (p->ret == 0 && ioctl(p->fd, p->request, &a) < 0)
		p->ret = err_errno(p->e, "KVM does not %s register 0x%llx of the GIC's %s", loads(p) ? "take" : "tell",
				   (unsigned long long)(attr & UINT32_MAX), what);
}

static void dist(struct pass *p, u32 offset, u32 *value, u32 nr)
{
	for (u32 i = 0; i < nr; i++)
		move(p, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset + 4 * i, &value[i], "distributor");
}

static void redist(struct pass *p, u32 offset, u32 *value, u32 nr)
{
	for (u32 i = 0; i < nr; i++)
		move(p, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, p->mpidr | (offset + 4 * i), &value[i], "redistributor");
}

static void icc(struct pass *p, u32 reg, u64 *value)
{
	move(p, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, p->mpidr | reg, value, "processor interface");
}

/* 32 lines from first on. */
static void level(struct pass *p, u32 first, u32 *value)
{
	u64 attr = (u64)VGIC_LEVEL_INFO_LINE_LEVEL << KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT | first;

	move(p, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, p->mpidr | attr, value, "lines");
}

/* An interrupt's word of bits, out of a pair of registers that set and clear. */
static void bits(struct pass *p, void (*access)(struct pass *p, u32 offset, u32 *value, u32 nr), u32 set, u32 clear, u32 *value)
{
	u32 all = UINT32_MAX;

	if (loads(p))
		access(p, clear, &all, 1);
	access(p, set, value, 1);
}

static void move_redist(struct pass *p, struct arm_gic_cpu *c)
{
	redist(p, GICR_PROPBASER, (u32 *)&c->propbaser, 2);
	redist(p, GICR_PENDBASER, (u32 *)&c->pendbaser, 2);
	redist(p, SGI_PAGE + IGROUPR, &c->igroupr, 1);
	redist(p, SGI_PAGE + ICFGR + 4, &c->icfgr1, 1);
	redist(p, SGI_PAGE + IPRIORITYR, c->ipriorityr, ARRAY_SIZE(c->ipriorityr));
	level(p, 0, &c->level);
	redist(p, SGI_PAGE + ISPENDR, &c->ispendr, 1);
	bits(p, redist, SGI_PAGE + ISACTIVER, SGI_PAGE + ICACTIVER, &c->isactiver);
	bits(p, redist, SGI_PAGE + ISENABLER, SGI_PAGE + ICENABLER, &c->isenabler);
}

static void move_dist(struct pass *p, struct arm_gic_state *s)
{
	dist(p, GICD_IIDR, &s->iidr, 1); /* asks KVM for the behaviour of that revision */
	dist(p, GICD_CTLR, &s->ctlr, 1);
	for (u32 i = 0; i < ARM_NR_SPIS / 32; i++) {
		u32 at = (ARM_FIRST_SPI / 32 + i) * 4;

		dist(p, IGROUPR + at, &s->igroupr[i], 1);
		dist(p, ICFGR + 2 * at, &s->icfgr[2 * i], 2);
		dist(p, IPRIORITYR + 8 * at, &s->ipriorityr[8 * i], 8);
		dist(p, IROUTER + ARM_FIRST_SPI * 8 + i * 256, (u32 *)&s->irouter[32 * i], 64);
		level(p, ARM_FIRST_SPI + 32 * i, &s->level[i]);
		dist(p, ISPENDR + at, &s->ispendr[i], 1);
		bits(p, dist, ISACTIVER + at, ICACTIVER + at, &s->isactiver[i]);
		bits(p, dist, ISENABLER + at, ICENABLER + at, &s->isenabler[i]);
	}
}

static void move_icc(struct pass *p, struct arm_gic_cpu *c)
{
	icc(p, ICC_SRE, &c->icc_sre);
	icc(p, ICC_CTLR, &c->icc_ctlr);
	if (!loads(p))
		c->nr_ap = arm_gic_nr_ap(c->icc_ctlr);
	icc(p, ICC_PMR, &c->icc_pmr);
	icc(p, ICC_BPR0, &c->icc_bpr0);
	icc(p, ICC_BPR1, &c->icc_bpr1);
	for (u32 i = 0; i < c->nr_ap; i++) {
		icc(p, ICC_AP0R(i), &c->icc_ap0r[i]);
		icc(p, ICC_AP1R(i), &c->icc_ap1r[i]);
	}
	icc(p, ICC_IGRPEN0, &c->icc_igrpen0);
	icc(p, ICC_IGRPEN1, &c->icc_igrpen1);
}

/* Affinities 3 to 0, a byte each, in the upper half. */
static u64 attr_mpidr(u64 mpidr)
{
	return ((mpidr >> 8 & 0xff000000) | (mpidr & 0xffffff)) << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT;
}

static int move_all(struct vm *vm, unsigned long request, struct err *e)
{
	struct arm_gic_state *s = &vm->chips->gic;
	struct pass p = {.fd = kvm_vm_of(vm)->arch->gic_fd, .request = request, .e = e};

	move_dist(&p, s);
	for (u32 i = 0; i < s->nr_cpus; i++) {
		p.mpidr = attr_mpidr(s->cpus[i].mpidr);
		move_redist(&p, &s->cpus[i]);
		move_icc(&p, &s->cpus[i]);
	}
	return p.ret;
}

int kvm_gic_pull(struct vm *vm, struct err *e)
{
	const struct kvm_vm *kv = kvm_vm_of(vm);
	struct arm_gic_state *s = &vm->chips->gic;
	struct kvm_device_attr flush = {.group = KVM_DEV_ARM_VGIC_GRP_CTRL, .attr = KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES};

	if (ioctl(kv->arch->gic_fd, KVM_SET_DEVICE_ATTR, &flush) < 0)
		return err_errno(e, "KVM cannot write down which interrupts are pending");
	*s = (struct arm_gic_state){.nr_cpus = vm->nr_vcpus};
	for (u32 i = 0; i < s->nr_cpus; i++)
		s->cpus[i].mpidr = arm_mpidr(i);
	return move_all(vm, KVM_GET_DEVICE_ATTR, e);
}

int kvm_gic_push(struct vm *vm, struct err *e)
{
	return move_all(vm, KVM_SET_DEVICE_ATTR, e);
}

int kvm_gic_host(struct vm *vm, struct arm_host *host, struct err *e)
{
	struct pass p = {.fd = kvm_vm_of(vm)->arch->gic_fd, .request = KVM_GET_DEVICE_ATTR, .mpidr = attr_mpidr(arm_mpidr(0)), .e = e};

	dist(&p, GICD_IIDR, &host->gicd_iidr, 1);
	icc(&p, ICC_CTLR, &host->icc_ctlr);
	icc(&p, ICC_SRE, &host->icc_sre);
	return p.ret;
}
