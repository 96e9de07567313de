/*
 * fpu_init.c: allocation of what fpu.c runs instructions in, and the signal handler's part. Not lean: runs with no guest state live.
 */
#include "tcg/x86_64/fpu_impl.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "vmm/base/err.h"

static u64 read_xcr0(void)
{
	u32 lo, hi;

	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

/*
 * Zen 4 counts a component that XRSTOR has set to its initial state as in use once the kernel has switched tasks, but not as modified:
 * XSAVEOPT then says that it is in the area, and leaves there whatever was there (one in 10,000; seen in a VM).
 */
static bool is_intel(void)
{
	u32 a, b, cx, d;

	__cpuid(0, a, b, cx, d);
	return b == X86_MAKER_INTEL;
}

static void find_layout(struct fpu *f, const struct tcg_cpu *c)
{
	u32 a, b, cx, d;

	f->mask = read_xcr0() & XS_ALL;
	if ((f->mask & XS_AVX512) != XS_AVX512 || !tcg_has(c, FEAT_AVX512F))
		f->mask &= ~XS_AVX512;
	if (!tcg_has(c, FEAT_AVX))
		f->mask &= ~(XS_AVX | XS_AVX512);
	for (u32 i = 2; i < XS_NR; i++) {
		f->offset[i] = XS_EXTENDED;
		if (!(f->mask >> i & 1))
			continue;
		__cpuid_count(0xd, i, a, b, cx, d);
		f->offset[i] = b;
		f->align64 |= (u64)(cx >> 1 & 1) << i;
	}
	__cpuid_count(0xd, 1, a, b, cx, d);
	f->xsaveopt = a & 1 && is_intel();
	__asm__ volatile("fxsave64 (%0)" : : "r"(f->area) : "memory");
	f->mxcsr_mask = ld_le32(f->area + XS_MXCSR + 4);
	if (!f->mxcsr_mask)
		f->mxcsr_mask = 0xffbf; /* SDM 1 §11.6.6 */
}

static int map_code(struct fpu *f, struct err *e)
{
	auto_fd int fd = memfd_create("husk-fpu", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, FPU_CODE_SIZE) < 0)
		return err_errno(e, "Cannot allocate memory for translated code");
	f->rw = mmap(NULL, FPU_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	f->rx = mmap(NULL, FPU_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	f->guard = mmap(NULL, GUARD_PAGES * MEM_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->rw == MAP_FAILED || f->rx == MAP_FAILED || f->guard == MAP_FAILED ||
	    mprotect(f->guard + GUARD_RAM * MEM_PAGE_SIZE, MEM_PAGE_SIZE, PROT_READ | PROT_WRITE) < 0)
		return err_errno(e, "Cannot map memory for translated code");
	f->rw[FPU_EXIT] = 0xc3;
	return 0;
}

int fpu_init(struct tcg_cpu *c, struct err *e)
{
	u32 a, b, cx, d;
	struct fpu *f;
	int r;

	if (!__get_cpuid(1, &a, &b, &cx, &d) || !(cx & bit_OSXSAVE))
		return err_set(e, -ENODEV, "The tcg accelerator needs a processor with XSAVE");
	f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f == MAP_FAILED)
		return err_errno(e, "Cannot map memory for the vCPU's FPU");
	f->rw = f->rx = f->guard = MAP_FAILED;
	c->fpu_stub = f;
	c->fpu_live = false;
	find_layout(f, c);
	r = map_code(f, e);
	if (r < 0) {
		fpu_fini(c);
		return r;
	}
	fpu_reset(c);
	return 0;
}

void fpu_fini(struct tcg_cpu *c)
{
	struct fpu *f = fpu_of(c);

	if (!f)
		return;
	fpu_save(c);
	if (f->rw != MAP_FAILED)
		munmap(f->rw, FPU_CODE_SIZE);
	if (f->rx != MAP_FAILED)
		munmap(f->rx, FPU_CODE_SIZE);
	if (f->guard != MAP_FAILED)
		munmap(f->guard, GUARD_PAGES * MEM_PAGE_SIZE);
	munmap(f, sizeof(*f));
	c->fpu_stub = NULL;
}

bool fpu_stub_fault(struct tcg_cpu *c, int signo, void *ucontext)
{
	greg_t *regs = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
	struct fpu *f = fpu_of(c);

	(void)signo; /* the trap number says more */
	if (!f || (u64)regs[REG_RIP] - (u64)f->rx >= FPU_EXIT)
		return false;
	f->fault_addr = (u64)regs[REG_CR2];
	regs[REG_RSI] = regs[REG_TRAPNO];
	regs[REG_RIP] = (greg_t)(u64)(f->rx + FPU_EXIT);
	return true;
}
