/* wire.c: bodies of frames; see wire.h. */
#include "migration/wire.h"

#include <errno.h>
#include <string.h>

#include "vmm/clock.h"

#define HELLO_SIZE   24u
#define WELCOME_SIZE 24u
#define OFFER_HEAD   24u
#define PAGES_HEAD   8u
#define BITS_HEAD    16u
#define REQUEST_HEAD 4u
#define PASSED_HEAD  8u
#define PASSED_ITEM  (8u + PASSED_NAME)
#define DISKS_HEAD   8u
#define DISKS_ITEM   (8u + WIRE_DISK_ID)

static int bad(const struct frame *f, struct err *e, const char *what)
{
	return err_set(e, -EPROTO, "frame %s of %llu bytes: %s", frame_name(f->type), (unsigned long long)f->len, what);
}

static int want_size(const struct frame *f, u64 size, struct err *e)
{
	return f->len == size ? 0 : bad(f, e, "wrong length");
}

/* ---- HELLO, WELCOME ---- */

int wire_send_hello(struct channel *c, const struct wire_hello *h, struct err *e)
{
	u8 b[HELLO_SIZE] = {0};

	st_le32(b, h->version);
	b[4] = h->role;
	b[5] = h->index;
	b[6] = h->nr_bulk;
	memcpy(b + 8, h->session, sizeof(h->session));
	return channel_send_bytes(c, FRAME_HELLO, b, sizeof(b), e);
}

int wire_get_hello(const struct frame *f, struct wire_hello *h, struct err *e)
{
	int ret = want_size(f, HELLO_SIZE, e);

	if (ret < 0)
		return ret;
	*h = (struct wire_hello){.version = ld_le32(f->body), .role = f->body[4], .index = f->body[5], .nr_bulk = f->body[6]};
	memcpy(h->session, f->body + 8, sizeof(h->session));
	if (h->version != WIRE_VERSION)
		return err_set(e, -EPROTO, "the peer speaks version %u of the migration protocol, and this husk version %u", h->version,
			       WIRE_VERSION);
	if (h->role > WIRE_URGENT || f->body[7])
		return bad(f, e, "no such role");
	if (h->nr_bulk < 1 || h->nr_bulk > WIRE_MAX_BULK || h->index >= (h->role == WIRE_BULK ? h->nr_bulk : 1))
		return bad(f, e, "number of channels");
	return 0;
}

int wire_send_welcome(struct channel *c, const struct wire_welcome *w, struct err *e)
{
	u8 b[WELCOME_SIZE] = {w->phase, w->knows};

	st_le64(b + 8, w->package_cap);
	st_le64(b + 16, w->missing);
	return channel_send_bytes(c, FRAME_WELCOME, b, sizeof(b), e);
}

int wire_get_welcome(const struct frame *f, struct wire_welcome *w, struct err *e)
{
	int ret = want_size(f, WELCOME_SIZE, e);

	if (ret < 0)
		return ret;
	*w = (struct wire_welcome){
		.phase = f->body[0], .knows = f->body[1], .package_cap = ld_le64(f->body + 8), .missing = ld_le64(f->body + 16)};
	return w->phase < WIRE_PHASES ? 0 : bad(f, e, "no such phase");
}

/* ---- OFFER ---- */

int wire_send_offer(struct channel *c, const struct wire_offer *o, struct err *e)
{
	u8 head[OFFER_HEAD];
	struct iovec parts[] = {
		{head, sizeof(head)},
		{(void *)(uintptr_t)o->devices, o->devices_len},
		{(void *)(uintptr_t)o->package, o->package_len},
	};

	st_le64(head, o->flags);
	st_le64(head + 8, o->package_bytes);
	st_le32(head + 16, o->page_shift);
	st_le32(head + 20, (u32)o->devices_len);
	if (o->devices_len + o->package_len > frame_cap(FRAME_OFFER, 0) - OFFER_HEAD)
		return err_set(e, -EFBIG, "this VM's description is too long to be offered");
	return channel_send(c, FRAME_OFFER, parts, ARRAY_SIZE(parts), e);
}

static bool is_text(const char *s, u64 len)
{
	for (u64 i = 0; i < len; i++) {
		if ((s[i] < ' ' || s[i] > '~') && s[i] != '\n')
			return false;
	}
	return true;
}

