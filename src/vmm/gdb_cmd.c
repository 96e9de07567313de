/* gdb_cmd.c: the packets of gdb's remote protocol (GDB manual, appendix E). What is not known is answered by nothing, as the manual wants.
 */
#include <stdio.h>
#include <string.h>

#include "vmm/gdb_impl.h"

#define FEATURES "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+"

/* ---- words of a packet ---- */

struct words {
	const char *at, *end;
};

static bool take_char(struct words *w, char c)
{
	if (w->at == w->end || *w->at != c)
		return false;
	w->at++;
	return true;
}

static bool take_word(struct words *w, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(w->end - w->at) < n || memcmp(w->at, word, n))
		return false;
	w->at += n;
	return true;
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 1 to 16 hexadecimal digits. */
static bool take_hex(struct words *w, u64 *value)
{
	const char *start = w->at;

	*value = 0;
	while (w->at < w->end && digit_of(*w->at) >= 0) {
		if (w->at - start == 16)
			return false;
		*value = *value << 4 | (u64)digit_of(*w->at++);
	}
	return w->at > start;
}

static bool take_bytes(struct words *w, u8 *data, u64 len)
{
	if ((u64)(w->end - w->at) / 2 < len)
		return false;
	for (u64 i = 0; i < len; i++, w->at += 2) {
		int high = digit_of(w->at[0]), low = digit_of(w->at[1]);

		if (high < 0 || low < 0)
			return false;
		data[i] = (u8)(high << 4 | low);
	}
	return true;
}

/* Escaped as in E.1; exactly len bytes must come of it. */
static bool take_binary(struct words *w, u8 *data, u64 len)
{
	u64 n = 0;

	while (w->at < w->end && n < len) {
		char c = *w->at++;

		if (c == '}' && w->at < w->end)
			c = *w->at++ ^ 0x20;
		data[n++] = (u8)c;
	}
	return n == len && w->at == w->end;
}

/* A thread is a vCPU's number + 1; 0 and -1 (any, all) give `any`. */
static bool take_thread(const struct gdb *g, struct words *w, u32 *index, bool *any)
{
	u64 id = 0;

	*any = take_word(w, "-1") || (take_hex(w, &id) && id == 0);
	if (*any)
		return true;
	*index = (u32)(id - 1);
	return id >= 1 && id <= g->vm->nr_vcpus;
}

static void put_ok(struct gdb *g, bool ok)
{
	gdb_put(g, "%s", ok ? "OK" : "E01");
}

/* ---- registers ---- */

static void get_all_regs(struct gdb *g, struct words *w)
{
	const struct cpu_state *c = gdb_cpu(g, g->thread_g, false);
	u8 value[GDB_REG_MAX];

	(void)w;
	for (u32 n = 0; c && n < gdb_arch_nr_regs(); n++) {
		gdb_arch_reg_get(c, n, value);
		gdb_put_hex(g, value, gdb_arch_reg_size(n));
	}
	if (!c)
		put_ok(g, false);
}

/* All that came, in order; the ones that cannot be set are passed over, for gdb sends what it has read. */
static void set_all_regs(struct gdb *g, struct words *w)
{
	struct cpu_state *c = gdb_cpu(g, g->thread_g, true);
	u8 value[GDB_REG_MAX];
	bool ok = c && w->at < w->end;

	for (u32 n = 0; ok && n < gdb_arch_nr_regs() && w->at < w->end; n++) {
		ok = take_bytes(w, value, gdb_arch_reg_size(n));
		if (ok)
			(void)gdb_arch_reg_set(c, n, value);
	}
	put_ok(g, ok && w->at == w->end);
}

static void get_reg(struct gdb *g, struct words *w)
{
	const struct cpu_state *c = gdb_cpu(g, g->thread_g, false);
	u8 value[GDB_REG_MAX];
	u64 n;

	if (!c || !take_hex(w, &n) || n >= gdb_arch_nr_regs()) {
		put_ok(g, false);
		return;
	}
	gdb_arch_reg_get(c, (u32)n, value);
	gdb_put_hex(g, value, gdb_arch_reg_size((u32)n));
}

static void set_reg(struct gdb *g, struct words *w)
{
	struct cpu_state *c;
	u8 value[GDB_REG_MAX];
	u64 n;

	if (!take_hex(w, &n) || n >= gdb_arch_nr_regs() || !take_char(w, '=') || !take_bytes(w, value, gdb_arch_reg_size((u32)n))) {
		put_ok(g, false);
		return;
	}
	c = gdb_cpu(g, g->thread_g, true);
	put_ok(g, c && gdb_arch_reg_set(c, (u32)n, value));
}

/* ---- memory ---- */

