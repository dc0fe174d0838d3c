// SPDX-License-Identifier: MIT
//
// The comparator "PT": one file shown through FUSE by the shortest C program that uses every switch libfuse 3.14 has.
// What pvdisk's figures are held against: the same crossing into the kernel, the same pread and pwrite, and nothing else.
//
//   passthrough [--null] [--threads N] [--size BYTES] FILE DIRECTORY     shows FILE as DIRECTORY/disk until unmounted
//
// --null moves no data: reads answer with zeros that were there already, writes are counted and dropped.
//
//   cc -O2 -Wall -o passthrough passthrough.c $(pkg-config --cflags --libs fuse3) -pthread

#define _GNU_SOURCE
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_INODE 2
#define MOST_BYTES (1 << 20)

static const char disk_name[] = "disk";
static int image = -1;
static bool is_null;
static off_t byte_count;
static __thread char *thread_buffer;

static char *buffer(void) {
  if (thread_buffer == NULL && posix_memalign((void **)&thread_buffer, 4096, MOST_BYTES) == 0) {
    memset(thread_buffer, 0, MOST_BYTES);
  }
  return thread_buffer;
}

static bool describe(fuse_ino_t inode, struct stat *status) {
  memset(status, 0, sizeof *status);
  status->st_ino = inode;
  if (inode == FUSE_ROOT_ID) {
    status->st_mode = S_IFDIR | 0755;
    status->st_nlink = 2;
  } else if (inode == DISK_INODE) {
    status->st_mode = S_IFREG | 0644;
    status->st_nlink = 1;
    status->st_size = byte_count;
    status->st_blksize = 4096;
    status->st_blocks = byte_count / 512;
  } else {
    return false;
  }
  status->st_uid = getuid();
  status->st_gid = getgid();
  return true;
}

static void pt_init(void *context, struct fuse_conn_info *connection) {
  (void)context;
  connection->max_write = MOST_BYTES;
  connection->max_background = 256;
  connection->congestion_threshold = 256;
  connection->want |= connection->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO);
  connection->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

static void pt_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
  struct fuse_entry_param entry = {.ino = DISK_INODE, .attr_timeout = 3600, .entry_timeout = 3600};
  if (parent != FUSE_ROOT_ID || strcmp(name, disk_name) != 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  describe(DISK_INODE, &entry.attr);
  fuse_reply_entry(request, &entry);
}

static void pt_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
  (void)file;
  struct stat status;
  if (describe(inode, &status)) {
    fuse_reply_attr(request, &status, 3600);
  } else {
    fuse_reply_err(request, ENOENT);
  }
}

static void pt_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file) {
  (void)file;
  static const struct {
    const char *name;
    fuse_ino_t inode;
  } entries[] = {{".", FUSE_ROOT_ID}, {"..", FUSE_ROOT_ID}, {disk_name, DISK_INODE}};
  char list[512];
  size_t used = 0;
  if (inode != FUSE_ROOT_ID) {
    fuse_reply_err(request, ENOTDIR);
    return;
  }
  for (size_t place = (size_t)offset; place < sizeof entries / sizeof entries[0]; place++) {
    struct stat status;
    describe(entries[place].inode, &status);
    size_t room = (size < sizeof list ? size : sizeof list) - used;
    size_t need =
      fuse_add_direntry(request, list + used, room, entries[place].name, &status, (off_t)place + 1);
    if (need > room) break;
    used += need;
  }
  fuse_reply_buf(request, list, used);
}

static void pt_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
  (void)file;
  if (inode != DISK_INODE) {
    fuse_reply_err(request, EISDIR);
    return;
  }
  // libfuse 3.14.0 has no field for parallel direct writes, without which the kernel lets in one writer at a time.
  struct fuse_open_out answer = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES};
  fuse_reply_buf(request, (const char *)&answer, sizeof answer);
}

static void pt_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file) {
  (void)inode;
  (void)file;
  char *bytes = buffer();
  if (bytes == NULL) {
    fuse_reply_err(request, ENOMEM);
    return;
  }
  if (offset >= byte_count) size = 0;
  if ((off_t)size > byte_count - offset) size = (size_t)(byte_count - offset);
  ssize_t count = is_null ? (ssize_t)size : pread(image, bytes, size, offset);
  if (count < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_buf(request, bytes, (size_t)count);
  }
}

static void pt_write(
  fuse_req_t request, fuse_ino_t inode, const char *bytes, size_t size, off_t offset, struct fuse_file_info *file) {
  (void)inode;
  (void)file;
  if (offset > byte_count || (off_t)size > byte_count - offset) {
    fuse_reply_err(request, ENOSPC);
    return;
  }
  ssize_t count = is_null ? (ssize_t)size : pwrite(image, bytes, size, offset);
  if (count < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_write(request, (size_t)count);
  }
}

static void pt_fsync(fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *file) {
  (void)inode;
  (void)data_only;
  (void)file;
  fuse_reply_err(request, is_null || fdatasync(image) == 0 ? 0 : errno);
}

/// Truncation by the opener (O_TRUNC, ftruncate) does nothing: the disk has the size it has.
static void pt_setattr(
  fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int which, struct fuse_file_info *file) {
  (void)wanted;
  (void)which;
  pt_getattr(request, inode, file);
}

static const struct fuse_lowlevel_ops operations = {
  .init = pt_init,
  .lookup = pt_lookup,
  .getattr = pt_getattr,
  .setattr = pt_setattr,
  .readdir = pt_readdir,
  .open = pt_open,
  .read = pt_read,
  .write = pt_write,
  .fsync = pt_fsync,
};

static int serve(const char *directory, unsigned threads) {
  char *words[] = {"passthrough", "-o", "fsname=passthrough,default_permissions"};
  struct fuse_args arguments = FUSE_ARGS_INIT(3, words);
  struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
  if (session == NULL) return 2;
  int result = 2;
  if (fuse_set_signal_handlers(session) == 0) {
    if (fuse_session_mount(session, directory) == 0) {
      struct fuse_loop_config *loop = fuse_loop_cfg_create();
      fuse_loop_cfg_set_clone_fd(loop, 1);
      fuse_loop_cfg_set_max_threads(loop, threads);
      fuse_loop_cfg_set_idle_threads(loop, threads);
      result = fuse_session_loop_mt(session, loop) == 0 ? 0 : 2;
      fuse_loop_cfg_destroy(loop);
      fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
  }
  fuse_session_destroy(session);
  fuse_opt_free_args(&arguments);
  return result;
}

int main(int count, char **words) {
  static const struct option options[] = {
    {"null", no_argument, NULL, 'n'},
    {"threads", required_argument, NULL, 't'},
    {"size", required_argument, NULL, 's'},
    {NULL, 0, NULL, 0},
  };
  unsigned threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
  for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
    switch (option) {
    case 'n': is_null = true; break;
    case 't': threads = (unsigned)strtoul(optarg, NULL, 10); break;
    case 's': byte_count = (off_t)strtoull(optarg, NULL, 10); break;
    default: return 1;
    }
  }
  if (count - optind != 2 || threads == 0) {
    fprintf(stderr, "usage: passthrough [--null] [--threads N] [--size BYTES] FILE DIRECTORY\n");
    return 1;
  }
  image = open(words[optind], O_RDWR | O_CLOEXEC);
  struct stat status;
  if (image < 0 || fstat(image, &status) != 0) {
    perror(words[optind]);
    return 3;
  }
  if (byte_count == 0) byte_count = status.st_size;
  return serve(words[optind + 1], threads);
}
