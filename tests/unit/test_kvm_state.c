/* test_kvm_state.c: the canonical vCPU state goes into KVM and comes back; what KVM can show of CPUID. */
#include "kvm_rig.h"

#include "arch/x86_64/vm_state.h"

#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "arch/x86_64/cpu_template.h"

#define MSR_TSC		 0x10
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_LSTAR	 0xc0000082
#define MSR_STAR	 0xc0000081

static struct cpu_state *cpu0(struct rig *rig)
{
	return rig->vm.vcpus[0].cpu;
}

static void push_pull(struct rig *rig)
{
	rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e));
	rig_pull(rig, 0);
}

static const struct x86_msr *find_msr(const struct cpu_state *c, u32 index)
{
	for (u32 i = 0; i < c->nr_msrs; i++) {
		if (c->msrs[i].index == index)
			return &c->msrs[i];
	}
	return NULL;
}

static void general_registers_come_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	for (u32 i = 0; i < X86_NR_GPRS; i++)
		c->gpr[i] = 0x1111111111111111ull * i + i;
	c->rip = 0xfff0;
	c->rflags = 0x246;
	push_pull(rig);
	for (u32 i = 0; i < X86_NR_GPRS; i++)
		assert_int_equal(c->gpr[i], 0x1111111111111111ull * i + i);
	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->rflags, 0x246);
	rig_free(rig);
}

static void each_general_register_is_the_one_that_the_guest_sees(void **state)
{
	static const u8 code[] = {0xba, 0x00, 0x05, 0x89, 0xd8, 0xef,
				  0x89, 0xf8, 0xef, 0x89, 0xe8, 0xef}; /* mov dx; ax = bx, di, bp; out */
	struct rig *rig = rig_new(1, false);

	(void)state;
	cpu0(rig)->gpr[X86_RBX] = 0xb;
	cpu0(rig)->gpr[X86_RDI] = 0xd1;
	cpu0(rig)->gpr[X86_RBP] = 0xb9;
	rig_load(rig, code, sizeof(code));
	rig->kick = true;
	while (rig->nr_access < 3)
		assert_int_equal(kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_AGAIN);
	assert_int_equal(rig->access[0].data, 0xb);
	assert_int_equal(rig->access[1].data, 0xd1);
	assert_int_equal(rig->access[2].data, 0xb9);
	rig_free(rig);
}

static void system_registers_and_segments_come_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);
	struct cpu_state want;

	(void)state;
	for (u32 i = X86_ES; i <= X86_GS; i++)
		c->seg[i] = (struct x86_seg){.base = i << 16, .limit = 0xffffffff, .selector = (u16)(0x10 + 8 * i), .attr = 0xc93};
	c->seg[X86_CS].attr = 0xa9b; /* 64-bit code */
	c->seg[X86_LDTR] = (struct x86_seg){.limit = 0xffff, .attr = 0x82 | X86_SEG_UNUSABLE};
	c->seg[X86_TR] = (struct x86_seg){.base = 0x5000, .limit = 0x67, .selector = 0x40, .attr = 0x8b};
	c->gdt = (struct x86_dtable){0x6000, 0x7f};
	c->idt = (struct x86_dtable){0x7000, 0xfff};
	c->cr0 = 0x80050033;
	c->cr2 = 0xdeadb000;
	c->cr3 = 0x9000;
	c->cr4 = 0x620;
	c->cr8 = 3;
	c->efer = 0x501;
	c->dr[0] = 0x1230;
	c->dr[3] = 0x4560;
	c->dr6 = 0xffff0ff1;
	c->dr7 = 0x401;
	want = *c;
	push_pull(rig);
	for (u32 i = 0; i < X86_NR_SEGS; i++) {
		if (i == X86_LDTR)
			continue;
		assert_int_equal(c->seg[i].base, want.seg[i].base);
		assert_int_equal(c->seg[i].limit, want.seg[i].limit);
		assert_int_equal(c->seg[i].selector, want.seg[i].selector);
		assert_int_equal(c->seg[i].attr, want.seg[i].attr);
	}
	/* Processors differ in what they keep of an unusable segment. */
	assert_true((c->seg[X86_LDTR].attr & X86_SEG_UNUSABLE) || !(c->seg[X86_LDTR].attr & 0x80));
	assert_memory_equal(&c->gdt, &want.gdt, sizeof(c->gdt));
	assert_memory_equal(&c->idt, &want.idt, sizeof(c->idt));
	assert_int_equal(c->cr0, want.cr0);
	assert_int_equal(c->cr2, want.cr2);
	assert_int_equal(c->cr3, want.cr3);
	assert_int_equal(c->cr4, want.cr4);
	assert_int_equal(c->cr8, want.cr8);
	assert_int_equal(c->efer, want.efer);
	assert_int_equal(c->apic_base, want.apic_base);
	assert_memory_equal(c->dr, want.dr, sizeof(c->dr));
	assert_int_equal(c->dr6, want.dr6);
	assert_int_equal(c->dr7, want.dr7);
	rig_free(rig);
}

