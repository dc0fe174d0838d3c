// SPDX-License-Identifier: MIT
// Stands in front of the C library's functions of the same names, in the program that runs the tests only.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CSystemFaults.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
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

static bool strikes(enum pv_faulty_call call) {
  if (!plan.is_set || plan.call != call) return false;
  if (plan.skip > 0) {
    plan.skip--;
    return false;
  }
  if (plan.count > 0 && plan.strikes == plan.count) return false;
  plan.strikes++;
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

static ssize_t move(long number, enum pv_faulty_call call, int fd, const struct iovec *vector, int count, off_t offset,
                    int flags) {
  struct iovec half[16];
  if (strikes(call)) {
    if (plan.error != 0) {
      errno = plan.error;
      return -1;
    }
    count = halve(fd, vector, count, half);
    vector = half;
  }
  return syscall(number, fd, vector, (long)count, (long)offset, 0L, flags);
}

ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags) {
  return move(SYS_preadv2, PV_FAULTY_READ, fd, vector, count, offset, flags);
}

ssize_t pwritev2(int fd, const struct iovec *vector, int count, off_t offset, int flags) {
  return move(SYS_pwritev2, PV_FAULTY_WRITE, fd, vector, count, offset, flags);
}

static int fail(enum pv_faulty_call call) {
  if (!strikes(call)) return 0;
  errno = plan.error != 0 ? plan.error : EIO;
  return -1;
}

int fdatasync(int fd) { return fail(PV_FAULTY_SYNC) ? -1 : (int)syscall(SYS_fdatasync, fd); }

int fallocate(int fd, int mode, off_t offset, off_t length) {
  return fail(PV_FAULTY_ALLOCATE) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

off_t lseek(int fd, off_t offset, int whence) {
  return fail(PV_FAULTY_SEEK) ? -1 : (off_t)syscall(SYS_lseek, fd, offset, whence);
}
