/*
 * test_gdb.c: the debugger's socket, packet by packet, on bare guests (bare.h): under the software accelerator, and compiled a second time,
 * under KVM.
 */
#ifndef BARE_ACCEL
#define BARE_ACCEL tcg_accel_ops
#endif
#pragma GCC diagnostic ignored "-Wunused-function" /* of bare.h */
#include "bare.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "vmm/gdb.h"
#include "vmm/gdb_arch.h"

#define TIMEOUT_NS (20 * NSEC_PER_SEC)
#define SPIN_INC   7 /* spin.S: offset of `inc %rbx` from start */
#define RAX	   0 /* register numbers of the target description */
#define RBX	   1
#define RIP	   16
#define CS	   18
#define XMM0	   40

struct session {
	struct guest *g;
	pthread_t loop;
	char path[64];
	int fd;
	char reply[40000]; /* of the last packet */
	bool no_ack;
};

/* ---- a client ---- */

static void client_connect(struct session *s)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 5};

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", s->path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(s->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	s->no_ack = false;
}

static void send_raw(struct session *s, const void *data, size_t len)
{
	assert_int_equal(send(s->fd, data, len, MSG_NOSIGNAL), len);
}

static char get_byte(struct session *s)
{
	char c;

	if (recv(s->fd, &c, 1, 0) != 1)
		fail_msg("the stub does not answer");
	return c;
}

static void send_packet_bytes(struct session *s, const void *data, size_t len)
{
	char head = '$', tail[4];
	u8 sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (u8)(sum + ((const u8 *)data)[i]);
	snprintf(tail, sizeof(tail), "#%02x", sum);
	send_raw(s, &head, 1);
	send_raw(s, data, len);
	send_raw(s, tail, 3);
}

static const char *get_reply(struct session *s)
{
	size_t n = 0;
	u8 sum = 0;
	char c, tail[3] = "";

	while ((c = get_byte(s)) != '$')
		assert_true(c == '+');
	while ((c = get_byte(s)) != '#') {
		assert_true(n < sizeof(s->reply) - 1);
		s->reply[n++] = c;
		sum = (u8)(sum + (u8)c);
	}
	s->reply[n] = '\0';
	tail[0] = get_byte(s);
	tail[1] = get_byte(s);
	assert_int_equal(strtoul(tail, NULL, 16), sum);
	if (!s->no_ack)
		send_raw(s, "+", 1);
	return s->reply;
}

