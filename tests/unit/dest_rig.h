/*
 * dest_rig.h: a source that plays a part word by word, against a real destination on a thread of its own. What it sends comes from a VM
 * that was booted for that and never runs. Include once.
 */
#ifndef HUSK_TEST_DEST_RIG_H
#define HUSK_TEST_DEST_RIG_H

#include "move_vm.h"

#include <zlib.h>

#include "migration/page_set.h"
#include "migration/wire.h"
#include "vmm/base/crc32c.h"

#define PATIENCE_MS 20000
#define PAGE	    4096u
#define NR_PAGES    ((u32)(MOVE_RAM_MIB * MIB / PAGE))
#define FIRST_LATE  ((u32)(MOVE_AREA / PAGE)) /* pages that come after the package, in a postcopy */
#define NR_LATE	    500u

#ifndef MODEL_MORE
#define MODEL_MORE ",\"entropy\":{}" /* what it has: further sections of its configuration */
#endif

/* Of the VM that is sent. */
static struct model {
	struct move_dir dir;
	struct mover vm;
	struct buf offer, devices, package;
	u8 *ram; /* borrowed */
} model;

static int model_make(void **state)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	struct err e;

	(void)state;
	move_dir_make(&model.dir);
	mover_boot(&model.vm, &model.dir, "tcg", 2, MODEL_MORE);
	if (package_describe(&model.vm.vm, info, &e) < 0 || package_save_offer(&model.vm.vm, info, &model.offer, &model.devices, &e) < 0 ||
	    package_save(&model.vm.vm, info, PACKAGE_SOFT_CAP, &model.package, &e) < 0)
		move_die("model", &e);
	free(info);
	model.ram = model.vm.vm.mem.regions[0].hva;
	for (u32 i = 0; i < MOVE_PAGES; i++)
		st_le64(model.ram + MOVE_AREA + i * PAGE + 8, i % 3 ? i * 77 : 0);
	return 0;
}

static int model_remove(void **state)
{
	(void)state;
	mover_fini(&model.vm);
	buf_fini(&model.offer);
	buf_fini(&model.devices);
	buf_fini(&model.package);
	move_dir_remove(&model.dir);
	return 0;
}

struct script {
	struct mover dst;
	struct channel control, bulk, urgent;
	u32 epoch;
	u64 flags;	   /* of OFFER */
	u64 package_bytes; /* of OFFER */
	char said[1000];   /* the last FAIL */
	struct err e;
};

static struct script *script_new(const struct dest_params *p)
{
	struct script *s = xzalloc(sizeof(*s));
	struct dest_params params = *p;

	params.patience_ms = params.patience_ms ?: PATIENCE_MS;
	params.paused = true;
	s->control.fd = s->bulk.fd = s->urgent.fd = -1;
	s->package_bytes = model.package.len;
	mover_receive(&s->dst, &model.dir, &params);
	return s;
}

static void script_close(struct script *s)
{
	channel_close(&s->control);
	channel_close(&s->bulk);
	channel_close(&s->urgent);
}

static void script_free(struct script *s)
{
	script_close(s);
	mover_fini(&s->dst);
	free(s);
}

#define OK(s, call) \
	do { \
		if ((call) < 0) \
			fail_msg("%s", (s)->e.msg); \
	} while (0)

static void script_dial(struct script *s, struct channel *c)
{
	OK(s, channel_connect(c, dest_address(s->dst.dest), NULL, PATIENCE_MS, &s->e));
	c->epoch = s->epoch;
	c->package_cap = PACKAGE_SOFT_CAP;
}

static struct wire_hello script_hello(enum wire_role role)
{
	return (struct wire_hello){.version = WIRE_VERSION, .role = (u8)role, .nr_bulk = 1, .session = "fifteen letters"};
}

/* Waits for this frame; u64 numbers in v. */
static void script_expect(struct script *s, struct channel *c, u16 type, u64 *v, u32 nr)
{
	struct frame f;

	OK(s, wire_expect(c, type, "destination", PATIENCE_MS, &f, &s->e));
	OK(s, wire_get_u64(&f, v, nr, &s->e));
}

