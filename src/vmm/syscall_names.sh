#!/bin/sh
# Prints a C table of the target's system calls by number. Usage: syscall_names.sh CC [ARGUMENTS]
# Why not libseccomp's names: they come from malloc, which a signal handler must not call.
set -eu
echo "/* syscall_names.h: made by syscall_names.sh. */"
echo "static const char *const syscall_names[] = {"
echo '#include <asm/unistd.h>' | "$@" -E -dM - | sed -n 's/^#define __NR_\([a-z0-9_]*\) .*/\1/p' | grep -vx 'syscalls\|arch_specific_syscall' | sort |
	sed 's/.*/	[__NR_&] = "&",/'
echo "};"
