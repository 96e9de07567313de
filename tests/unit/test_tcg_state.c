/* test_tcg_state.c: a vCPU's state into the software accelerator and back: what is kept, what is made harmless, what is refused. */
#define RIG_ACCEL tcg_accel_ops
#include "kvm_rig.h"

#include <errno.h>
#include <time.h>

#include "arch/x86_64/vm_state.h"
#include "tcg/pvclock.h"
#include "tcg/vcpu.h"

#define MSR_TSC		 0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define XSTATE_BV	 512
#define MXCSR		 24

/* Saved by kvm_x86_msr.c whatever the host says. */
static const u32 kvm_msrs[] = {
	0x10,	    0x3b,	0x48,	    0x10a,	0x174,	    0x175,	0x176,	    0x17a,	0x1a0,	    0x200,	0x20f,
	0x250,	    0x258,	0x259,	    0x268,	0x26f,	    0x277,	0x2ff,	    0x6e0,	0xda0,	    0x4b564d00, 0x4b564d01,
	0x4b564d03, 0x4b564d04, 0x4b564d05, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103,
};

static const struct x86_msr *find_msr(const struct cpu_state *s, u32 index)
{
	for (u32 i = 0; i < s->nr_msrs; i++) {
		if (s->msrs[i].index == index)
			return &s->msrs[i];
	}
	return NULL;
}

static void add_msr(struct cpu_state *s, u32 index, u64 value)
{
	s->msrs[s->nr_msrs++] = (struct x86_msr){index, value};
}

static int push(struct rig *rig)
{
	return tcg_accel_ops.vcpu_push(&rig->vm.vcpus[0], &rig->e);
}

/* Everything different from everything, as far as a processor could be in that state. */
static void fill(struct cpu_state *s, struct rig *rig)
{
	struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));

	rig_ok(rig, tcg_accel_ops.cpu_caps(&rig->vm, caps, &rig->e));
	s->cpuid = caps->cpuid;
	s->tsc_khz = caps->tsc_khz;
	free(caps);
	for (u32 i = 0; i < X86_NR_GPRS; i++)
		s->gpr[i] = 0x1111111111111111ull * i;
	s->rip = 0xffffffff81000123;
	s->rflags = 0x40246; /* AC */
	for (u32 i = 0; i < X86_NR_SEGS; i++)
		s->seg[i] = (struct x86_seg){.base = 0x1000 * i, .limit = 0xffff0 + i, .selector = (u16)(8 * i), .attr = (u16)(0xc93 + i)};
	s->seg[X86_SS].attr = 0xcf3; /* DPL 3 */
	s->gdt = (struct x86_dtable){0xfffffe0000001000, 0x7f};
	s->idt = (struct x86_dtable){0xfffffe0000000000, 0xfff};
	s->cr0 = 0x80050033;
	s->cr2 = 0xdeadbeef;
	s->cr3 = 0x1234001;
	s->cr4 = 0x370ef0;
	s->efer = 0xd01;
	s->xcr0 = cpumodel_xcr0(&s->cpuid);
	for (u32 i = 0; i < 4; i++)
		s->dr[i] = 0x1000 + i;
	s->dr6 = 0xffff0ff1;
	s->dr7 = 0x403;
	for (u32 i = 0; i < 576; i++)
		s->xsave[i] = (u8)i;
	st_le32(s->xsave + MXCSR, 0x9fc0);
	st_le64(s->xsave + XSTATE_BV, 7);
	memset(s->xsave + 520, 0, 56);
	memset(s->xsave + 576, 0xa5, 256);
	s->xsave_size = 832;
}