int wire_get_offer(const struct frame *f, struct wire_offer *o, struct err *e)
{
	if (f->len < OFFER_HEAD)
		return bad(f, e, "too short");
	*o = (struct wire_offer){
		.flags = ld_le64(f->body),
		.package_bytes = ld_le64(f->body + 8),
		.page_shift = ld_le32(f->body + 16),
		.devices = (const char *)f->body + OFFER_HEAD,
		.devices_len = ld_le32(f->body + 20),
	};
	if (o->flags & ~OFFER_KNOWN)
		return bad(f, e, "it wants what this husk does not know");
	if (o->page_shift != 12 && o->page_shift != 21)
		return bad(f, e, "page_shift");
	if (o->devices_len > f->len - OFFER_HEAD || !is_text(o->devices, o->devices_len))
		return bad(f, e, "list of devices");
	o->package = f->body + OFFER_HEAD + o->devices_len;
	o->package_len = f->len - OFFER_HEAD - o->devices_len;
	return 0;
}

/* ---- PAGES ---- */

int wire_send_pages(struct channel *c, const struct wire_pages *p, struct err *e)
{
	u8 head[PAGES_HEAD + 4 * WIRE_PAGES_PER_FRAME];
	struct iovec parts[] = {{head, PAGES_HEAD + 4 * p->nr}, {(void *)(uintptr_t)p->data, p->data_len}};

	ASSERT(p->nr >= 1 && p->nr <= WIRE_PAGES_PER_FRAME);
	st_le16(head, p->region);
	head[2] = p->encoding;
	head[3] = 0;
	st_le32(head + 4, p->nr);
	for (u32 i = 0; i < p->nr; i++)
		st_le32(head + PAGES_HEAD + 4 * i, p->numbers[i]);
	return channel_send(c, FRAME_PAGES, parts, ARRAY_SIZE(parts), e);
}

int wire_get_pages(const struct frame *f, struct wire_pages *p, struct err *e)
{
	u32 nr = f->len >= PAGES_HEAD ? ld_le32(f->body + 4) : 0;
	s64 last = -1;

	if (nr < 1 || nr > WIRE_PAGES_PER_FRAME || f->len < PAGES_HEAD + 4 * (u64)nr)
		return bad(f, e, "number of pages");
	p->region = ld_le16(f->body);
	p->encoding = f->body[2];
	p->nr = nr;
	p->data = f->body + PAGES_HEAD + 4 * nr;
	p->data_len = f->len - PAGES_HEAD - 4 * nr;
	if (p->encoding > WIRE_ZLIB || f->body[3])
		return bad(f, e, "no such encoding");
	for (u32 i = 0; i < nr; i++) {
		p->numbers[i] = ld_le32(f->body + PAGES_HEAD + 4 * i);
		if ((s64)(p->numbers[i] & ~WIRE_ZERO_PAGE) <= last)
			return bad(f, e, "pages are not in order");
		last = p->numbers[i] & ~WIRE_ZERO_PAGE;
	}
	return 0;
}

/* ---- MISSING, DIGESTS ---- */

static int send_list(struct channel *c, u16 type, u16 region, u32 first, u32 nr, const u8 *data, u64 len, struct err *e)
{
	u8 head[BITS_HEAD] = {0};
	struct iovec parts[] = {{head, sizeof(head)}, {(void *)(uintptr_t)data, len}};

	st_le16(head, region);
	st_le32(head + 4, first);
	st_le32(head + 8, nr);
	return channel_send(c, type, parts, ARRAY_SIZE(parts), e);
}

/* Checks all but the numbers' bounds in memory. */
static int get_list(const struct frame *f, u16 *region, u32 *first, u32 *nr, struct err *e)
{
	if (f->len < BITS_HEAD || ld_le16(f->body + 2) || ld_le32(f->body + 12))
		return bad(f, e, "its head");
	*region = ld_le16(f->body);
	*first = ld_le32(f->body + 4);
	*nr = ld_le32(f->body + 8);
	return 0;
}

int wire_send_bits(struct channel *c, const struct wire_bits *b, struct err *e)
{
	ASSERT(b->nr >= 1 && b->nr <= WIRE_BITS_PER_FRAME && b->first % 64 == 0);
	return send_list(c, FRAME_MISSING, b->region, b->first, b->nr, b->bits, (b->nr + 63) / 64 * 8, e);
}

int wire_get_bits(const struct frame *f, struct wire_bits *b, struct err *e)
{
	int ret = get_list(f, &b->region, &b->first, &b->nr, e);

	if (ret < 0)
		return ret;
	if (b->nr < 1 || b->nr > WIRE_BITS_PER_FRAME || b->first % 64 || f->len != BITS_HEAD + ((u64)b->nr + 63) / 64 * 8)
		return bad(f, e, "number of pages");
	b->bits = f->body + BITS_HEAD;
	return 0;
}

