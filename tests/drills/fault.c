/* A library to be preloaded: calls that change files fail, from a chosen one on.
 *
 * FAULT_UNDER  folders, ':' between them; only calls on what is below them count
 * FAULT_AT     number of the call (from 0) that is the first to fail; without it none does
 * FAULT_ERROR  number of the error that this call and all later ones give
 * FAULT_LOG    file to which each call is written: number, name, path, bytes
 *
 * With ENOSPC the disk stays full: what is there can be removed and renamed, and a first write goes through by half.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { NEEDS_ROOM = 1, NEEDS_RIGHT = 2 };

static atomic_long calls;
static long at = -1;
static int error_number, log_file = -1;
static const char *folders;

__attribute__((constructor)) static void read_settings(void) {
    const char *text = getenv("FAULT_AT");
    if (text) at = atol(text);
    if ((text = getenv("FAULT_ERROR"))) error_number = atoi(text);
    folders = getenv("FAULT_UNDER");
    if ((text = getenv("FAULT_LOG"))) log_file = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_under(const char *path) {
    for (const char *folder = folders; folder && *folder;) {
        size_t length = strcspn(folder, ":");
        if (length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length])) return 1;
        folder += length + (folder[length] == ':');
    }
    return 0;
}

static int find_path(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static void note(long number, const char *name, const char *path, size_t size) {
    char line[PATH_MAX + 100];
    if (log_file < 0) return;
    int length = snprintf(line, sizeof line, "%ld %s %s %zu\n", number, name, path, size);
    syscall(SYS_write, log_file, line, length);
}

/* The number of the call if it counts, else -1. */
static long count(const char *name, const char *path, size_t size) {
    int earlier = errno;
    if (!path || !is_under(path)) return -1;
    long number = atomic_fetch_add(&calls, 1);
    note(number, name, path, size);
    errno = earlier;
    return number;
}

static int fails(long number, int needs) {
    if (number < 0 || at < 0 || !error_number || number < at) return 0;
    if (error_number == ENOSPC && !(needs & NEEDS_ROOM)) return 0;
    if (error_number == EROFS && !(needs & NEEDS_RIGHT)) return 0;
    errno = error_number;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define AROUND(name, path, needs, call) \
    return fails(count(#name, path, 0), needs) ? -1 : call

static ssize_t write_file(const char *name, int file, const void *data, size_t size, int has_offset, off_t offset) {
    char path[PATH_MAX];
    long number = folders && find_path(file, path) ? count(name, path, size) : -1;
    size_t part = size;
    if (fails(number, NEEDS_ROOM | NEEDS_RIGHT)) {
        if (error_number != ENOSPC || number != at || size < 2) return -1;
        part = size / 2;
    }
    return has_offset ? syscall(SYS_pwrite64, file, data, part, offset) : syscall(SYS_write, file, data, part);
}

ssize_t write(int file, const void *data, size_t size) { return write_file("write", file, data, size, 0, 0); }

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    return write_file("pwrite", file, data, size, 1, offset);
}

static int sync_file(const char *name, int file, int (*real)(int)) {
    char path[PATH_MAX];
    long number = folders && find_path(file, path) ? count(name, path, 0) : -1;
    if (fails(number, NEEDS_ROOM)) return -1;
    return real(file);
}

int fsync(int file) { return sync_file("fsync", file, REAL(fsync)); }
int fdatasync(int file) { return sync_file("fdatasync", file, REAL(fdatasync)); }

static int open_file(const char *name, int folder, const char *path, int flags, mode_t mode) {
    /* Opening what is there for reading changes nothing; neither does a file without a name. */
    int counts = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR) && (flags & O_TMPFILE) != O_TMPFILE;
    int is_new = flags & O_CREAT && syscall(SYS_faccessat, folder, path, F_OK);
    long number = counts ? count(name, path, 0) : -1;
    if (fails(number, NEEDS_RIGHT | (is_new ? NEEDS_ROOM : 0))) return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

static mode_t take_mode(int flags, va_list rest) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name, parameters, folder)                                  \
    int name parameters {                                               \
        va_list rest;                                                   \
        va_start(rest, flags);                                          \
        mode_t mode = take_mode(flags, rest);                           \
        va_end(rest);                                                   \
        return open_file("open", folder, path, flags | (sizeof(long) == 8 ? 0 : O_LARGEFILE), mode); \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int folder, const char *path, int flags, ...), folder)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder)

int rename(const char *from, const char *to) {
    AROUND(rename, to, NEEDS_RIGHT, REAL(rename)(from, to));
}

int unlink(const char *path) {
    AROUND(unlink, path, NEEDS_RIGHT, REAL(unlink)(path));
}

int mkdir(const char *path, mode_t mode) {
    AROUND(mkdir, path, NEEDS_ROOM | NEEDS_RIGHT, REAL(mkdir)(path, mode));
}