static void all_registers_come_back_as_they_went_in(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu, want;
	u8 xsave[832];

	(void)state;
	fill(s, rig);
	want = *s;
	memcpy(xsave, s->xsave, sizeof(xsave));
	rig_ok(rig, push(rig));
	memset(s, 0, offsetof(struct cpu_state, xsave));
	memset(s->xsave, 0, X86_XSAVE_MAX);
	rig_pull(rig, 0);
	assert_memory_equal(s->gpr, want.gpr, sizeof(s->gpr));
	assert_int_equal(s->rip, want.rip);
	assert_int_equal(s->rflags, want.rflags);
	assert_memory_equal(s->seg, want.seg, sizeof(s->seg));
	assert_memory_equal(&s->gdt.base, &want.gdt.base, 10);
	assert_memory_equal(&s->idt.base, &want.idt.base, 10);
	assert_int_equal(s->cr0, want.cr0);
	assert_int_equal(s->cr2, want.cr2);
	assert_int_equal(s->cr3, want.cr3);
	assert_int_equal(s->cr4, want.cr4);
	assert_int_equal(s->efer, want.efer);
	assert_int_equal(s->xcr0, want.xcr0);
	assert_memory_equal(s->dr, want.dr, sizeof(s->dr));
	assert_int_equal(s->dr6, want.dr6);
	assert_int_equal(s->dr7, want.dr7);
	assert_int_equal(s->tsc_khz, want.tsc_khz);
	assert_int_equal(s->apic_base, want.apic_base);
	assert_in_range(s->xsave_size, 832, X86_XSAVE_MAX);
	assert_memory_equal(s->xsave, xsave, sizeof(xsave));
	assert_int_equal(tcg_cpu_of(&rig->vm.vcpus[0])->cpl, 3);
	rig_free(rig);
}

static void msrs_are_those_of_kvm_and_keep_their_values(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	s->nr_msrs = 0;
	for (u32 i = 0; i < ARRAY_SIZE(kvm_msrs); i++) {
		/* A deadline needs a LAPIC in that mode, the clock's page memory; they have tests of their own. */
		if (kvm_msrs[i] != MSR_TSC && kvm_msrs[i] != MSR_TSC_DEADLINE)
			add_msr(s, kvm_msrs[i], kvm_msrs[i] == 0x4b564d01 ? 0x5000 : 0x1000 + i);
	}
	rig_ok(rig, push(rig));
	s->nr_msrs = 0;
	rig_pull(rig, 0);
	for (u32 i = 0; i < ARRAY_SIZE(kvm_msrs); i++) {
		const struct x86_msr *m = find_msr(s, kvm_msrs[i]);

		if (!m)
			fail_msg("MSR %#x is missing", kvm_msrs[i]);
		if (m->index != MSR_TSC && m->index != MSR_TSC_DEADLINE)
			assert_int_equal(m->value, m->index == 0x4b564d01 ? 0x5000 : 0x1000 + i);
	}
	rig_free(rig);
}

static void an_msr_that_is_not_there_must_be_zero(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	s->nr_msrs = 0;
	add_msr(s, 0x38f, 0);
	rig_ok(rig, push(rig));
	s->msrs[0].value = 7;
	assert_int_equal(push(rig), -EINVAL);
	assert_string_equal(rig->e.msg, "vCPU 0: MSR 0x38f = 0x7: the software accelerator does not have it");
	s->nr_msrs = X86_MSR_MAX + 1;
	assert_int_equal(push(rig), -EINVAL);
	rig_free(rig);
}

static void a_processor_that_tcg_is_not_is_refused_by_name(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	fill(s, rig);
	x86_cpuid_find(&s->cpuid, 7, 0)->ecx |= 1u << 3;
	assert_int_equal(push(rig), -EOPNOTSUPP);
	assert_string_equal(rig->e.msg, "vCPU 0: the guest was shown a processor with PKU, which the software accelerator does not have");
	fill(s, rig);
	x86_cpuid_find(&s->cpuid, 0xd, 0)->eax |= 1u << 9;
	assert_int_equal(push(rig), -EOPNOTSUPP);
	fill(s, rig);
	s->cpuid.nr = X86_CPUID_MAX + 1;
	assert_int_equal(push(rig), -EINVAL);
	fill(s, rig);
	s->tsc_khz += s->tsc_khz / 1000;
	assert_int_equal(push(rig), -EOPNOTSUPP);
	assert_non_null(strstr(rig->e.msg, "does not scale"));
	s->tsc_khz -= s->tsc_khz / 1000 - 2;
	rig_ok(rig, push(rig));
	assert_int_equal(rig_pull(rig, 0)->tsc_khz, s->tsc_khz);
	rig_free(rig);
}

