/* test_dest.c: the destination of a migration, with sources that play their part well, break off, or mean ill. */
#include "dest_rig.h"

static const u64 kinds[] = {0, OFFER_VERIFY, OFFER_POSTCOPY, OFFER_POSTCOPY | OFFER_VERIFY};

static struct script *new_script(u64 flags)
{
	struct script *s = script_new(&(struct dest_params){0});

	s->flags = flags;
	return s;
}

static void a_vm_arrives_with_all_its_memory(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct script *s = new_script(kinds[i]);

		play(s, S_CONTROL, NR_STEPS);
		assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
		script_check_memory(s);
		assert_int_equal(s->dst.vm.state, VM_PAUSED);
		assert_int_equal(s->dst.vm.origin, VM_MOVED);
		assert_int_equal(move_dest_status(&s->dst)->verified_pages, kinds[i] & OFFER_VERIFY ? NR_PAGES : 0);
		script_free(s);
	}
}

/* Whatever it was that it had: the VM never ran here, and the source would know. */
static void check_failed(struct script *s)
{
	mover_join(&s->dst);
	assert_true(s->dst.ret < 0 || s->dst.end == VM_END_HOST);
	assert_true(move_dest_status(&s->dst)->phase == MIGRATE_FAILED || move_dest_status(&s->dst)->phase == MIGRATE_CANCELLED);
	if (s->dst.made)
		assert_int_not_equal(s->dst.vm.state, VM_RUNNING);
}

static void a_source_that_breaks_off_before_loaded_leaves_nothing(void **state)
{
	(void)state;
	for (u32 i = 0; i < 2; i++) {
		for (enum step last = S_OFFER; last < S_PACKAGE; last++) {
			struct script *s = new_script(kinds[2 * i]);

			play(s, S_CONTROL, last + 1);
			script_close(s);
			check_failed(s);
			assert_non_null(strstr(s->dst.e.msg, "the source"));
			script_free(s);
		}
	}
}

static void recover(struct script *s, enum wire_phase phase, u64 missing)
{
	struct wire_welcome w;
	struct wire_bits b;
	struct frame f;
	u64 bits = 0;

	s->epoch++;
	w = script_open(s, &s->control, WIRE_CONTROL);
	assert_int_equal(w.phase, phase);
	assert_int_equal(w.missing, missing);
	if (phase == WIRE_RUNNING) {
		OK(s, wire_expect(&s->control, FRAME_MISSING, "destination", PATIENCE_MS, &f, &s->e));
		OK(s, wire_get_bits(&f, &b, &s->e));
		assert_int_equal(b.nr, NR_PAGES);
		for (u32 i = 0; i < NR_PAGES / 64; i++)
			bits += (u64)__builtin_popcountll(ld_le64(b.bits + i * 8));
		assert_int_equal(bits, missing);
		script_expect(s, &s->control, FRAME_SYNCED, &bits, 1);
		assert_int_equal(bits, s->epoch);
	}
	if (phase == WIRE_COMPLETE)
		return;
	script_open(s, &s->bulk, WIRE_BULK);
	script_open(s, &s->urgent, WIRE_URGENT);
	if (phase == WIRE_RUNNING)
		OK(s, wire_send_u64(&s->control, FRAME_RESUME, NULL, 0, &s->e));
}

static void a_source_that_comes_back_after_loaded_goes_on(void **state)
{
	(void)state;
	for (enum step last = S_PACKAGE; last < S_DONE; last++) {
		struct script *s = new_script(OFFER_POSTCOPY | OFFER_VERIFY);

		play(s, S_CONTROL, last + 1);
		/* They may be on their way still. */
		for (u32 i = 0; last == S_PAGES_LATE && move_dest_status(&s->dst)->remaining_bytes && i < 1000; i++)
			usleep(1000);
		script_close(s);
		if (last < S_PAGES_LATE)
			assert_true(move_until_phase(&s->dst, MIGRATE_PAUSED));
		else
			assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
		recover(s,
			last == S_PACKAGE  ? WIRE_LOADED
			: last == S_COMMIT ? WIRE_RUNNING
					   : WIRE_COMPLETE,
			last == S_PAGES_LATE ? 0 : NR_LATE);
		if (last < S_PAGES_LATE)
			play(s, last + 1, NR_STEPS);
		else
			play(s, S_BYE, NR_STEPS);
		assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
		assert_int_equal(move_dest_status(&s->dst)->recoveries, 1);
		script_check_memory(s);
		script_free(s);
	}
}

