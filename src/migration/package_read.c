/* package_read.c: takes the bytes of a package apart, believing none of them; see package.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "migration/package_impl.h"

/* Limits that no package of this format can break; cap is the reader's own. */
static int check_length(u64 length, u64 cap, struct err *e)
{
	if (length < PACKAGE_HEADER_SIZE + SECTION_HEADER)
		return err_set(e, -EINVAL, "header: field length: %llu bytes are too few for a package", (unsigned long long)length);
	if (length > PACKAGE_HARD_CAP)
		return err_set(e, -EFBIG, "header: field length: %llu bytes are more than the format's limit of %u",
			       (unsigned long long)length, PACKAGE_HARD_CAP);
	if (length > cap)
		return err_set(e, -EFBIG, "header: field length: %llu bytes are more than the limit of %llu", (unsigned long long)length,
			       (unsigned long long)cap);
	return 0;
}

static bool all_zero(const u8 *at, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (at[i])
			return false;
	}
	return true;
}

int package_length(const u8 *header, u64 cap, u64 *length, struct err *e)
{
	u32 version = ld_le32(header + HEADER_VERSION);
	int ret;

	if (memcmp(header, PACKAGE_MAGIC, 8))
		return err_set(e, -EINVAL, "header: this is no package of a VM's state: it does not begin with \"HUSKPKG\"");
	if (ld_le32(header + HEADER_CRC) != crc32_z(0, header, HEADER_CRC))
		return err_set(e, -EINVAL, "header: it is damaged: its checksum is another");
	if (version != PACKAGE_VERSION)
		return err_set(e, -EINVAL, "header: the package has format version %u, and this husk reads version %u", version,
			       PACKAGE_VERSION);
	if (ld_le32(header + HEADER_FLAGS) || !all_zero(header + HEADER_RESERVED, HEADER_CRC - HEADER_RESERVED))
		return err_set(e, -EINVAL, "header: field flags: this husk does not know what is set there");
	*length = ld_le64(header + HEADER_LENGTH);
	ret = check_length(*length, cap, e);
	if (ret == 0 && (ld_le32(header + HEADER_SECTIONS) < 1 || ld_le32(header + HEADER_SECTIONS) > STATE_MAX_SECTIONS))
		return err_set(e, -EINVAL, "header: field sections: %u of them, at most %d can be", ld_le32(header + HEADER_SECTIONS),
			       STATE_MAX_SECTIONS);
	return ret;
}

/* Up to len bytes, fewer at the end of the file. */
static ssize_t read_some(int fd, u8 *to, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = read(fd, to + got, len - got);

		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			return -errno;
		got += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)got;
}

#define READ_STEP (256 * KIB)

static int read_body(int fd, u64 length, struct buf *b, struct err *e)
{
	while (b->len < length) {
		size_t want = MIN(length - b->len, READ_STEP), had = b->len;
		ssize_t n = read_some(fd, buf_grow(b, want), want);

		if (n < 0)
			return err_set(e, (int)n, "cannot read it: %s", strerror((int)-n));
		if ((size_t)n < want)
			return err_set(e, -EINVAL, "it is cut off: it has %zu bytes of %llu", had + (size_t)n, (unsigned long long)length);
	}
	return 0;
}

int package_read(int fd, u64 cap, u8 **out, u64 *length, struct err *e)
{
	struct buf b = {0};
	ssize_t n = read_some(fd, buf_grow(&b, PACKAGE_HEADER_SIZE), PACKAGE_HEADER_SIZE);
	int ret;

	if (n < 0)
		ret = err_set(e, (int)n, "cannot read it: %s", strerror((int)-n));
	else if (n < (ssize_t)PACKAGE_HEADER_SIZE)
		ret = err_set(e, -EINVAL, "header: it is cut off: it has %zd bytes of %u", n, PACKAGE_HEADER_SIZE);
	else
		ret = package_length(b.data, cap, length, e);
	if (ret == 0)
		ret = read_body(fd, *length, &b, e);
	if (ret < 0) {
		buf_fini(&b);
		return ret;
	}
	*out = b.data;
	return 0;
}

/* ---- sections ---- */

struct cursor {
	const u8 *at;
	u64 left;
	u32 index;
	char label[PACKAGE_LABEL_SIZE + 16]; /* of the section, as far as it can be told */
};

/* Names are shown to people and compared: printable ASCII only. */
static bool take_name(char *out, const u8 *at, u8 len)
{
	for (u32 i = 0; i < len; i++) {
		if (at[i] < ' ' || at[i] > '~')
			return false;
		out[i] = (char)at[i];
	}
	out[len] = '\0';
	return true;
}

