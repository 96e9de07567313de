/*
 * test_moves.c: a guest (tests/isa/clocks.S) that counts, with timers of LAPIC and PIT running and clocks that it watches, moved from one
 * accelerator to another and back through the bytes of the state tables, as a snapshot does: its counts go on, no clock goes back, no
 * timer is lost.
 */
#define BARE_ACCEL tcg_accel_ops
#include "bare.h"

#include "arch/x86_64/vm_state.h"
#include "vmm/machine.h"

extern const struct accel_ops kvm_accel_ops;

#define RUN_NS	 (60 * NSEC_PER_MSEC)
#define PATIENCE (20 * NSEC_PER_SEC)

enum { ROUNDS, TIMER, PIT, TSC, TSC_BACK, CLOCK, CLOCK_BACK, STOP, STEP, NR_COUNTS };
#define COUNTS 0x200000

static struct arch_cpu_caps *caps_of(struct vm *vm)
{
	struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));
	struct err e;

	must(vm->accel->cpu_caps(vm, caps, &e), &e);
	return caps;
}

static u32 *reg(struct x86_cpuid *c, u32 i)
{
	u32 *const regs[] = {&c->eax, &c->ebx, &c->ecx, &c->edx};

	return regs[i];
}

/* A KVM that only emulates is good enough. */
static bool usable(const struct accel_ops *accel)
{
	struct err e;
	int ret = accel->probe(&e);

	return ret == 0 || (accel == &kvm_accel_ops && ret == -EOPNOTSUPP);
}

/* What the accelerators here offer, as a CPU template makes it. */
static void common_cpuid(struct vm *vm, struct x86_cpuid_table *out)
{
	static const struct accel_ops *const both[] = {&kvm_accel_ops, &tcg_accel_ops};
	struct arch_cpu_caps *mine = caps_of(vm);
	struct x86_feature_bits missing[X86_NR_FEATURE_REGS];

	*out = mine->cpuid;
	free(mine);
	for (u32 i = 0; i < ARRAY_SIZE(both); i++) {
		struct vm *other = xzalloc(sizeof(*other));
		struct arch_cpu_caps *caps;
		struct err e;

		other->log = vm->log;
		other->accel = both[i];
		if (usable(both[i]) && both[i] != vm->accel) {
			must(other->accel->vm_init(other, &e), &e);
			caps = caps_of(other);
			for (u32 k = 0, n = x86_features_missing(out, caps, missing); k < n; k++)
				*reg(x86_cpuid_find(out, missing[k].leaf, missing[k].subleaf), missing[k].reg) &= ~missing[k].bits;
			free(caps);
			other->accel->vm_fini(other);
		}
		free(other);
	}
}

/* As little of a processor as clocks.S needs: any host has it. */
static void least_cpuid(struct vm *vm, struct x86_cpuid_table *out)
{
	static const struct x86_cpuid least[] = {
		{0, 0, false, 1, 0, 0, 0},
		{1, 0, false, 0, 0, 1u << 24 | 1u << 21, 0x0783fbfd},
		{0x40000000, 0, false, 0x40000001, 0, 0, 0},
		{0x40000001, 0, false, 1u << 3 | 1u << 24, 0, 0, 0},
		{0x80000000, 0, false, 0x80000001, 0, 0, 0},
		{0x80000001, 0, false, 0, 0, 0, 1u << 29 | 1u << 20 | 1u << 11},
	};

	(void)vm;
	*out = (struct x86_cpuid_table){.nr = ARRAY_SIZE(least)};
	memcpy(out->e, least, sizeof(least));
}

static u64 count_of(struct guest *g, u32 which)
{
	u64 *counts = mem_ptr(&g->vm.mem, COUNTS, NR_COUNTS * sizeof(u64));

	return __atomic_load_n(&counts[which], __ATOMIC_ACQUIRE);
}

static void set_count(struct guest *g, u32 which, u64 value)
{
	u64 *counts = mem_ptr(&g->vm.mem, COUNTS, NR_COUNTS * sizeof(u64));

	__atomic_store_n(&counts[which], value, __ATOMIC_RELEASE);
}

static struct guest *make(const struct accel_ops *accel)
{
	struct guest *g = xzalloc(sizeof(*g));
	struct err e = {0};

	log_init(&g->log, STDERR_FILENO, LOG_INFO);
	g->vm.log = &g->log;
	g->vm.trace = &g->trace;
	g->vm.accel = accel;
	g->vm.clock = (struct clock){.base_ns = clock_host_ns(), .paused = true};
	g->vm.machine = xzalloc(sizeof(*g->vm.machine));
	g->vm.chips = machine_chips_new();
	must(accel->vm_init(&g->vm, &e), &e);
	build_vm(g, 1, &e);
	return g;
}

