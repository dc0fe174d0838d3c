// SPDX-License-Identifier: MIT
// Stands in front of the C library's functions of the same names, in the program that runs the tests only.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <liburing.h>

#include "CSystemFaults.h"

#include <dlfcn.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static __thread struct {
  bool is_set;
  enum pv_faulty_call call;
  int error;
  uint64_t skip, count, strikes;
  struct pv_struck_call last;
} plan;

void pv_faults_set(enum pv_faulty_call call, int error, uint64_t skip, uint64_t count) {
  plan.is_set = true;
  plan.call = call;
  plan.error = error;
  plan.skip = skip;
  plan.count = count;
  plan.strikes = 0;
}

uint64_t pv_faults_clear(void) {
  plan.is_set = false;
  return plan.strikes;
}

struct pv_struck_call pv_faults_last(void) { return plan.last; }

static bool strikes(enum pv_faulty_call call, bool is_ring_entry, int flags) {
  if (!plan.is_set || plan.call != call) return false;
  if (plan.skip > 0) {
    plan.skip--;
    return false;
  }
  if (plan.count > 0 && plan.strikes == plan.count) return false;
  plan.strikes++;
  plan.last = (struct pv_struck_call){call, is_ring_entry, flags};
  return true;
}

/// The first half of a list of pieces, at least one byte; answers how many pieces it has. What bypasses the page cache is
/// never short by a part of a sector.
static int halve(int fd, const struct iovec *vector, int count, struct iovec *half) {
  size_t total = 0;
  for (int index = 0; index < count; index++) total += vector[index].iov_len;
  size_t left = total > 1 ? total / 2 : total;
  if (fcntl(fd, F_GETFL) & O_DIRECT) left = total > 512 ? (left + 511) & ~(size_t)511 : total;
  int pieces = 0;
  while (left > 0 && pieces < 16) {
    half[pieces] = vector[pieces];
    if (half[pieces].iov_len > left) half[pieces].iov_len = left;
    left -= half[pieces].iov_len;
    pieces++;
  }
  return pieces;
}

struct note {
  struct pv_change change;
  struct note *next;
};

static __thread struct {
  bool is_on;
  struct note *first, *last;
} notes;

static void note(enum pv_change_kind kind, off_t offset, size_t count, const struct iovec *vector, int pieces) {
  if (!notes.is_on) return;
  struct note *made = calloc(1, sizeof *made);
  made->change = (struct pv_change){kind, (uint64_t)offset, count, NULL};
  if (vector != NULL) {
    made->change.bytes = malloc(count);
    size_t done = 0;
    for (int index = 0; index < pieces && done < count; index++) {
      size_t part = vector[index].iov_len < count - done ? vector[index].iov_len : count - done;
      memcpy(made->change.bytes + done, vector[index].iov_base, part);
      done += part;
    }
  }
  if (notes.last != NULL) {
    notes.last->next = made;
  } else {
    notes.first = made;
  }
  notes.last = made;
}

bool pv_log_take(struct pv_change *change) {
  struct note *first = notes.first;
  if (first == NULL) return false;
  *change = first->change;
  notes.first = first->next;
  if (notes.first == NULL) notes.last = NULL;
  free(first);
  return true;
}

void pv_change_free(struct pv_change *change) {
  free(change->bytes);
  change->bytes = NULL;
}

void pv_log_end(void) {
  struct pv_change change;
  while (pv_log_take(&change)) pv_change_free(&change);
  notes.is_on = false;
}

void pv_log_start(void) {
  pv_log_end();
  notes.is_on = true;
}

static ssize_t move(long number, enum pv_faulty_call call, int fd, const struct iovec *vector, int count, off_t offset,
                    int flags) {
  struct iovec half[16];
  if (strikes(call, false, flags)) {
    if (plan.error != 0) {
      errno = plan.error;
      return -1;
    }
    count = halve(fd, vector, count, half);
    vector = half;
  }
  ssize_t moved = syscall(number, fd, vector, (long)count, (long)offset, 0L, flags);
  if (number == SYS_pwritev2 && moved > 0) {
    note(flags & RWF_DSYNC ? PV_CHANGE_FORCED : PV_CHANGE_WRITE, offset, (size_t)moved, vector, count);
  }
  return moved;
}

ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags) {
  return move(SYS_preadv2, PV_FAULTY_READ, fd, vector, count, offset, flags);
}

ssize_t pwritev2(int fd, const struct iovec *vector, int count, off_t offset, int flags) {
  return move(SYS_pwritev2, PV_FAULTY_WRITE, fd, vector, count, offset, flags);
}

static int fail(enum pv_faulty_call call, int flags) {
  if (!strikes(call, false, flags)) return 0;
  errno = plan.error != 0 ? plan.error : EIO;
  return -1;
}

