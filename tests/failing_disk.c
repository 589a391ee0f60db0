/* A disk that is full or failing, for chosen files: preloaded into a process by
 * tests/fault_tools.py.
 *
 * FAULT_PATH   a shell pattern over whole paths (* spans slashes)
 * FAULT_CALLS  of open, write, sync, rename, mkdir, those that fail, with commas
 * FAULT_ERRNO  what they fail with
 * FAULT_AFTER  how many of them succeed before
 * FAULT_NOTE   a file that is made by the first call that fails
 *
 * They are read at every call, so that a process can change them; the count begins
 * again if FAULT_PATH or FAULT_CALLS change.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int met;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int listed(const char *call) {
  const char *calls = getenv("FAULT_CALLS");
  const char *at = calls ? strstr(calls, call) : NULL;
  return at != NULL;
}

static int fails(const char *call, const char *path) {
  static char last[PATH_MAX];
  const char *pattern = getenv("FAULT_PATH");
  if (!pattern || !*pattern || !path || !listed(call)) return 0;
  char now[PATH_MAX];
  snprintf(now, sizeof now, "%s %s", pattern, getenv("FAULT_CALLS"));
  if (strcmp(last, now)) {
    strcpy(last, now);
    atomic_store(&met, 0);
  }
  if (fnmatch(pattern, path, 0)) return 0;
  const char *after = getenv("FAULT_AFTER");
  if (atomic_fetch_add(&met, 1) < (after ? atoi(after) : 0)) return 0;
  const char *note = getenv("FAULT_NOTE");
  if (note) {
    int (*open_)(const char *, int, ...) = real("open");
    int (*close_)(int) = real("close");
    close_(open_(note, O_CREAT | O_WRONLY, 0600));
  }
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

/* The path of an open file; of a folder that is open, with a name in it. */
static const char *named(int fd, const char *name, char *found) {
  if (name && (name[0] == '/' || fd == AT_FDCWD)) {
    if (name[0] == '/' || !getcwd(found, PATH_MAX)) return name;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, found, PATH_MAX - 1);
    if (size < 0) return NULL;
    found[size] = 0;
  }
  if (name) {
    size_t size = strlen(found);
    snprintf(found + size, PATH_MAX - size, "/%s", name);
  }
  return found;
}

static int open_fails(int fd, const char *name, int flags) {
  char found[PATH_MAX];
  if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT)) return 0;
  return fails("open", named(fd, name, found));
}

static int fd_fails(const char *call, int fd) {
  char found[PATH_MAX];
  return listed(call) && fails(call, named(fd, NULL, found));
}

#define MODE                                    \
  mode_t mode = 0;                              \
  if (flags & (O_CREAT | __O_TMPFILE)) {        \
    va_list rest;                               \
    va_start(rest, flags);                      \
    mode = va_arg(rest, mode_t);                \
    va_end(rest);                               \
  }

#define OPEN(name)                                          \
  int name(const char *path, int flags, ...) {              \
    MODE if (open_fails(AT_FDCWD, path, flags)) return -1;  \
    int (*call)(const char *, int, ...) = real(#name);      \
    return call(path, flags, mode);                         \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                        \
  int name(int fd, const char *path, int flags, ...) {      \
    MODE if (open_fails(fd, path, flags)) return -1;        \
    int (*call)(int, const char *, int, ...) = real(#name); \
    return call(fd, path, flags, mode);                     \
  }
OPENAT(openat)
OPENAT(openat64)

#define FILE_CALL(kind, type, name, given, passed) \
  type name given {                                \
    if (fd_fails(kind, fd)) return -1;             \
    type(*call) given = real(#name);               \
    return call passed;                            \
  }
FILE_CALL("write", ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n))
FILE_CALL("write", ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
FILE_CALL("write", ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at),
          (fd, data, n, at))
FILE_CALL("write", ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at),
          (fd, data, n, at))
FILE_CALL("sync", int, fsync, (int fd), (fd))
FILE_CALL("sync", int, fdatasync, (int fd), (fd))

static int pair_fails(const char *old, const char *new) {
  char found[PATH_MAX];
  return fails("rename", named(AT_FDCWD, new, found));
}
int rename(const char *old, const char *new) {
  if (pair_fails(old, new)) return -1;
  int (*call)(const char *, const char *) = real("rename");
  return call(old, new);
}
int renameat(int a, const char *old, int b, const char *new) {
  char found[PATH_MAX];
  if (fails("rename", named(b, new, found))) return -1;
  int (*call)(int, const char *, int, const char *) = real("renameat");
  return call(a, old, b, new);
}
int renameat2(int a, const char *old, int b, const char *new, unsigned flags) {
  char found[PATH_MAX];
  if (fails("rename", named(b, new, found))) return -1;
  int (*call)(int, const char *, int, const char *, unsigned) = real("renameat2");
  return call(a, old, b, new, flags);
}
int mkdir(const char *path, mode_t mode) {
  char found[PATH_MAX];
  if (fails("mkdir", named(AT_FDCWD, path, found))) return -1;
  int (*call)(const char *, mode_t) = real("mkdir");
  return call(path, mode);
}
int mkdirat(int fd, const char *path, mode_t mode) {
  char found[PATH_MAX];
  if (fails("mkdir", named(fd, path, found))) return -1;
  int (*call)(int, const char *, mode_t) = real("mkdirat");
  return call(fd, path, mode);
}
