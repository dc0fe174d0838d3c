// SPDX-License-Identifier: MIT
// readv and writev stand in front of the C library's, in the programs that run fuzzers only.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CFuzzKernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static __thread int seat = -1;
static __thread struct pv_fuzz_kernel *seated;

void pv_fuzz_kernel_sit(int fd, struct pv_fuzz_kernel *kernel) {
  seat = kernel ? fd : -1;
  seated = kernel;
}

void pv_fuzz_kernel_add(struct pv_fuzz_kernel *kernel, size_t length) {
  if (kernel->end == sizeof kernel->lengths / sizeof kernel->lengths[0]) abort();
  kernel->lengths[kernel->end++] = length;
}

void pv_fuzz_kernel_clear(struct pv_fuzz_kernel *kernel) {
  kernel->first = kernel->end = 0;
  kernel->answer_count = 0;
  kernel->answers_size = 0;
}

size_t pv_fuzz_kernel_answer(const struct pv_fuzz_kernel *kernel, unsigned index) {
  return kernel->answer_lengths[index];
}

ssize_t readv(int fd, const struct iovec *parts, int count) {
  if (fd != seat || fd < 0) return syscall(SYS_readv, fd, parts, count);
  if (seated->first == seated->end) {
    errno = EAGAIN;
    return -1;
  }
  const uint8_t *bytes = seated->messages;
  for (unsigned before = 0; before < seated->first; before++) bytes += seated->lengths[before];
  size_t left = seated->lengths[seated->first++], moved = 0;
  for (int part = 0; part < count && left > 0; part++) {
    size_t length = parts[part].iov_len < left ? parts[part].iov_len : left;
    memcpy(parts[part].iov_base, bytes + moved, length);
    moved += length;
    left -= length;
  }
  return (ssize_t)moved;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (fd != seat || fd < 0) return syscall(SYS_writev, fd, parts, count);
  size_t total = 0;
  for (int part = 0; part < count; part++) total += parts[part].iov_len;
  if (total > seated->answers_capacity - seated->answers_size
      || seated->answer_count == sizeof seated->answer_lengths / sizeof seated->answer_lengths[0])
    abort();
  for (int part = 0; part < count; part++) {
    memcpy(seated->answers + seated->answers_size, parts[part].iov_base, parts[part].iov_len);
    seated->answers_size += parts[part].iov_len;
  }
  seated->answer_lengths[seated->answer_count++] = total;
  return (ssize_t)total;
}

bool pv_fuzz_all_are(uintptr_t address, size_t count, uint8_t byte) {
  const uint64_t *words = (const uint64_t *)address;
  uint64_t pattern = byte * UINT64_C(0x0101010101010101), difference = 0;
  for (size_t index = 0; index < count / 8; index++) difference |= words[index] ^ pattern;
  return difference == 0;
}

bool pv_fuzz_any_is(uintptr_t address, size_t count, uint8_t byte) {
  const uint8_t *bytes = (const uint8_t *)address;
  uint8_t found = 0;
  for (size_t index = 0; index < count; index++) found |= bytes[index] == byte;
  return found;
}

void pv_fuzz_fill(uintptr_t address, size_t count, uint8_t byte) { memset((void *)address, byte, count); }