static void the_user_can_take_over_what_is_there_as_a_whole(void **state)
{
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct script *s = new_script(kinds[i]);
		bool whole = !(kinds[i] & OFFER_POSTCOPY);

		play(s, S_CONTROL, S_PACKAGE);
		assert_int_equal(dest_take_over(s->dst.dest, &e), -EINVAL);
		play(s, S_PACKAGE, S_COMMIT);
		assert_int_equal(dest_take_over(s->dst.dest, &e), -EISCONN);
		script_close(s);
		assert_true(move_until_phase(&s->dst, MIGRATE_PAUSED));
		assert_int_equal(dest_take_over(s->dst.dest, &e), whole ? 0 : -ENODATA);
		if (whole) {
			assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
			script_check_memory(s);
			recover(s, WIRE_COMPLETE, 0);
			play(s, S_BYE, NR_STEPS);
		}
		script_free(s);
	}
}

static void pages_count_once_however_often_they_come(void **state)
{
	struct script *s = new_script(OFFER_POSTCOPY);
	u64 before;

	(void)state;
	play(s, S_CONTROL, S_PAGES_LATE);
	OK(s, script_pages(s, &s->bulk, FIRST_LATE, FIRST_LATE + 100, true));
	for (u32 i = 0; move_dest_status(&s->dst)->remaining_bytes != (NR_LATE - 100) * PAGE && i < 1000; i++)
		usleep(1000);
	for (u32 n = 1; n < 3; n++) {
		script_close(s);
		assert_true(move_until_phase(&s->dst, MIGRATE_PAUSED));
		recover(s, WIRE_RUNNING, NR_LATE - 100);
	}
	before = move_dest_status(&s->dst)->duplicate_pages;
	play(s, S_PAGES_LATE, NR_STEPS);
	assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
	assert_int_equal(move_dest_status(&s->dst)->duplicate_pages - before, 100);
	assert_int_equal(move_dest_status(&s->dst)->recoveries, 2);
	script_check_memory(s);
	script_free(s);
}

/* ---- packages ---- */

static void a_package_is_taken_up_to_the_limit(void **state)
{
	(void)state;
	for (int over = -1; over <= 1; over++) {
		struct script *s = script_new(&(struct dest_params){.package_cap = model.package.len - (u64)(s64)over});

		s->package_bytes = 0; /* it lies */
		play(s, S_CONTROL, S_PACKAGE);
		if (over <= 0) {
			play(s, S_PACKAGE, NR_STEPS);
			assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
		} else {
			OK(s, channel_send_bytes(&s->control, FRAME_PACKAGE, model.package.data, model.package.len, &s->e));
			assert_non_null(strstr(script_refusal(s, &s->control), "frame PACKAGE announces"));
			check_failed(s);
		}
		script_free(s);
	}
}

static void an_offer_of_a_package_over_the_limit_is_refused_and_another_is_waited_for(void **state)
{
	struct script *s = script_new(&(struct dest_params){.package_cap = model.package.len});
	struct wire_offer o;

	(void)state;
	s->package_bytes = model.package.len + 1;
	o = script_offer(s);
	play(s, S_CONTROL, S_OFFER);
	OK(s, wire_send_offer(&s->control, &o, &s->e));
	assert_non_null(strstr(script_refusal(s, &s->control), "takes at most"));
	script_close(s);
	s->package_bytes--;
	play(s, S_CONTROL, NR_STEPS);
	assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
	script_free(s);
}

static void a_damaged_package_is_refused_and_the_vm_never_runs(void **state)
{
	(void)state;
	for (u32 i = 0; i < 3; i++) {
		struct script *s = new_script(0);
		struct buf bad = {0};

		buf_put(&bad, model.package.data, model.package.len - (i == 0));
		if (i)
			bad.data[i == 1 ? 3 : bad.len - 9] ^= 1;
		play(s, S_CONTROL, S_PACKAGE);
		OK(s, channel_send_bytes(&s->control, FRAME_PACKAGE, bad.data, bad.len, &s->e));
		assert_non_null(strstr(script_refusal(s, &s->control), i == 2 ? "section" : "header"));
		check_failed(s);
		buf_fini(&bad);
		script_free(s);
	}
}

/* ---- offers ---- */

static void refused_offer(const struct wire_offer *o, const char *word)
{
	struct script *s = new_script(0);

	play(s, S_CONTROL, S_OFFER);
	OK(s, wire_send_offer(&s->control, o, &s->e));
	if (!strstr(script_refusal(s, &s->control), word))
		fail_msg("\"%s\" is not in: %s", word, s->said);
	if (s->dst.made)
		check_failed(s);
	script_free(s);
}

