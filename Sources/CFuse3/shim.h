// libfuse3's low-level API: pvdisk uses it to parse mount options, to mount and to unmount.
#ifndef PVDISK_CFUSE3_H
#define PVDISK_CFUSE3_H
#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 314
#endif
#include <errno.h>
#include <fuse_log.h>
#include <fuse_lowlevel.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/// fuse_session_new with a table of operations that is empty: pvdisk reads and answers requests itself.
static inline struct fuse_session *pv_fuse_session_new(struct fuse_args *args) {
  static const struct fuse_lowlevel_ops none;
  return fuse_session_new(args, &none, sizeof(none), NULL);
}

/// Sends what libfuse has to say to `log` instead of standard error.
static inline void pv_fuse_set_log(void (*log)(unsigned int level, const char *format, va_list arguments)) {
  fuse_set_log_func((fuse_log_func_t)log);
}

/// Takes one request from a FUSE descriptor: the header and the next 40 bytes to `head`, the rest to `payload`. The number
/// of bytes, or a negative errno.
static inline ssize_t pv_fuse_receive(int fd, void *head, void *payload, size_t payload_size) {
  struct iovec parts[2] = {{head, 80}, {payload, payload_size}};
  ssize_t count;
  do count = readv(fd, parts, 2);
  while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : count;
}

/// As pv_fuse_receive, for a blocking descriptor: sleeps until there is a request, -EINTR after a signal.
static inline ssize_t pv_fuse_await(int fd, void *head, void *payload, size_t payload_size) {
  struct iovec parts[2] = {{head, 80}, {payload, payload_size}};
  ssize_t count = readv(fd, parts, 2);
  return count < 0 ? -errno : count;
}

/// Answers one request: `head` starts with struct fuse_out_header. 0, or a negative errno.
static inline int pv_fuse_answer(int fd, const void *head, size_t head_size, const void *payload, size_t payload_size) {
  struct iovec parts[2] = {{(void *)head, head_size}, {(void *)payload, payload_size}};
  ssize_t count;
  do count = writev(fd, parts, payload_size ? 2 : 1);
  while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : 0;
}
#endif