static void xcr0_must_be_one_that_a_processor_takes(void **state)
{
	static const u64 wrong[] = {2, 5, 0x23, 0x27, 0xe3, 0x201, 0x20007};
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	fill(s, rig);
	for (u32 i = 0; i < ARRAY_SIZE(wrong); i++) {
		s->xcr0 = wrong[i];
		assert_int_equal(push(rig), -EINVAL);
	}
	s->xcr0 = 0;
	rig_ok(rig, push(rig));
	assert_int_equal(rig_pull(rig, 0)->xcr0, 1);
	rig_free(rig);
}

/* XRSTOR would fault on what these ask for, and take husk with it. */
static void an_xsave_area_is_made_harmless_or_refused(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	fill(s, rig);
	st_le32(s->xsave + MXCSR, 0xffffffff);
	st_le64(s->xsave + XSTATE_BV, UINT64_MAX);
	memset(s->xsave + 528, 0xff, 48);
	rig_ok(rig, push(rig));
	rig_pull(rig, 0);
	assert_int_equal(ld_le32(s->xsave + MXCSR), 0xffff);
	assert_int_equal(ld_le64(s->xsave + XSTATE_BV) & ~CPUMODEL_XCR0, 0);
	for (u32 i = 520; i < 576; i++)
		assert_int_equal(s->xsave[i], 0);
	st_le64(s->xsave + 520, 1ull << 63);
	assert_int_equal(push(rig), -EINVAL);
	fill(s, rig);
	s->xsave_size = X86_XSAVE_MAX + 1;
	assert_int_equal(push(rig), -EINVAL);
	s->xsave_size = 100;
	assert_int_equal(push(rig), -EINVAL);
	s->xsave_size = 0;
	rig_ok(rig, push(rig));
	assert_int_equal(ld_le16(rig_pull(rig, 0)->xsave), 0x37f);
	rig_free(rig);
}

static void pending_events_come_back(void **state)
{
	const struct x86_events events[] = {
		{0},
		{.exception_pending = true,
		 .exception_vector = 14,
		 .exception_has_error = true,
		 .exception_error = 6,
		 .exception_has_payload = true,
		 .exception_payload = 0x123456},
		{.interrupt_injected = true, .interrupt_vector = 0x31},
		{.nmi_pending = true, .nmi_masked = true},
		{.interrupt_shadow = 1},
		{.interrupt_shadow = 2},
		{.triple_fault_pending = true},
	};
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(events); i++) {
		s->events = events[i];
		rig_ok(rig, push(rig));
		memset(&s->events, 0xff, sizeof(s->events));
		rig_pull(rig, 0);
		assert_int_equal(s->events.exception_pending, events[i].exception_pending);
		assert_int_equal(s->events.exception_vector, events[i].exception_vector);
		assert_int_equal(s->events.exception_has_error, events[i].exception_has_error);
		assert_int_equal(s->events.exception_error, events[i].exception_error);
		assert_int_equal(s->events.exception_payload, events[i].exception_payload);
		assert_int_equal(s->events.interrupt_injected, events[i].interrupt_injected);
		assert_int_equal(s->events.interrupt_vector, events[i].interrupt_vector);
		assert_int_equal(s->events.nmi_pending, events[i].nmi_pending);
		assert_int_equal(s->events.nmi_masked, events[i].nmi_masked);
		assert_int_equal(s->events.interrupt_shadow, events[i].interrupt_shadow);
		assert_int_equal(s->events.triple_fault_pending, events[i].triple_fault_pending);
	}
	s->events = (struct x86_events){.smm = true};
	assert_int_equal(push(rig), -EOPNOTSUPP);
	rig_free(rig);
}