static void offers_that_do_not_fit_name_what_does_not(void **state)
{
	struct script s = {.package_bytes = 1000};
	static const struct {
		const char *more, *word;
	} devices[] = {
		{"virtio-nothing - 1\n", "virtio-nothing"},
		{"virtio-blk drives/a 1\n", "virtio-blk drives/a"},
		{"line\n", "line"},
		{"a b c\n", "version"},
		{"clock - 99\n", "99"},
	};
	struct wire_offer o = script_offer(&s);

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(devices); i++) {
		auto_free char *text = xasprintf("%.*s%s", (int)model.devices.len, (char *)model.devices.data, devices[i].more);

		o.devices = text;
		o.devices_len = strlen(text);
		refused_offer(&o, devices[i].word);
	}
	o.devices_len = 0;
	refused_offer(&o, "not where it comes from");
	o = script_offer(&s);
	o.page_shift = 21;
	refused_offer(&o, "page_shift");
	o = script_offer(&s);
	o.package_len -= 1;
	refused_offer(&o, "length");
	o = script_offer(&s);
	o.package = model.package.data;
	o.package_len = model.package.len;
	o.devices_len = 0;
	refused_offer(&o, "not where it comes from");
}

/* ---- frames where they have no place ---- */

static void send_any(struct script *s, struct channel *c, u16 type)
{
	u8 body[64] = {0};
	struct wire_offer o = script_offer(s);

	if (type == FRAME_OFFER)
		OK(s, wire_send_offer(c, &o, &s->e));
	else if (type == FRAME_MISSING)
		OK(s, script_missing(s));
	else if (type == FRAME_COMMIT || type == FRAME_RESUME || type == FRAME_BYE)
		OK(s, channel_send_bytes(c, type, body, 0, &s->e));
	else
		OK(s, channel_send_bytes(c, type, body, 8, &s->e));
}

/* Each type of frame that does not belong there, at each point of the play. */
static void frames_that_have_no_place_are_named(void **state)
{
	static const u16 fine[NR_STEPS][3] = {
		[S_CONTROL] = {FRAME_OFFER}, [S_OFFER] = {FRAME_PACKAGE, FRAME_MISSING}, [S_PACKAGE] = {FRAME_COMMIT}};
	static const enum step at[] = {S_CONTROL, S_OFFER, S_PACKAGE};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(at); i++) {
		for (u16 type = FRAME_HELLO; type < FRAME_TYPES; type++) {
			struct script *s;

			if (type == FRAME_PING || type == FRAME_PONG || type == FRAME_FAIL || type == FRAME_ABORT ||
			    type == fine[at[i]][0] || type == fine[at[i]][1])
				continue;
			s = new_script(OFFER_POSTCOPY);
			play(s, S_CONTROL, at[i] + 1);
			send_any(s, &s->control, type);
			if (!strstr(script_refusal(s, &s->control), frame_name(type)))
				fail_msg("after step %u: frame %s: %s", at[i], frame_name(type), s->said);
			script_free(s);
		}
	}
}

/* ---- pages ---- */

static void refused_pages(struct script *s, const struct wire_pages *p, const char *word)
{
	OK(s, wire_send_pages(&s->bulk, p, &s->e));
	if (!strstr(script_refusal(s, &s->control), word))
		fail_msg("\"%s\" is not in: %s", word, s->said);
	script_free(s);
}

static struct script *after_offer(void)
{
	struct script *s = new_script(OFFER_POSTCOPY);

	play(s, S_CONTROL, S_PAGES);
	return s;
}

static void pages_that_are_none_are_refused(void **state)
{
	u8 data[2 * PAGE] = {0};
	u8 packed[300];
	uLongf len = sizeof(packed);
	struct wire_pages p = {.nr = 1, .numbers = {NR_PAGES}, .data = data, .data_len = PAGE};

	(void)state;
	refused_pages(after_offer(), &p, "has no page 12288");
	p.numbers[0] = 0x7fffffff;
	refused_pages(after_offer(), &p, "has no page");
	p.numbers[0] |= (u32)WIRE_ZERO_PAGE;
	p.data_len = 0;
	refused_pages(after_offer(), &p, "has no page");
	p = (struct wire_pages){.region = 1, .nr = 1, .data = data, .data_len = PAGE};
	refused_pages(after_offer(), &p, "region 1");
	p.region = 0xffff;
	refused_pages(after_offer(), &p, "region 65535");
	p = (struct wire_pages){.nr = 1, .data = data, .data_len = PAGE - 1};
	refused_pages(after_offer(), &p, "4095 bytes for 1 pages");
	p.data_len = 2 * PAGE;
	refused_pages(after_offer(), &p, "8192 bytes for 1 pages");
	p.encoding = WIRE_ZLIB;
	refused_pages(after_offer(), &p, "compressed");
	assert_int_equal(compress2(packed, &len, data, PAGE, 1), Z_OK);
	p = (struct wire_pages){.nr = 2, .numbers = {0, 1}, .encoding = WIRE_ZLIB, .data = packed, .data_len = len};
	refused_pages(after_offer(), &p, "compressed"); /* too few */
	p.nr = 1;
	p.data_len -= 3;
	refused_pages(after_offer(), &p, "compressed"); /* cut off */
	p.data_len = len;
	packed[len - 1] ^= 1;
	refused_pages(after_offer(), &p, "compressed"); /* its own checksum */
}