int fdatasync(int fd) {
  int result = fail(PV_FAULTY_SYNC, 0) ? -1 : (int)syscall(SYS_fdatasync, fd);
  if (result == 0) note(PV_CHANGE_SYNC, 0, 0, NULL, 0);
  return result;
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  int result = fail(PV_FAULTY_ALLOCATE, mode) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
  if (result == 0) note(PV_CHANGE_ZERO, offset, (size_t)length, NULL, 0);
  return result;
}

off_t lseek(int fd, off_t offset, int whence) {
  return fail(PV_FAULTY_SEEK, whence) ? -1 : (off_t)syscall(SYS_lseek, fd, offset, whence);
}

int ftruncate(int fd, off_t length) {
  return fail(PV_FAULTY_RESIZE, 0) ? -1 : (int)syscall(SYS_ftruncate, fd, length);
}

int fsync(int fd) { return fail(PV_FAULTY_FULL_SYNC, 0) ? -1 : (int)syscall(SYS_fsync, fd); }

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  if (request == BLKDISCARD && fail(PV_FAULTY_DISCARD, 0)) return -1;
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

// Linux 6.10; the headers of Debian 12 do not have it.
#define PV_NOP_INJECT_RESULT 1u

/// Turns an entry into one that does nothing and has a result of our choosing.
static void inject(struct io_uring_sqe *entry, int result) {
  const __u64 number = entry->user_data;
  memset(entry, 0, sizeof *entry);
  entry->opcode = IORING_OP_NOP;
  entry->fd = -1;
  entry->user_data = number;
  entry->rw_flags = (int)PV_NOP_INJECT_RESULT;
  entry->len = (__u32)result;
}

/// Lets a read or write move half of its pieces, or half of its only one; what bypasses the page cache in whole sectors.
static void shorten(struct io_uring_sqe *entry) {
  static __thread struct iovec halves[64];
  static __thread unsigned used;
  const struct iovec *vector = (const struct iovec *)(uintptr_t)entry->addr;
  if (entry->len > 1) {
    entry->len /= 2;
  } else if (entry->len == 1 && vector->iov_len >= 1024) {
    // The kernel copies the list when the entry is submitted.
    struct iovec *half = &halves[used++ % 64];
    *half = *vector;
    half->iov_len = (vector->iov_len / 2 + 511) & ~(size_t)511;
    entry->addr = (__u64)(uintptr_t)half;
  }
}

static void strike_entry(struct io_uring_sqe *entry) {
  enum pv_faulty_call call;
  switch (entry->opcode) {
  case IORING_OP_READV: call = PV_FAULTY_READ; break;
  case IORING_OP_WRITEV: call = PV_FAULTY_WRITE; break;
  case IORING_OP_FSYNC: call = PV_FAULTY_SYNC; break;
  case IORING_OP_FALLOCATE: call = PV_FAULTY_ALLOCATE; break;
  case IORING_OP_URING_CMD: call = PV_FAULTY_DISCARD; break;
  default: return;
  }
  // The length of an fallocate is its address, and its mode its length.
  const int flags = entry->opcode == IORING_OP_FALLOCATE ? (int)entry->len : (int)entry->rw_flags;
  if (!strikes(call, true, flags)) return;
  if (plan.error != 0) {
    inject(entry, -plan.error);
  } else {
    shorten(entry);
  }
}

/// What the image's ring is entered with: entries that the kernel has not seen yet are struck here.
int io_uring_submit_and_get_events(struct io_uring *ring) {
  static void *found;
  void *real = __atomic_load_n(&found, __ATOMIC_RELAXED);
  if (real == NULL) {
    real = dlsym(RTLD_NEXT, "io_uring_submit_and_get_events");
    __atomic_store_n(&found, real, __ATOMIC_RELAXED);
  }
  if (plan.is_set) {
    // liburing forgets entries once they are offered, also those that the kernel had no room for: none is struck twice.
    for (unsigned place = ring->sq.sqe_head; place != ring->sq.sqe_tail; place++) {
      strike_entry(&ring->sq.sqes[place & *ring->sq.kring_mask]);
    }
  }
  return ((int (*)(struct io_uring *))real)(ring);
}

bool pv_faults_reach_rings(void) {
  struct io_uring ring;
  if (io_uring_queue_init(2, &ring, 0) != 0) return false;
  inject(io_uring_get_sqe(&ring), -EDOM);
  struct io_uring_cqe *result = NULL;
  bool is_injected = io_uring_submit(&ring) == 1 && io_uring_wait_cqe(&ring, &result) == 0 && result->res == -EDOM;
  io_uring_queue_exit(&ring);
  return is_injected;
}