static void each_run_state_comes_back(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	for (u32 mp = X86_MP_RUNNABLE; mp <= X86_MP_HALTED; mp++) {
		s->mp_state = mp;
		s->events.sipi_vector = 0x9a;
		rig_ok(rig, push(rig));
		rig_pull(rig, 0);
		/* A SIPI that has come is taken on the way, as under KVM. */
		assert_int_equal(s->mp_state, mp == X86_MP_SIPI_RECEIVED ? X86_MP_RUNNABLE : mp);
	}
	s->mp_state = 77;
	assert_int_equal(push(rig), -EINVAL);
	rig_free(rig);
}

static u64 tsc_of(struct rig *rig, u32 cpu)
{
	return find_msr(rig_pull(rig, cpu), MSR_TSC)->value;
}

static void the_tsc_goes_on_from_its_value_and_is_one_for_all(void **state)
{
	struct rig *rig = rig_new(2, false);
	u64 base = 1ull << 40, tsc[2];

	(void)state;
	for (u32 i = 0; i < 2; i++) {
		struct cpu_state *s = rig->vm.vcpus[i].cpu;

		s->nr_msrs = 0;
		add_msr(s, MSR_TSC, base + 1000 * i); /* saved one after the other */
		rig_ok(rig, tcg_accel_ops.vcpu_push(&rig->vm.vcpus[i], &rig->e));
		usleep(2000);
	}
	assert_int_equal(tcg_cpu_of(&rig->vm.vcpus[0])->tsc_offset, tcg_cpu_of(&rig->vm.vcpus[1])->tsc_offset);
	tsc[0] = tsc_of(rig, 0);
	tsc[1] = tsc_of(rig, 1);
	assert_in_range(tsc[0], base + 2 * 2000 * 100, base + 20ull * 1000 * 1000 * 1000);
	assert_true(tsc[1] >= tsc[0]);
	rig_free(rig);
}

static void the_tsc_stands_still_while_the_vm_is_paused(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct tcg_cpu *c = tcg_cpu_of(&rig->vm.vcpus[0]);
	u64 before, after, khz;

	(void)state;
	rig->vm.clock = (struct clock){.base_ns = clock_host_ns()};
	rig_ok(rig, push(rig));
	tcg_clock_follow(c); /* as the run loop does on entry */
	khz = c->t->tsc_khz;
	clock_pause(&rig->vm);
	before = tsc_of(rig, 0);
	usleep(20 * 1000);
	after = tsc_of(rig, 0);
	assert_true(after - before < khz / 10 || before - after < khz / 10); /* 0.1 ms: two clocks are compared */
	clock_resume(&rig->vm);
	tcg_clock_follow(c);
	after = tcg_rdtsc(c);
	assert_true(after - before < khz * 5 || before - after < khz / 10);
	rig_free(rig);
}

/* CLOCK_MONOTONIC is slewed, and a pause may be long: what it says of its length must not set the TSC back. */
static void no_pause_sets_the_tsc_back(void **state)
{
	struct rig *rig = rig_new(2, false);
	struct tcg_cpu *c = tcg_cpu_of(&rig->vm.vcpus[0]), *other = tcg_cpu_of(&rig->vm.vcpus[1]);
	u64 before, after;

	(void)state;
	rig->vm.clock = (struct clock){.base_ns = clock_host_ns() - 10 * NSEC_PER_SEC};
	for (u32 i = 0; i < 2; i++)
		rig_ok(rig, tcg_accel_ops.vcpu_push(&rig->vm.vcpus[i], &rig->e));
	for (u32 i = 0; i < 20; i++) {
		tcg_clock_follow(c);
		tcg_clock_follow(other);
		assert_int_equal(c->tsc_offset, other->tsc_offset);
		before = tcg_rdtsc(c);
		tcg_clock_left(c);
		clock_pause(&rig->vm);
		after = tsc_of(rig, 0);
		assert_true(after >= before && after - before < c->t->tsc_khz * 5);
		assert_int_equal(tsc_of(rig, 1), after);
		clock_resume(&rig->vm);
		rig->vm.clock.base_ns += NSEC_PER_SEC; /* a pause that the clock has for longer than it was */
		tcg_clock_follow(other);
		after = tcg_rdtsc(other);
		assert_true(after >= before && after - before < c->t->tsc_khz * 5);
	}
	rig_free(rig);
}