int wire_send_digests(struct channel *c, const struct wire_digests *d, struct err *e)
{
	ASSERT(d->nr <= WIRE_DIGEST_PAGES);
	return send_list(c, FRAME_DIGESTS, d->region, d->first, d->nr, d->digests, 4 * (u64)d->nr, e);
}

int wire_get_digests(const struct frame *f, struct wire_digests *d, struct err *e)
{
	int ret = get_list(f, &d->region, &d->first, &d->nr, e);

	if (ret < 0)
		return ret;
	if (d->nr > WIRE_DIGEST_PAGES || f->len != BITS_HEAD + 4 * (u64)d->nr)
		return bad(f, e, "number of pages");
	d->digests = f->body + BITS_HEAD;
	return 0;
}

/* ---- REQUEST ---- */

int wire_send_request(struct channel *c, const struct wire_request *r, struct err *e)
{
	u8 b[REQUEST_HEAD + 4 * WIRE_REQUEST_PAGES];

	ASSERT(r->nr >= 1 && r->nr <= WIRE_REQUEST_PAGES);
	st_le16(b, r->region);
	st_le16(b + 2, (u16)r->nr);
	for (u32 i = 0; i < r->nr; i++)
		st_le32(b + REQUEST_HEAD + 4 * i, r->pages[i]);
	return channel_send_bytes(c, FRAME_REQUEST, b, REQUEST_HEAD + 4 * r->nr, e);
}

int wire_get_request(const struct frame *f, struct wire_request *r, struct err *e)
{
	r->nr = f->len >= REQUEST_HEAD ? ld_le16(f->body + 2) : 0;
	if (r->nr < 1 || r->nr > WIRE_REQUEST_PAGES || f->len != REQUEST_HEAD + 4 * (u64)r->nr)
		return bad(f, e, "number of pages");
	r->region = ld_le16(f->body);
	for (u32 i = 0; i < r->nr; i++)
		r->pages[i] = ld_le32(f->body + REQUEST_HEAD + 4 * i);
	return 0;
}

/* ---- PASSED ---- */

int wire_send_passed(struct channel *c, const struct passed *p, struct err *e)
{
	u32 len = PASSED_HEAD + p->nr * PASSED_ITEM;
	auto_free u8 *b = xzalloc(len);
	int fds[PASSED_MAX];

	st_le32(b, p->nr);
	for (u32 i = 0; i < p->nr; i++) {
		u8 *at = b + PASSED_HEAD + i * PASSED_ITEM;

		st_le64(at, p->items[i].value);
		memcpy(at + 8, p->items[i].name, PASSED_NAME);
		fds[i] = p->items[i].fd;
	}
	return channel_send_fds(c, FRAME_PASSED, b, len, fds, p->nr, e);
}

int wire_get_passed(struct channel *c, const struct frame *f, struct passed *p, struct err *e)
{
	u32 nr = f->len >= PASSED_HEAD ? ld_le32(f->body) : 0;

	if (nr < 1 || nr > PASSED_MAX || ld_le32(f->body + 4) || f->len != PASSED_HEAD + (u64)nr * PASSED_ITEM)
		return bad(f, e, "number of descriptors");
	if (nr != c->nr_fds)
		return err_set(e, -EPROTO, "frame %s names %u descriptors, and %u came with it", frame_name(f->type), nr, c->nr_fds);
	for (u32 i = 0; i < nr; i++) {
		const char *name = (const char *)f->body + PASSED_HEAD + i * PASSED_ITEM + 8;

		if (!memchr(name, 0, PASSED_NAME) || !is_text(name, strlen(name)))
			return bad(f, e, "name");
	}
	for (u32 i = 0; i < nr; i++) {
		const u8 *at = f->body + PASSED_HEAD + i * PASSED_ITEM;

		p->items[i] = (struct passed_item){.fd = fd_take(&c->fds[i]), .value = ld_le64(at)};
		memcpy(p->items[i].name, at + 8, PASSED_NAME);
	}
	p->nr = nr;
	c->nr_fds = 0;
	return 0;
}

/* ---- DISKS ---- */

int wire_send_disks(struct channel *c, const struct wire_disks *d, struct err *e)
{
	u32 len = DISKS_HEAD + d->nr * DISKS_ITEM;
	auto_free u8 *b = xzalloc(len);

	ASSERT(d->nr >= 1 && d->nr <= WIRE_MAX_DISKS);
	st_le32(b, d->nr);
	for (u32 i = 0; i < d->nr; i++) {
		u8 *at = b + DISKS_HEAD + i * DISKS_ITEM;

		st_le64(at, d->list[i].bytes);
		memcpy(at + 8, d->list[i].id, WIRE_DISK_ID);
	}
	return channel_send_bytes(c, FRAME_DISKS, b, len, e);
}

