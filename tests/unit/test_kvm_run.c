/* test_kvm_run.c: guests of a few instructions: their I/O, the kick, and their end. */
#include "kvm_rig.h"

#include <pthread.h>
#include <signal.h>

/* Guests end here: a port access that kicks. */
#define RUN_UNTIL_KICK(rig) \
	do { \
		(rig)->kick = true; \
		assert_int_equal(kvm_accel_ops.vcpu_run(&(rig)->vm.vcpus[0]), VCPU_AGAIN); \
	} while (0)

static void out_reaches_the_device_with_its_size(void **state)
{
	static const u8 code[] = {
		0xba, 0x04, 0x05,		    /* mov dx, 0x504 */
		0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, /* mov eax, 0x12345678 */
		0x66, 0xef,			    /* out dx, eax */
		0xf4,
	};
	struct rig *rig = rig_new(1, false);

	(void)state;
	rig_load(rig, code, sizeof(code));
	RUN_UNTIL_KICK(rig);
	assert_int_equal(rig->nr_access, 1);
	assert_true(rig->access[0].write);
	assert_int_equal(rig->access[0].offset, 4);
	assert_int_equal(rig->access[0].len, 4);
	assert_int_equal(rig->access[0].data, 0x12345678);
	rig_free(rig);
}

static void string_output_arrives_item_by_item(void **state)
{
	static const u8 code[] = {
		0xba, 0x00, 0x05, /* mov dx, 0x500 */
		0xbe, 0x00, 0x20, /* mov si, 0x2000 */
		0xb9, 0x03, 0x00, /* mov cx, 3 */
		0xf3, 0x6f,	  /* rep outsw */
		0xba, 0x02, 0x05, /* mov dx, 0x502 */
		0xef,		  /* out dx, ax */
		0xf4,
	};
	static const u16 items[] = {0x1111, 0x2222, 0x3333};
	struct rig *rig = rig_new(1, false);

	(void)state;
	rig_ok(rig, mem_write(&rig->vm.mem, 0x2000, items, sizeof(items)));
	rig_load(rig, code, sizeof(code));
	while (rig->nr_access < 4)
		RUN_UNTIL_KICK(rig);
	for (u32 i = 0; i < ARRAY_SIZE(items); i++) {
		assert_int_equal(rig->access[i].offset, 0);
		assert_int_equal(rig->access[i].len, 2);
		assert_int_equal(rig->access[i].data, items[i]);
	}
	rig_free(rig);
}

static void string_input_fills_guest_memory(void **state)
{
	static const u8 code[] = {
		0xba, 0x00, 0x05, /* mov dx, 0x500 */
		0xbf, 0x00, 0x20, /* mov di, 0x2000 */
		0xb9, 0x04, 0x00, /* mov cx, 4 */
		0xf3, 0x6c,	  /* rep insb */
		0xef,		  /* out dx, ax */
		0xf4,
	};
	struct rig *rig = rig_new(1, false);
	u8 got[5];

	(void)state;
	rig->answer = 0xa5;
	rig_load(rig, code, sizeof(code));
	while (!rig->nr_access || !rig->access[rig->nr_access - 1].write)
		RUN_UNTIL_KICK(rig);
	rig_ok(rig, mem_read(&rig->vm.mem, 0x2000, got, sizeof(got)));
	assert_memory_equal(got, "\xa5\xa5\xa5\xa5\0", 5);
	rig_free(rig);
}

static void mmio_reads_and_writes_reach_the_device(void **state)
{
	static const u8 code[] = {
		0x66, 0xbb, 0x00, 0x00, 0x00, 0xd0, /* mov ebx, 0xd0000000 */
		0x67, 0x66, 0x8b, 0x43, 0x10,	    /* mov eax, [ebx+0x10] */
		0x67, 0x88, 0x43, 0x20,		    /* mov [ebx+0x20], al */
		0xf4,
	};
	struct rig *rig = rig_new(1, false);

	(void)state;
	rig->answer = 0xcafe1234;
	rig_load(rig, code, sizeof(code));
	while (rig->nr_access < 2)
		RUN_UNTIL_KICK(rig);
	assert_false(rig->access[0].write);
	assert_int_equal(rig->access[0].offset, 0x10);
	assert_int_equal(rig->access[0].len, 4);
	assert_true(rig->access[1].write);
	assert_int_equal(rig->access[1].offset, 0x20);
	assert_int_equal(rig->access[1].len, 1);
	assert_int_equal(rig->access[1].data, 0x34);
	rig_free(rig);
}

static void a_kick_during_a_read_lets_the_instruction_finish(void **state)
{
	static const u8 code[] = {
		0xba, 0x00, 0x05, /* mov dx, 0x500 */
		0xed,		  /* in ax, dx */
		0x40,		  /* inc ax */
		0xf4,
	};
	struct rig *rig = rig_new(1, false);
	struct cpu_state *cpu;

	(void)state;
	rig->answer = 0x1234;
	rig_load(rig, code, sizeof(code));
	RUN_UNTIL_KICK(rig);
	cpu = rig_pull(rig, 0);
	assert_int_equal(cpu->rip, RIG_CODE + 4); /* behind the in, before the inc */
	assert_int_equal(cpu->gpr[X86_RAX] & 0xffff, 0x1234);
	assert_int_equal(rig->nr_access, 1);
	rig_free(rig);
}

