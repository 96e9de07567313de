/*
 * program.c: whole programs out of a Debian root file system: a Python script, a compilation. Their start is part of it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "bench.h"

static const char script[] = "import sys\n"
			     "def words(n):\n"
			     "    d, s = {}, 12345\n"
			     "    for i in range(n):\n"
			     "        s = (s * 1103515245 + 12345) & 0x7fffffff\n"
			     "        k = 'w%d' % (s % 997)\n"
			     "        d[k] = d.get(k, 0) + i\n"
			     "    return sorted(d.items(), key=lambda kv: (-kv[1], kv[0]))\n"
			     "class P:\n"
			     "    def __init__(self, x): self.x = x\n"
			     "    def step(self): self.x = self.x * 3 % 65537; return self.x\n"
			     "p = P(3)\n"
			     "t = sum(p.step() for _ in range(20000))\n"
			     "w = words(12000)\n"
			     "sys.exit(0 if t == 653086232 and len(w) == 997 else 3)\n";

static char at[512];

static const char *find(const char *program)
{
	snprintf(at, sizeof(at), "%s%s", bench_options.root, program);
	return access(at, X_OK) ? NULL : at;
}

static const char *init_python(void)
{
	return find("/usr/bin/python3") ? NULL : "no usr/bin/python3 in the root file system";
}

static u64 run_python(u32 ops)
{
	char *const argv[] = {(char *)"/usr/bin/python3", (char *)"-I", (char *)"-S", (char *)"-c", (char *)script, NULL};
	u64 sum = 0;

	for (u32 i = 0; i < ops; i++)
		sum += (u64)bench_spawn(bench_options.root, argv, NULL);
	return sum;
}

/* The root's own /tmp is a tmpfs that the caller has mounted. */
static const char *init_compile(void)
{
	FILE *f;

	if (!find("/usr/bin/gcc"))
		return "no usr/bin/gcc in the root file system";
	snprintf(at, sizeof(at), "%s/tmp/bench.c", bench_options.root);
	f = fopen(at, "w");
	if (!f)
		return "the root file system's /tmp is not writable";
	fprintf(f, "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nstruct s { int a, b; double d; };\n");
	for (int i = 0; i < 12; i++)
		fprintf(f,
			"static int f%d(struct s *v, int n)\n{\n\tint t = %d;\n\tfor (int i = 0; i < n; i++) {\n\t\tswitch (v[i].a %% 5) "
			"{\n"
			"\t\tcase 0: t += v[i].b * %d; break;\n\t\tcase 1: v[i].d *= t; break;\n\t\tcase 2: t ^= (int)v[i].d; break;\n"
			"\t\tdefault: t -= (int)strlen(i ? \"abc\" : \"d\");\n\t\t}\n\t}\n\treturn t;\n}\n",
			i, i, i + 3);
	fprintf(f, "int main(int c, char **v)\n{\n\tstruct s *p = calloc((size_t)c, sizeof(*p));\n\tint t = 0;\n\t(void)v;\n");
	for (int i = 0; i < 12; i++)
		fprintf(f, "\tt += f%d(p, c);\n", i);
	fprintf(f, "\tprintf(\"%%d\\n\", t);\n\treturn 0;\n}\n");
	return fclose(f) ? "the root file system's /tmp is full" : NULL;
}

static u64 run_compile(u32 ops)
{
	char *const argv[] = {(char *)"/usr/bin/gcc", (char *)"-O2",	      (char *)"-c", (char *)"-o",
			      (char *)"/tmp/bench.o", (char *)"/tmp/bench.c", NULL};
	struct stat st = {0};
	u64 sum = 0;

	for (u32 i = 0; i < ops; i++)
		sum += (u64)bench_spawn(bench_options.root, argv, NULL);
	snprintf(at, sizeof(at), "%s/tmp/bench.o", bench_options.root);
	if (stat(at, &st))
		bench_die(at);
	unlink(at);
	return sum + (st.st_size == 0);
}

const struct bench_class program_classes[] = {
	{"python", "script run by python3", 1, init_python, run_python},
	{"compile", "file of 140 lines compiled by gcc -O2", 1, init_compile, run_compile},
	{0},
};