static void drop(struct guest *g)
{
	struct machine *m = g->vm.machine;
	struct chip_state *chips = g->vm.chips;

	vcpus_fini(&g->vm);
	bus_fini(&g->vm.bus[BUS_PIO]);
	bus_fini(&g->vm.bus[BUS_MMIO]);
	g->vm.accel->vm_fini(&g->vm);
	mem_fini(&g->vm.mem);
	loop_fini(&g->vm.loop);
	device_fini(&g->dev);
	machine_chips_free(chips);
	free(m->caps);
	free(m);
	free(g);
}

static struct guest *boot_as(const struct accel_ops *accel, void (*cpuid)(struct vm *, struct x86_cpuid_table *))
{
	struct guest *g = make(accel);
	struct vcpu *v = &g->vm.vcpus[0];
	struct arch_cpu_caps *caps = caps_of(&g->vm);
	struct err e;

	load_image(g, "clocks");
	set_count(g, STEP, caps->tsc_khz);
	x86_cpu_reset(v->cpu, 0);
	x86_cpu_enter_long(v->cpu, ld_le64(g->image), 0);
	cpuid(&g->vm, &v->cpu->cpuid);
	must(accel->vcpu_push(v, &e), &e);
	free(caps);
	return g;
}

static struct guest *boot(const struct accel_ops *accel)
{
	return boot_as(accel, common_cpuid);
}

struct stopper {
	struct loop_timer timer;
	struct guest *g;
	u64 rounds, timer_count, pit, deadline;
};

static void look(struct loop_timer *t)
{
	struct stopper *s = container_of(t, struct stopper, timer);
	struct guest *g = s->g;

	if (count_of(g, ROUNDS) > s->rounds && count_of(g, TIMER) > s->timer_count && count_of(g, PIT) > s->pit)
		loop_stop(&g->vm.loop);
	else if (clock_host_ns() > s->deadline)
		loop_stop(&g->vm.loop);
	else
		loop_timer_arm(&g->vm.loop, t, clock_host_ns() + NSEC_PER_MSEC);
}

/* Lets it run until each count has moved on by some. */
static void run_on(struct guest *g)
{
	struct stopper s = {.timer.expired = look, .g = g, .deadline = clock_host_ns() + PATIENCE};
	pthread_t thread;

	s.rounds = count_of(g, ROUNDS) + 100;
	s.timer_count = count_of(g, TIMER) + 5;
	s.pit = count_of(g, PIT) + 5;
	clock_resume(&g->vm);
	assert_int_equal(pthread_create(&thread, NULL, run_once, g), 0);
	loop_timer_arm(&g->vm.loop, &s.timer, clock_host_ns() + NSEC_PER_MSEC);
	loop_run(&g->vm.loop);
	g->vm.loop.stop = false;
	g->vm.accel->vcpu_kick(&g->vm.vcpus[0]);
	pthread_join(thread, NULL);
	clock_pause(&g->vm);
	assert_int_equal(g->exit, VCPU_AGAIN);
	if (count_of(g, ROUNDS) <= s.rounds || count_of(g, TIMER) <= s.timer_count || count_of(g, PIT) <= s.pit)
		fail_msg("under %s: rounds %llu of %llu, deadlines %llu of %llu, PIT ticks %llu of %llu", g->vm.accel->name,
			 (unsigned long long)count_of(g, ROUNDS), (unsigned long long)s.rounds, (unsigned long long)count_of(g, TIMER),
			 (unsigned long long)s.timer_count, (unsigned long long)count_of(g, PIT), (unsigned long long)s.pit);
	assert_int_equal(count_of(g, TSC_BACK), 0);
	assert_int_equal(count_of(g, CLOCK_BACK), 0);
}

struct saved {
	struct buf bytes[16];
	u32 nr;
};

static void save(struct guest *g, struct saved *out)
{
	struct state_section sections[16] = {0};
	struct err e;

	must(g->vm.accel->vcpu_pull(&g->vm.vcpus[0], &e), &e);
	must(g->vm.accel->vm_pull(&g->vm, &e), &e);
	*out = (struct saved){.nr = machine_sections(&g->vm, sections)};
	for (u32 i = 0; i < out->nr; i++) {
		auto_free void *data = xzalloc(sections[i].table->size);

		must(sections[i].save(&g->vm, &sections[i], data, &e), &e);
		state_encode(sections[i].table, data, &out->bytes[i]);
	}
}