/* As Linux' pvclock_read does. */
static u64 guest_clock(struct rig *rig, u64 gpa, u64 tsc)
{
	struct {
		u32 version, pad;
		u64 tsc, ns;
		u32 mul;
		int8_t shift;
		u8 flags, pad2[2];
	} info;
	u64 ticks;

	assert_int_equal(mem_read(&rig->vm.mem, gpa, &info, sizeof(info)), 0);
	assert_int_equal(info.version & 1, 0);
	assert_int_equal(info.flags & 1, 1);
	ticks = tsc - info.tsc;
	ticks = info.shift < 0 ? ticks >> -info.shift : ticks << info.shift;
	return info.ns + (u64)((unsigned __int128)ticks * info.mul >> 32);
}

static void the_paravirtual_clock_counts_nanoseconds_for_all_alike(void **state)
{
	struct rig *rig = rig_new(2, false);
	struct tcg_cpu *c[2] = {tcg_cpu_of(&rig->vm.vcpus[0]), tcg_cpu_of(&rig->vm.vcpus[1])};
	u64 host[2], guest[2], value;

	(void)state;
	for (u32 i = 0; i < 2; i++)
		rig_ok(rig, tcg_accel_ops.vcpu_push(&rig->vm.vcpus[i], &rig->e));
	assert_true(pvclock_write_msr(c[0], MSR_KVM_SYSTEM_TIME, 0x5000 | 1));
	usleep(1000);
	assert_true(pvclock_write_msr(c[1], MSR_KVM_SYSTEM_TIME, 0x5040 | 1));
	for (u32 i = 0; i < 2; i++) {
		host[i] = clock_host_ns();
		guest[i] = guest_clock(rig, 0x5000, tcg_rdtsc(c[0]));
		assert_in_range(guest_clock(rig, 0x5040, tcg_rdtsc(c[1])) - guest[i], 0, 10 * NSEC_PER_MSEC);
		usleep(20 * 1000);
	}
	assert_true(guest[1] - guest[0] + 200 * 1000 > host[1] - host[0] && guest[1] - guest[0] < host[1] - host[0] + 200 * 1000);
	assert_true(pvclock_read_msr(c[0], MSR_KVM_SYSTEM_TIME, &value) && value == 0x5001);
	assert_false(pvclock_write_msr(c[0], MSR_KVM_SYSTEM_TIME, 0xd0000001)); /* no RAM */
	assert_false(pvclock_write_msr(c[0], MSR_KVM_SYSTEM_TIME, RIG_LOW - 16 + 1));
	assert_false(pvclock_write_msr(c[0], 0x4b564d03, 0x6001)); /* steal time was not shown */
	assert_true(pvclock_write_msr(c[0], MSR_KVM_WALL_CLOCK, 0x6000));
	assert_int_equal(ld_le32(mem_ptr(&rig->vm.mem, 0x6000, 4)), 2);
	/* Wall time when the guest's clock was zero. */
	value = ld_le32(mem_ptr(&rig->vm.mem, 0x6004, 4)) + guest_clock(rig, 0x5000, tcg_rdtsc(c[0])) / NSEC_PER_SEC;
	assert_in_range((u64)time(NULL) - value, 0, 10);
	rig_free(rig);
}