static void illegal_system_registers_are_refused_with_their_values(void **state)
{
	struct rig *rig = rig_new(1, false);

	(void)state;
	cpu0(rig)->cr4 = BIT(40);
	assert_true(kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e) < 0);
	assert_non_null(strstr(rig->e.msg, "CR4 10000000000"));
	rig_free(rig);
}

static void pending_events_come_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	c->events.nmi_pending = true;
	c->events.nmi_masked = true;
	c->events.interrupt_injected = true;
	c->events.interrupt_vector = 0x61;
	push_pull(rig);
	assert_true(c->events.nmi_pending);
	assert_true(c->events.nmi_masked);
	assert_true(c->events.interrupt_injected);
	assert_int_equal(c->events.interrupt_vector, 0x61);
	assert_false(c->events.exception_injected);
	assert_false(c->events.triple_fault_pending);
	rig_free(rig);
}

static void an_injected_exception_keeps_its_error_code(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	c->cr0 |= 1;
	c->events.exception_injected = true;
	c->events.exception_vector = 14;
	c->events.exception_has_error = true;
	c->events.exception_error = 6;
	push_pull(rig);
	assert_true(c->events.exception_injected);
	assert_int_equal(c->events.exception_vector, 14);
	assert_true(c->events.exception_has_error);
	assert_int_equal(c->events.exception_error, 6);
	rig_free(rig);
}

static void the_interrupt_shadow_means_the_same_to_kvm(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);
	struct kvm_vcpu *kc = rig->vm.vcpus[0].accel;
	struct kvm_vcpu_events k;

	(void)state;
	c->events.interrupt_shadow = 1; /* STI */
	rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e));
	assert_int_equal(ioctl(kc->fd, KVM_GET_VCPU_EVENTS, &k), 0);
	/* AMD has one bit for both kinds. */
	assert_true(k.interrupt.shadow == KVM_X86_SHADOW_INT_STI ||
		    k.interrupt.shadow == (KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS));
	rig_pull(rig, 0);
	assert_true(c->events.interrupt_shadow & 1);
	rig_free(rig);
}

static void run_states_come_back(void **state)
{
	static const enum x86_mp_state all[] = {X86_MP_UNINIT, X86_MP_INIT_RECEIVED, X86_MP_HALTED, X86_MP_RUNNABLE};
	struct rig *rig = rig_new(2, false);
	struct vcpu *v = &rig->vm.vcpus[1];

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(all); i++) {
		v->cpu->mp_state = all[i];
		rig_ok(rig, kvm_accel_ops.vcpu_push(v, &rig->e));
		v->cpu->mp_state = X86_MP_SIPI_RECEIVED;
		assert_int_equal(rig_pull(rig, 1)->mp_state, all[i]);
	}
	v->cpu->mp_state = (enum x86_mp_state)9;
	assert_int_equal(kvm_accel_ops.vcpu_push(v, &rig->e), -EINVAL);
	rig_free(rig);
}

