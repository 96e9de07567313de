#!/bin/sh
# Prints C tables of the target's system calls, by number for messages and by name for filters. Usage: syscall_names.sh names|numbers CC [ARGUMENTS]
set -eu
export LC_ALL=C
table=$1
shift
calls=$(echo '#include <asm/unistd.h>' | "$@" -E -dM - | sed -n 's/^#define __NR_\([a-z0-9_]*\) .*/\1/p' | grep -vx 'syscalls\|arch_specific_syscall' | sort)
echo "/* syscall_$table.h: made by syscall_names.sh. */"
if [ "$table" = names ]; then
	echo "static const char *const syscall_names[] = {"
	echo "$calls" | sed 's/.*/	[__NR_&] = "&",/'
	echo "};"
else
	echo "static const struct syscall_number {"
	echo "	const char *name;"
	echo "	unsigned short nr;"
	echo "} syscall_numbers[] = {"
	echo "$calls" | sed 's/.*/	{"&", __NR_&},/'
	echo "};"
fi
