/* test_class_states.c: every device class says what a snapshot has of it: states, a reason why not, or that there is nothing. */
#include "cm.h"

#include <string.h>

#include "vmm/device.h"
#include "vmm/state.h"

extern const struct device_class vhost_user_blk_class;
/* Of x86 machines: NULL elsewhere. */
extern const struct device_class acpi_power_class __attribute__((weak));

/* Those that the class list does not have: the machine and virtio-blk make them. */
static const struct device_class *const unlisted[] = {&acpi_power_class, &vhost_user_blk_class};

/* A guest that has written to one of these finds it as it was made: what it wrote acted at once, or lies in its memory (vmgenid). Whoever
 * adds a name here has looked whether that is so. */
static const char *const stateless[] = {"acpi_power", "boot_timer", "pvpanic", "vmgenid"};

static const char *const not_saved[] = {"vhost-user-blk", "vhost-user-fs"};

#define CLASSES 64u

static u32 all_classes(const struct device_class **out)
{
	u32 n = 0;

	for (; device_classes[n]; n++) {
		assert_true(n < CLASSES - ARRAY_SIZE(unlisted));
		out[n] = device_classes[n];
	}
	for (u32 i = 0; i < ARRAY_SIZE(unlisted); i++) {
		if (unlisted[i])
			out[n++] = unlisted[i];
	}
	return n;
}

static bool is_in(const char *name, const char *const *list, u32 nr)
{
	for (u32 i = 0; i < nr; i++) {
		if (!strcmp(list[i], name))
			return true;
	}
	return false;
}

static void every_class_is_saved_or_says_why_not_or_is_known_to_have_no_state(void **state)
{
	const struct device_class *all[CLASSES];
	u32 nr = all_classes(all);

	(void)state;
	for (u32 i = 0; i < nr; i++) {
		const struct device_class *c = all[i];
		bool none = is_in(c->name, stateless, ARRAY_SIZE(stateless));

		if ((c->states != NULL) + (c->unsaved != NULL) + none != 1)
			fail_msg("%s has to have states, or unsaved, or be in the list of those without state; and one of them only",
				 c->name);
		if (!c->unsaved != !is_in(c->name, not_saved, ARRAY_SIZE(not_saved)))
			fail_msg("%s: the list of those that cannot be saved is wrong", c->name);
	}
}

static void states_are_whole_and_their_names_differ(void **state)
{
	const struct device_class *all[CLASSES];
	u32 nr = all_classes(all);

	(void)state;
	for (u32 i = 0; i < nr; i++) {
		const struct device_state *const *states = all[i]->states;

		for (u32 n = 0; states && states[n]; n++) {
			assert_true(states[n]->table && states[n]->save && states[n]->load);
			for (u32 m = 0; m < n; m++)
				assert_string_not_equal(states[m]->table->name, states[n]->table->name);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_class_is_saved_or_says_why_not_or_is_known_to_have_no_state),
		cmocka_unit_test(states_are_whole_and_their_names_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