static const char *ask(struct session *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
static const char *ask(struct session *s, const char *fmt, ...)
{
	char text[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	send_packet_bytes(s, text, strlen(text));
	return get_reply(s);
}

#define expect(s, reply, ...) assert_string_equal(ask(s, __VA_ARGS__), reply)

static u64 number_of(const char *hex, u32 bytes)
{
	u64 value = 0;

	for (u32 i = bytes; i-- > 0;) {
		char byte[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

		value = value << 8 | strtoul(byte, NULL, 16);
	}
	return value;
}

static u64 get_reg(struct session *s, u32 n)
{
	return number_of(ask(s, "p%x", n), gdb_arch_reg_size(n));
}

/* ---- a guest with a debugger's socket ---- */

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

static void session_start(struct session *s, const char *name, u32 nr_vcpus)
{
	struct err e = {0};

	*s = (struct session){.g = guest_make(name, nr_vcpus, NULL), .fd = -1};
	s->g->log.level = LOG_OFF;
	snprintf(s->path, sizeof(s->path), "/tmp/husk-test-gdb.%d.%p", getpid(), (void *)s->g); /* one that failed may be left */
	must(gdb_init(&s->g->vm, s->path, &e), &e);
	must(vcpus_start(&s->g->vm, &e), &e);
	must(gdb_start(&s->g->vm, &e), &e);
	vcpus_resume(&s->g->vm);
	assert_int_equal(pthread_create(&s->loop, NULL, run_loop, &s->g->vm.loop), 0);
	client_connect(s);
}

static void session_end(struct session *s)
{
	struct vm *vm = &s->g->vm;

	loop_stop(&vm->loop);
	pthread_join(s->loop, NULL);
	gdb_end(vm);
	vcpus_stop(vm);
	gdb_fini(vm);
	assert_int_equal(access(s->path, F_OK), -1);
	guest_free(s->g);
	if (s->fd >= 0)
		close(s->fd);
}

static u64 start_of(const struct session *s)
{
	return ld_le64(s->g->image);
}

/* A byte of guest memory that is looked at from outside, while the guest runs. */
__attribute__((no_sanitize("thread"))) static u8 memory_byte(struct session *s, u64 gpa)
{
	return *(volatile u8 *)mem_ptr(&s->g->vm.mem, gpa, 1);
}

/* The guest stands still, and the debugger does not look: a ThreadSanitizer does not know what a socket says. */
static void check_registers(struct session *s, const char *name)
{
	pthread_mutex_lock(&s->g->vm.run_lock);
	check_expectations(s->g, name);
	pthread_mutex_unlock(&s->g->vm.run_lock);
}

/* ---- packets ---- */

static void packets_are_acknowledged_and_wrong_ones_refused(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "spin", 1);
	send_raw(&s, "+$qC#b4", 7);
	assert_int_equal(get_byte(&s), '+');
	assert_string_equal(get_reply(&s), "QC1");
	send_raw(&s, "-", 1); /* once more, please */
	assert_string_equal(get_reply(&s), "QC1");
	send_raw(&s, "$qC#b5", 6);
	assert_int_equal(get_byte(&s), '-');
	send_raw(&s, "$qC#zz", 6);
	assert_int_equal(get_byte(&s), '-');
	expect(&s, "", "vMustReplyEmpty");
	expect(&s, "", "%s", "");
	expect(&s, "", "!");
	expect(&s, "", "qNoSuchQuery:1,2");
	expect(&s, "OK", "QStartNoAckMode");
	s.no_ack = true;
	send_raw(&s, "-$qC#00", 7); /* the checksum does not matter any more, nor does '-' */
	assert_string_equal(get_reply(&s), "QC1");
	session_end(&s);
}

static void a_packet_that_is_too_long_is_refused_and_the_next_is_taken(void **state)
{
	static const u32 sizes[] = {0x3fff, 0x4000, 0x4001, 100000};
	struct session s;

	(void)state;
	session_start(&s, "spin", 1);
	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		auto_free char *data = xzalloc(sizes[i]);

		memset(data, '!', sizes[i]);
		send_packet_bytes(&s, data, sizes[i]);
		assert_string_equal(get_reply(&s), sizes[i] <= 0x4000 ? "" : "E07");
		expect(&s, "QC1", "qC");
	}
	session_end(&s);
}

static void the_stub_says_what_it_can_and_describes_its_registers(void **state)
{
	struct session s;
	char xml[32768] = "";
	u32 at = 0;

	(void)state;
	session_start(&s, "spin", 1);
	assert_non_null(strstr(ask(&s, "qSupported:multiprocess+;swbreak+;hwbreak+"), "PacketSize=4000;"));
	assert_non_null(strstr(s.reply, "qXfer:features:read+"));
	do {
		ask(&s, "qXfer:features:read:target.xml:%x,%x", at, 100);
		assert_true(at + strlen(s.reply) < sizeof(xml));
		memcpy(xml + at, s.reply + 1, strlen(s.reply));
		at += (u32)strlen(s.reply) - 1;
	} while (s.reply[0] == 'm');
	assert_int_equal(s.reply[0], 'l');
	assert_non_null(strstr(xml, "org.gnu.gdb.i386.core"));
	assert_non_null(strstr(xml, "<reg name=\"cr3\""));
	assert_string_equal(xml + strlen(xml) - 10, "</target>\n");
	expect(&s, "l", "qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff");
	expect(&s, "E00", "qXfer:features:read:other.xml:0,100");
	expect(&s, "E01", "qXfer:features:read:target.xml:0");
	expect(&s, "vCont;c;C;s;S", "vCont?");
	expect(&s, "1", "qAttached");
	expect(&s, "T05thread:1;", "?");
	session_end(&s);
}

static void each_vcpu_is_a_thread(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "secondary", 2);
	expect(&s, "m1,2", "qfThreadInfo");
	expect(&s, "l", "qsThreadInfo");
	expect(&s, "OK", "T2");
	expect(&s, "E01", "T3");
	expect(&s, "E01", "T0");
	expect(&s, "E01", "Hg3");
	expect(&s, "E01", "Hx1");
	expect(&s, "E01", "Hg11111111111111111");
	expect(&s, "OK", "Hg2");
	expect(&s, "QC2", "qC");
	expect(&s, "OK", "Hg0");
	expect(&s, "OK", "Hc-1");
	expect(&s, "7643505520313a206e6f742073746172746564", "qThreadExtraInfo,2"); /* vCPU 1: not started */
	session_end(&s);
}

/* ---- registers and memory ---- */

