/*
 * gzip.c: what gzip spends its time with: hash chains for the longest match, a Huffman code of the result, bits out; and back again.
 */
#include <stdlib.h>
#include <string.h>
#include "gzip.h"

#define HASH_BITS 12
#define WINDOW	  8192
#define MIN_MATCH 4
#define MAX_MATCH 66
#define CHAIN	  16
#define SYMBOLS	  (256 + MAX_MATCH - MIN_MATCH + 1) /* a literal, or a match's length */
#define MAX_BITS  24

struct token {
	u16 symbol, distance; /* distance: of a match */
};

struct code {
	u32 bits[SYMBOLS];
	u8 length[SYMBOLS];
	u32 count[MAX_BITS + 1]; /* codes of each length */
	u16 order[SYMBOLS];	 /* symbols by length, then number: canonical */
};

static struct gzip {
	u8 text[GZIP_BYTES], back[GZIP_BYTES];
	u8 packed[GZIP_BYTES * 2];
	struct token tokens[GZIP_BYTES];
	u16 head[1 << HASH_BITS], previous[GZIP_BYTES];
	u32 frequency[SYMBOLS];
	struct code code;
} z;

const char *gzip_init(void)
{
	static const char *const words[] = {"the",  "of",	   "guest",    "machine ", "and", "translated", "a",	  "in",
					    "page", "instruction", "register", "to",	   "is",  "memory",	"kernel", "boot\n"};
	u64 state = 2463534242u;

	for (u32 i = 0; i < GZIP_BYTES;) {
		u64 r = bench_random(&state) >> 20;
		const char *w = words[(r & 15) & (r >> 4 & 15 ? ~0u : 7)];

		for (; *w && i < GZIP_BYTES; w++)
			z.text[i++] = (u8)*w;
		if (i < GZIP_BYTES)
			z.text[i++] = (r >> 12 & 31) ? ' ' : (u8)('0' + (r >> 17) % 10);
	}
	return NULL;
}

static u32 hash_at(u32 at)
{
	u32 v;

	memcpy(&v, z.text + at, 4);
	return (v * 2654435761u) >> (32 - HASH_BITS);
}

static u32 match_length(const u8 *a, const u8 *b, u32 max)
{
	u32 n = 0;

	while (n < max && a[n] == b[n])
		n++;
	return n;
}

/* The longest match before `at` along its hash chain. Positions are kept one higher: 0 ends a chain. */
static u32 longest_match(u32 at, u32 *distance)
{
	u32 max = GZIP_BYTES - at < MAX_MATCH ? GZIP_BYTES - at : MAX_MATCH, best = 0, tries = CHAIN;

	for (u32 p = z.head[hash_at(at)]; p && tries && at - (p - 1) <= WINDOW; p = z.previous[p - 1], tries--) {
		u32 n = match_length(z.text + p - 1, z.text + at, max);

		if (n > best) {
			best = n;
			*distance = at - (p - 1);
			if (n == max)
				break;
		}
	}
	return best;
}

static void remember(u32 at)
{
	u32 h;

	if (at + 4 > GZIP_BYTES)
		return;
	h = hash_at(at);
	z.previous[at] = z.head[h];
	z.head[h] = (u16)(at + 1);
}

static u32 find_matches(void)
{
	u32 n = 0, length, distance = 0;

	memset(z.head, 0, sizeof(z.head));
	for (u32 at = 0; at < GZIP_BYTES; at += length) {
		length = at + 4 <= GZIP_BYTES ? longest_match(at, &distance) : 0;
		if (length < MIN_MATCH)
			length = 1;
		z.tokens[n].symbol = length == 1 ? z.text[at] : (u16)(256 + length - MIN_MATCH);
		z.tokens[n++].distance = (u16)distance;
		for (u32 i = 0; i < length; i++)
			remember(at + i);
	}
	return n;
}

