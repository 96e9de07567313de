/* test_acpi.c: the firmware tables of a whole machine: checksums, contents, and what ACPICA's own disassembler and compiler say of them. */
#include "x86_vm.h"
#include "x86_elf.h"

#include <sys/stat.h>
#include <sys/wait.h>

#define CONFIG \
	"{'boot-source': {'kernel_image_path': '%s'}, 'machine-config': {'vcpu_count': 3, 'mem_size_mib': 64}, 'serial': {'mode': " \
	"'null'}," \
	" 'boot_timer': true, 'slots': [{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}"

static struct x86_vm *start(void)
{
	struct x86_vm *x = xzalloc(sizeof(*x));
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);
	auto_free char *kernel = temp_file(elf, size), *config = xasprintf(CONFIG, kernel);

	if (x86_vm_init(x, config) < 0)
		fail_msg("%s", x->err.msg);
	unlink(kernel);
	return x;
}

static void stop(struct x86_vm *x)
{
	x86_vm_fini(x);
	free(x);
}

static u8 sum(const u8 *p, size_t len)
{
	u8 s = 0;

	while (len--)
		s = (u8)(s + *p++);
	return s;
}

/* The n-th table that the XSDT names; n = -1: the XSDT itself, -2: the DSDT. */
static const u8 *table(struct x86_vm *x, int n)
{
	u64 at = ld_le64(guest(x, X86_RSDP_GPA, 36) + 24);

	if (n == -2)
		at = ld_le64(table(x, 0) + 140);
	else if (n >= 0)
		at = ld_le64(guest(x, at, 36) + 36 + n * 8);
	return guest(x, at, ld_le32(guest(x, at, 36) + 4));
}

static void every_table_has_its_signature_and_a_right_checksum(void **state)
{
	static const char *const signatures[] = {"DSDT", "XSDT", "FACP", "APIC"};
	struct x86_vm *x = start();
	const u8 *rsdp = guest(x, X86_RSDP_GPA, 36);

	(void)state;
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	for (int n = -2; n < 2; n++) {
		const u8 *t = table(x, n);

		assert_memory_equal(t, signatures[n + 2], 4);
		assert_int_equal(sum(t, ld_le32(t + 4)), 0);
	}
	stop(x);
}

static void the_madt_lists_each_vcpu_and_the_ioapic(void **state)
{
	struct x86_vm *x = start();
	const u8 *t = table(x, 1);

	(void)state;
	assert_int_equal(ld_le32(t + 36), X86_LAPIC_GPA);
	for (u32 i = 0; i < 3; i++) {
		const u8 lapic[8] = {0, 8, (u8)i, (u8)i, 1};

		assert_memory_equal(t + 44 + i * 8, lapic, 8);
	}
	assert_int_equal(ld_le32(t + 44 + 3 * 8 + 4), X86_IOAPIC_GPA);
	assert_int_equal(ld_le32(t + 4), 44 + 3 * 8 + 12);
	stop(x);
}

static void the_fadt_is_hardware_reduced_and_names_the_power_registers(void **state)
{
	struct x86_vm *x = start();
	const u8 *t = table(x, 0);

	(void)state;
	assert_int_equal(ld_le32(t + 4), 276);
	assert_true(ld_le32(t + 112) & BIT(20));
	assert_true(ld_le32(t + 112) & BIT(10));
	assert_int_equal(ld_le16(t + 109) & 0x22, 2); /* an 8042, and an RTC */
	assert_int_equal(ld_le64(t + 120), X86_PIO_RESET);
	assert_int_equal(ld_le64(t + 248), X86_PIO_SLEEP_CONTROL);
	assert_int_equal(ld_le64(t + 260), X86_PIO_SLEEP_STATUS);
	stop(x);
}

static void write_out(const char *dir, const char *name, const u8 *t)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, t, ld_le32(t + 4)), 0);
	close(fd);
}

static char *slurp(const char *dir, const char *name)
{
	auto_free char *path = xasprintf("%s/%s", dir, name);
	char *text = xzalloc(1 << 20);
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, text, (1 << 20) - 1) > 0);
	close(fd);
	return text;
}

