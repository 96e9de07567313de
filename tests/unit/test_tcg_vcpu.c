/* test_tcg_vcpu.c: vCPUs of the software accelerator as threads: kicks, exclusive sections, the LAPIC timer, HLT, the dirty log under way.
 */
#define RIG_ACCEL tcg_accel_ops
#include "kvm_rig.h"

#include <pthread.h>
#include <time.h>

#include "tcg/vcpu.h"

#define COUNTERS 0x2000u

/* 1: incl (%bx); jmp 1b. Each vCPU has its own word. */
static const u8 counting[] = {0x66, 0xff, 0x07, 0xeb, 0xfb};

struct runner {
	pthread_t thread;
	struct vcpu *v;
	enum vcpu_exit exit;
	u32 stop; /* atomic: back after the next kick */
};

static void *run(void *opaque)
{
	struct runner *r = opaque;

	do {
		r->exit = tcg_accel_ops.vcpu_run(r->v);
	} while (r->exit == VCPU_AGAIN && !__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST));
	return NULL;
}

static void start(struct runner *r, struct rig *rig, u32 cpu)
{
	*r = (struct runner){.v = &rig->vm.vcpus[cpu]};
	assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static void finish(struct runner *r)
{
	__atomic_store_n(&r->stop, 1, __ATOMIC_SEQ_CST);
	tcg_accel_ops.vcpu_kick(r->v);
	pthread_join(r->thread, NULL);
	assert_int_equal(r->exit, VCPU_AGAIN);
}

static u32 counter(struct rig *rig, u32 cpu)
{
	return __atomic_load_n((u32 *)mem_ptr(&rig->vm.mem, COUNTERS + 4096 * cpu, 4), __ATOMIC_RELAXED);
}

static void await_progress(struct rig *rig, u32 cpu)
{
	u64 deadline = clock_host_ns() + 20 * NSEC_PER_SEC;
	u32 before = counter(rig, cpu);

	while (counter(rig, cpu) == before)
		assert_true(clock_host_ns() < deadline);
}

static struct rig *counting_rig(u32 nr)
{
	struct rig *rig = rig_new(nr, false);

	assert_int_equal(mem_write(&rig->vm.mem, RIG_CODE, counting, sizeof(counting)), 0);
	for (u32 i = 0; i < nr; i++) {
		rig->vm.vcpus[i].cpu->mp_state = X86_MP_RUNNABLE;
		rig->vm.vcpus[i].cpu->gpr[X86_RBX] = COUNTERS + 4096 * i;
		rig_ok(rig, tcg_accel_ops.vcpu_push(&rig->vm.vcpus[i], &rig->e));
	}
	return rig;
}

static void kicks_from_all_sides_end_the_run_each_time(void **state)
{
	struct rig *rig = counting_rig(1);
	struct runner r;

	(void)state;
	for (u32 i = 0; i < 200; i++) {
		start(&r, rig, 0);
		if (i % 3 == 0)
			await_progress(rig, 0);
		finish(&r);
	}
	rig_free(rig);
}

static void in_an_exclusive_section_no_vcpu_moves(void **state)
{
	struct rig *rig = counting_rig(2);
	struct tcg_vm *t = tcg_vm_of(&rig->vm);
	struct runner r[2];

	(void)state;
	start(&r[0], rig, 0);
	start(&r[1], rig, 1);
	for (u32 i = 0; i < 50; i++) {
		u32 before[2];

		await_progress(rig, i % 2);
		tcg_exclusive_begin(t, NULL);
		before[0] = counter(rig, 0);
		before[1] = counter(rig, 1);
		usleep(i % 10 ? 0 : 2000);
		assert_int_equal(counter(rig, 0), before[0]);
		assert_int_equal(counter(rig, 1), before[1]);
		tcg_exclusive_end(t, NULL);
	}
	await_progress(rig, 0);
	await_progress(rig, 1);
	finish(&r[0]);
	finish(&r[1]);
	rig_free(rig);
}

struct contender {
	pthread_t thread;
	struct tcg_vm *t;
	struct tcg_cpu *c; /* NULL: not a vCPU */
	u32 *shared;
};

#define ROUNDS 2000u

/* As a vCPU that makes translations does: in the guest, now and then alone, and polling in between. */
static void *contend(void *opaque)
{
	struct contender *k = opaque;

	if (k->c)
		tcg_guest_enter(k->c);
	for (u32 i = 0; i < ROUNDS; i++) {
		if (k->c && vcpu_take_requests(k->c, TCG_REQ_STOP | TCG_REQ_SHOOT) & TCG_REQ_STOP) {
			tcg_guest_leave(k->c);
			tcg_guest_enter(k->c);
		}
		tcg_exclusive_begin(k->t, k->c);
		++*k->shared;
		tcg_exclusive_end(k->t, k->c);
	}
	if (k->c)
		tcg_guest_leave(k->c);
	return NULL;
}

static void vcpus_that_want_to_be_alone_at_once_all_get_their_turn(void **state)
{
	struct rig *rig = counting_rig(2);
	struct tcg_vm *t = tcg_vm_of(&rig->vm);
	u32 shared = 0;
	struct contender k[3] = {{.t = t, .c = t->cpus[0]}, {.t = t, .c = t->cpus[1]}, {.t = t}};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(k); i++) {
		k[i].shared = &shared;
		assert_int_equal(pthread_create(&k[i].thread, NULL, contend, &k[i]), 0);
	}
	for (u32 i = 0; i < ARRAY_SIZE(k); i++)
		pthread_join(k[i].thread, NULL);
	assert_int_equal(shared, ARRAY_SIZE(k) * ROUNDS);
	assert_int_equal(t->nr_in_guest, 0);
	rig_free(rig);
}