static void floating_point_state_comes_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);
	u8 want[160];

	(void)state;
	c->xsave_size = 4096;
	st_le16(c->xsave, 0x27f);
	st_le32(c->xsave + 24, 0x1f80);
	for (u32 i = 0; i < 16; i++)
		memset(c->xsave + 160 + 16 * i, (int)i + 1, 16);
	st_le64(c->xsave + 512, 3);
	memcpy(want, c->xsave + 160, sizeof(want));
	push_pull(rig);
	assert_int_equal(ld_le16(c->xsave), 0x27f);
	assert_memory_equal(c->xsave + 160, want, sizeof(want));
	assert_true(c->xsave_size >= 4096 && c->xsave_size <= X86_XSAVE_MAX);
	rig_free(rig);
}

static void no_floating_point_state_means_that_of_a_reset(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	c->xsave_size = 4096;
	st_le16(c->xsave, 0x27f);
	memset(c->xsave + 160, 0xee, 16);
	st_le32(c->xsave + 24, 0x1f80);
	st_le64(c->xsave + 512, 3);
	push_pull(rig);
	c->xsave_size = 0;
	push_pull(rig);
	assert_int_equal(ld_le16(c->xsave), 0x37f);
	assert_int_equal(ld_le32(c->xsave + 24), 0x1f80);
	assert_int_equal(ld_le64(c->xsave + 160), 0);
	rig_free(rig);
}

static void an_xsave_area_larger_than_the_hosts_is_refused(void **state)
{
	struct rig *rig = rig_new(1, false);

	(void)state;
	rig_pull(rig, 0);
	cpu0(rig)->xsave_size++;
	assert_int_equal(kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e), -EINVAL);
	rig_free(rig);
}

static void msrs_come_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	c->msrs[c->nr_msrs++] = (struct x86_msr){MSR_STAR, 0x23001000000000ull};
	c->msrs[c->nr_msrs++] = (struct x86_msr){MSR_LSTAR, 0xffffffff81000000ull};
	push_pull(rig);
	assert_int_equal(find_msr(c, MSR_STAR)->value, 0x23001000000000ull);
	assert_int_equal(find_msr(c, MSR_LSTAR)->value, 0xffffffff81000000ull);
	assert_non_null(find_msr(c, MSR_TSC));
	assert_non_null(find_msr(c, 0x277));
	assert_null(find_msr(c, 0x12)); /* the same as 0x4b564d01 */
	rig_free(rig);
}

static void an_msr_that_kvm_refuses_is_named(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	c->msrs[c->nr_msrs++] = (struct x86_msr){MSR_STAR, 1};
	c->msrs[c->nr_msrs++] = (struct x86_msr){0x12345678, 0x99};
	assert_int_equal(kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e), -EINVAL);
	assert_non_null(strstr(rig->e.msg, "MSR 0x12345678 = 0x99"));
	rig_free(rig);
}

static void an_absent_msr_of_value_zero_is_passed_over(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	c->msrs[c->nr_msrs++] = (struct x86_msr){0x12345678, 0};
	c->msrs[c->nr_msrs++] = (struct x86_msr){MSR_LSTAR, 0x1234};
	push_pull(rig);
	assert_int_equal(find_msr(c, MSR_LSTAR)->value, 0x1234);
	rig_free(rig);
}

static void boot_state_wires_the_local_pins_as_firmware_does(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	push_pull(rig);
	assert_int_equal(ld_le32(c->lapic.regs + 0x350), 0x700);
	assert_int_equal(ld_le32(c->lapic.regs + 0x360), 0x400);
	assert_int_not_equal(ld_le32(c->lapic.regs + 0x30), 0);
	rig_free(rig);
}

