/* Lets chosen system calls on files below a folder fail; preloaded by system_calls.py.

   failing_calls_arm(folder, at, error, mode) starts to count: the at-th call fails with
   that errno (mode ONCE), it and all after it (FROM_THEN), or it reads or writes half
   of what it was asked for (SHORT, if it is such a call). at = 0 only counts. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ONCE, FROM_THEN, SHORT };
enum { HANDLES = 4096 };

static char folder[4096];
static size_t folder_length;
static long at, counted;
static int wanted_errno, mode;
static const char *failed = "";
static unsigned char is_ours[HANDLES];

void failing_calls_arm(const char *path, long number, int error, int how) {
    counted = 0;
    failed = "";
    wanted_errno = error;
    mode = how;
    at = number;
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
}

long failing_calls_count(void) { return counted; }
const char *failing_calls_name(void) { return failed; }

static int below(const char *path) {
    return folder_length && path && !strncmp(path, folder, folder_length);
}

static int ours(int handle) {
    return folder_length && handle >= 0 && handle < HANDLES && is_ours[handle];
}

static int keep(int handle, int mine) {
    if (handle >= 0 && handle < HANDLES) is_ours[handle] = (unsigned char)mine;
    return handle;
}

/* Whether this call is to fail: 1 with errno set, 2 to do half its work. */
static int fails(const char *name, int can_be_short) {
    long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    if (!at || (mode == FROM_THEN ? number < at : number != at)) return 0;
    failed = name;
    if (mode == SHORT) return can_be_short ? 2 : 0;
    errno = wanted_errno;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t bits = va_arg(more, mode_t); \
        va_end(more); \
        if (below(path) && fails(#name, 0)) return -1; \
        return keep(real(path, flags, bits), below(path)); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int base, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t bits = va_arg(more, mode_t); \
        va_end(more); \
        int mine = below(path) || (path[0] != '/' && ours(base)); \
        if (mine && fails(#name, 0)) return -1; \
        return keep(real(base, path, flags, bits), mine); \
    }
OPENAT(openat)
OPENAT(openat64)

#define MOVE(name, buffer, offset) \
    ssize_t name(int handle, buffer data, size_t size, offset start) { \
        REAL(ssize_t, name, int, buffer, size_t, offset); \
        int how = ours(handle) ? fails(#name, size > 1) : 0; \
        if (how == 1) return -1; \
        return real(handle, data, how ? size / 2 : size, start); \
    }
MOVE(pread, void *, off_t)
MOVE(pread64, void *, off64_t)
MOVE(pwrite, const void *, off_t)
MOVE(pwrite64, const void *, off64_t)

#define STREAM(name, buffer) \
    ssize_t name(int handle, buffer data, size_t size) { \
        REAL(ssize_t, name, int, buffer, size_t); \
        int how = ours(handle) ? fails(#name, size > 1) : 0; \
        if (how == 1) return -1; \
        return real(handle, data, how ? size / 2 : size); \
    }
STREAM(read, void *)
STREAM(write, const void *)

#define VECTOR(name, offset) \
    ssize_t name(int handle, const struct iovec *parts, int count, offset start) { \
        REAL(ssize_t, name, int, const struct iovec *, int, offset); \
        int how = ours(handle) ? fails(#name, 1) : 0; \
        if (how == 1) return -1; \
        if (how) { \
            struct iovec half = parts[0]; \
            half.iov_len = (half.iov_len + 1) / 2; \
            return real(handle, &half, 1, start); \
        } \
        return real(handle, parts, count, start); \
    }
VECTOR(preadv, off_t)
VECTOR(preadv64, off64_t)
VECTOR(pwritev, off_t)
VECTOR(pwritev64, off64_t)

#define HANDLE(name, parameters, arguments, ...) \
    int name parameters { \
        REAL(int, name, __VA_ARGS__); \
        if (ours(handle) && fails(#name, 0)) return -1; \
        return real arguments; \
    }
HANDLE(fsync, (int handle), (handle), int)
HANDLE(fdatasync, (int handle), (handle), int)
HANDLE(ftruncate, (int handle, off_t size), (handle, size), int, off_t)
HANDLE(ftruncate64, (int handle, off64_t size), (handle, size), int, off64_t)
HANDLE(fallocate, (int handle, int how, off_t start, off_t size),
       (handle, how, start, size), int, int, off_t, off_t)
HANDLE(fallocate64, (int handle, int how, off64_t start, off64_t size),
       (handle, how, start, size), int, int, off64_t, off64_t)
HANDLE(flock, (int handle, int how), (handle, how), int, int)
HANDLE(fchmod, (int handle, mode_t bits), (handle, bits), int, mode_t)
HANDLE(fstat, (int handle, struct stat *status), (handle, status), int, struct stat *)
HANDLE(fstat64, (int handle, struct stat64 *status), (handle, status), int,
       struct stat64 *)

int close(int handle) {
    REAL(int, close, int);
    int mine = ours(handle);
    keep(handle, 0);
    int result = real(handle); /* Linux closes the file even if it reports an error */
    return mine && fails("close", 0) ? -1 : result;
}

#define PATH(name, parameters, arguments, ...) \
    int name parameters { \
        REAL(int, name, __VA_ARGS__); \
        if (below(path) && fails(#name, 0)) return -1; \
        return real arguments; \
    }
PATH(stat, (const char *path, struct stat *status), (path, status), const char *,
     struct stat *)
PATH(lstat, (const char *path, struct stat *status), (path, status), const char *,
     struct stat *)
PATH(stat64, (const char *path, struct stat64 *status), (path, status), const char *,
     struct stat64 *)
PATH(lstat64, (const char *path, struct stat64 *status), (path, status), const char *,
     struct stat64 *)
PATH(unlink, (const char *path), (path), const char *)
PATH(rename, (const char *path, const char *other), (path, other), const char *,
     const char *)
PATH(link, (const char *path, const char *other), (path, other), const char *,
     const char *)
PATH(mkdir, (const char *path, mode_t bits), (path, bits), const char *, mode_t)
PATH(chmod, (const char *path, mode_t bits), (path, bits), const char *, mode_t)

int statx(int handle, const char *restrict path, int flags, unsigned mask,
          struct statx *restrict status) {
    REAL(int, statx, int, const char *restrict, int, unsigned,
         struct statx *restrict);
    int mine = below(path) || (path[0] != '/' && ours(handle));
    if (mine && fails("statx", 0)) return -1;
    return real(handle, path, flags, mask, status);
}

#define MAP(name, offset) \
    void *name(void *start, size_t size, int access, int flags, int handle, \
               offset from) { \
        REAL(void *, name, void *, size_t, int, int, int, offset); \
        if (!(flags & MAP_ANONYMOUS) && ours(handle) && fails(#name, 0)) \
            return MAP_FAILED; \
        return real(start, size, access, flags, handle, from); \
    }
MAP(mmap, off_t)
MAP(mmap64, off64_t)
