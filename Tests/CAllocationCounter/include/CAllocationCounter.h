// Counts what a thread takes from the heap: the program's malloc is replaced by one that counts and then calls glibc's.
#ifndef PVDISK_CALLOCATION_COUNTER_H
#define PVDISK_CALLOCATION_COUNTER_H

#include <stdbool.h>
#include <stdint.h>

/// Whether allocations are counted; not under a sanitizer, which replaces malloc itself.
bool pv_allocations_are_counted(void);
/// The calls of malloc, calloc, realloc and their aligned kin that the calling thread has made so far.
uint64_t pv_thread_allocation_count(void);

#endif