static void the_local_apic_comes_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *c = cpu0(rig);

	(void)state;
	push_pull(rig);
	st_le32(c->lapic.regs + 0xf0, 0x1ff);	 /* SVR: enabled */
	st_le32(c->lapic.regs + 0x320, 0x400ec); /* LVT timer: TSC deadline, vector 0xec */
	st_le32(c->lapic.regs + 0x270, 1u << 9); /* IRR: vector 0xe9 */
	push_pull(rig);
	assert_int_equal(ld_le32(c->lapic.regs + 0xf0), 0x1ff);
	assert_int_equal(ld_le32(c->lapic.regs + 0x270), 1u << 9);
	rig_free(rig);
}

/* All that vcpu_pull gives must be acceptable to vcpu_push, on a VM that has not seen it before. */
static void a_pulled_state_goes_into_another_vm_unchanged(void **state)
{
	struct rig *from = rig_new(1, false), *to = rig_new(1, false);
	struct cpu_state *a = cpu0(from), *b = cpu0(to);
	struct arch_cpu_caps caps;

	(void)state;
	rig_ok(from, kvm_accel_ops.cpu_caps(&from->vm, &caps, &from->e));
	a->cpuid = caps.cpuid;
	push_pull(from);
	*b = *a;
	push_pull(to);
	assert_int_equal(b->nr_msrs, a->nr_msrs);
	for (u32 i = 0; i < a->nr_msrs; i++) {
		assert_int_equal(a->msrs[i].index, b->msrs[i].index);
		if (a->msrs[i].index != MSR_TSC)
			assert_int_equal(a->msrs[i].value, b->msrs[i].value);
	}
	assert_memory_equal(a->seg, b->seg, sizeof(a->seg));
	assert_memory_equal(&a->events, &b->events, sizeof(a->events));
	assert_memory_equal(&a->lapic, &b->lapic, sizeof(a->lapic));
	assert_memory_equal(a->xsave, b->xsave, a->xsave_size);
	assert_int_equal(a->tsc_khz, b->tsc_khz);
	assert_int_equal(a->xcr0, b->xcr0);
	rig_free(from);
	rig_free(to);
}

static void a_running_vcpu_takes_the_same_cpuid_again(void **state)
{
	static const u8 code[] = {0xba, 0x00, 0x05, 0xef, 0xeb, 0xfd}; /* mov dx, 0x500; 1: out dx, ax; jmp 1b */
	struct rig *rig = rig_new(1, false);
	struct arch_cpu_caps caps;

	(void)state;
	rig_ok(rig, kvm_accel_ops.cpu_caps(&rig->vm, &caps, &rig->e));
	cpu0(rig)->cpuid = caps.cpuid;
	rig_load(rig, code, sizeof(code));
	rig->kick = true;
	assert_int_equal(kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_AGAIN);
	push_pull(rig);
	cpu0(rig)->cpuid.e[0].ebx ^= 1;
	assert_true(kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e) < 0);
	rig_free(rig);
}

static void a_tsc_frequency_that_the_host_cannot_give_is_refused(void **state)
{
	struct rig *rig = rig_new(1, false);

	(void)state;
	if (kvm_cap(rig->vm.accel_data, KVM_CAP_TSC_CONTROL)) {
		rig_free(rig);
		skip();
	}
	cpu0(rig)->tsc_khz = 1000;
	assert_int_equal(kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e), -EOPNOTSUPP);
	assert_non_null(strstr(rig->e.msg, "1000 kHz"));
	rig_free(rig);
}