static int section_names(struct cursor *c, struct package_section *s, struct err *e)
{
	u8 name_len = c->at[SECTION_NAME_LEN], instance_len = c->at[SECTION_INSTANCE_LEN];
	const u8 *name = c->at + SECTION_HEADER;

	if (!name_len || name_len >= sizeof(s->name) || instance_len >= sizeof(s->instance))
		return err_set(e, -EINVAL, "section %s: its name has %u and %u bytes", c->label, name_len, instance_len);
	if (c->left < SECTION_HEADER + name_len + instance_len)
		return err_set(e, -EINVAL, "section %s: the package ends in its name", c->label);
	if (!take_name(s->name, name, name_len) || !take_name(s->instance, name + name_len, instance_len))
		return err_set(e, -EINVAL, "section %s: its name is none", c->label);
	package_label(c->label, sizeof(c->label), s->name, s->instance);
	return 0;
}

static int section_versions(const struct cursor *c, struct package_section *s, struct err *e)
{
	u16 flags = ld_le16(c->at + SECTION_FLAGS);

	if (flags & ~SECTION_OPTIONAL)
		return err_set(e, -EINVAL, "section %s: it has flags (0x%x) that this husk does not know", c->label, flags);
	s->optional = flags & SECTION_OPTIONAL;
	s->version = ld_le16(c->at + SECTION_VERSION);
	s->min_version = ld_le16(c->at + SECTION_MIN_VERSION);
	if (!s->version || !s->min_version || s->min_version > s->version)
		return err_set(e, -EINVAL, "section %s: version %u, and at least %u, make no sense", c->label, s->version, s->min_version);
	return 0;
}

static int next_section(struct cursor *c, struct package_section *s, struct err *e)
{
	u64 head, whole;
	int ret;

	snprintf(c->label, sizeof(c->label), "#%u", c->index++);
	if (c->left < SECTION_HEADER)
		return err_set(e, -EINVAL, "section %s: the package ends before it", c->label);
	ret = section_names(c, s, e);
	if (ret < 0)
		return ret;
	head = SECTION_HEADER + strlen(s->name) + strlen(s->instance);
	s->len = ld_le32(c->at + SECTION_LENGTH);
	whole = head + s->len;
	if (whole > c->left)
		return err_set(e, -EINVAL, "section %s: it has %u bytes, and the package only %llu more", c->label, s->len,
			       (unsigned long long)(c->left - head));
	if (ld_le32(c->at + SECTION_CRC) != package_section_crc(c->at, whole))
		return err_set(e, -EINVAL, "section %s: it is damaged: its checksum is another", c->label);
	ret = section_versions(c, s, e);
	s->payload = c->at + head;
	c->at += whole;
	c->left -= whole;
	return ret;
}

static int check_double(const struct package *p, u32 nr, const struct cursor *c, struct err *e)
{
	const struct package_section *s = &p->sections[nr];

	for (u32 i = 0; i < nr; i++) {
		if (!strcmp(s->name, p->sections[i].name) && !strcmp(s->instance, p->sections[i].instance))
			return err_set(e, -EINVAL, "section %s: it is there twice", c->label);
	}
	return 0;
}

static int read_info(struct package *p, struct err *e)
{
	const struct package_section *s = &p->sections[0];

	if (strcmp(s->name, package_vm_table.name) || *s->instance)
		return err_set(e, -EINVAL, "section %s: \"vm\" has to be the first", s->name);
	p->info = xzalloc(sizeof(*p->info));
	if (state_decode_zeroed(&package_vm_table, s->version, s->payload, s->len, p->info, e) < 0)
		return err_prefix(e, "section %s", s->name);
	return 0;
}

static int open_sections(struct package *p, const u8 *bytes, struct err *e)
{
	struct cursor c = {.at = bytes + PACKAGE_HEADER_SIZE, .left = p->length - PACKAGE_HEADER_SIZE};
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < p->nr; i++) {
		ret = next_section(&c, &p->sections[i], e);
		if (ret == 0)
			ret = check_double(p, i, &c, e);
	}
	if (ret == 0 && c.left)
		ret = err_set(e, -EINVAL, "section %s: %llu bytes come after it, which is the last", c.label, (unsigned long long)c.left);
	return ret == 0 ? read_info(p, e) : ret;
}

int package_open(struct package **out, const u8 *bytes, u64 length, struct err *e)
{
	struct package *p;
	u64 said;
	int ret;

	if (length < PACKAGE_HEADER_SIZE)
		return err_set(e, -EINVAL, "header: it is cut off: it has %llu bytes of %u", (unsigned long long)length,
			       PACKAGE_HEADER_SIZE);
	ret = package_length(bytes, PACKAGE_HARD_CAP, &said, e);
	if (ret < 0)
		return ret;
	if (said != length)
		return err_set(e, -EINVAL, "header: field length: it says %llu bytes, and there are %llu", (unsigned long long)said,
			       (unsigned long long)length);
	p = xzalloc(sizeof(*p));
	p->length = length;
	p->nr = ld_le32(bytes + HEADER_SECTIONS);
	p->sections = xzalloc(p->nr * sizeof(*p->sections));
	ret = open_sections(p, bytes, e);
	if (ret < 0)
		package_close(p);
	else
		*out = p;
	return ret;
}

void package_close(struct package *p)
{
	if (!p)
		return;
	free(p->sections);
	free(p->info);
	free(p);
}

const struct package_vm *package_info(const struct package *p)
{
	return p->info;
}