static void missing_pages_that_are_none_are_refused(void **state)
{
	static const u8 bits[16];
	static const struct wire_bits bad[] = {{.first = NR_PAGES, .nr = 64, .bits = bits},
					       {.first = NR_PAGES - 64, .nr = 65, .bits = bits},
					       {.region = 1, .nr = 64, .bits = bits},
					       {.region = 60000, .nr = 64, .bits = bits}};
	struct script *s;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		s = after_offer();
		OK(s, wire_send_bits(&s->control, &bad[i], &s->e));
		assert_non_null(strstr(script_refusal(s, &s->control), "frame MISSING: region"));
		script_free(s);
	}
	s = new_script(0);
	play(s, S_CONTROL, S_PAGES);
	OK(s, script_missing(s));
	assert_non_null(strstr(script_refusal(s, &s->control), "did not offer"));
	script_free(s);
}

static void pages_before_accept_and_rounds_that_go_back_are_refused(void **state)
{
	struct script *s = after_offer();
	static const u64 rounds[] = {3, 3};

	(void)state;
	for (u32 i = 0; i < 2; i++)
		OK(s, wire_send_u64(&s->bulk, FRAME_SYNC, &rounds[i], 1, &s->e));
	assert_non_null(strstr(script_refusal(s, &s->control), "frame SYNC"));
	script_free(s);
	s = after_offer();
	OK(s, script_pages(s, &s->urgent, 0, 10, false));
	assert_non_null(strstr(script_refusal(s, &s->control), "too early"));
	script_free(s);
}

/* ---- strangers ---- */

static void whoever_talks_nonsense_is_forgotten(void **state)
{
	static const char noise[100] = "GET / HTTP/1.1\r\n\r\n";
	struct script *s = new_script(0);
	struct channel strangers[12];
	struct wire_hello h = script_hello(WIRE_BULK);

	(void)state;
	for (u32 i = 0; i < 3; i++) {
		script_dial(s, &s->control);
		assert_int_equal(write(s->control.fd, noise, sizeof(noise)), sizeof(noise));
		script_refusal(s, &s->control);
		channel_close(&s->control);
	}
	script_dial(s, &s->control);
	OK(s, wire_send_hello(&s->control, &h, &s->e)); /* of no migration */
	assert_non_null(strstr(script_refusal(s, &s->control), "belongs to no migration"));
	channel_close(&s->control);
	h = script_hello(WIRE_CONTROL);
	s->epoch = 3;
	script_dial(s, &s->control);
	OK(s, wire_send_hello(&s->control, &h, &s->e));
	assert_non_null(strstr(script_refusal(s, &s->control), "nothing to recover"));
	channel_close(&s->control);
	s->epoch = 0;
	for (u32 i = 0; i < ARRAY_SIZE(strangers); i++) /* that say nothing */
		script_dial(s, &strangers[i]);
	for (u32 i = 0; i < ARRAY_SIZE(strangers); i++)
		channel_close(&strangers[i]);
	play(s, S_CONTROL, S_OFFER);
	/* Another one, while this one is there. */
	h.session[0] ^= 1;
	script_dial(s, &strangers[0]);
	OK(s, wire_send_hello(&strangers[0], &h, &s->e));
	assert_non_null(strstr(script_refusal(s, &strangers[0]), "takes another VM"));
	channel_close(&strangers[0]);
	play(s, S_OFFER, NR_STEPS);
	assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
	script_free(s);
}

/* Long enough for a script to come as far as it shall, on a busy machine. */
#ifdef __SANITIZE_THREAD__
#define SILENCE_MS 6000
#else
#define SILENCE_MS 3000
#endif

