/* tsc.c: how fast the host's time-stamp counter runs: what the guest's clocks are made of. */
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tcg/cpumodel.h"

#define CPUID_HV	0x40000000u
#define CPUID_HV_TIMING 0x40000010u
#define MEASURE_NS	(10 * NSEC_PER_MSEC) /* either end is known to some 20 ns: 4 ppm at worst */
#define TRIES		16u

static u64 rdtsc(void)
{
	return __builtin_ia32_rdtsc();
}

static u64 raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* The kernel's own factor from TSC to ns, on the page that it shares for a counter which counts nothing. 0: not to be had (perf is
 * forbidden here, or the kernel does not trust the TSC). */
static u64 khz_from_kernel(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.disabled = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	auto_fd int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	const struct perf_event_mmap_page *page;
	u64 khz = 0;

	if (fd < 0)
		return 0;
	page = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return 0;
	/* ns = tsc * time_mult >> time_shift */
	if (page->cap_user_time && page->time_mult && page->time_shift < 40)
		khz = ((1000 * 1000ull << page->time_shift) + page->time_mult / 2) / page->time_mult;
	munmap((void *)page, (size_t)sysconf(_SC_PAGESIZE));
	return khz;
}

/* The timing leaf that hypervisors have in common; husk's and QEMU's own guests see it. */
static u64 khz_from_hypervisor(void)
{
	u32 r[4];

	cpumodel_host_cpuid(1, 0, r);
	if (!(r[2] & BIT(31)))
		return 0;
	cpumodel_host_cpuid(CPUID_HV, 0, r);
	if (r[0] < CPUID_HV_TIMING)
		return 0;
	cpumodel_host_cpuid(CPUID_HV_TIMING, 0, r);
	return r[0];
}

/* One moment on both clocks: of some tries the one in which reading the clock took least. */
static void read_both(struct cpumodel_tsc *at)
{
	u64 best = UINT64_MAX;

	for (u32 i = 0; i < TRIES; i++) {
		u64 before = rdtsc(), now = raw_ns(), took = rdtsc() - before;

		if (took >= best)
			continue;
		best = took;
		at->tsc = before + took / 2;
		at->ns = now;
	}
}

static u64 khz_measured(const struct cpumodel_tsc *from)
{
	struct cpumodel_tsc to = {0};
	u64 wait;

	read_both(&to);
	if (to.ns - from->ns < MEASURE_NS) {
		wait = MEASURE_NS - (to.ns - from->ns);
		nanosleep(&(struct timespec){.tv_nsec = (long)wait}, NULL);
		read_both(&to);
	}
	if (to.ns <= from->ns)
		return 0;
	return (u64)((unsigned __int128)(to.tsc - from->tsc) * 1000 * 1000 / (to.ns - from->ns));
}

bool cpumodel_tsc_sane(u64 khz)
{
	return khz >= 100 * 1000 && khz <= 20 * 1000 * 1000;
}

void cpumodel_tsc_begin(struct cpumodel_tsc *from)
{
	u64 khz = khz_from_kernel();

	*from = (struct cpumodel_tsc){.khz = cpumodel_tsc_sane(khz) ? khz : khz_from_hypervisor()};
	if (!cpumodel_tsc_sane(from->khz))
		read_both(from);
}

u64 cpumodel_tsc_khz(const struct cpumodel_tsc *from)
{
	u64 khz = cpumodel_tsc_sane(from->khz) ? from->khz : khz_measured(from);

	return cpumodel_tsc_sane(khz) ? khz : 0;
}