static void caps_show_kvm_without_what_a_snapshot_cannot_hold(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct arch_cpu_caps caps;
	const struct x86_cpuid *c;

	(void)state;
	rig_ok(rig, kvm_accel_ops.cpu_caps(&rig->vm, &caps, &rig->e));
	for (u32 i = 1; i < caps.cpuid.nr; i++)
		assert_true(caps.cpuid.e[i - 1].leaf < caps.cpuid.e[i].leaf || caps.cpuid.e[i - 1].subleaf < caps.cpuid.e[i].subleaf);
	c = x86_cpuid_find(&caps.cpuid, 0x40000000, 0);
	assert_non_null(c);
	assert_memory_equal(&c->ebx, "KVMK", 4);
	c = x86_cpuid_find(&caps.cpuid, 0x40000001, 0);
	assert_non_null(c);
	assert_true(c->eax & BIT(3));						/* kvmclock */
	assert_false(c->eax & (BIT(4) | BIT(10) | BIT(14)));			/* asynchronous page faults */
	assert_false(x86_cpuid_find(&caps.cpuid, 1, 0)->ecx & BIT(5));		/* VMX */
	assert_false(x86_cpuid_find(&caps.cpuid, 0x80000001, 0)->ecx & BIT(2)); /* SVM */
	assert_true(caps.tsc_khz > 100000);
	assert_true(caps.x2apic);
	rig_free(rig);
}

static void a_cpu_template_reaches_the_vcpu(void **state)
{
	struct cfg_msr_bits bits = {.addr = (char *)"0x10a", .bitmap = (char *)"0b0000000"};
	struct cfg_cpu own = {.msrs = {&bits, 1}};
	struct cfg_machine machine = {.vcpu_count = 1};
	struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));
	const struct config c = {.machine = &machine, .cpu = &own};
	struct rig *rig = rig_new(1, false);
	const struct x86_msr *m;
	u64 before;
	u32 index;

	(void)state;
	rig_ok(rig, kvm_accel_ops.cpu_caps(&rig->vm, caps, &rig->e));
	assert_int_equal(caps->feature_msrs[0].index, 0x8b);
	for (m = caps->feature_msrs; m < caps->feature_msrs + caps->nr_feature_msrs && m->index != 0x10a; m++)
		;
	if (m == caps->feature_msrs + caps->nr_feature_msrs) {
		m = caps->feature_msrs; /* on AMD */
		bits.addr = (char *)"0x8b";
	}
	index = m->index;
	before = m->value;
	rig_ok(rig, cpu_template_apply(&c, "kvm", caps, &rig->e));
	cpu0(rig)->cpuid = caps->cpuid;
	cpu0(rig)->nr_msrs = 0;
	cpu_template_set_msrs(caps, cpu0(rig));
	assert_int_equal(cpu0(rig)->nr_msrs, 1);
	push_pull(rig);
	m = find_msr(cpu0(rig), index);
	assert_non_null(m);
	assert_int_equal(m->value, before & ~0x7full);
	rig_free(rig);
	free(caps);
}

/* ---- chips and clock ---- */

static struct x86_chips_state some_chips(void)
{
	struct x86_chips_state s = {
		.pic = {{.imr = 0xfb, .base = 0x30, .irr = 0x40, .lines = 0x41, .first = 3, .icw4 = true, .read_isr = true, .elcr = 0x20},
			{.imr = 0xff, .base = 0x38, .init_step = 3, .icw4 = true}},
		.ioapic = {.id = 2, .select = 0x12, .irr = 1u << 9, .lines = 1u << 9},
		.pit = {{.count = 0x10000, .mode = 3, .rw = 3, .gate = true, .null_count = true},
			{.count = 18, .mode = 2, .rw = 1, .gate = true},
			{.count = 0x4000,
			 .mode = 0,
			 .rw = 3,
			 .elapsed_ns = 5 * NSEC_PER_MSEC,
			 .write_high_next = true,
			 .write_low = 0x77,
			 .gate = true,
			 .latched = true,
			 .latch = 0x1234}},
		.pit_speaker = true,
	};

	for (u32 i = 0; i < X86_NR_IOAPIC_PINS; i++)
		s.ioapic.redir[i] = 0x10000;
	s.ioapic.redir[9] = 0x1c041 | 1ull << 56; /* level, Remote IRR, masked */
	return s;
}