static struct wire_welcome script_open(struct script *s, struct channel *c, enum wire_role role)
{
	struct wire_hello h = script_hello(role);
	struct wire_welcome w;
	struct frame f;

	script_dial(s, c);
	OK(s, wire_send_hello(c, &h, &s->e));
	OK(s, wire_expect(c, FRAME_WELCOME, "destination", PATIENCE_MS, &f, &s->e));
	OK(s, wire_get_welcome(&f, &w, &s->e));
	return w;
}

static struct wire_offer script_offer(const struct script *s)
{
	return (struct wire_offer){
		.flags = s->flags,
		.package_bytes = s->package_bytes,
		.page_shift = 12,
		.package = model.offer.data,
		.package_len = model.offer.len,
		.devices = (const char *)model.devices.data,
		.devices_len = model.devices.len,
	};
}

/* Waits until the destination has said why it gives up, or has hung up. */
static const char *script_refusal(struct script *s, struct channel *c)
{
	struct wire_fail fail;
	struct frame f;
	int ret;

	snprintf(s->said, sizeof(s->said), "nothing");
	do
		ret = channel_receive(c, &f, PATIENCE_MS, &s->e);
	while (ret == 0 && f.type != FRAME_FAIL);
	if (ret == 0 && wire_get_fail(&f, &fail, &s->e) == 0)
		snprintf(s->said, sizeof(s->said), "%s", fail.text);
	return s->said;
}

/* ---- pages ---- */

static bool is_zero(const u8 *page)
{
	return !*page && !memcmp(page, page + 1, PAGE - 1);
}

static bool is_late(const struct script *s, u32 page)
{
	return s->flags & OFFER_POSTCOPY && page >= FIRST_LATE && page < FIRST_LATE + NR_LATE;
}

static int send_batch(struct script *s, struct channel *c, struct wire_pages *p, u8 *data, bool zip)
{
	static u8 packed[2 * MIB];
	uLongf len = sizeof(packed);

	p->data = data;
	if (zip && p->data_len) {
		assert_int_equal(compress2(packed, &len, data, p->data_len, 1), Z_OK);
		p->encoding = WIRE_ZLIB;
		p->data = packed;
		p->data_len = len;
	}
	return wire_send_pages(c, p, &s->e);
}

/* Pages [first, end) as the model has them; late: those, or the others. */
static int script_pages(struct script *s, struct channel *c, u32 first, u32 end, bool late)
{
	u8 *data = malloc(WIRE_PAGES_PER_FRAME * PAGE);
	struct wire_pages p = {0};
	int ret = 0;

	for (u32 page = first; page < end && ret == 0; page++) {
		const u8 *bytes = model.ram + (u64)page * PAGE;

		if (is_late(s, page) != late)
			continue;
		p.numbers[p.nr++] = page | (is_zero(bytes) ? (u32)WIRE_ZERO_PAGE : 0);
		if (!is_zero(bytes)) {
			memcpy(data + p.data_len, bytes, PAGE);
			p.data_len += PAGE;
		}
		if (p.nr < WIRE_PAGES_PER_FRAME && page + 1 < end)
			continue;
		ret = send_batch(s, c, &p, data, page % 512 > 255);
		p = (struct wire_pages){0};
	}
	if (ret == 0 && p.nr)
		ret = send_batch(s, c, &p, data, false);
	free(data);
	return ret;
}

static int script_missing(struct script *s)
{
	static u8 bits[NR_PAGES / 8];
	struct wire_bits b = {.nr = NR_PAGES, .bits = bits};

	for (u32 i = 0; i < NR_PAGES; i++)
		bits[i / 8] = (u8)(i % 8 ? bits[i / 8] : 0) | (u8)(is_late(s, i) << i % 8);
	return wire_send_bits(&s->control, &b, &s->e);
}

