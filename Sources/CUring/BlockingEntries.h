// Entries that are run by the thread which enters the ring, one after the other, waiting for each: what is left where the
// kernel or a sandbox refuses io_uring, and what a run needs in which nothing may depend on the kernel's timing.
#ifndef PVDISK_BLOCKING_ENTRIES_H
#define PVDISK_BLOCKING_ENTRIES_H

#include "CUring.h"

enum entry_kind { ENTRY_READ, ENTRY_WRITE, ENTRY_DATASYNC, ENTRY_ALLOCATE, ENTRY_BLOCK_DISCARD };

/// One system call to be made; what a kind does not need is 0.
struct entry {
  enum entry_kind kind;
  uint64_t tag;
  int fd;
  const struct iovec *vector;
  unsigned count;
  uint64_t offset;
  uint64_t length;
  int flags;
  bool punt;
};

struct blocking_entries;

/// Room for `capacity` entries, prepared or finished; NULL when there is no memory.
struct blocking_entries *blocking_entries_create(unsigned capacity);
void blocking_entries_destroy(struct blocking_entries *entries);
/// Notes an entry; false when there is no room.
bool blocking_entries_prepare(struct blocking_entries *entries, const struct entry *entry);
/// Runs what is prepared.
void blocking_entries_run(struct blocking_entries *entries);
/// Takes the oldest result; false when there is none.
bool blocking_entries_take(struct blocking_entries *entries, struct pv_ring_result *result);
unsigned blocking_entries_prepared(const struct blocking_entries *entries);
unsigned blocking_entries_finished(const struct blocking_entries *entries);

#endif