static void expect_chips(const struct x86_chips_state *a, const struct x86_chips_state *b)
{
	assert_memory_equal(a->pic, b->pic, sizeof(a->pic));
	assert_memory_equal(&a->ioapic, &b->ioapic, sizeof(a->ioapic));
	assert_int_equal(a->pit_speaker, b->pit_speaker);
	for (u32 i = 0; i < 3; i++) {
		const struct x86_pit_channel_state *x = &a->pit[i], *y = &b->pit[i];

		assert_int_equal(x->mode, y->mode);
		assert_int_equal(x->rw, y->rw);
		assert_int_equal(x->gate, y->gate);
		assert_int_equal(x->null_count, y->null_count);
		assert_int_equal(x->latched, y->latched);
		assert_int_equal(x->latch, y->latch);
		assert_int_equal(x->write_high_next, y->write_high_next);
		assert_int_equal(x->write_low, y->write_low);
		assert_int_equal(x->read_high_next, y->read_high_next);
	}
}

static void chips_and_clock_move_to_another_vm(void **state)
{
	struct rig *rigs[2] = {rig_new(1, false), rig_new(1, false)};
	struct x86_chips_state want = some_chips();
	struct chip_state chips = {.chips = want, .clock = {.kvmclock_ns = 5000 * NSEC_PER_SEC}};
	struct err e;

	(void)state;
	assert_int_equal(x86_chips_check(&want, &e), 0);
	for (u32 i = 0; i < 2; i++) {
		struct vm *vm = &rigs[i]->vm;

		push_pull(rigs[i]);
		vm->chips = &chips;
		rig_ok(rigs[i], kvm_accel_ops.vm_push(vm, &rigs[i]->e));
		memset(&chips, 0xa5, sizeof(chips));
		rig_ok(rigs[i], kvm_accel_ops.vm_pull(vm, &rigs[i]->e));
		assert_int_equal(x86_chips_check(&chips.chips, &e), 0);
		expect_chips(&chips.chips, &want);
		/* It begins anew under KVM, with what was left to go: 0x4000 ticks are 13.7 ms. */
		assert_in_range(chips.chips.pit[2].count, 0x4000 - 8 * 1194, 0x4000 - 5 * 1193);
		assert_int_equal(chips.chips.pit[1].count, 18);
		assert_in_range(chips.clock.kvmclock_ns, 5000 * NSEC_PER_SEC, 5010 * NSEC_PER_SEC);
		assert_in_range(chips.clock.realtime_ns, 1700000000 * NSEC_PER_SEC, 7000000000 * NSEC_PER_SEC);
		chips.chips.pit[2] = want.pit[2];
	}
	rig_free(rigs[0]);
	rig_free(rigs[1]);
}

/* There are KVMs that only emulate, and give their guests the host's counter as it is. */
static bool tsc_can_be_set(struct rig *rig)
{
	struct rig *other = rig_new(1, false);
	struct cpu_state *c = cpu0(other);
	bool can;

	c->nr_msrs = 1;
	c->tsc_khz = cpu0(rig)->tsc_khz;
	c->msrs[0] = (struct x86_msr){MSR_TSC, 1ull << 55};
	can = kvm_accel_ops.vcpu_push(&other->vm.vcpus[0], &other->e) == 0;
	if (!can)
		assert_non_null(strstr(other->e.msg, "KVM ignores the guest's TSC"));
	rig_free(other);
	return can;
}