/* As after a load: the page in memory is another host's, with another rate and its own pair. */
static void the_paravirtual_clock_goes_on_from_the_saved_one(void **state)
{
	struct rig *rig = rig_new(2, false);
	struct chip_state chips;
	u64 now;

	(void)state;
	rig->vm.chips = &chips;
	for (u32 i = 0; i < 2; i++) {
		struct cpu_state *s = rig->vm.vcpus[i].cpu;

		s->nr_msrs = 0;
		add_msr(s, MSR_KVM_SYSTEM_TIME, (0x5000 + i * 0x40) | 1);
		memset(mem_ptr(&rig->vm.mem, 0x5000 + i * 0x40, 32), 0x44, 32);
		rig_ok(rig, tcg_accel_ops.vcpu_push(&rig->vm.vcpus[i], &rig->e));
	}
	rig_ok(rig, tcg_accel_ops.vm_pull(&rig->vm, &rig->e));
	chips.clock.kvmclock_ns = 7000 * NSEC_PER_SEC;
	rig_ok(rig, tcg_accel_ops.vm_push(&rig->vm, &rig->e));
	for (u32 i = 0; i < 2; i++) {
		now = guest_clock(rig, 0x5000 + i * 0x40, tcg_rdtsc(tcg_cpu_of(&rig->vm.vcpus[i])));
		assert_in_range(now, 7000 * NSEC_PER_SEC, 7005 * NSEC_PER_SEC);
	}
	rig_ok(rig, tcg_accel_ops.vm_pull(&rig->vm, &rig->e));
	assert_in_range(chips.clock.kvmclock_ns, now, 7005 * NSEC_PER_SEC);
	rig_free(rig);
}

/* Local APIC in x2APIC mode, timer in TSC deadline mode with vector 0x40. */
static void deadline_state(struct cpu_state *s, u64 tsc, u64 deadline)
{
	s->apic_base |= 0x400;
	st_le32(s->lapic.regs + 0x30, 0x50014);
	st_le32(s->lapic.regs + 0xf0, 0x1ff);
	st_le32(s->lapic.regs + 0x320, 0x40040);
	s->nr_msrs = 0;
	add_msr(s, MSR_TSC_DEADLINE, deadline); /* before the TSC: the order must not matter */
	add_msr(s, MSR_TSC, tsc);
}

static void a_deadline_comes_back_with_the_lapic_that_it_belongs_to(void **state)
{
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;

	(void)state;
	deadline_state(s, 1000, 1ull << 50);
	rig_ok(rig, push(rig));
	rig_pull(rig, 0);
	assert_int_equal(find_msr(s, MSR_TSC_DEADLINE)->value, 1ull << 50);
	assert_int_equal(ld_le32(s->lapic.regs + 0x320), 0x40040);
	rig_free(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_registers_come_back_as_they_went_in),
		cmocka_unit_test(msrs_are_those_of_kvm_and_keep_their_values),
		cmocka_unit_test(an_msr_that_is_not_there_must_be_zero),
		cmocka_unit_test(a_processor_that_tcg_is_not_is_refused_by_name),
		cmocka_unit_test(xcr0_must_be_one_that_a_processor_takes),
		cmocka_unit_test(an_xsave_area_is_made_harmless_or_refused),
		cmocka_unit_test(pending_events_come_back),
		cmocka_unit_test(each_run_state_comes_back),
		cmocka_unit_test(the_tsc_goes_on_from_its_value_and_is_one_for_all),
		cmocka_unit_test(the_tsc_stands_still_while_the_vm_is_paused),
		cmocka_unit_test(no_pause_sets_the_tsc_back),
		cmocka_unit_test(the_paravirtual_clock_counts_nanoseconds_for_all_alike),
		cmocka_unit_test(the_paravirtual_clock_goes_on_from_the_saved_one),
		cmocka_unit_test(a_deadline_comes_back_with_the_lapic_that_it_belongs_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