static bool take_range(struct words *w, u64 *gva, u64 *len)
{
	return take_hex(w, gva) && take_char(w, ',') && take_hex(w, len);
}

static void read_memory(struct gdb *g, struct words *w)
{
	auto_free u8 *data = xzalloc(GDB_PACKET_MAX / 2);
	u64 gva, len, n;

	if (!take_range(w, &gva, &len)) {
		put_ok(g, false);
		return;
	}
	len = MIN(len, GDB_PACKET_MAX / 2);
	n = gdb_mem_read(g, gva, data, len);
	if (len && !n)
		gdb_put(g, "E0e");
	else
		gdb_put_hex(g, data, n);
}

static void write_memory(struct gdb *g, struct words *w, bool (*take)(struct words *w, u8 *data, u64 len))
{
	auto_free u8 *data = xzalloc(GDB_PACKET_MAX);
	u64 gva, len;

	if (!take_range(w, &gva, &len) || !take_char(w, ':') || len > GDB_PACKET_MAX || !take(w, data, len))
		put_ok(g, false);
	else if (gdb_mem_write(g, gva, data, len) != len)
		gdb_put(g, "E0e");
	else
		put_ok(g, true);
}

static void write_hex(struct gdb *g, struct words *w)
{
	write_memory(g, w, take_bytes);
}

static void write_binary(struct gdb *g, struct words *w)
{
	write_memory(g, w, take_binary);
}

/* Z and z: type,address,kind. Conditions and commands that follow were not offered. */
static void change_break(struct gdb *g, struct words *w, int (*change)(struct gdb *g, u32 type, u64 gva, u64 len))
{
	u64 type, gva, len;

	if (!take_hex(w, &type) || type > 4)
		return;
	if (!take_char(w, ',') || !take_range(w, &gva, &len))
		put_ok(g, false);
	else
		put_ok(g, change(g, (u32)type, gva, len) == 0);
}

static void add_break(struct gdb *g, struct words *w)
{
	change_break(g, w, gdb_break_add);
}

static void remove_break(struct gdb *g, struct words *w)
{
	change_break(g, w, gdb_break_remove);
}

/* ---- running ---- */

static void resume(struct gdb *g, const struct gdb_resume *r)
{
	if (gdb_resume(g, r) < 0)
		put_ok(g, false);
}

/* c, C, s, S: the address at which gdb may ask to go on belongs to a time before it had P. */
static void run_all(struct gdb *g, struct words *w)
{
	struct gdb_resume r = {0};

	memset(r.run, true, sizeof(r.run));
	r.step[g->thread_c] = (w->at[-1] | 0x20) == 's';
	resume(g, &r);
}

/* One action of vCont, for the vCPUs that no action before it named. */
static bool take_action(const struct gdb *g, struct words *w, struct gdb_resume *r)
{
	char action = w->at < w->end ? *w->at++ : '\0';
	bool any = true, step = (action | 0x20) == 's';
	u32 index = 0;
	u64 signal;

	if (!step && (action | 0x20) != 'c')
		return false;
	if (!(action & 0x20) && !take_hex(w, &signal)) /* C and S: a guest has no signals */
		return false;
	if (take_char(w, ':') && !take_thread(g, w, &index, &any))
		return false;
	for (u32 i = any ? 0 : index; i < (any ? g->vm->nr_vcpus : index + 1); i++) {
		r->step[i] |= step && !r->run[i];
		r->run[i] = true;
	}
	return true;
}

static void multi_letter_v(struct gdb *g, struct words *w)
{
	struct gdb_resume r = {0};
	bool ok = true;

	if (take_word(w, "Cont?")) {
		gdb_put(g, "vCont;c;C;s;S");
	} else if (take_word(w, "Cont") && w->at < w->end) {
		while (ok && w->at < w->end)
			ok = take_char(w, ';') && take_action(g, w, &r);
		if (ok)
			resume(g, &r);
		else
			put_ok(g, false);
	} else if (take_word(w, "Kill")) {
		put_ok(g, true);
		vm_end(g->vm, VM_END_HOST);
	}
}

static void kill_vm(struct gdb *g, struct words *w)
{
	(void)w;
	vm_end(g->vm, VM_END_HOST);
}

static void detach(struct gdb *g, struct words *w)
{
	(void)w;
	put_ok(g, true);
	gdb_send(g);
	gdb_detach(g);
	g->reply_len = 0;
}

static void why_stopped(struct gdb *g, struct words *w)
{
	(void)w;
	gdb_put_stop(g, 5);
}

/* ---- threads ---- */

