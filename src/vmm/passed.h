/*
 * passed.h: open descriptors that go with a VM from one husk to another on the same host: guest memory, and what can be open once only.
 * Each has a name, by which whoever makes the same thing over there finds it: "memory", "net tap0 0", "vsock /run/vm7.vsock".
 */
#ifndef HUSK_PASSED_H
#define HUSK_PASSED_H

#include "vmm/base/err.h"

#define PASSED_MAX    253u /* as many as one message over a unix socket carries (unix(7), SCM_MAX_FD) */
#define PASSED_NAME   120u /* bytes with the terminating zero */
#define PASSED_MEMORY "memory"

struct passed_item {
	int fd; /* -1: taken */
	u64 value;
	char name[PASSED_NAME];
};

/* Whose the descriptors are says who holds it: a sender borrows them, a receiver owns them. Not for several threads at once. */
struct passed {
	u32 nr;
	struct passed_item items[PASSED_MAX];
};

/* value: what the other side has to know of it. -ENOSPC: one too many */
int passed_add(struct passed *p, const char *name, int fd, u64 value, struct err *e) MUST_CHECK;
bool passed_has(struct passed *p, const char *name);
/* The descriptor of that name, the caller's from now on, or -1; p and value may be NULL. */
int passed_take(struct passed *p, const char *name, u64 *value);
/* Closes what nobody has taken. Accepts NULL. ctx: of an owner */
void passed_close(struct passed *p);

#endif
