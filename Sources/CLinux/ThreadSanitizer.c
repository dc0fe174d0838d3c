// SPDX-License-Identifier: MIT
// Nothing, except under the thread sanitizer.
//
// A Swift Mutex is taken and given back by exchanges that are compiled into its user, where the sanitizer sees them; but when two
// threads meet at it, it passes from one to the other inside libswiftSynchronization and the kernel (futex(2), FUTEX_LOCK_PI and
// FUTEX_UNLOCK_PI), where the sanitizer sees nothing. These functions stand before the library's and tell it, at the mutex's
// address, what happens.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

// Of `_MutexHandle`, whose self is its one word, in the context register.
#define LOCK_SLOW "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define TRY_LOCK_SLOW "$s15Synchronization12_MutexHandleV12_tryLockSlowSbyF"
#define UNLOCK_SLOW "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"
#define SWIFT __attribute__((swiftcall))
#define SELF __attribute__((swift_context)) void *

SWIFT void pv_mutex_lock_slow(uint32_t, SELF) __asm__(LOCK_SLOW);
SWIFT bool pv_mutex_try_lock_slow(SELF) __asm__(TRY_LOCK_SLOW);
SWIFT void pv_mutex_unlock_slow(SELF) __asm__(UNLOCK_SLOW);

static void *library(void **kept, const char *name) {
  void *found = __atomic_load_n(kept, __ATOMIC_RELAXED);
  if (found == 0) {
    found = dlsym(RTLD_NEXT, name);
    __atomic_store_n(kept, found, __ATOMIC_RELAXED);
  }
  return found;
}

SWIFT void pv_mutex_lock_slow(uint32_t thread, SELF handle) {
  static void *real;
  ((SWIFT void (*)(uint32_t, SELF))library(&real, LOCK_SLOW))(thread, handle);
  __tsan_acquire(handle);
}

SWIFT bool pv_mutex_try_lock_slow(SELF handle) {
  static void *real;
  bool is_taken = ((SWIFT bool (*)(SELF))library(&real, TRY_LOCK_SLOW))(handle);
  if (is_taken) __tsan_acquire(handle);
  return is_taken;
}

SWIFT void pv_mutex_unlock_slow(SELF handle) {
  static void *real;
  __tsan_release(handle);
  ((SWIFT void (*)(SELF))library(&real, UNLOCK_SLOW))(handle);
}
#endif
#endif