static void set_thread(struct gdb *g, struct words *w)
{
	bool any, for_steps = take_char(w, 'c');
	u32 index;

	if ((!for_steps && !take_char(w, 'g')) || !take_thread(g, w, &index, &any)) {
		put_ok(g, false);
		return;
	}
	if (!any && for_steps)
		g->thread_c = index;
	else if (!any)
		g->thread_g = index;
	put_ok(g, true);
}

static void is_alive(struct gdb *g, struct words *w)
{
	bool any;
	u32 index;

	put_ok(g, take_thread(g, w, &index, &any) && !any);
}

static void put_threads(struct gdb *g)
{
	for (u32 i = 0; i < g->vm->nr_vcpus; i++)
		gdb_put(g, "%c%x", i ? ',' : 'm', i + 1);
}

static void describe_thread(struct gdb *g, struct words *w)
{
	const struct cpu_state *c;
	char text[64];
	bool any;
	u32 index;

	if (!take_thread(g, w, &index, &any) || any) {
		put_ok(g, false);
		return;
	}
	c = gdb_cpu(g, index, false);
	snprintf(text, sizeof(text), "vCPU %u: %s", index, c ? gdb_arch_activity(c) : "unknown");
	gdb_put_hex(g, text, strlen(text));
}

/* ---- queries ---- */

static void transfer_description(struct gdb *g, struct words *w)
{
	u64 offset, len, left;

	if (!take_range(w, &offset, &len)) {
		put_ok(g, false);
		return;
	}
	if (!g->description.len)
		gdb_arch_describe(&g->description);
	offset = MIN(offset, g->description.len);
	left = g->description.len - offset;
	len = MIN(MIN(len, left), GDB_PACKET_MAX / 2 - 1); /* each byte may need an escape */
	gdb_put(g, "%c", len < left ? 'm' : 'l');
	gdb_put_binary(g, g->description.data + offset, len);
}

static bool mentions(const struct words *w, const char *feature)
{
	return memmem(w->at, (size_t)(w->end - w->at), feature, strlen(feature));
}

static void query(struct gdb *g, struct words *w)
{
	if (take_word(w, "Supported")) {
		g->knows_swbreak = mentions(w, "swbreak+");
		g->knows_hwbreak = mentions(w, "hwbreak+");
		gdb_put(g, FEATURES, GDB_PACKET_MAX);
	} else if (take_word(w, "Xfer:features:read:target.xml:")) {
		transfer_description(g, w);
	} else if (take_word(w, "Xfer:features:read:")) {
		gdb_put(g, "E00"); /* no such annex */
	} else if (take_word(w, "ThreadExtraInfo,")) {
		describe_thread(g, w);
	} else if (take_word(w, "fThreadInfo")) {
		put_threads(g);
	} else if (take_word(w, "sThreadInfo")) {
		gdb_put(g, "l");
	} else if (take_word(w, "Attached")) {
		gdb_put(g, "1"); /* so that gdb detaches when it quits */
	} else if (w->end - w->at == 1 && take_char(w, 'C')) {
		gdb_put(g, "QC%x", g->thread_g + 1);
	}
}

static void setting(struct gdb *g, struct words *w)
{
	if (!take_word(w, "StartNoAckMode"))
		return;
	g->no_ack = true;
	put_ok(g, true);
}

/* ---- dispatch ---- */

static const struct command {
	char letter;
	bool silent; /* no answer now: that is the stop reply, later */
	void (*run)(struct gdb *g, struct words *w);
} commands[] = {
	{'?', false, why_stopped},  {'c', true, run_all},	  {'C', true, run_all},	      {'D', true, detach},
	{'g', false, get_all_regs}, {'G', false, set_all_regs},	  {'H', false, set_thread},   {'k', true, kill_vm},
	{'m', false, read_memory},  {'M', false, write_hex},	  {'p', false, get_reg},      {'P', false, set_reg},
	{'q', false, query},	    {'Q', false, setting},	  {'s', true, run_all},	      {'S', true, run_all},
	{'T', false, is_alive},	    {'v', false, multi_letter_v}, {'X', false, write_binary}, {'z', false, remove_break},
	{'Z', false, add_break},
};

void gdb_command(struct gdb *g)
{
	struct words w = {.at = g->packet, .end = g->packet + g->packet_len};
	char letter = g->packet_len ? *w.at++ : '\0';
	bool silent = false;

	if (!g->held) {
		gdb_put(g, "E02"); /* the guest runs: nothing but Ctrl-C makes sense */
		gdb_send(g);
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(commands); i++) {
		if (commands[i].letter != letter)
			continue;
		commands[i].run(g, &w);
		silent = commands[i].silent;
	}
	/* Let go by vCont: no answer either. */
	if (g->reply_len || (!silent && g->held))
		gdb_send(g);
}
