/* Has the k-th file operation under a folder fail, or be the last that the process does.
 *
 * Preloaded into a process, it stands before the C library: Python, Polars and delta-rs all call through it. Nothing
 * fails until shim_arm() is called. What a process reads through a memory map cannot fail this way.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* ONCE: that operation fails. EVER_AFTER: it and all that follow fail. DONE: it is done, and reported as failed.
   KILLED: the process is killed before it. Only ONCE counts operations that change nothing on the disk.
   STOPPED: the process stops before it, and does it when it is continued; counts what locks a file, alone. */
enum { ONCE, EVER_AFTER, DONE, KILLED, STOPPED };
#define MOST_FILES 65536

static char under[4096], what[4352];
static volatile int armed, k, number, mode, count;
static unsigned char known[MOST_FILES]; /* descriptors of files under the folder */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

void shim_arm(const char *folder, int kth, int error, int how) {
    snprintf(under, sizeof under, "%s", folder);
    k = kth, number = error, mode = how, count = 0, what[0] = 0;
    armed = 1;
}
void shim_disarm(void) { armed = 0; }
int shim_count(void) { return count; }
const char *shim_what(void) { return what; }

static int ours(const char *path) { return armed && path && strncmp(path, under, strlen(under)) == 0; }
static int ours_fd(int fd) { return armed && fd >= 0 && fd < MOST_FILES && known[fd]; }
static int note(int fd, const char *path) {
    if (fd >= 0 && fd < MOST_FILES) known[fd] = ours(path);
    return fd;
}

static int fails(const char *name, int changes, const char *path, int fd) {
    int now;
    if (!(path && *path ? ours(path) : ours_fd(fd)) || (mode != ONCE && !changes) || mode == STOPPED) return 0;
    pthread_mutex_lock(&guard);
    now = ++count == k || (mode == EVER_AFTER && k && count > k);
    if (count == k) snprintf(what, sizeof what, "%s %s", name, path ? path : "");
    pthread_mutex_unlock(&guard);
    if (now && mode == KILLED) kill(getpid(), SIGKILL), pause();
    return now;
}

#define GUARD(type, name, changes, path, fd, parameters, ...)               \
    static type(*real) parameters;                                          \
    if (!real) real = dlsym(RTLD_NEXT, __func__);                           \
    if (fails(name, changes, path, fd)) {                                   \
        if (mode == DONE) (void)!real(__VA_ARGS__);                         \
        errno = number;                                                     \
        return -1;                                                          \
    }                                                                       \
    return real(__VA_ARGS__)

#define OPENED(name, with_folder, pass_folder, types)                                                      \
    int name(with_folder const char *path, int flags, ...) {                                               \
        static int(*real) types;                                                                           \
        va_list list;                                                                                      \
        va_start(list, flags);                                                                             \
        mode_t permissions = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;                     \
        va_end(list);                                                                                      \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                         \
        if (fails(flags & O_CREAT ? "create" : "open", flags & O_CREAT, path, -1)) {                       \
            if (mode == DONE) close(real(pass_folder path, flags, permissions));                           \
            errno = number;                                                                                \
            return -1;                                                                                     \
        }                                                                                                  \
        return note(real(pass_folder path, flags, permissions), path);                                     \
    }
#define NONE
#define FOLDER int folder,
#define THE_FOLDER folder,
OPENED(open, NONE, NONE, (const char *, int, ...))
OPENED(open64, NONE, NONE, (const char *, int, ...))
OPENED(openat, FOLDER, THE_FOLDER, (int, const char *, int, ...))
OPENED(openat64, FOLDER, THE_FOLDER, (int, const char *, int, ...))

int close(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "close");
    note(fd, NULL);
    return real(fd);
}

/* What changes the disk ---------------------------------------------------------------------------------------------*/

int rename(const char *from, const char *to) {
    GUARD(int, "rename", 1, to, -1, (const char *, const char *), from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    GUARD(int, "rename", 1, to, -1, (int, const char *, int, const char *), a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    GUARD(int, "rename", 1, to, -1, (int, const char *, int, const char *, unsigned), a, from, b, to, flags);
}
int link(const char *from, const char *to) {
    GUARD(int, "link", 1, to, -1, (const char *, const char *), from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    GUARD(int, "link", 1, to, -1, (int, const char *, int, const char *, int), a, from, b, to, flags);
}
int unlink(const char *path) { GUARD(int, "unlink", 1, path, -1, (const char *), path); }
int unlinkat(int folder, const char *path, int flags) {
    GUARD(int, "unlink", 1, path, -1, (int, const char *, int), folder, path, flags);
}
int mkdir(const char *path, mode_t permissions) {
    GUARD(int, "mkdir", 1, path, -1, (const char *, mode_t), path, permissions);
}
int fsync(int fd) { GUARD(int, "fsync", 1, NULL, fd, (int), fd); }
int fdatasync(int fd) { GUARD(int, "fdatasync", 1, NULL, fd, (int), fd); }
int ftruncate64(int fd, off_t size) { GUARD(int, "truncate", 1, NULL, fd, (int, off_t), fd, size); }
ssize_t write(int fd, const void *from, size_t size) {
    GUARD(ssize_t, "write", 1, NULL, fd, (int, const void *, size_t), fd, from, size);
}
ssize_t writev(int fd, const struct iovec *from, int n) {
    GUARD(ssize_t, "write", 1, NULL, fd, (int, const struct iovec *, int), fd, from, n);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
    GUARD(ssize_t, "write", 1, NULL, fd, (int, const void *, size_t, off_t), fd, from, size, at);
}

/* What locks --------------------------------------------------------------------------------------------------------*/

#define LOCKS(name)                                                                                        \
    int name(int fd, int command, ...) {                                                                   \
        static int (*real)(int, int, ...);                                                                 \
        va_list list;                                                                                      \
        va_start(list, command);                                                                           \
        void *argument = va_arg(list, void *);                                                             \
        va_end(list);                                                                                      \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                                         \
        if (command == F_SETLK && mode == STOPPED && ours_fd(fd) && ++count == k) raise(SIGSTOP);          \
        return real(fd, command, argument);                                                                \
    }
LOCKS(fcntl)
LOCKS(fcntl64)

/* What does not -----------------------------------------------------------------------------------------------------*/

ssize_t read(int fd, void *to, size_t size) {
    GUARD(ssize_t, "read", 0, NULL, fd, (int, void *, size_t), fd, to, size);
}
ssize_t pread64(int fd, void *to, size_t size, off_t at) {
    GUARD(ssize_t, "read", 0, NULL, fd, (int, void *, size_t, off_t), fd, to, size, at);
}
int statx(int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict to) {
    GUARD(int, "stat", 0, path, folder, (int, const char *, int, unsigned, struct statx *), folder, path, flags, mask, to);
}
int stat(const char *restrict path, struct stat *restrict to) {
    GUARD(int, "stat", 0, path, -1, (const char *, struct stat *), path, to);
}
int stat64(const char *restrict path, struct stat64 *restrict to) {
    GUARD(int, "stat", 0, path, -1, (const char *, struct stat64 *), path, to);
}
int fstatat64(int folder, const char *restrict path, struct stat64 *restrict to, int flags) {
    GUARD(int, "stat", 0, path, folder, (int, const char *, struct stat64 *, int), folder, path, to, flags);
}
