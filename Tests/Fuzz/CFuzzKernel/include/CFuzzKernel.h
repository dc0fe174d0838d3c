// SPDX-License-Identifier: MIT
// What fuzzers' harnesses have in C: the kernel's end of a FUSE descriptor, without a system call, and loops over memory of their
// own that no sanitizer has to watch.
#ifndef PV_FUZZ_KERNEL_H
#define PV_FUZZ_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// What one descriptor's readv(2) finds and its writev(2) leaves.
struct pv_fuzz_kernel {
  /// Messages, one behind the other, and the length of each.
  const uint8_t *messages;
  size_t lengths[16];
  unsigned first, end;
  /// Answers, one behind the other, and the length of each.
  uint8_t *answers;
  size_t answers_capacity, answers_size;
  size_t answer_lengths[64];
  unsigned answer_count;
};

/// From now on this thread's readv and writev of the descriptor are the kernel's; NULL for nobody's.
void pv_fuzz_kernel_sit(int fd, struct pv_fuzz_kernel *kernel);

/// Puts one more message in, whose bytes lie behind those of the last.
void pv_fuzz_kernel_add(struct pv_fuzz_kernel *kernel, size_t length);

/// Forgets messages and answers.
void pv_fuzz_kernel_clear(struct pv_fuzz_kernel *kernel);

/// The length of one of the answers.
size_t pv_fuzz_kernel_answer(const struct pv_fuzz_kernel *kernel, unsigned index);

/// Whether all of some bytes are the same one, or any of them is; how many is a multiple of eight.
bool pv_fuzz_all_are(uintptr_t address, size_t count, uint8_t byte);
bool pv_fuzz_any_is(uintptr_t address, size_t count, uint8_t byte);
/// Makes all of them the same.
void pv_fuzz_fill(uintptr_t address, size_t count, uint8_t byte);
#endif
