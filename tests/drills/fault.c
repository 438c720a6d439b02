/* A library to be preloaded: in one of the calls that change files the program dies, or the call fails.
 *
 * FAULT_UNDER  folders, ':' between them; only calls on what is below them count
 * FAULT_AT     number of the call (from 0) in which it happens; without it nothing happens
 * FAULT_ERROR  number of the error that this call and all later ones give; without it the program dies of SIGKILL
 * FAULT_WHEN   where it dies: "before" the call, in the "middle" of what is written, or "after" the call
 * FAULT_LOG    file to which each call is written: number, name, path, bytes
 *
 * With ENOSPC the disk stays full: what is there can be removed and renamed, and a first write goes through by half.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
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
enum { BEFORE, MIDDLE, AFTER };

static atomic_long calls;
static long at = -1;
static int error_number, moment = BEFORE, log_file = -1;
static const char *folders;

__attribute__((constructor)) static void read_settings(void) {
    const char *text = getenv("FAULT_AT");
    if (text) at = atol(text);
    if ((text = getenv("FAULT_ERROR"))) error_number = atoi(text);
    if ((text = getenv("FAULT_WHEN"))) moment = !strcmp(text, "middle") ? MIDDLE : !strcmp(text, "after") ? AFTER : BEFORE;
    folders = getenv("FAULT_UNDER");
    if ((text = getenv("FAULT_LOG"))) log_file = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/* For a process that forks: from here on the calls are counted anew, and it dies in that one. */
void die_in_call(long number, int when) {
    atomic_store(&calls, 0);
    moment = when;
    at = number;
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

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int fails(long number, int needs) {
    if (number < 0 || at < 0 || !error_number || number < at) return 0;
    if (error_number == ENOSPC && !(needs & NEEDS_ROOM)) return 0;
    if (error_number == EROFS && !(needs & NEEDS_RIGHT)) return 0;
    errno = error_number;
    return 1;
}

static int dies(long number, int when) {
    return at >= 0 && !error_number && number == at && moment == when;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define AROUND(type, name, path, size, needs, call)          \
    long number = count(#name, path, size);                  \
    if (dies(number, BEFORE) || dies(number, MIDDLE)) die(); \
    if (fails(number, needs)) return -1;                     \
    type result = call;                                      \
    if (dies(number, AFTER)) die();                          \
    return result

static ssize_t write_file(const char *name, int file, const void *data, size_t size, int has_offset, off_t offset) {
    char path[PATH_MAX];
    long number = folders && find_path(file, path) ? count(name, path, size) : -1;
    size_t part = size;
    if (dies(number, BEFORE)) die();
    if (fails(number, NEEDS_ROOM | NEEDS_RIGHT)) {
        if (error_number != ENOSPC || number != at || size < 2) return -1;
        part = size / 2;
    }
    if (dies(number, MIDDLE)) part = size / 2;
    ssize_t written = has_offset ? syscall(SYS_pwrite64, file, data, part, offset) : syscall(SYS_write, file, data, part);
    if (dies(number, MIDDLE) || dies(number, AFTER)) die();
    return written;
}

ssize_t write(int file, const void *data, size_t size) { return write_file("write", file, data, size, 0, 0); }

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    return write_file("pwrite", file, data, size, 1, offset);
}

static int sync_file(const char *name, int file, int (*real)(int)) {
    char path[PATH_MAX];
    long number = folders && find_path(file, path) ? count(name, path, 0) : -1;
    if (dies(number, BEFORE) || dies(number, MIDDLE)) die();
    if (fails(number, NEEDS_ROOM)) return -1;
    int result = real(file);
    if (dies(number, AFTER)) die();
    return result;
}

int fsync(int file) { return sync_file("fsync", file, REAL(fsync)); }
int fdatasync(int file) { return sync_file("fdatasync", file, REAL(fdatasync)); }

static int open_file(const char *name, int folder, const char *path, int flags, mode_t mode) {
    /* Opening what is there for reading changes nothing; neither does a file without a name. */
    int counts = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR) && (flags & O_TMPFILE) != O_TMPFILE;
    int is_new = flags & O_CREAT && syscall(SYS_faccessat, folder, path, F_OK);
    long number = counts ? count(name, path, 0) : -1;
    if (dies(number, BEFORE) || dies(number, MIDDLE)) die();
    if (fails(number, NEEDS_RIGHT | (is_new ? NEEDS_ROOM : 0))) return -1;
    int result = syscall(SYS_openat, folder, path, flags, mode);
    if (dies(number, AFTER)) die();
    return result;
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
    AROUND(int, rename, to, 0, NEEDS_RIGHT, REAL(rename)(from, to));
}

int unlink(const char *path) {
    AROUND(int, unlink, path, 0, NEEDS_RIGHT, REAL(unlink)(path));
}

int mkdir(const char *path, mode_t mode) {
    AROUND(int, mkdir, path, 0, NEEDS_ROOM | NEEDS_RIGHT, REAL(mkdir)(path, mode));
}