static void the_dirty_log_misses_no_store_while_the_guest_runs(void **state)
{
	struct rig *rig = counting_rig(1);
	const struct mem_region *m = &rig->vm.mem.regions[0];
	u64 *bitmap = xzalloc(mem_bitmap_words(m) * sizeof(u64));
	struct runner r;

	(void)state;
	start(&r, rig, 0);
	await_progress(rig, 0);
	rig_ok(rig, tcg_accel_ops.dirty_log(&rig->vm, true, &rig->e));
	for (u32 i = 0; i < 20; i++) {
		await_progress(rig, 0);
		bitmap[0] = 0;
		rig_ok(rig, tcg_accel_ops.dirty_get(&rig->vm, m, bitmap, &rig->e));
		assert_true(bitmap[0] >> (COUNTERS / 4096) & 1);
	}
	finish(&r);
	bitmap[0] = 0;
	rig_ok(rig, tcg_accel_ops.dirty_get(&rig->vm, m, bitmap, &rig->e));
	bitmap[0] = 0;
	rig_ok(rig, tcg_accel_ops.dirty_get(&rig->vm, m, bitmap, &rig->e));
	assert_int_equal(bitmap[0], 0);
	rig_ok(rig, tcg_accel_ops.dirty_log(&rig->vm, false, &rig->e));
	assert_int_not_equal(tcg_accel_ops.dirty_get(&rig->vm, m, bitmap, &rig->e), 0);
	free(bitmap);
	rig_free(rig);
}

/* ---- requests ---- */

#define PORT   0x600u
#define TABLES 0x10000u

struct port {
	struct device dev;
	struct tcg_cpu *c;
	u32 writes;
};

/* The first write leaves what a request leaves that comes between the two steps of vcpu_take_requests: it is taken, and the poll word is
 * set. The second one ends the run. */
static void port_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct port *p = container_of(dev, struct port, dev);

	(void)offset, (void)data, (void)len;
	if (p->writes++) {
		tcg_accel_ops.vcpu_kick(p->c->v);
		return;
	}
	tcg_request(p->c, TCG_REQ_IRQ);
	__atomic_store_n(&p->c->requests, 0, __ATOMIC_SEQ_CST);
	assert_int_equal(p->c->poll, TCG_POLL_LEAVE);
}

static void port_read(struct device *dev, u64 offset, void *data, u32 len)
{
	(void)dev, (void)offset, (void)data, (void)len;
}