/* iasl -d reads the tables as an ACPI interpreter does; iasl on its output checks what only a compiler knows (names, types, _CRS). */
static void acpica_disassembles_and_recompiles_the_tables_without_complaint(void **state)
{
	static const char *const expected[] = {"LNRO0005", "PNP0501", "PNP0B00",	"QEMU0001",
					       "ACPI0013", "PNP0C0C", "VM_Gen_Counter", "_S5"};
	char dir[] = "/tmp/husk-acpi-XXXXXX";
	struct x86_vm *x = start();
	auto_free char *command = NULL, *dsl = NULL;
	int status;

	(void)state;
	if (system("command -v iasl >/dev/null") != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	write_out(dir, "dsdt.aml", table(x, -2));
	write_out(dir, "facp.aml", table(x, 0));
	write_out(dir, "apic.aml", table(x, 1));
	write_out(dir, "xsdt.aml", table(x, -1));
	command = xasprintf(
		"cd %s && iasl -d dsdt.aml facp.aml apic.aml xsdt.aml >log 2>&1 && ! grep -iE 'error|warning|invalid' log && "
		"iasl -we dsdt.dsl >>log 2>&1 && iasl -we facp.dsl >>log 2>&1 && iasl -we apic.dsl >>log 2>&1 || { cat log; false; }",
		dir);
	status = system(command);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	dsl = slurp(dir, "dsdt.dsl");
	for (u32 i = 0; i < ARRAY_SIZE(expected); i++) {
		if (!strstr(dsl, expected[i]))
			fail_msg("the DSDT lacks %s", expected[i]);
	}
	free(command);
	command = xasprintf("rm -r %s", dir);
	assert_int_equal(system(command), 0);
	stop(x);
}

static void the_mp_table_is_whole_and_has_right_checksums(void **state)
{
	struct x86_vm *x = start();
	const u8 *mpf = guest(x, X86_MPTABLE_GPA, 16), *mpc = guest(x, ld_le32(mpf + 4), 44);

	(void)state;
	assert_memory_equal(mpf, "_MP_", 4);
	assert_int_equal(sum(mpf, 16), 0);
	assert_memory_equal(mpc, "PCMP", 4);
	assert_int_equal(sum(mpc, ld_le16(mpc + 4)), 0);
	assert_int_equal(ld_le16(mpc + 4), 44 + 3 * 20 + 8 + 8 + 24 * 8 + 2 * 8);
	assert_int_equal(ld_le16(mpc + 34), 3 + 1 + 1 + 24 + 2);
	stop(x);
}

static void more_devices_than_pins_share_the_pins_of_virtio(void **state)
{
	struct x86_vm *x = start();
	u32 users[X86_IOAPIC_PINS] = {0}, n = 0;

	(void)state;
	for (u32 i = 0; i < x->vm.nr_devices; i++) {
		const struct dev_slot *slot = &x->vm.devices[i]->slot;

		if (!x->vm.devices[i]->cls->mmio_slot)
			continue;
		assert_int_equal(slot->mmio_base, X86_VIRTIO_GPA + n++ * X86_VIRTIO_STEP);
		users[slot->gsi]++;
	}
	assert_int_equal(n, 18);
	assert_int_equal(users[5], 2); /* 16 pins: the 17th and 18th device begin anew */
	assert_int_equal(users[6], 2);
	assert_int_equal(users[7], 1);
	assert_int_equal(users[8] + users[9] + users[23] + users[4], 0);
	stop(x);
}

static void the_machine_refuses_more_devices_than_it_has_slots_for(void **state)
{
	struct x86_vm *x = start();
	struct dev_slot slot;
	u32 n = 18;

	(void)state;
	while (machine_slot(&x->vm, &slot, &x->err) == 0)
		n++;
	assert_int_equal(n, 64);
	assert_non_null(strstr(x->err.msg, "room for 64 virtio devices"));
	stop(x);
}

static void write_port(struct x86_vm *x, u64 port, u8 value)
{
	bus_write(&x->vm, BUS_PIO, port, &value, 1);
}

static void the_sleep_register_powers_off_and_the_reset_register_reboots(void **state)
{
	struct x86_vm *x = start();

	(void)state;
	write_port(x, X86_PIO_SLEEP_CONTROL, 5 << 2); /* no SLP_EN */
	write_port(x, X86_PIO_SLEEP_CONTROL, 3 << 2 | 1 << 5);
	write_port(x, X86_PIO_RESET, 0);
	assert_int_equal(x->vm.end, VM_END_NONE);
	write_port(x, X86_PIO_SLEEP_CONTROL, 5 << 2 | 1 << 5);
	assert_int_equal(x->vm.end, VM_END_POWEROFF);
	x->vm.end = VM_END_NONE;
	write_port(x, X86_PIO_RESET, 1);
	assert_int_equal(x->vm.end, VM_END_REBOOT);
	stop(x);
}

static void the_power_button_pulses_its_own_interrupt(void **state)
{
	struct x86_vm *x = start();

	(void)state;
	x86_pulses[X86_GSI_POWER] = 0;
	assert_int_equal(machine_power_button(&x->vm, NULL), 0);
	assert_int_equal(x86_pulses[X86_GSI_POWER], 1);
	stop(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_table_has_its_signature_and_a_right_checksum),
		cmocka_unit_test(the_madt_lists_each_vcpu_and_the_ioapic),
		cmocka_unit_test(the_fadt_is_hardware_reduced_and_names_the_power_registers),
		cmocka_unit_test(acpica_disassembles_and_recompiles_the_tables_without_complaint),
		cmocka_unit_test(the_mp_table_is_whole_and_has_right_checksums),
		cmocka_unit_test(more_devices_than_pins_share_the_pins_of_virtio),
		cmocka_unit_test(the_machine_refuses_more_devices_than_it_has_slots_for),
		cmocka_unit_test(the_sleep_register_powers_off_and_the_reset_register_reboots),
		cmocka_unit_test(the_power_button_pulses_its_own_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