static void registers_are_read_and_written(void **state)
{
	struct session s;
	u64 size = 0;

	(void)state;
	session_start(&s, "spin", 1);
	for (u32 n = 0; n < gdb_arch_nr_regs(); n++)
		size += gdb_arch_reg_size(n);
	assert_int_equal(strlen(ask(&s, "g")), 2 * size);
	assert_int_equal(get_reg(&s, RIP), start_of(&s));
	assert_int_equal(get_reg(&s, CS), 0x10);
	expect(&s, "OK", "P%x=8877665544332211", RBX);
	assert_int_equal(get_reg(&s, RBX), 0x1122334455667788);
	expect(&s, "OK", "P%x=000102030405060708090a0b0c0d0e0f", XMM0);
	expect(&s, "000102030405060708090a0b0c0d0e0f", "p%x", XMM0);
	expect(&s, "E01", "P%x=23000000", CS); /* a selector alone makes no segment */
	expect(&s, "OK", "P%x=10000000", CS);
	expect(&s, "E01", "P%x=88776655443322", RBX);
	expect(&s, "E01", "P%x=887766554433221g", RBX);
	expect(&s, "E01", "p%x", gdb_arch_nr_regs());
	expect(&s, "E01", "pffffffffffffffff");
	expect(&s, "E01", "P%x=00", gdb_arch_nr_regs());
	ask(&s, "g");
	{
		auto_free char *all = xasprintf("G%s", s.reply);

		expect(&s, "OK", "%s", all);
		all[2 * size] = '\0';
		expect(&s, "E01", "%s", all);
	}
	/* The guest sees them. */
	expect(&s, "OK", "P%x=%02x%02x%02x0000000000", RIP, (u8)(start_of(&s) + SPIN_INC), (u8)(start_of(&s) >> 8),
	       (u8)(start_of(&s) >> 16));
	expect(&s, "T05thread:1;", "vCont;s:1");
	assert_int_equal(get_reg(&s, RBX), 0x1122334455667789);
	expect(&s, "000102030405060708090a0b0c0d0e0f", "p%x", XMM0);
	session_end(&s);
}

static void memory_is_read_and_written_by_virtual_address(void **state)
{
	struct session s;
	u8 bytes[4] = {0x12, '}', '#', 0x03};

	(void)state;
	session_start(&s, "spin", 1);
	ask(&s, "m%llx,8", (unsigned long long)LOAD_GPA);
	assert_int_equal(number_of(s.reply, 8), ld_le64(s.g->image));
	expect(&s, "OK", "M200ffe,4:deadbeef"); /* across a page */
	expect(&s, "deadbeef", "m200ffe,4");
	send_packet_bytes(&s, "X200000,4:\x12}\x5d}\x03\x03", 16); /* escaped: '}', '#' */
	assert_string_equal(get_reply(&s), "OK");
	assert_int_equal(mem_read(&s.g->vm.mem, 0x200000, bytes, 4), 0);
	assert_memory_equal(bytes, "\x12}#\x03", 4);
	expect(&s, "OK", "X200000,0:");
	expect(&s, "E01", "X200000,2:a");
	expect(&s, "E01", "X200000,1:ab");
	expect(&s, "E01", "M200000,4:dead");
	expect(&s, "E01", "M200000,ffffffffffffffff:00");
	expect(&s, "E01", "m200000");
	expect(&s, "E01", "m,4");
	expect(&s, "E0e", "m%llx,4", (unsigned long long)RAM_SIZE); /* mapped, but no RAM */
	expect(&s, "E0e", "m800000000000,4");			    /* not canonical */
	expect(&s, "E0e", "m7000000000,4");			    /* not mapped */
	expect(&s, "E0e", "mffffffffffffffff,2");
	assert_int_equal(strlen(ask(&s, "m%llx,10", (unsigned long long)RAM_SIZE - 8)), 16); /* as far as there is some */
	assert_int_equal(strlen(ask(&s, "m0,ffffffffffffffff")), 0x4000);
	session_end(&s);
}

/* ---- running ---- */

