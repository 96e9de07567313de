/*
 * replay_main.c: runs a fuzz target without libFuzzer, so that CI can with any compiler:
 *   replay_<target> [--random N] [file or directory]...     N inputs of a fixed pseudo-random sequence, then the corpus
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/base.h"

#define MAX_RANDOM 1024u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void run_random(u32 count)
{
	u64 x = 88172645463325252ull; /* xorshift64 */
	u8 data[MAX_RANDOM];

	while (count--) {
		size_t size = count % MAX_RANDOM;

		for (size_t i = 0; i < size; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			data[i] = (u8)(x >> 32);
		}
		LLVMFuzzerTestOneInput(data, size);
	}
}

static int run_file(const char *path)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	auto_free u8 *data = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		perror(path);
		return 1;
	}
	data = malloc((size_t)st.st_size + 1);
	if (!data || fd_read_all(fd, data, (size_t)st.st_size) < 0) {
		fprintf(stderr, "%s: cannot be read\n", path);
		return 1;
	}
	LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
	return 0;
}

static int run_path(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int ret = 0, nr = 0;

	if (!dir)
		return run_file(path);
	while ((entry = readdir(dir))) {
		auto_free char *file = xasprintf("%s/%s", path, entry->d_name);

		if (entry->d_name[0] != '.') {
			ret |= run_file(file);
			nr++;
		}
	}
	closedir(dir);
	printf("%s: %d inputs\n", path, nr);
	return ret;
}

int main(int argc, char **argv)
{
	int ret = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--random") && i + 1 < argc)
			run_random((u32)strtoul(argv[++i], NULL, 10));
		else
			ret |= run_path(argv[i]);
	}
	return ret;
}
