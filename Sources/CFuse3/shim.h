// libfuse3's low-level API: pvdisk uses it to parse mount options, to mount and to unmount.
#ifndef PVDISK_CFUSE3_H
#define PVDISK_CFUSE3_H
#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 314
#endif
#include <fuse_lowlevel.h>
#include <string.h>

/// fuse_session_new with a table of operations that is empty: pvdisk reads and answers requests itself.
static inline struct fuse_session *pv_fuse_session_new(struct fuse_args *args) {
  static const struct fuse_lowlevel_ops none;
  return fuse_session_new(args, &none, sizeof(none), NULL);
}
#endif