static void a_breakpoint_stops_the_guest_there_and_is_not_seen_in_memory(void **state)
{
	struct session s;
	u64 at, rounds = 0;

	(void)state;
	session_start(&s, "spin", 1);
	at = start_of(&s) + SPIN_INC;
	ask(&s, "qSupported:swbreak+");
	expect(&s, "OK", "Z0,%llx,1", (unsigned long long)at);
	expect(&s, "OK", "Z0,%llx,1", (unsigned long long)at); /* the same once more */
	assert_int_equal(memory_byte(&s, at), 0xcc);
	expect(&s, "48ffc3", "m%llx,3", (unsigned long long)at);
	for (u32 i = 0; i < 5; i++) {
		expect(&s, "T05thread:1;swbreak:;", "vCont;c");
		assert_int_equal(get_reg(&s, RIP), at);
		assert_int_equal(get_reg(&s, RBX), rounds++);
		/* As gdb goes over it. */
		expect(&s, "OK", "z0,%llx,1", (unsigned long long)at);
		assert_int_equal(memory_byte(&s, at), 0x48);
		expect(&s, "T05thread:1;", "vCont;s:1");
		assert_int_equal(get_reg(&s, RIP), at + 3);
		expect(&s, "OK", "Z0,%llx,1", (unsigned long long)at);
	}
	expect(&s, "T05thread:1;swbreak:;", "c");
	expect(&s, "E01", "z0,%llx,1", (unsigned long long)at + 1);
	expect(&s, "E01", "Z0,7000000000,1");
	expect(&s, "", "Z5,1000,1");
	expect(&s, "E01", "Z0");
	session_end(&s);
}

static void a_write_over_a_breakpoint_goes_under_it(void **state)
{
	struct session s;
	u64 at;

	(void)state;
	session_start(&s, "spin", 1);
	at = start_of(&s) + SPIN_INC;
	expect(&s, "OK", "Z0,%llx,1", (unsigned long long)at);
	expect(&s, "OK", "M%llx,2:9090", (unsigned long long)at);
	assert_int_equal(memory_byte(&s, at), 0xcc);
	expect(&s, "9090", "m%llx,2", (unsigned long long)at);
	expect(&s, "OK", "z0,%llx,1", (unsigned long long)at);
	assert_int_equal(memory_byte(&s, at), 0x90);
	/* What somebody else wrote over it stays. */
	expect(&s, "OK", "Z0,%llx,1", (unsigned long long)at);
	assert_int_equal(mem_write(&s.g->vm.mem, at, "\x99", 1), 0);
	expect(&s, "OK", "z0,%llx,1", (unsigned long long)at);
	assert_int_equal(memory_byte(&s, at), 0x99);
	session_end(&s);
}

static void breakpoints_are_bounded(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "spin", 1);
	for (u32 i = 0; i < DEBUG_MAX_BREAKS; i++)
		expect(&s, "OK", "Z0,%x,1", 0x200000 + i);
	expect(&s, "E01", "Z0,300000,1");
	for (u32 i = 0; i < DEBUG_MAX_HW; i++)
		expect(&s, "OK", "Z1,%x,1", 0x200000 + i);
	expect(&s, "E01", "Z1,300000,1");
	expect(&s, "E01", "Z2,300001,2");
	expect(&s, "E01", "Z2,300000,3");
	expect(&s, "E01", "Z2,300000,0");
	expect(&s, "E01", "z2,200000,1");
	session_end(&s);
}

static void ctrl_c_stops_a_running_guest_and_it_goes_on(void **state)
{
	struct session s;
	u64 rounds, before = 0;

	(void)state;
	session_start(&s, "spin", 1);
	for (u32 i = 0; i < 3; i++) {
		send_packet_bytes(&s, "vCont;c", 7);
		usleep(50 * 1000);
		expect(&s, "E02", "g"); /* not while it runs */
		expect(&s, "E02", "Z0,%llx,1", (unsigned long long)start_of(&s));
		send_raw(&s, "\x03", 1);
		assert_string_equal(get_reply(&s), "T02thread:1;");
		send_raw(&s, "\x03", 1); /* does nothing to one that stands */
		rounds = get_reg(&s, RBX);
		assert_true(rounds > before);
		before = rounds;
		assert_in_range(get_reg(&s, RIP), start_of(&s), start_of(&s) + 16);
	}
	assert_int_equal(get_reg(&s, RAX), 0x5a5a);
	session_end(&s);
}

/* Instruction by instruction to the end, which is a loop of HLT. */
static void single_steps_come_to_the_same_end(void **state)
{
	struct session s;
	u32 steps = 0;

	(void)state;
	session_start(&s, "alu", 1);
	ask(&s, "QStartNoAckMode");
	s.no_ack = true;
	while (!__atomic_load_n(&s.g->finished, __ATOMIC_ACQUIRE)) {
		expect(&s, "T05thread:1;", "vCont;s:1;c");
		assert_true(++steps < 1000);
	}
	assert_true(steps > 30);
	check_registers(&s, "alu");
	session_end(&s);
}