int wire_get_disks(const struct frame *f, struct wire_disks *d, struct err *e)
{
	u32 nr = f->len >= DISKS_HEAD ? ld_le32(f->body) : 0;

	if (nr < 1 || nr > WIRE_MAX_DISKS || ld_le32(f->body + 4) || f->len != DISKS_HEAD + (u64)nr * DISKS_ITEM)
		return bad(f, e, "number of disks");
	for (u32 i = 0; i < nr; i++) {
		const u8 *at = f->body + DISKS_HEAD + i * DISKS_ITEM;
		struct wire_disk *to = &d->list[i];

		to->bytes = ld_le64(at);
		memcpy(to->id, at + 8, WIRE_DISK_ID);
		if (!*to->id || !memchr(to->id, 0, WIRE_DISK_ID) || !is_text(to->id, strlen(to->id)))
			return bad(f, e, "name");
		if (!to->bytes || to->bytes % 512 || to->bytes > INT64_MAX)
			return bad(f, e, "size of a disk");
		for (u32 k = 0; k < i; k++) {
			if (!strcmp(d->list[k].id, to->id))
				return bad(f, e, "a disk is there twice");
		}
	}
	d->nr = nr;
	return 0;
}

/* ---- FAIL, ABORT ---- */

void wire_send_fail(struct channel *c, u16 type, int code, const char *text)
{
	u8 b[4 + sizeof(((struct wire_fail *)0)->text)];
	size_t len = MIN(strlen(text), sizeof(b) - 5);
	struct err e;

	st_le32(b, (u32)-code);
	memcpy(b + 4, text, len);
	if (channel_send_bytes(c, type, b, 4 + len, &e) < 0)
		channel_break(c);
}

int wire_get_fail(const struct frame *f, struct wire_fail *out, struct err *e)
{
	u64 len = f->len - 4;

	if (f->len < 4 || len >= sizeof(out->text))
		return bad(f, e, "its length");
	out->code = -(int)(ld_le32(f->body) & 0xfff);
	out->code = out->code ? out->code : -EIO;
	memcpy(out->text, f->body + 4, len);
	out->text[len] = 0;
	/* It goes to somebody's terminal. */
	for (u64 i = 0; i < len; i++)
		out->text[i] = out->text[i] >= ' ' && out->text[i] <= '~' ? out->text[i] : '?';
	return 0;
}

/* ---- numbers ---- */

int wire_send_u64(struct channel *c, u16 type, const u64 *v, u32 nr, struct err *e)
{
	u8 b[64];

	ASSERT(nr <= 8);
	for (u32 i = 0; i < nr; i++)
		st_le64(b + 8 * i, v[i]);
	return channel_send_bytes(c, type, b, 8 * nr, e);
}

int wire_get_u64(const struct frame *f, u64 *v, u32 nr, struct err *e)
{
	int ret = want_size(f, 8 * (u64)nr, e);

	for (u32 i = 0; ret == 0 && i < nr; i++)
		v[i] = ld_le64(f->body + 8 * i);
	return ret;
}

/* ---- what has to come now ---- */

static int peers_failure(const struct frame *f, const char *peer, struct err *e)
{
	struct wire_fail fail;
	int ret = wire_get_fail(f, &fail, e);

	return ret < 0 ? ret : err_set(e, fail.code, "the %s says: %s", peer, fail.text);
}

int wire_expect(struct channel *c, u16 type, const char *peer, int wait_ms, struct frame *f, struct err *e)
{
	u64 end_ns = clock_host_ns() + (u64)MAX(wait_ms, 0) * NSEC_PER_MSEC;
	int ret;

	for (;;) {
		u64 now = clock_host_ns();
		int left = wait_ms < 0 ? -1 : now < end_ns ? (int)((end_ns - now) / NSEC_PER_MSEC) + 1 : 0;

		ret = channel_receive(c, f, left, e);
		if (ret == -EAGAIN)
			return err_set(e, -ETIMEDOUT, "the %s sent no %s within %d ms", peer, frame_name(type), wait_ms);
		if (ret < 0 || f->type == type)
			return ret;
		if (f->type == FRAME_FAIL || f->type == FRAME_ABORT)
			return peers_failure(f, peer, e);
		if (f->type == FRAME_PING)
			ret = channel_send_bytes(c, FRAME_PONG, f->body, f->len, e);
		else if (f->type != FRAME_PONG)
			ret = err_set(e, -EPROTO, "the %s sent frame %s where %s has to come", peer, frame_name(f->type), frame_name(type));
		if (ret < 0)
			return ret;
	}
}
