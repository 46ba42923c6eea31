/* Faults of the disk and of the clock, between a program and the C library.
 *
 * Preloaded (LD_PRELOAD), it counts the calls that change files below one directory and has chosen ones end otherwise:
 * the process dies before, after or in the middle of it, or the call fails with an errno or writes only half. What it
 * shall do stands in a page that is shared with the test, which reads there how many calls there were. The page also
 * holds what the wall clock of the process is wrong by. The Python side is tests/faults.py; both know the same numbers.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct page {
    int64_t first;    /* number of the first call that is hit; 0: none */
    int64_t last;     /* number of the last one */
    int64_t mode;     /* enum mode */
    int64_t error;    /* errno of the modes that fail */
    int64_t kinds;    /* which kinds are counted, a bit each */
    int64_t pid;      /* the one process that is counted; 0: every one */
    int64_t count;    /* calls so far */
    int64_t hits;     /* of them, how many were hit */
    int64_t clock_ns; /* added to the wall clock */
    int64_t ended;    /* with which code that one process ended itself; -1: it has not */
    char where[64];   /* what the path of a file must hold to be counted */
};

enum mode { DIE_BEFORE = 1, DIE_HALF = 2, DIE_AFTER = 3, FAIL = 4, SHORT = 5 };
enum kind { WRITE = 1, SYNC = 2, RENAME = 4, UNLINK = 8, TRUNCATE = 16, ALLOCATE = 32, MAKE = 64, DATASYNC = 128 };
enum verdict { PASS, REFUSE, HALF, HALF_AND_DIE, DIE };

#define EXIT_KILLED 99

static volatile struct page *page;
static char root[PATH_MAX];
static size_t root_length;

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("FAULTS_PAGE"), *under = getenv("FAULTS_ROOT");
    if (file == NULL || under == NULL)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared == MAP_FAILED)
        return;
    root_length = strlen(under);
    memcpy(root, under, root_length + 1);
    page = shared;
}

static void die(void)
{
    syscall(SYS_exit_group, EXIT_KILLED);
}

static int below_root(const char *path)
{
    int below = strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
    return below && strstr(path, (const char *)page->where) != NULL;
}

static enum verdict judged(enum kind kind)
{
    int64_t number = __atomic_add_fetch(&page->count, 1, __ATOMIC_SEQ_CST);
    if (page->first == 0 || number < page->first || number > page->last)
        return PASS;
    __atomic_add_fetch(&page->hits, 1, __ATOMIC_SEQ_CST);
    switch (page->mode) {
    case DIE_BEFORE:
        die();
        return PASS;
    case DIE_HALF:
        return kind == WRITE ? HALF_AND_DIE : DIE;
    case DIE_AFTER:
        return DIE;
    case SHORT:
        return kind == WRITE ? HALF : PASS;
    default:
        errno = (int)page->error;
        return REFUSE;
    }
}

static int counted(enum kind kind)
{
    return page != NULL && (page->kinds & kind) && (page->pid == 0 || page->pid == getpid());
}

static enum verdict on_path(enum kind kind, const char *path)
{
    return counted(kind) && below_root(path) ? judged(kind) : PASS;
}

