/* base.h: the scalars, helpers and assertion that every file of husk uses. */
#ifndef HUSK_BASE_H
#define HUSK_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_SIZE(a)		      (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)		      ((a) < (b) ? (a) : (b))
#define MAX(a, b)		      ((a) > (b) ? (a) : (b))
#define ALIGN_DOWN(x, a)	      ((x) & ~((__typeof__(x))(a)-1))
#define ALIGN_UP(x, a)		      ALIGN_DOWN((x) + ((__typeof__(x))(a)-1), a)
#define BIT(n)			      (1ull << (n))
#define container_of(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

#define NSEC_PER_SEC  1000000000ull
#define NSEC_PER_MSEC 1000000ull

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define MUST_CHECK	       __attribute__((warn_unused_result))

/* A broken ASSERT is a bug in husk itself, never bad input; it stays in release builds. */
#define ASSERT(cond) \
	do { \
		if (unlikely(!(cond))) \
			assert_failed(#cond, __FILE__, __LINE__, __func__); \
	} while (0)
_Noreturn void assert_failed(const char *cond, const char *file, int line, const char *func);

/* Allocation of husk's own small objects: zeroed; dies with one message when the host is out of memory.
 * Sizes that the guest or the configuration chooses go through plain calloc and struct err instead. */
void *xzalloc(size_t size) __attribute__((malloc, returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((malloc, returns_nonnull));

/* Scope-bound cleanup: auto_free char *s = ...; auto_fd int fd = -1; */
void auto_free_cleanup(void *pp);
void auto_fd_cleanup(int *fd);
#define auto_free __attribute__((cleanup(auto_free_cleanup)))
#define auto_fd	  __attribute__((cleanup(auto_fd_cleanup)))

/* Closes *fd unless it is -1, and sets it to -1; keeps errno. */
void fd_close(int *fd);
/* Takes the descriptor out of an auto_fd variable, so that it stays open. */
static inline int fd_take(int *fd)
{
	int got = *fd;

	*fd = -1;
	return got;
}
/* Sets O_NONBLOCK. Returns 0 or -errno. */
int fd_set_nonblock(int fd);
/* Writes or reads all of len bytes, over short transfers and EINTR. Returns 0 or -errno (-EIO at end of file). */
int fd_write_all(int fd, const void *data, size_t len) MUST_CHECK;
int fd_read_all(int fd, void *data, size_t len) MUST_CHECK;

/* Little-endian loads and stores on unaligned memory. */
static inline u16 ld_le16(const void *p)
{
	u16 v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}
static inline u32 ld_le32(const void *p)
{
	u32 v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}
static inline u64 ld_le64(const void *p)
{
	u64 v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}
static inline void st_le16(void *p, u16 v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}
static inline void st_le32(void *p, u32 v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}
static inline void st_le64(void *p, u64 v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "husk runs on little-endian hosts");

#endif