static void steps_lead_into_handlers(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "softint", 1);
	/* INT n and faults lead into their handlers. */
	for (u32 i = 0; i < 400 && !__atomic_load_n(&s.g->finished, __ATOMIC_ACQUIRE); i++)
		expect(&s, "T05thread:1;", "s");
	assert_true(__atomic_load_n(&s.g->finished, __ATOMIC_ACQUIRE));
	check_registers(&s, "softint");
	session_end(&s);
}

static void an_interrupt_waits_while_the_guest_is_stepped(void **state)
{
	struct session s;
	struct err e;
	struct irq line;
	u64 hlt;

	(void)state;
	session_start(&s, "interrupt", 1);
	must(irq_init_edge(&line, &s.g->vm, 5, &e), &e);
	do {
		expect(&s, "T05thread:1;", "s");
		hlt = get_reg(&s, RIP);
	} while (strcmp(ask(&s, "m%llx,1", (unsigned long long)hlt), "f4"));
	irq_pulse(&line);
	expect(&s, "OK", "M%llx,1:90", (unsigned long long)hlt); /* interrupts are on, and nothing keeps one back but the step */
	expect(&s, "T05thread:1;", "s");
	assert_int_equal(get_reg(&s, RIP), hlt + 1);
	expect(&s, "T05thread:1;", "s");
	assert_int_equal(get_reg(&s, RIP), hlt + 2);
	/* One that sleeps gets it. */
	expect(&s, "OK", "M%llx,1:f4", (unsigned long long)hlt);
	expect(&s, "OK", "P%x=%02x%02x%02x0000000000", RIP, (u8)(hlt - 1), (u8)(hlt >> 8), (u8)(hlt >> 16)); /* STI */
	expect(&s, "T05thread:1;", "s");
	expect(&s, "T05thread:1;", "s");
	assert_int_equal(get_reg(&s, RIP), hlt + 1);
	expect(&s, "T05thread:1;", "s");
	assert_not_in_range(get_reg(&s, RIP), hlt - 8, hlt + 8);
	irq_fini(&line);
	session_end(&s);
}

static void await_finish(struct session *s)
{
	u64 deadline = clock_host_ns() + TIMEOUT_NS;

	while (!__atomic_load_n(&s->g->finished, __ATOMIC_ACQUIRE)) {
		assert_true(clock_host_ns() < deadline);
		usleep(1000);
	}
}

static void an_int3_of_the_guest_is_the_guests(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "softint", 1);
	expect(&s, "OK", "Z0,300000,1"); /* INT3 is looked at, but for this one */
	send_packet_bytes(&s, "c", 1);
	await_finish(&s);
	send_raw(&s, "\x03", 1);
	assert_string_equal(get_reply(&s), "T02thread:1;");
	check_registers(&s, "softint");
	session_end(&s);
}

static void a_processors_breakpoint_needs_no_memory(void **state)
{
	struct session s;
	u64 at;

	(void)state;
	session_start(&s, "spin", 1);
	at = start_of(&s) + SPIN_INC;
	ask(&s, "qSupported:swbreak+;hwbreak+");
	expect(&s, "OK", "Z1,%llx,1", (unsigned long long)at);
	assert_int_equal(memory_byte(&s, at), 0x48);
	expect(&s, "T05thread:1;hwbreak:;", "c");
	assert_int_equal(get_reg(&s, RIP), at);
	expect(&s, "OK", "z1,%llx,1", (unsigned long long)at);
	expect(&s, "T05thread:1;", "s");
	assert_int_equal(get_reg(&s, RBX), 1);
	session_end(&s);
}

static void a_watchpoint_stops_after_the_write(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "dirty", 1);
	expect(&s, "00", "m203fff,1");
	expect(&s, "OK", "Z2,203ff8,8"); /* the write is of one byte */
	expect(&s, "T05thread:1;watch:203ff8;", "c");
	expect(&s, "02", "m203fff,1");
	expect(&s, "00", "m3ff800,1");
	expect(&s, "OK", "z2,203ff8,8");
	send_packet_bytes(&s, "c", 1);
	await_finish(&s);
	session_end(&s);
}