static enum verdict on_fd(enum kind kind, int fd)
{
    char link[64], path[PATH_MAX];
    if (!counted(kind))
        return PASS;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return PASS;
    path[length] = 0;
    return below_root(path) ? judged(kind) : PASS;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Calls that are done whole or not at all. */
#define WHOLE(type, name, verdict_of, parameters, arguments, refused)                                                  \
    type name parameters                                                                                               \
    {                                                                                                                  \
        enum verdict verdict = verdict_of;                                                                             \
        if (verdict == REFUSE)                                                                                         \
            return refused;                                                                                            \
        type result = REAL(name) arguments;                                                                            \
        if (verdict == DIE)                                                                                            \
            die();                                                                                                     \
        return result;                                                                                                 \
    }

WHOLE(int, fsync, on_fd(SYNC, fd), (int fd), (fd), -1)
WHOLE(int, fdatasync, on_fd(DATASYNC, fd), (int fd), (fd), -1)
WHOLE(int, rename, on_path(RENAME, to), (const char *from, const char *to), (from, to), -1)
WHOLE(int, renameat, on_path(RENAME, to), (int a, const char *from, int b, const char *to), (a, from, b, to), -1)
WHOLE(int, unlink, on_path(UNLINK, path), (const char *path), (path), -1)
WHOLE(int, unlinkat, on_path(UNLINK, path), (int at, const char *path, int flags), (at, path, flags), -1)
WHOLE(int, rmdir, on_path(UNLINK, path), (const char *path), (path), -1)
WHOLE(int, remove, on_path(UNLINK, path), (const char *path), (path), -1)
WHOLE(int, mkdir, on_path(MAKE, path), (const char *path, mode_t mode), (path, mode), -1)
WHOLE(int, ftruncate, on_fd(TRUNCATE, fd), (int fd, off_t size), (fd, size), -1)
WHOLE(int, ftruncate64, on_fd(TRUNCATE, fd), (int fd, off64_t size), (fd, size), -1)
WHOLE(int, fallocate, on_fd(ALLOCATE, fd), (int fd, int how, off_t at, off_t size), (fd, how, at, size), -1)
WHOLE(int, fallocate64, on_fd(ALLOCATE, fd), (int fd, int how, off64_t at, off64_t size), (fd, how, at, size), -1)
WHOLE(int, posix_fallocate, on_fd(ALLOCATE, fd), (int fd, off_t at, off_t size), (fd, at, size), errno)
WHOLE(int, posix_fallocate64, on_fd(ALLOCATE, fd), (int fd, off64_t at, off64_t size), (fd, at, size), errno)

/* Calls of which half may be done. */
#define PARTLY(name, parameters, whole, half)                                                                          \
    ssize_t name parameters                                                                                            \
    {                                                                                                                  \
        enum verdict verdict = on_fd(WRITE, fd);                                                                       \
        if (verdict == REFUSE)                                                                                         \
            return -1;                                                                                                 \
        ssize_t result = verdict == HALF || verdict == HALF_AND_DIE ? REAL(name) half : REAL(name) whole;              \
        if (verdict == DIE || verdict == HALF_AND_DIE)                                                                 \
            die();                                                                                                     \
        return result;                                                                                                 \
    }

PARTLY(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
PARTLY(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at))
PARTLY(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at))
PARTLY(writev, (int fd, const struct iovec *data, int count), (fd, data, count), (fd, data, count / 2))

/* Opening counts where it makes or empties a file. */
#define OPENS(name, at_parameter, at_argument)                                                                         \
    int name(at_parameter const char *path, int flags, ...)                                                            \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        enum verdict verdict = flags & (O_CREAT | O_TRUNC) ? on_path(MAKE, path) : PASS;                               \
        if (verdict == REFUSE)                                                                                         \
            return -1;                                                                                                 \
        int result = REAL(name)(at_argument path, flags, mode);                                                        \
        if (verdict == DIE)                                                                                            \
            die();                                                                                                     \
        return result;                                                                                                 \
    }
#define NONE
#define AT_PARAMETER int at,
#define AT_ARGUMENT at,

OPENS(open, NONE, NONE)
OPENS(open64, NONE, NONE)
OPENS(openat, AT_PARAMETER, AT_ARGUMENT)
OPENS(openat64, AT_PARAMETER, AT_ARGUMENT)

/* How the one process ends itself is written down: its parent does not tell. */
void _exit(int status)
{
    if (page != NULL && page->pid == getpid())
        page->ended = status;
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}

/* The wall clock. */
static int64_t wrong_by(void)
{
    return page == NULL ? 0 : page->clock_ns;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    int64_t wrong = wrong_by();
    if (result == 0 && wrong != 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t moved = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + wrong;
        now->tv_sec = moved / 1000000000;
        now->tv_nsec = moved % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (into != NULL)
        *into = exact.tv_sec;
    return exact.tv_sec;
}