static void a_source_that_falls_silent_is_noticed(void **state)
{
	static const enum step at[] = {S_CONTROL, S_OFFER, S_SYNC, S_PACKAGE, S_COMMIT};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(at); i++) {
		struct script *s = script_new(&(struct dest_params){.patience_ms = SILENCE_MS});

		s->flags = OFFER_POSTCOPY;
		play(s, S_CONTROL, at[i] + 1);
		if (at[i] == S_CONTROL) {
			assert_true(move_until_phase(&s->dst, MIGRATE_LISTEN));
		} else if (at[i] < S_PACKAGE) {
			check_failed(s);
			assert_non_null(strstr(s->dst.e.msg, "silent"));
		} else {
			assert_true(move_until_phase(&s->dst, MIGRATE_PAUSED));
			assert_non_null(strstr(move_dest_status(&s->dst)->error, "silent"));
		}
		script_free(s);
	}
}

/* ---- the end ---- */

static void an_abort_ends_it_until_commit(void **state)
{
	static const enum step at[] = {S_OFFER, S_SYNC, S_PACKAGE};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(at); i++) {
		struct script *s = new_script(0);

		play(s, S_CONTROL, at[i] + 1);
		wire_send_fail(&s->control, FRAME_ABORT, -ECANCELED, "the user has changed his mind");
		check_failed(s);
		assert_int_equal(move_dest_status(&s->dst)->phase, MIGRATE_CANCELLED);
		assert_non_null(strstr(move_dest_status(&s->dst)->error, "changed his mind"));
		script_free(s);
	}
}

static void the_destination_may_give_up_until_commit(void **state)
{
	static const enum step at[] = {S_CONTROL, S_SYNC, S_PACKAGE};
	struct script *s;
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(at); i++) {
		s = new_script(0);
		play(s, S_CONTROL, at[i] + 1);
		assert_int_equal(dest_abandon(s->dst.dest, &e), 0);
		assert_non_null(strstr(script_refusal(s, &s->control), "give up"));
		mover_join(&s->dst);
		assert_true(s->dst.ret < 0 || s->dst.end == VM_END_HOST);
		script_free(s);
	}
	s = new_script(0);
	play(s, S_CONTROL, S_COMMIT + 1);
	assert_int_equal(dest_abandon(s->dst.dest, &e), -EBUSY);
	vm_end(&s->dst.vm, VM_END_POWEROFF);
	mover_join(&s->dst);
	source_stop_thread(s->dst.source);
	s->dst.source = NULL;
	vm_fini(&s->dst.vm);
	s->dst.made = false;
	assert_non_null(strstr(script_refusal(s, &s->control), "has ended at the destination"));
	script_free(s);
}

static void a_connection_can_be_broken_on_purpose(void **state)
{
	struct script *s = new_script(OFFER_POSTCOPY);
	struct err e;

	(void)state;
	assert_int_equal(dest_break(s->dst.dest, &e), -ENOTCONN);
	play(s, S_CONTROL, S_PAGES_LATE);
	for (u32 i = 0; i < 5; i++) {
		assert_int_equal(dest_break(s->dst.dest, &e), 0);
		assert_true(move_until_phase(&s->dst, MIGRATE_PAUSED));
		script_close(s);
		recover(s, WIRE_RUNNING, NR_LATE);
	}
	play(s, S_PAGES_LATE, NR_STEPS);
	assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
	script_check_memory(s);
	script_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vm_arrives_with_all_its_memory),
		cmocka_unit_test(a_source_that_breaks_off_before_loaded_leaves_nothing),
		cmocka_unit_test(a_source_that_comes_back_after_loaded_goes_on),
		cmocka_unit_test(the_user_can_take_over_what_is_there_as_a_whole),
		cmocka_unit_test(pages_count_once_however_often_they_come),
		cmocka_unit_test(a_package_is_taken_up_to_the_limit),
		cmocka_unit_test(an_offer_of_a_package_over_the_limit_is_refused_and_another_is_waited_for),
		cmocka_unit_test(a_damaged_package_is_refused_and_the_vm_never_runs),
		cmocka_unit_test(offers_that_do_not_fit_name_what_does_not),
		cmocka_unit_test(frames_that_have_no_place_are_named),
		cmocka_unit_test(pages_that_are_none_are_refused),
		cmocka_unit_test(missing_pages_that_are_none_are_refused),
		cmocka_unit_test(pages_before_accept_and_rounds_that_go_back_are_refused),
		cmocka_unit_test(whoever_talks_nonsense_is_forgotten),
		cmocka_unit_test(a_source_that_falls_silent_is_noticed),
		cmocka_unit_test(an_abort_ends_it_until_commit),
		cmocka_unit_test(the_destination_may_give_up_until_commit),
		cmocka_unit_test(a_connection_can_be_broken_on_purpose),
	};

	return cmocka_run_group_tests(tests, model_make, model_remove);
}