static void one_vcpu_runs_while_the_other_is_held(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "secondary", 2);
	send_packet_bytes(&s, "vCont;c:1", 9); /* the first wakes the second, and waits for it */
	usleep(100 * 1000);
	assert_false(__atomic_load_n(&s.g->finished, __ATOMIC_ACQUIRE));
	send_raw(&s, "\x03", 1);
	assert_string_equal(get_reply(&s), "T02thread:1;");
	expect(&s, "E01", "vCont;c:3");
	expect(&s, "E01", "vCont;x:1");
	expect(&s, "E01", "vCont;");
	expect(&s, "E01", "vCont;c:1;");
	expect(&s, "T05thread:2;", "vCont;s:2;c"); /* its first instruction */
	send_packet_bytes(&s, "vCont;C05:1;c", 13);
	await_finish(&s);
	send_raw(&s, "\x03", 1);
	get_reply(&s);
	check_registers(&s, "secondary");
	session_end(&s);
}

/* ---- coming and going ---- */

static void wait_for_byte(struct session *s, u64 gpa, u8 want)
{
	u64 deadline = clock_host_ns() + TIMEOUT_NS;

	while (memory_byte(s, gpa) != want) {
		assert_true(clock_host_ns() < deadline);
		usleep(1000);
	}
}

/* *state: what the client does at its end, a packet or NULL: it hangs up. */
static void a_debugger_that_goes_leaves_the_guest_running(void **state)
{
	const char *packet = *state;
	struct session s;
	u64 at, rounds;

	session_start(&s, "spin", 1);
	at = start_of(&s) + SPIN_INC;
	expect(&s, "OK", "Z0,%llx,1", (unsigned long long)at);
	expect(&s, "T05thread:1;", "c");
	if (packet)
		expect(&s, "OK", "%s", packet);
	close(s.fd);
	wait_for_byte(&s, at, 0x48);
	client_connect(&s); /* the next one */
	expect(&s, "T05thread:1;", "?");
	rounds = get_reg(&s, RBX);
	send_packet_bytes(&s, "c", 1);
	usleep(50 * 1000);
	close(s.fd); /* while it runs */
	usleep(50 * 1000);
	client_connect(&s);
	assert_true(get_reg(&s, RBX) > rounds);
	session_end(&s);
}

static void a_second_debugger_is_turned_away(void **state)
{
	struct session s, second;
	char c;

	(void)state;
	session_start(&s, "spin", 1);
	expect(&s, "QC1", "qC");
	second = s;
	client_connect(&second);
	assert_int_equal(recv(second.fd, &c, 1, 0), 0);
	close(second.fd);
	expect(&s, "QC1", "qC");
	session_end(&s);
}

static void *end_when_loop_stops(void *opaque)
{
	struct session *s = opaque;

	pthread_join(s->loop, NULL);
	gdb_end(&s->g->vm);
	return NULL;
}

/* The packet ends the guest; what the debugger hears then. */
static void expect_end(struct session *s, const char *packet, const char *reply, enum vm_end end)
{
	pthread_t ender;

	ask(s, "QStartNoAckMode");
	s->no_ack = true;
	assert_int_equal(pthread_create(&ender, NULL, end_when_loop_stops, s), 0);
	send_packet_bytes(s, packet, strlen(packet));
	assert_string_equal(get_reply(s), reply);
	pthread_join(ender, NULL);
	assert_int_equal(s->g->vm.end, end);
	vcpus_stop(&s->g->vm);
	gdb_fini(&s->g->vm);
	guest_free(s->g);
	close(s->fd);
}

static void a_debugger_hears_of_a_crash(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "triple_fault", 1);
	expect_end(&s, "c", "X06", VM_END_CRASH);
}

static void kill_ends_the_vm(void **state)
{
	struct session s;

	(void)state;
	session_start(&s, "spin", 1);
	expect_end(&s, "k", "W00", VM_END_HOST);
}

/* Packets of random letters, digits and separators, many of them almost right, with right and wrong checksums. */
static void random_packets_do_no_harm(void **state)
{
	static const char alphabet[] = "?cCDgGHmMpPqQsSTvXzZ0123456789abcdef,;:=-#$}*\x03+";
	struct session s;
	u32 seed = 12345;

	(void)state;
	session_start(&s, "spin", 1);
	for (u32 i = 0; i < 3000; i++) {
		char packet[40];
		u32 len = 0, want = (seed >> 8) % 32;
		char drop[65536];

		for (seed = seed * 1103515245 + 12345; len < want; seed = seed * 1103515245 + 12345)
			packet[len++] = alphabet[(seed >> 16) % (sizeof(alphabet) - 1)];
		if (i % 3)
			send_packet_bytes(&s, packet, len);
		else
			send_raw(&s, packet, len);
		while (recv(s.fd, drop, sizeof(drop), MSG_DONTWAIT) > 0)
			;
	}
	close(s.fd);
	client_connect(&s);
	expect(&s, "QC1", "qC");
	session_end(&s);
}

