/* aml.c: the ACPI machine language writer. */
#include "arch/x86_64/aml.h"

#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
	OP_ARG0 = 0x68,
	OP_NOTIFY = 0x86,
	OP_LEQUAL = 0x93,
	OP_IF = 0xa0,
};

/* PkgLength in its three-byte form whatever the length, so that nothing has to be moved at the close (§20.2.4). */
#define PKG_LENGTH_BYTES 3
#define PKG_LENGTH_MAX	 (1u << 20)

static size_t pkg_open(struct buf *b)
{
	size_t mark = b->len;

	buf_grow(b, PKG_LENGTH_BYTES);
	return mark;
}

void aml_close(struct buf *b, size_t mark)
{
	size_t len = b->len - mark;

	ASSERT(len < PKG_LENGTH_MAX);
	b->data[mark] = (u8)(0x80 | (len & 0xf));
	st_le16(b->data + mark + 1, (u16)(len >> 4));
}

/* One name segment: four characters, filled up with '_' (§20.2.2). Returns how many characters of s it took. */
static size_t name_seg(struct buf *b, const char *s)
{
	size_t n = strcspn(s, ".");
	char *seg = buf_grow(b, 4);

	ASSERT(n > 0 && n <= 4);
	memset(seg, '_', 4);
	memcpy(seg, s, n);
	return n;
}

/* A name or a path of at most two segments. */
static void name_string(struct buf *b, const char *s)
{
	size_t n;

	if (*s == '\\') {
		buf_u8(b, '\\');
		s++;
	}
	if (strchr(s, '.'))
		buf_u8(b, OP_DUAL_NAME);
	n = name_seg(b, s);
	if (s[n] == '.')
		name_seg(b, s + n + 1);
}

size_t aml_scope(struct buf *b, const char *name)
{
	size_t mark;

	buf_u8(b, OP_SCOPE);
	mark = pkg_open(b);
	name_string(b, name);
	return mark;
}

size_t aml_device(struct buf *b, const char *name)
{
	size_t mark;

	buf_u8(b, OP_EXT);
	buf_u8(b, OP_EXT_DEVICE);
	mark = pkg_open(b);
	name_string(b, name);
	return mark;
}

size_t aml_method(struct buf *b, const char *name, u32 nr_args)
{
	size_t mark;

	buf_u8(b, OP_METHOD);
	mark = pkg_open(b);
	name_string(b, name);
	buf_u8(b, (u8)(nr_args | 0x08)); /* serialized */
	return mark;
}

size_t aml_if_arg_equals(struct buf *b, u32 arg, u64 value)
{
	size_t mark;

	buf_u8(b, OP_IF);
	mark = pkg_open(b);
	buf_u8(b, OP_LEQUAL);
	buf_u8(b, (u8)(OP_ARG0 + arg));
	aml_int(b, value);
	return mark;
}

size_t aml_name_package(struct buf *b, const char *name, u8 nr)
{
	size_t mark;

	buf_u8(b, OP_NAME);
	name_string(b, name);
	buf_u8(b, OP_PACKAGE);
	mark = pkg_open(b);
	buf_u8(b, nr);
	return mark;
}

void aml_int(struct buf *b, u64 v)
{
	if (v <= 1) {
		buf_u8(b, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		buf_u8(b, OP_BYTE);
		buf_u8(b, (u8)v);
	} else if (v <= UINT16_MAX) {
		buf_u8(b, OP_WORD);
		buf_u16(b, (u16)v);
	} else if (v <= UINT32_MAX) {
		buf_u8(b, OP_DWORD);
		buf_u32(b, (u32)v);
	} else {
		buf_u8(b, OP_QWORD);
		buf_u64(b, v);
	}
}

void aml_name_int(struct buf *b, const char *name, u64 v)
{
	buf_u8(b, OP_NAME);
	name_string(b, name);
	aml_int(b, v);
}

void aml_string(struct buf *b, const char *s)
{
	buf_u8(b, OP_STRING);
	buf_put(b, s, strlen(s) + 1);
}

void aml_name_string(struct buf *b, const char *name, const char *s)
{
	buf_u8(b, OP_NAME);
	name_string(b, name);
	aml_string(b, s);
}

static u32 hex_digit(char c)
{
	return (u32)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits, then four hex digits, big-endian (§19.6.36). */
void aml_name_eisaid(struct buf *b, const char *name, const char *id)
{
	u32 v = 0;

	ASSERT(strlen(id) == 7);
	for (u32 i = 0; i < 3; i++)
		v = v << 5 | (u32)(id[i] - 'A' + 1);
	for (u32 i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	buf_u8(b, OP_NAME);
	name_string(b, name);
	buf_u8(b, OP_DWORD);
	buf_u32(b, __builtin_bswap32(v));
}

void aml_notify(struct buf *b, const char *name, u64 value)
{
	buf_u8(b, OP_NOTIFY);
	name_string(b, name);
	aml_int(b, value);
}

/* Buffer header after the mark: PkgLength, then the size as a word constant that the close patches. */
#define CRS_SIZE_OFFSET	 (PKG_LENGTH_BYTES + 1)
#define CRS_BYTES_OFFSET (CRS_SIZE_OFFSET + 2)

size_t aml_crs_open(struct buf *b)
{
	size_t mark;

	buf_u8(b, OP_NAME);
	name_string(b, "_CRS");
	buf_u8(b, OP_BUFFER);
	mark = pkg_open(b);
	buf_u8(b, OP_WORD);
	buf_u16(b, 0);
	return mark;
}

void aml_crs_close(struct buf *b, size_t mark)
{
	buf_u16(b, 0x0079); /* End Tag; checksum 0 = not used (§6.4.2.9) */
	st_le16(b->data + mark + CRS_SIZE_OFFSET, (u16)(b->len - mark - CRS_BYTES_OFFSET));
	aml_close(b, mark);
}

/* 32-Bit Fixed Memory Range Descriptor (§6.4.3.4) */
void aml_res_mem32(struct buf *b, u32 base, u32 len)
{
	buf_u8(b, 0x86);
	buf_u16(b, 9);
	buf_u8(b, 1); /* writeable */
	buf_u32(b, base);
	buf_u32(b, len);
}

/* I/O Port Descriptor (§6.4.2.5) */
void aml_res_io(struct buf *b, u16 base, u8 len)
{
	buf_u8(b, 0x47);
	buf_u8(b, 1); /* decodes 16 bits */
	buf_u16(b, base);
	buf_u16(b, base);
	buf_u8(b, 1); /* alignment */
	buf_u8(b, len);
}

/* Extended Interrupt Descriptor (§6.4.3.6) */
void aml_res_irq_edge(struct buf *b, u32 gsi, bool shared)
{
	buf_u8(b, 0x89);
	buf_u16(b, 6);
	buf_u8(b, (u8)(BIT(0) | BIT(1) | (shared ? BIT(3) : 0))); /* consumer, edge, active high */
	buf_u8(b, 1);
	buf_u32(b, gsi);
}