static int script_digests(struct script *s)
{
	static u32 crcs[NR_PAGES];
	struct wire_digests d = {.nr = NR_PAGES, .digests = (const u8 *)crcs};
	int ret;

	for (u32 i = 0; i < NR_PAGES; i++)
		crcs[i] = crc32c(0, model.ram + (u64)i * PAGE, PAGE);
	ret = wire_send_digests(&s->control, &d, &s->e);
	return ret == 0 ? wire_send_digests(&s->control, &(struct wire_digests){0}, &s->e) : ret;
}

/* What arrived; page 0 and others may have been changed by no one: the VM was received paused. */
static void script_check_memory(struct script *s)
{
	const u8 *ram = s->dst.vm.mem.regions[0].hva;

	for (u32 i = 0; i < NR_PAGES; i++) {
		if (memcmp(ram + (u64)i * PAGE, model.ram + (u64)i * PAGE, PAGE))
			fail_msg("page %u is another", i);
	}
}

/* ---- the play ---- */

enum step {
	S_CONTROL,
	S_BULK,
	S_URGENT,
	S_OFFER,
	S_PAGES,
	S_SYNC,
	S_MISSING,
	S_PACKAGE,
	S_COMMIT, /* up to here the VM does not run there */
	S_PAGES_LATE,
	S_DONE,
	S_BYE,
	NR_STEPS
};

static void send_step(struct script *s, enum step step)
{
	struct wire_offer o = script_offer(s);
	u64 v[2] = {0};

	switch (step) {
	case S_CONTROL:
		assert_int_equal(script_open(s, &s->control, WIRE_CONTROL).phase, WIRE_NEW);
		break;
	case S_BULK:
		script_open(s, &s->bulk, WIRE_BULK);
		break;
	case S_URGENT:
		script_open(s, &s->urgent, WIRE_URGENT);
		break;
	case S_OFFER:
		OK(s, wire_send_offer(&s->control, &o, &s->e));
		script_expect(s, &s->control, FRAME_ACCEPT, v, 1);
		break;
	case S_PAGES:
		OK(s, script_pages(s, &s->bulk, 0, NR_PAGES, false));
		break;
	case S_SYNC:
		OK(s, wire_send_u64(&s->bulk, FRAME_SYNC, &(u64){7}, 1, &s->e));
		script_expect(s, &s->control, FRAME_SYNCED, v, 1);
		assert_int_equal(v[0], 7);
		break;
	case S_MISSING:
		if (s->flags & OFFER_POSTCOPY)
			OK(s, script_missing(s));
		break;
	case S_PACKAGE:
		OK(s, channel_send_bytes(&s->control, FRAME_PACKAGE, model.package.data, model.package.len, &s->e));
		script_expect(s, &s->control, FRAME_LOADED, v, 1);
		break;
	case S_COMMIT:
		OK(s, wire_send_u64(&s->control, FRAME_COMMIT, NULL, 0, &s->e));
		script_expect(s, &s->control, FRAME_RUNNING, v, 1);
		break;
	case S_PAGES_LATE:
		OK(s, script_pages(s, &s->bulk, 0, NR_PAGES, true));
		break;
	case S_DONE:
		OK(s, wire_send_u64(&s->control, FRAME_DONE, v, 1, &s->e));
		if (s->flags & OFFER_VERIFY) {
			OK(s, script_digests(s));
			script_expect(s, &s->control, FRAME_VERIFIED, v, 2);
			assert_int_equal(v[0], NR_PAGES);
			assert_int_equal(v[1], 0);
		}
		script_expect(s, &s->control, FRAME_RELEASE, v, 1);
		assert_int_equal(v[0], s->flags & OFFER_POSTCOPY ? NR_LATE : 0);
		break;
	default:
		OK(s, wire_send_u64(&s->control, FRAME_BYE, NULL, 0, &s->e));
	}
}

/* Steps [from, to). */
static void play(struct script *s, enum step from, enum step to)
{
	for (enum step i = from; i < to; i++)
		send_step(s, i);
}

#endif