/* A client that does not read: its answers wait, and then its packets. */
static void a_client_that_does_not_read_fills_nothing(void **state)
{
	struct session s;
	u64 deadline;

	(void)state;
	session_start(&s, "spin", 1);
	fcntl(s.fd, F_SETFL, O_NONBLOCK);
	for (deadline = clock_host_ns() + NSEC_PER_SEC / 2; clock_host_ns() < deadline;) {
		if (send(s.fd, "$m100000,2000#7c", 16, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
			break;
	}
	close(s.fd);
	client_connect(&s);
	expect(&s, "QC1", "qC");
	session_end(&s);
}

/* ---- addresses ---- */

static void only_paths_and_loopback_are_listened_at(void **state)
{
	static const char *const good[] = {"/run/gdb.sock", "gdb.sock",	       "./a:1",	     "127.0.0.1:1234",
					   "127.1.2.3:1",   "localhost:65535", "[::1]:1234", ":1234"};
	static const char *const bad[] = {
		"",  "0.0.0.0:1234",	"10.0.0.1:1234", "[::]:1234", "example.org:1234", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:",
		":", "localhost:1234x", "localhost:-1",	 "::1:1234"};
	char path[120];

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(good); i++) {
		if (!gdb_address_ok(good[i]))
			fail_msg("%s", good[i]);
	}
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		if (gdb_address_ok(bad[i]))
			fail_msg("%s", bad[i]);
	}
	memset(path, 'a', sizeof(path));
	path[107] = '\0';
	assert_true(gdb_address_ok(path));
	path[107] = 'a';
	path[108] = '\0';
	assert_false(gdb_address_ok(path));
}

static void a_socket_of_somebody_else_stays(void **state)
{
	struct guest *g = guest_new("spin"), *other = guest_new("spin");
	struct err e = {0};
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "/tmp/husk-test-gdb.%d", getpid());
	must(gdb_init(&g->vm, path, &e), &e);
	assert_int_equal(gdb_init(&other->vm, path, &e), -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0);
	gdb_fini(&g->vm);
	assert_int_equal(access(path, F_OK), -1);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(gdb_init(&other->vm, path, &e), -EEXIST);
	assert_int_equal(unlink(path), 0);
	guest_free(g);
	guest_free(other);
}

/* ---- page tables ---- */

#define TABLE(n) (0x10000ull + (n)*0x1000)

static void entry(struct mem *m, u64 table, u64 index, u64 value)
{
	assert_int_equal(mem_write(m, table + 8 * index, &value, 8), 0);
}

static u64 translated(const struct mem *m, const struct cpu_state *c, u64 gva)
{
	u64 gpa;

	return gdb_arch_translate(m, c, gva, &gpa) == 0 ? gpa : UINT64_MAX;
}

