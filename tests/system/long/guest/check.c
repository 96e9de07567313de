/* check.c: what a compiler's user program does: threads with atomics, setjmp, signals, long double, 128-bit integers, variadic calls. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_long sum;
static sigjmp_buf back;

static void *add(void *arg)
{
	for (long i = 0; i < 200000; i++)
		atomic_fetch_add(&sum, (long)(size_t)arg);
	return NULL;
}

static void on_fault(int sig)
{
	siglongjmp(back, sig);
}

static long total(int n, ...)
{
	va_list ap;
	long t = 0;

	va_start(ap, n);
	while (n--)
		t += va_arg(ap, int);
	va_end(ap);
	return t;
}

#define CHECK(what) \
	do { \
		if (!(what)) { \
			printf("check.c: %s\n", #what); \
			return 1; \
		} \
	} while (0)

int main(void)
{
	volatile long double root = 2;
	unsigned __int128 big = (unsigned __int128)0xfedcba9876543210u * 0x123456789abcdefu;
	pthread_t t[4];
	volatile int zero = 0;

	for (size_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, add, (void *)(i + 1));
	for (size_t i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK(sum == 2000000);
	CHECK(fabsl(sqrtl(root) * sqrtl(root) - 2) < 1e-18L);
	CHECK((unsigned long)(big >> 64) == 0x121fa00ad77d742u && (unsigned long)big == 0x2236d88fe5618cf0u);
	CHECK(big / 0x123456789abcdefu == 0xfedcba9876543210u);
	CHECK(total(9, 1, 2, 3, 4, 5, 6, 7, 8, 9) == 45);
	signal(SIGSEGV, on_fault);
	signal(SIGFPE, on_fault);
	signal(SIGILL, on_fault);
	for (int i = 0; i < 1000; i++) {
		int got = sigsetjmp(back, 1);

		if (got == 0) {
			if (i % 3 == 0)
				*(volatile int *)8 = 1;
			else if (i % 3 == 1)
				zero = 7 / zero;
			else
				__asm__ volatile("ud2");
			CHECK(!"it did not fault");
		}
		CHECK(got == (i % 3 == 0 ? SIGSEGV : i % 3 == 1 ? SIGFPE : SIGILL));
	}
	puts("check.c: all is right");
	return 0;
}