/* Huffman's tree by taking the two rarest again and again; lengths are the depths of its leaves. */
static void code_lengths(const u32 *frequency, u8 *length)
{
	u32 weight[2 * SYMBOLS], parent[2 * SYMBOLS], nodes = SYMBOLS;
	bool open[2 * SYMBOLS];

	for (u32 i = 0; i < SYMBOLS; i++) {
		weight[i] = frequency[i];
		open[i] = frequency[i] != 0;
		parent[i] = 0;
	}
	for (;; nodes++) {
		u32 a = ~0u, b = ~0u;

		for (u32 i = 0; i < nodes; i++) {
			if (!open[i])
				continue;
			if (a == ~0u || weight[i] < weight[a]) {
				b = a;
				a = i;
			} else if (b == ~0u || weight[i] < weight[b])
				b = i;
		}
		if (b == ~0u)
			break;
		open[a] = open[b] = false;
		parent[a] = parent[b] = nodes;
		parent[nodes] = 0;
		weight[nodes] = weight[a] + weight[b];
		open[nodes] = true;
	}
	for (u32 i = 0; i < SYMBOLS; i++) {
		length[i] = 0;
		for (u32 p = parent[i]; frequency[i] && p; p = parent[p])
			length[i]++;
	}
}

static void canonical_codes(struct code *c)
{
	u32 next = 0, used = 0;

	memset(c->count, 0, sizeof(c->count));
	for (u32 length = 1; length <= MAX_BITS; length++, next <<= 1)
		for (u32 s = 0; s < SYMBOLS; s++)
			if (c->length[s] == length) {
				c->bits[s] = next++;
				c->count[length]++;
				c->order[used++] = (u16)s;
			}
}

struct bits {
	u8 *at;
	u64 hold;
	u32 held;
};

static void put(struct bits *b, u32 value, u32 n)
{
	b->hold = b->hold << n | value;
	for (b->held += n; b->held >= 8; b->held -= 8)
		*b->at++ = (u8)(b->hold >> (b->held - 8));
}

static u32 get(struct bits *b, u32 n)
{
	for (; b->held < n; b->held += 8)
		b->hold = b->hold << 8 | *b->at++;
	b->held -= n;
	return (u32)(b->hold >> b->held) & ((1u << n) - 1);
}

static u32 get_symbol(struct bits *b, const struct code *c)
{
	u32 value = 0, first = 0, index = 0;

	for (u32 length = 1; length <= MAX_BITS; length++) {
		value = value << 1 | get(b, 1);
		if (value - first < c->count[length])
			return c->order[index + value - first];
		index += c->count[length];
		first = (first + c->count[length]) << 1;
	}
	return 0;
}

static u32 pack(u32 tokens)
{
	struct bits b = {z.packed, 0, 0};

	memset(z.frequency, 0, sizeof(z.frequency));
	for (u32 i = 0; i < tokens; i++)
		z.frequency[z.tokens[i].symbol]++;
	code_lengths(z.frequency, z.code.length);
	canonical_codes(&z.code);
	for (u32 i = 0; i < tokens; i++) {
		const struct token *t = &z.tokens[i];

		put(&b, z.code.bits[t->symbol], z.code.length[t->symbol]);
		if (t->symbol >= 256)
			put(&b, t->distance - 1u, 13);
	}
	put(&b, 0, 7);
	return (u32)(b.at - z.packed);
}

static void unpack(void)
{
	struct bits b = {z.packed, 0, 0};

	for (u32 at = 0; at < GZIP_BYTES;) {
		u32 s = get_symbol(&b, &z.code), from;

		if (s < 256) {
			z.back[at++] = (u8)s;
			continue;
		}
		from = at - get(&b, 13) - 1;
		for (u32 n = s - 256 + MIN_MATCH; n && at < GZIP_BYTES; n--)
			z.back[at++] = z.back[from++];
	}
}

u64 gzip_run(u32 ops)
{
	u32 bytes = 0;

	for (u32 done = 0; done < ops; done += GZIP_BYTES) {
		bytes = pack(find_matches());
		unpack();
		if (memcmp(z.text, z.back, GZIP_BYTES))
			return 0;
	}
	return bytes;
}
