/*
 * writer.c: the guest's program of bench/migrate: fills so much memory, then writes random pages of it at a rate, and says so each millisecond with a
 * byte on its standard output: whoever reads the serial port sees by its clock for how long the guest stood still or waited for memory.
 *
 *   writer MIB RATE    MiB of memory, MiB per second
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define TICK_NS 1000000u

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

int main(int argc, char **argv)
{
	uint64_t pages = argc > 1 ? strtoull(argv[1], NULL, 10) * 256 : 0, rate = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	uint64_t per_tick = rate * 256 / 1000, *memory, tick;

	memory = pages ? mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
	if (memory == MAP_FAILED || !rate) {
		fprintf(stderr, "writer MIB RATE\n");
		return 1;
	}
	/* Nothing that packs well, and no page like another. */
	for (uint64_t i = 0; i < pages * PAGE / sizeof(*memory); i++)
		memory[i] = next_random();
	if (write(1, "\nready\n", 7) != 7)
		return 1;
	for (tick = now();;) {
		for (uint64_t i = 0; i < per_tick; i++)
			memory[next_random() % pages * (PAGE / sizeof(*memory))]++;
		if (write(1, ".", 1) != 1)
			return 1;
		tick += TICK_NS;
		while (now() < tick) {
		}
		/* What was missed is not made up for. */
		tick = now();
	}
}