/* Older kernels take a value less than a second from what they expect for an attempt to synchronize. */
static void a_tsc_less_than_a_second_old_is_loaded_too(void **state)
{
	struct rig *rig = rig_new(2, false);
	u64 tsc[2], want;

	(void)state;
	push_pull(rig);
	if (!tsc_can_be_set(rig)) {
		rig_free(rig);
		return;
	}
	want = cpu0(rig)->tsc_khz * 700; /* 0.7 s */
	for (u32 i = 0; i < 2; i++) {
		struct cpu_state *c = rig->vm.vcpus[i].cpu;

		c->nr_msrs = 1;
		c->tsc_khz = cpu0(rig)->tsc_khz;
		c->msrs[0] = (struct x86_msr){MSR_TSC, want + i * 1000};
		rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[i], &rig->e));
	}
	for (u32 i = 0; i < 2; i++) {
		const struct cpu_state *c = rig_pull(rig, i);

		assert_int_equal(c->msrs[0].index, MSR_TSC);
		tsc[i] = c->msrs[0].value;
		assert_in_range(tsc[i], want, want + c->tsc_khz * 2000);
	}
	assert_true(tsc[1] >= tsc[0]);
	rig_free(rig);
}

static void a_tsc_that_was_just_pulled_is_left_alone(void **state)
{
	struct rig *rig = rig_new(1, false);
	u64 before;

	(void)state;
	push_pull(rig);
	before = cpu0(rig)->msrs[0].value;
	usleep(20 * 1000);
	rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e));
	rig_pull(rig, 0);
	assert_true(cpu0(rig)->msrs[0].value - before > cpu0(rig)->tsc_khz * 19);
	rig_free(rig);
}

/* Its interrupt may wait inside KVM, where it is not seen. */
static void a_one_shot_timer_that_ran_out_is_saved_as_one_that_is_about_to(void **state)
{
	struct rig *rig = rig_new(1, false);
	u8 *regs = cpu0(rig)->lapic.regs;

	(void)state;
	push_pull(rig);
	st_le32(regs + 0xf0, 0x1ff);
	st_le32(regs + 0x320, 0x40);
	st_le32(regs + 0x3e0, 0xb);
	st_le32(regs + 0x380, 1000);
	st_le32(regs + 0x390, 1);
	rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e));
	usleep(2000);
	rig_pull(rig, 0);
	assert_int_equal(ld_le32(regs + 0x380), 1000);
	assert_int_equal(ld_le32(regs + 0x390), 1);
	rig_free(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(general_registers_come_back),
		cmocka_unit_test(each_general_register_is_the_one_that_the_guest_sees),
		cmocka_unit_test(system_registers_and_segments_come_back),
		cmocka_unit_test(illegal_system_registers_are_refused_with_their_values),
		cmocka_unit_test(pending_events_come_back),
		cmocka_unit_test(an_injected_exception_keeps_its_error_code),
		cmocka_unit_test(the_interrupt_shadow_means_the_same_to_kvm),
		cmocka_unit_test(run_states_come_back),
		cmocka_unit_test(floating_point_state_comes_back),
		cmocka_unit_test(no_floating_point_state_means_that_of_a_reset),
		cmocka_unit_test(an_xsave_area_larger_than_the_hosts_is_refused),
		cmocka_unit_test(msrs_come_back),
		cmocka_unit_test(an_msr_that_kvm_refuses_is_named),
		cmocka_unit_test(an_absent_msr_of_value_zero_is_passed_over),
		cmocka_unit_test(boot_state_wires_the_local_pins_as_firmware_does),
		cmocka_unit_test(the_local_apic_comes_back),
		cmocka_unit_test(a_pulled_state_goes_into_another_vm_unchanged),
		cmocka_unit_test(a_running_vcpu_takes_the_same_cpuid_again),
		cmocka_unit_test(a_tsc_frequency_that_the_host_cannot_give_is_refused),
		cmocka_unit_test(caps_show_kvm_without_what_a_snapshot_cannot_hold),
		cmocka_unit_test(a_cpu_template_reaches_the_vcpu),
		cmocka_unit_test(chips_and_clock_move_to_another_vm),
		cmocka_unit_test(a_tsc_less_than_a_second_old_is_loaded_too),
		cmocka_unit_test(a_tsc_that_was_just_pulled_is_left_alone),
		cmocka_unit_test(a_one_shot_timer_that_ran_out_is_saved_as_one_that_is_about_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
