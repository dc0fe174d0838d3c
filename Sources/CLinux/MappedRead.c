#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CLinux.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

/// Where this thread goes on when the mapping that it reads from has lost the page, and what it reads from.
static _Thread_local sigjmp_buf *recovery;
static _Thread_local uintptr_t mapping_start, mapping_end;
static struct sigaction previous;

static void page_is_gone(int number, siginfo_t *info, void *context) {
  uintptr_t address = (uintptr_t)info->si_addr;
  if (recovery != NULL && address >= mapping_start && address < mapping_end) siglongjmp(*recovery, 1);
  // Somebody else's trouble.
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  } else {
    // The instruction is tried again, and ends the process.
    signal(number, SIG_DFL);
  }
}

int pv_mapped_read_prepare(void) {
  struct sigaction now;
  if (sigaction(SIGBUS, NULL, &now) != 0) return -1;
  if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == page_is_gone) return 0;
  previous = now;
  // The handler is left by a jump, after which the signal must not stay blocked.
  struct sigaction action = {.sa_sigaction = page_is_gone, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, NULL);
}

ssize_t pv_mapped_read(const void *mapping, uint64_t length, uint64_t offset, const struct iovec *vector, int count) {
  sigjmp_buf here;
  if (sigsetjmp(here, 0) != 0) {
    recovery = NULL;
    return -EFAULT;
  }
  mapping_start = (uintptr_t)mapping;
  mapping_end = mapping_start + length;
  recovery = &here;
  // The compiler may not move the copying out of the time in which a fault is caught.
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  const char *from = (const char *)mapping + offset;
  ssize_t moved = 0;
  for (int i = 0; i < count; i++) {
    memcpy(vector[i].iov_base, from + moved, vector[i].iov_len);
    moved += (ssize_t)vector[i].iov_len;
  }
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  recovery = NULL;
  return moved;
}