static u64 random64(u64 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void spoil(const struct state_table *t, u8 *data, u64 *seed);

/* Decodes all, spoils a value or two if there is a seed, checks all, loads all. 1: refused before anything was loaded. */
static int load_spoilt(struct guest *g, const struct saved *in, u64 *seed, struct err *e)
{
	struct state_section s[16] = {0};
	u32 nr = machine_sections(&g->vm, s);
	void *data[16];
	int ret = 0;

	assert_int_equal(nr, in->nr);
	for (u32 i = 0; i < nr; i++)
		data[i] = xzalloc(s[i].table->size);
	for (u32 i = 0; i < nr && !ret; i++)
		ret = state_decode(s[i].table, s[i].table->version, in->bytes[i].data, in->bytes[i].len, data[i], e) < 0;
	for (u64 n = seed ? 1 + random64(seed) % 3 : 0; n; n--) {
		u64 i = random64(seed) % 3 ? 1 : random64(seed) % nr; /* most in the vCPU */

		spoil(s[i].table, data[i], seed);
	}
	for (u32 i = 0; i < nr && !ret; i++)
		ret = s[i].check(&g->vm, &s[i], data[i], e) < 0;
	for (u32 i = 0; i < nr && !ret; i++)
		ret = s[i].load(&g->vm, &s[i], data[i], e);
	for (u32 i = 0; i < nr; i++)
		free(data[i]);
	return ret;
}

static int load(struct guest *g, const struct saved *in, struct err *e)
{
	return load_spoilt(g, in, NULL, e);
}

static void free_saved(struct saved *s)
{
	for (u32 i = 0; i < s->nr; i++)
		buf_fini(&s->bytes[i]);
}

static struct guest *move(struct guest *from, const struct accel_ops *to, const struct vm_restore *restore)
{
	struct guest *g = make(to);
	struct saved s;
	struct err e;

	save(from, &s);
	memcpy(mem_ptr(&g->vm.mem, 0, RAM_SIZE), mem_ptr(&from->vm.mem, 0, RAM_SIZE), RAM_SIZE);
	g->vm.restore = restore;
	if (load(g, &s, &e))
		fail_msg("%s", e.msg);
	free_saved(&s);
	drop(from);
	return g;
}

struct route {
	const struct accel_ops *stops[6];
};

static void the_guest_goes_on(void **state)
{
	const struct route *r = *state;
	struct guest *g;

	for (u32 i = 0; i < ARRAY_SIZE(r->stops) && r->stops[i]; i++) {
		if (!usable(r->stops[i]))
			skip();
	}
	g = boot(r->stops[0]);
	run_on(g);
	for (u32 round = 0; round < 3; round++) {
		for (u32 i = 1; i < ARRAY_SIZE(r->stops) && r->stops[i]; i++) {
			g = move(g, r->stops[i], NULL);
			run_on(g);
		}
	}
	set_count(g, STOP, 1);
	drop(g);
}

/* ---- states that nobody saved ---- */

#define HOSTILE_STATES 400 /* HUSK_HOSTILE_STATES: another number */

static u64 odd_value(u64 *seed, u64 old)
{
	switch (random64(seed) % 6) {
	case 0:
		return old ^ BIT(random64(seed) % 64);
	case 1:
		return BIT(random64(seed) % 64);
	case 2:
		return ~0ull;
	case 3:
		return 0;
	case 4:
		return old + 1 - random64(seed) % 3;
	default:
		return random64(seed);
	}
}

/* One value of the struct becomes another that its table allows. */
static void spoil(const struct state_table *t, u8 *data, u64 *seed)
{
	const struct state_field *f;
	u32 n = 0, nr;
	u64 value = 0;
	u8 *at;

	while (t->fields[n].name)
		n++;
	f = &t->fields[random64(seed) % n];
	nr = f->count;
	if (f->nr_offset != STATE_NO_NR)
		memcpy(&nr, data + f->nr_offset, sizeof(nr));
	if (!nr)
		return;
	at = data + f->offset + random64(seed) % nr * (f->type == STATE_STRUCT ? f->table->size : f->elem);
	if (f->type == STATE_STRUCT) {
		spoil(f->table, at, seed);
		return;
	}
	memcpy(&value, at, f->elem);
	value = odd_value(seed, value);
	if (f->type == STATE_BOOL)
		value &= 1;
	else if (f->max && (f->elem == 8 ? value : value & (BIT(f->elem * 8) - 1)) > f->max)
		value = f->max == UINT64_MAX ? value : value % (f->max + 1);
	memcpy(at, &value, f->elem);
}

static void let_run(struct guest *g)
{
	pthread_t thread;

	clock_resume(&g->vm);
	assert_int_equal(pthread_create(&thread, NULL, run_once, g), 0);
	for (u32 i = 0; i < 3; i++)
		loop_turn(&g->vm.loop, 1);
	g->vm.accel->vcpu_kick(&g->vm.vcpus[0]);
	pthread_join(thread, NULL);
	clock_pause(&g->vm);
	assert_true(g->exit == VCPU_AGAIN || g->exit == VCPU_SHUTDOWN);
}

/* What is not refused runs, leaves when it is told to, and can be saved again. */
static void a_state_that_nobody_saved_is_refused_or_runs(void **state)
{
	const char *wanted = getenv("HUSK_HOSTILE_STATES"), *first = getenv("HUSK_HOSTILE_FIRST");
	u32 nr = wanted ? (u32)atoi(wanted) : HOSTILE_STATES, refused = 0, begin = first ? (u32)atoi(first) : 0;
	struct guest *from = boot(&tcg_accel_ops);
	struct saved good;

	(void)state;
	run_on(from);
	save(from, &good);
	for (u32 i = begin; i < begin + nr; i++) {
		struct guest *g = make(&tcg_accel_ops);
		struct saved again;
		u64 seed = 0x9e3779b97f4a7c15ull * (i + 1);
		struct err e = {0};
		int ret;

		if (wanted)
			printf("# %u\n", i), fflush(stdout);
		memcpy(mem_ptr(&g->vm.mem, 0, RAM_SIZE), mem_ptr(&from->vm.mem, 0, RAM_SIZE), RAM_SIZE);
		ret = load_spoilt(g, &good, &seed, &e);
		if (ret < 0)
			fail_msg("state %u passed the checks, and then: %s", i, e.msg);
		if (ret == 0) {
			let_run(g);
			save(g, &again);
			free_saved(&again);
		}
		refused += ret == 1;
		drop(g);
	}
	printf("# %u of %u refused\n", refused, nr);
	assert_in_range(refused, nr / 10, nr - nr / 10);
	free_saved(&good);
	drop(from);
}

/* *state: the accelerator. Half a second lies between save and load; with clock_realtime the guest's clocks have it, else not. */
static void clocks_jump_ahead_only_if_they_are_told_to(void **state)
{
	const struct accel_ops *accel = *state;
	const struct vm_restore as_it_was = {0}, jump = {.realtime = true};
	u64 gap = 500 * NSEC_PER_MSEC;

	if (!usable(accel))
		return;
	for (u32 i = 0; i < 2; i++) {
		struct guest *from = boot(accel), *g = make(accel);
		struct saved s, again;
		u64 clock, tsc, khz;
		struct err e;

		run_on(from);
		save(from, &s);
		clock = from->vm.chips->clock.kvmclock_ns;
		tsc = from->vm.vcpus[0].cpu->msrs[0].value;
		khz = from->vm.vcpus[0].cpu->tsc_khz;
		memcpy(mem_ptr(&g->vm.mem, 0, RAM_SIZE), mem_ptr(&from->vm.mem, 0, RAM_SIZE), RAM_SIZE);
		usleep((useconds_t)(gap / 1000));
		g->vm.restore = i ? &jump : &as_it_was;
		if (load(g, &s, &e))
			fail_msg("%s", e.msg);
		save(g, &again);
		clock = g->vm.chips->clock.kvmclock_ns - clock;
		tsc = g->vm.vcpus[0].cpu->msrs[0].value - tsc;
		assert_in_range(clock, i ? gap : 0, i ? 20 * gap : gap - 1);
		if (accel == &tcg_accel_ops) /* a KVM that only emulates may not be able to set the TSC */
			assert_in_range(tsc * 1000 / khz * 1000, i ? gap - 1000 : 0, i ? 20 * gap : gap - 1);
		run_on(g);
		free_saved(&s);
		free_saved(&again);
		drop(from);
		drop(g);
	}
}

static void what_was_loaded_saves_to_the_same_bytes(void **state)
{
	struct guest *a = boot(&tcg_accel_ops), *b;
	struct saved first, second;
	struct err e;

	(void)state;
	run_on(a);
	save(a, &first);
	b = make(&tcg_accel_ops);
	memcpy(mem_ptr(&b->vm.mem, 0, RAM_SIZE), mem_ptr(&a->vm.mem, 0, RAM_SIZE), RAM_SIZE);
	if (load(b, &first, &e))
		fail_msg("%s", e.msg);
	usleep(1000);
	save(b, &second);
	for (u32 i = 1; i < first.nr; i++) { /* not the clocks, which have the time of day */
		assert_int_equal(first.bytes[i].len, second.bytes[i].len);
		assert_memory_equal(first.bytes[i].data, second.bytes[i].data, first.bytes[i].len);
	}
	free_saved(&first);
	free_saved(&second);
	drop(a);
	drop(b);
}

/* ---- between hosts: test_moves save|load ACCEL FILE ---- */

static void write_saved(struct guest *g, const char *path)
{
	auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct saved s;

	save(g, &s);
	assert_int_equal(fd_write_all(fd, &s.nr, sizeof(s.nr)), 0);
	for (u32 i = 0; i < s.nr; i++) {
		u64 len = s.bytes[i].len;

		assert_int_equal(fd_write_all(fd, &len, sizeof(len)), 0);
		assert_int_equal(fd_write_all(fd, s.bytes[i].data, len), 0);
	}
	assert_int_equal(fd_write_all(fd, mem_ptr(&g->vm.mem, 0, RAM_SIZE), RAM_SIZE), 0);
	free_saved(&s);
}

static void read_saved(struct guest *g, const char *path)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct saved s = {0};
	struct err e;

	assert_int_equal(fd_read_all(fd, &s.nr, sizeof(s.nr)), 0);
	for (u32 i = 0; i < s.nr; i++) {
		auto_free u8 *data = NULL;
		u64 len;

		assert_int_equal(fd_read_all(fd, &len, sizeof(len)), 0);
		data = xzalloc(len);
		assert_int_equal(fd_read_all(fd, data, len), 0);
		buf_put(&s.bytes[i], data, len);
	}
	assert_int_equal(fd_read_all(fd, mem_ptr(&g->vm.mem, 0, RAM_SIZE), RAM_SIZE), 0);
	if (load(g, &s, &e))
		fail_msg("%s", e.msg);
	free_saved(&s);
}