static void page_tables_of_each_kind_are_walked(void **state)
{
	static const struct mem_range ram = {.gpa = 0, .size = RAM_SIZE};
	struct cpu_state c = {.cr0 = 1u << 31 | 1, .cr4 = 1 << 5, .efer = 0x500, .cr3 = TABLE(0) | 0xfff};
	struct mem m;
	struct err e;

	(void)state;
	must(mem_init(&m, &ram, 1, MEM_HUGE_NONE, &e), &e);
	entry(&m, TABLE(0), 511, TABLE(1) | 3);
	entry(&m, TABLE(1), 510, TABLE(2) | 3);
	entry(&m, TABLE(1), 3, 0x4000000000 | BIT(63) | 0x183); /* 1 GiB, no execution */
	entry(&m, TABLE(2), 8, TABLE(3) | 3);
	entry(&m, TABLE(2), 9, 0x123400000 | 0x1183); /* 2 MiB, with PAT in bit 12 */
	entry(&m, TABLE(3), 7, 0x345000 | BIT(63) | 1);
	assert_int_equal(translated(&m, &c, 0xffffffff81007abc), 0x345abc);
	assert_int_equal(translated(&m, &c, 0xffffffff81256789), 0x123456789);
	assert_int_equal(translated(&m, &c, 0xffffff80c1234567), 0x4001234567);
	assert_int_equal(translated(&m, &c, 0xffffffff81008000), UINT64_MAX); /* not present */
	assert_int_equal(translated(&m, &c, 0x0000ff8081007abc), UINT64_MAX); /* not canonical */
	c.cr4 |= 1 << 12;						      /* five levels: the same tables, one further down */
	c.cr3 = TABLE(4);
	entry(&m, TABLE(4), 256, TABLE(0) | 3);
	assert_int_equal(translated(&m, &c, 0xff00ffff81007abc), 0x345abc);
	assert_int_equal(translated(&m, &c, 0xff01ffff81007abc), UINT64_MAX);
	assert_int_equal(translated(&m, &c, 0x0100ffff81007abc), UINT64_MAX);		    /* not canonical */
	c = (struct cpu_state){.cr0 = 1u << 31 | 1, .cr4 = 1 << 5, .cr3 = TABLE(5) | 0x20}; /* PAE: four entries, aligned to 32 */
	entry(&m, TABLE(5) + 0x20, 2, TABLE(2) | 1);
	assert_int_equal(translated(&m, &c, 0x81007abc), 0x345abc);
	assert_int_equal(translated(&m, &c, 0x181007abc), UINT64_MAX);
	c = (struct cpu_state){.cr0 = 1u << 31 | 1, .cr4 = 1 << 4, .cr3 = TABLE(6)};
	entry(&m, TABLE(6), 1, (TABLE(7) | 1) << 32 | (0x00c00000u | 0x2000 | 0x81)); /* entries of four bytes: 2 large, 3 */
	entry(&m, TABLE(7), 0, 0x00345001ull << 32);
	assert_int_equal(translated(&m, &c, 0x00812345), 0x100c12345);
	assert_int_equal(translated(&m, &c, 0x00c01abc), 0x345abc);
	c.cr0 = 1; /* no paging */
	assert_int_equal(translated(&m, &c, 0x1234567), 0x1234567);
	c = (struct cpu_state){.cr0 = 1u << 31 | 1, .cr4 = 1 << 5, .efer = 0x500, .cr3 = RAM_SIZE}; /* a table outside of RAM */
	assert_int_equal(translated(&m, &c, 0), UINT64_MAX);
	mem_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packets_are_acknowledged_and_wrong_ones_refused),
		cmocka_unit_test(a_packet_that_is_too_long_is_refused_and_the_next_is_taken),
		cmocka_unit_test(the_stub_says_what_it_can_and_describes_its_registers),
		cmocka_unit_test(each_vcpu_is_a_thread),
		cmocka_unit_test(registers_are_read_and_written),
		cmocka_unit_test(memory_is_read_and_written_by_virtual_address),
		cmocka_unit_test(a_write_over_a_breakpoint_goes_under_it),
		cmocka_unit_test(breakpoints_are_bounded),
		cmocka_unit_test(ctrl_c_stops_a_running_guest_and_it_goes_on),
		cmocka_unit_test(single_steps_come_to_the_same_end),
		cmocka_unit_test(a_processors_breakpoint_needs_no_memory),
		cmocka_unit_test(one_vcpu_runs_while_the_other_is_held),
		cmocka_unit_test(a_second_debugger_is_turned_away),
		cmocka_unit_test(a_debugger_hears_of_a_crash),
		cmocka_unit_test(kill_ends_the_vm),
		cmocka_unit_test(random_packets_do_no_harm),
		cmocka_unit_test(a_client_that_does_not_read_fills_nothing),
		cmocka_unit_test(only_paths_and_loopback_are_listened_at),
		cmocka_unit_test(a_socket_of_somebody_else_stays),
		cmocka_unit_test(page_tables_of_each_kind_are_walked),
		/* A KVM that only emulates knows neither INT3 nor watchpoints. */
		cmocka_unit_test(a_watchpoint_stops_after_the_write),
		cmocka_unit_test(a_breakpoint_stops_the_guest_there_and_is_not_seen_in_memory),
		{"a_debugger_that_hangs_up_leaves_the_guest_running", a_debugger_that_goes_leaves_the_guest_running, NULL, NULL, NULL},
		{"a_debugger_that_detaches_leaves_the_guest_running", a_debugger_that_goes_leaves_the_guest_running, NULL, NULL,
		 (void *)"D"},
		cmocka_unit_test(steps_lead_into_handlers),
		cmocka_unit_test(an_interrupt_waits_while_the_guest_is_stepped),
		cmocka_unit_test(an_int3_of_the_guest_is_the_guests),
	};
	const size_t needs_processor = 7;
	struct err e;
	int ret = BARE_ACCEL.probe(&e);

	if (ret < 0 && ret != -EOPNOTSUPP)
		return skip_all(&e);
	return _cmocka_run_group_tests("gdb", tests, ARRAY_SIZE(tests) - (ret < 0 ? needs_processor : 0), NULL, NULL);
}