static void a_kick_before_the_run_is_not_lost(void **state)
{
	static const u8 code[] = {0xeb, 0xfe}; /* jmp . */
	struct rig *rig = rig_new(1, false);
	struct kvm_vcpu *kc = rig->vm.vcpus[0].accel;

	(void)state;
	rig_load(rig, code, sizeof(code));
	kvm_accel_ops.vcpu_kick(&rig->vm.vcpus[0]);
	assert_int_equal(kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_AGAIN);
	assert_int_equal(kc->kicks, 1);
	assert_int_equal(rig_pull(rig, 0)->rip, RIG_CODE);
	rig_free(rig);
}

static void *run_thread(void *opaque)
{
	struct vcpu *v = opaque;
	sigset_t all;

	sigfillset(&all); /* as vCPU threads start */
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	return (void *)(uintptr_t)kvm_accel_ops.vcpu_run(v);
}

static void kick_running(const u8 *code, size_t size)
{
	struct rig *rig = rig_new(1, false);
	struct kvm_vcpu *kc = rig->vm.vcpus[0].accel;
	pthread_t thread;
	void *ret;

	rig_load(rig, code, size);
	for (u32 i = 1; i <= 20; i++) {
		assert_int_equal(pthread_create(&thread, NULL, run_thread, &rig->vm.vcpus[0]), 0);
		usleep(i * 100); /* before, at and after its entry */
		kvm_accel_ops.vcpu_kick(&rig->vm.vcpus[0]);
		pthread_join(thread, &ret);
		assert_int_equal((uintptr_t)ret, VCPU_AGAIN);
		assert_int_equal(kc->kicks, i);
	}
	rig_free(rig);
}

static void a_kick_gets_a_busy_vcpu_out(void **state)
{
	(void)state;
	kick_running((const u8[]){0xeb, 0xfe}, 2); /* jmp . */
}

static void a_kick_gets_a_halted_vcpu_out(void **state)
{
	(void)state;
	kick_running((const u8[]){0xfa, 0xf4, 0xeb, 0xfd}, 4); /* cli; 1: hlt; jmp 1b */
}

static void a_waiting_secondary_vcpu_can_be_kicked(void **state)
{
	struct rig *rig = rig_new(2, false);
	pthread_t thread;
	void *ret;

	(void)state;
	rig_ok(rig, kvm_accel_ops.vcpu_push(&rig->vm.vcpus[1], &rig->e));
	assert_int_equal(pthread_create(&thread, NULL, run_thread, &rig->vm.vcpus[1]), 0);
	usleep(1000);
	kvm_accel_ops.vcpu_kick(&rig->vm.vcpus[1]);
	pthread_join(thread, &ret);
	assert_int_equal((uintptr_t)ret, VCPU_AGAIN);
	assert_int_equal(rig_pull(rig, 1)->mp_state, X86_MP_UNINIT);
	rig_free(rig);
}

static void a_triple_fault_is_a_shutdown(void **state)
{
	static const u8 code[] = {0x0f, 0x0b}; /* ud2 */
	struct rig *rig = rig_new(1, false);

	(void)state;
	rig->vm.vcpus[0].cpu->cr0 |= 1; /* protected mode, without an IDT */
	rig->vm.vcpus[0].cpu->idt.limit = 0;
	rig_load(rig, code, sizeof(code));
	assert_int_equal(kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_SHUTDOWN);
	rig_free(rig);
}

static void memory_that_the_host_takes_away_is_an_error_that_says_so(void **state)
{
	static const u8 code[] = {0xa1, 0x00, 0x30, 0xf4}; /* mov ax, [0x3000] */
	struct rig *rig = rig_new(1, false);

	(void)state;
	rig_load(rig, code, sizeof(code));
	assert_int_equal(mprotect(rig->vm.mem.regions[0].hva + 0x3000, MEM_PAGE_SIZE, PROT_NONE), 0);
	assert_int_equal(kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_ERROR);
	assert_true(rig_logged(rig, "guest memory"));
	assert_true(rig_logged(rig, "RIP 0000:0000000000001000"));
	assert_true(rig_logged(rig, "code: a1 00 30 f4"));
	rig_free(rig);
}

static void exits_are_counted_by_cause(void **state)
{
	static const u8 code[] = {0xba, 0x00, 0x05, 0xef, 0xef, 0xf4}; /* mov dx, 0x500; out dx, ax; out dx, ax */
	struct rig *rig = rig_new(1, false);
	struct kvm_vcpu *kc = rig->vm.vcpus[0].accel;

	(void)state;
	rig_load(rig, code, sizeof(code));
	while (rig->nr_access < 2)
		RUN_UNTIL_KICK(rig);
	assert_int_equal(kc->exits[KVM_EXIT_IO], 2);
	assert_int_equal(kc->exits[KVM_EXIT_MMIO], 0);
	rig_free(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(out_reaches_the_device_with_its_size),
		cmocka_unit_test(string_output_arrives_item_by_item),
		cmocka_unit_test(string_input_fills_guest_memory),
		cmocka_unit_test(mmio_reads_and_writes_reach_the_device),
		cmocka_unit_test(a_kick_during_a_read_lets_the_instruction_finish),
		cmocka_unit_test(a_kick_before_the_run_is_not_lost),
		cmocka_unit_test(a_kick_gets_a_busy_vcpu_out),
		cmocka_unit_test(a_kick_gets_a_halted_vcpu_out),
		cmocka_unit_test(a_waiting_secondary_vcpu_can_be_kicked),
		cmocka_unit_test(a_triple_fault_is_a_shutdown),
		cmocka_unit_test(memory_that_the_host_takes_away_is_an_error_that_says_so),
		cmocka_unit_test(exits_are_counted_by_cause),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