/* Code of 64 bits is translated, that of the other tests is interpreted. The first 2 MiB, where they are. */
static void enter_long_mode(struct rig *rig, struct cpu_state *s)
{
	static const u64 entries[] = {(TABLES + 0x1000) | 3, (TABLES + 0x2000) | 3, 0x83};

	for (u32 i = 0; i < ARRAY_SIZE(entries); i++)
		assert_int_equal(mem_write(&rig->vm.mem, TABLES + 0x1000 * i, &entries[i], sizeof(entries[i])), 0);
	s->cr0 |= X86_CR0_PE | X86_CR0_PG;
	s->cr3 = TABLES;
	s->cr4 |= X86_CR4_PAE;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	s->seg[X86_CS].attr = 0xa9b;
}

static void a_poll_word_that_is_set_without_a_request_does_not_hold_up_the_guest(void **state)
{
	/* mov $0x600, %edx; out %al, %dx; mov $1000, %ecx; 1: dec %ecx; jnz 1b; out %al, %dx; 2: jmp 2b */
	static const u8 code[] = {0xba, 0x00, 0x06, 0x00, 0x00, 0xee, 0xb9, 0xe8, 0x03,
				  0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc, 0xee, 0xeb, 0xfe};
	static const struct bus_ops ops = {.read = port_read, .write = port_write};
	struct rig *rig = rig_new(1, false);
	struct vcpu *v = &rig->vm.vcpus[0];
	struct port port = {.c = v->accel};

	(void)state;
	device_init(&port.dev, &rig->vm, NULL, "port", NULL);
	rig_ok(rig, bus_add(&rig->vm, BUS_PIO, PORT, 1, &port.dev, &ops, &rig->e));
	enter_long_mode(rig, v->cpu);
	rig_load(rig, code, sizeof(code));
	alarm(20);
	assert_int_equal(tcg_accel_ops.vcpu_run(v), VCPU_AGAIN);
	alarm(0);
	assert_int_equal(port.writes, 2);
	assert_true(port.c->counters[TCG_C_DISPATCH] > 0);
	device_fini(&port.dev);
	rig_free(rig);
}

/* ---- LAPIC timer ---- */

#define VECTOR	 0x40u
#define HANDLER	 0x1100u
#define FLAG	 0x1800u
#define DELAY_MS 20u

/* incb 0x1800; iret */
static const u8 handler[] = {0xfe, 0x06, 0x00, 0x18, 0xcf};
/* sti; 1: cmpb $0, 0x1800; je 1b; mov $0x500, %dx; out %al, %dx; 2: jmp 2b */
static const u8 waits_running[] = {0xfb, 0x80, 0x3e, 0x00, 0x18, 0x00, 0x74, 0xf9, 0xba, 0x00, 0x05, 0xee, 0xeb, 0xfe};
/* sti; 1: hlt; cmpb $0, 0x1800; je 1b; mov $0x500, %dx; out %al, %dx; 2: jmp 2b */
static const u8 waits_halted[] = {0xfb, 0xf4, 0x80, 0x3e, 0x00, 0x18, 0x00, 0x74, 0xf8, 0xba, 0x00, 0x05, 0xee, 0xeb, 0xfe};

static void set_deadline(struct cpu_state *s, u64 ticks)
{
	s->apic_base |= 0x400;
	st_le32(s->lapic.regs + 0x30, 0x50014);
	st_le32(s->lapic.regs + 0xf0, 0x1ff);
	st_le32(s->lapic.regs + 0x320, 0x40000 | VECTOR);
	s->nr_msrs = 2;
	s->msrs[0] = (struct x86_msr){0x10, 1000};
	s->msrs[1] = (struct x86_msr){0x6e0, 1000 + ticks};
}

