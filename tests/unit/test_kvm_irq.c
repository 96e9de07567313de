/* test_kvm_irq.c: interrupt lines, irqfds and ioeventfds reach KVM's interrupt chips and come from guest writes. */
#include "kvm_rig.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

/* Requests that wait in the first PIC: bit n is GSI n. An edge stays there until the guest takes it. */
static u8 pic_requests(struct rig *rig)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

	assert_int_equal(ioctl(kvm_vm_of(&rig->vm)->fd, KVM_GET_IRQCHIP, &chip), 0);
	return chip.chip.pic.irr;
}

/* An irqfd is served by a kernel thread, so a little later. */
static bool requested_soon(struct rig *rig, u8 bit)
{
	for (u32 i = 0; i < 1000; i++) {
		if (pic_requests(rig) & bit)
			return true;
		usleep(1000);
	}
	return false;
}

static void a_line_that_goes_up_is_requested(void **state)
{
	struct rig *rig = rig_new(1, false);

	(void)state;
	assert_int_equal(pic_requests(rig) & BIT(5), 0);
	kvm_accel_ops.irq_line(&rig->vm, 5, true);
	assert_int_equal(pic_requests(rig) & (BIT(5) | BIT(6)), BIT(5));
	kvm_accel_ops.irq_line(&rig->vm, 5, false);
	rig_free(rig);
}

static void an_irqfd_pulses_its_line_until_it_is_taken_away(void **state)
{
	struct rig *rig = rig_new(1, false);
	int fd = eventfd(0, EFD_CLOEXEC);

	(void)state;
	rig_ok(rig, kvm_accel_ops.irqfd(&rig->vm, fd, 5, true, &rig->e));
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_true(requested_soon(rig, BIT(5)));
	rig_ok(rig, kvm_accel_ops.irqfd(&rig->vm, fd, 5, false, &rig->e));
	rig_ok(rig, kvm_accel_ops.irqfd(&rig->vm, fd, 6, true, &rig->e));
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_true(requested_soon(rig, BIT(6)));
	close(fd);
	rig_free(rig);
}

static void an_ioeventfd_takes_writes_of_its_value_only(void **state)
{
	static const u8 code[] = {
		0x66, 0xbb, 0x00, 0x00, 0x00, 0xd0,		      /* mov ebx, 0xd0000000 */
		0x67, 0x66, 0xc7, 0x43, 0x50, 0x01, 0x00, 0x00, 0x00, /* mov dword [ebx+0x50], 1 */
		0x67, 0x66, 0xc7, 0x43, 0x50, 0x02, 0x00, 0x00, 0x00, /* mov dword [ebx+0x50], 2 */
		0xf4,
	};
	struct rig *rig = rig_new(1, false);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t value = 0;

	(void)state;
	rig_ok(rig, kvm_accel_ops.ioeventfd(&rig->vm, fd, RIG_MMIO + 0x50, 4, 1, true, &rig->e));
	rig_load(rig, code, sizeof(code));
	rig->kick = true;
	assert_int_equal(kvm_accel_ops.vcpu_run(&rig->vm.vcpus[0]), VCPU_AGAIN);
	assert_int_equal(rig->nr_access, 1);
	assert_int_equal(rig->access[0].data, 2);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, 1);
	rig_ok(rig, kvm_accel_ops.ioeventfd(&rig->vm, fd, RIG_MMIO + 0x50, 4, 1, false, &rig->e));
	close(fd);
	rig_free(rig);
}

static void an_eventfd_that_is_none_is_refused(void **state)
{
	struct rig *rig = rig_new(1, false);

	(void)state;
	assert_int_equal(kvm_accel_ops.irqfd(&rig->vm, -1, 5, true, &rig->e), -EBADF);
	assert_int_equal(kvm_accel_ops.ioeventfd(&rig->vm, -1, RIG_MMIO, 4, 1, true, &rig->e), -EBADF);
	rig_free(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_that_goes_up_is_requested),
		cmocka_unit_test(an_irqfd_pulses_its_line_until_it_is_taken_away),
		cmocka_unit_test(an_ioeventfd_takes_writes_of_its_value_only),
		cmocka_unit_test(an_eventfd_that_is_none_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