struct on_host {
	const char *what, *path;
	const struct accel_ops *accel;
};

/* Boots or loads, runs, and saves. */
static void the_guest_runs_on_this_host(void **state)
{
	const struct on_host *h = *state;
	struct guest *g = strcmp(h->what, "load") ? boot_as(h->accel, least_cpuid) : make(h->accel);

	if (!strcmp(h->what, "load"))
		read_saved(g, h->path);
	run_on(g);
	write_saved(g, h->path);
	drop(g);
}

static int one_host(char **argv)
{
	struct on_host h = {argv[1], argv[3], strcmp(argv[2], "kvm") ? &tcg_accel_ops : &kvm_accel_ops};
	const struct CMUnitTest tests[] = {{"the_guest_runs_on_this_host", the_guest_runs_on_this_host, NULL, NULL, &h}};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
	static const struct route tcg_tcg = {{&tcg_accel_ops, &tcg_accel_ops}}, kvm_kvm = {{&kvm_accel_ops, &kvm_accel_ops}},
				  tcg_kvm = {{&tcg_accel_ops, &kvm_accel_ops, &tcg_accel_ops}},
				  kvm_tcg = {{&kvm_accel_ops, &tcg_accel_ops, &kvm_accel_ops}};
	const struct CMUnitTest tests[] = {
		{"the_guest_goes_on_from_tcg_to_tcg", the_guest_goes_on, NULL, NULL, (void *)&tcg_tcg},
		{"the_guest_goes_on_from_kvm_to_kvm", the_guest_goes_on, NULL, NULL, (void *)&kvm_kvm},
		{"the_guest_goes_on_from_tcg_to_kvm_and_back", the_guest_goes_on, NULL, NULL, (void *)&tcg_kvm},
		cmocka_unit_test(what_was_loaded_saves_to_the_same_bytes),
		{"clocks_jump_ahead_only_if_they_are_told_to_under_tcg", clocks_jump_ahead_only_if_they_are_told_to, NULL, NULL,
		 (void *)&tcg_accel_ops},
		{"clocks_jump_ahead_only_if_they_are_told_to_under_kvm", clocks_jump_ahead_only_if_they_are_told_to, NULL, NULL,
		 (void *)&kvm_accel_ops},
		cmocka_unit_test(a_state_that_nobody_saved_is_refused_or_runs),
		{"the_guest_goes_on_from_kvm_to_tcg_and_back", the_guest_goes_on, NULL, NULL, (void *)&kvm_tcg},
	};
	struct err e;

	if (argc == 4)
		return one_host(argv);
	if (tcg_accel_ops.probe(&e) < 0)
		return skip_all(&e);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
