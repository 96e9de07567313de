/* test_arm_crc32c.c: the CRC of processors that lack the instruction is the one of those that have it. */
#include "cm.h"

#include <stdlib.h>

#include "arch/aarch64/crc32c_table.h"
#include "vmm/base/crc32c.h"

static void the_table_agrees_with_the_instruction_at_every_length(void **state)
{
	u8 data[300];

	(void)state;
	srand(1);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)rand();
	assert_int_equal(arm_crc32c_table(0, "123456789", 9), 0xe3069283);
	for (size_t len = 0; len <= sizeof(data); len++) {
		assert_int_equal(arm_crc32c_table(0, data, len), crc32c(0, data, len));
		assert_int_equal(arm_crc32c_table(arm_crc32c_table(0, data, len / 3), data + len / 3, len - len / 3), crc32c(0, data, len));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_agrees_with_the_instruction_at_every_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