static void timer_interrupts(const u8 *code, size_t size)
{
	struct rig *rig = rig_new(1, false);
	struct vcpu *v = &rig->vm.vcpus[0];
	struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));
	u8 vector[4] = {HANDLER & 0xff, HANDLER >> 8};
	u64 start_ns, took;

	rig->kick = true;
	rig_ok(rig, tcg_accel_ops.cpu_caps(&rig->vm, caps, &rig->e));
	assert_int_equal(mem_write(&rig->vm.mem, VECTOR * 4, vector, sizeof(vector)), 0);
	assert_int_equal(mem_write(&rig->vm.mem, HANDLER, handler, sizeof(handler)), 0);
	v->cpu->gpr[X86_RSP] = 0x8000;
	set_deadline(v->cpu, caps->tsc_khz * DELAY_MS);
	free(caps);
	start_ns = clock_host_ns();
	rig_load(rig, code, size);
	while (!rig->nr_access)
		assert_int_equal(tcg_accel_ops.vcpu_run(v), VCPU_AGAIN);
	took = clock_host_ns() - start_ns;
	/* Not before its time: a guest would set it again and again. Ten seconds: this machine may be busy. */
	assert_in_range(took, DELAY_MS * NSEC_PER_MSEC - 10000, 10 * NSEC_PER_SEC);
	assert_int_equal(*(u8 *)mem_ptr(&rig->vm.mem, FLAG, 1), 1);
	rig_free(rig);
}

static void the_timer_interrupts_a_running_guest_at_its_deadline(void **state)
{
	(void)state;
	timer_interrupts(waits_running, sizeof(waits_running));
}

static void the_timer_wakes_a_halted_guest_at_its_deadline(void **state)
{
	(void)state;
	timer_interrupts(waits_halted, sizeof(waits_halted));
}

static u64 thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* cli; hlt */
static void a_guest_that_halts_costs_nothing_and_can_be_kicked(void **state)
{
	static const u8 halts[] = {0xfa, 0xf4};
	struct rig *rig = rig_new(1, false);
	struct runner r;
	u64 before;

	(void)state;
	rig_load(rig, halts, sizeof(halts));
	start(&r, rig, 0);
	usleep(20 * 1000);
	before = thread_cpu_ns();
	usleep(200 * 1000);
	assert_in_range(thread_cpu_ns() - before, 0, 20 * NSEC_PER_MSEC);
	finish(&r);
	assert_int_equal(rig_pull(rig, 0)->mp_state, X86_MP_HALTED);
	rig_free(rig);
}

/* The injected interrupt was taken from the LAPIC by whoever saved the state: it comes first. */
static void an_interrupt_that_was_injected_is_delivered(void **state)
{
	/* 1: cmpb $0, 0x1800; je 1b; mov $0x500, %dx; out %al, %dx; 2: jmp 2b */
	struct rig *rig = rig_new(1, false);
	struct cpu_state *s = rig->vm.vcpus[0].cpu;
	u8 vector[4] = {HANDLER & 0xff, HANDLER >> 8};

	(void)state;
	rig->kick = true;
	assert_int_equal(mem_write(&rig->vm.mem, 0x99 * 4, vector, sizeof(vector)), 0);
	assert_int_equal(mem_write(&rig->vm.mem, HANDLER, handler, sizeof(handler)), 0);
	s->gpr[X86_RSP] = 0x8000;
	s->rflags |= X86_FLAG_IF;
	s->events.interrupt_injected = true;
	s->events.interrupt_vector = 0x99;
	rig_load(rig, waits_running + 1, sizeof(waits_running) - 1);
	assert_int_equal(tcg_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_AGAIN);
	assert_int_equal(rig->nr_access, 1);
	assert_int_equal(*(u8 *)mem_ptr(&rig->vm.mem, FLAG, 1), 1);
	rig_free(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kicks_from_all_sides_end_the_run_each_time),
		cmocka_unit_test(in_an_exclusive_section_no_vcpu_moves),
		cmocka_unit_test(vcpus_that_want_to_be_alone_at_once_all_get_their_turn),
		cmocka_unit_test(the_dirty_log_misses_no_store_while_the_guest_runs),
		cmocka_unit_test(a_poll_word_that_is_set_without_a_request_does_not_hold_up_the_guest),
		cmocka_unit_test(the_timer_interrupts_a_running_guest_at_its_deadline),
		cmocka_unit_test(the_timer_wakes_a_halted_guest_at_its_deadline),
		cmocka_unit_test(a_guest_that_halts_costs_nothing_and_can_be_kicked),
		cmocka_unit_test(an_interrupt_that_was_injected_is_delivered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
