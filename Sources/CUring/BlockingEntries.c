#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "BlockingEntries.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/// A ring of places: `taken` <= `run` <= `noted`, and no more than `capacity` apart; all three only grow.
struct blocking_entries {
  unsigned capacity;
  unsigned long taken, run, noted;
  struct {
    struct entry entry;
    int32_t value;
  } places[];
};

struct blocking_entries *blocking_entries_create(unsigned capacity) {
  struct blocking_entries *entries = NULL;
  entries = calloc(1, sizeof *entries + capacity * sizeof entries->places[0]);
  if (entries != NULL) entries->capacity = capacity;
  return entries;
}

void blocking_entries_destroy(struct blocking_entries *entries) { free(entries); }

bool blocking_entries_prepare(struct blocking_entries *entries, const struct entry *entry) {
  if (entries->noted - entries->taken == entries->capacity) return false;
  entries->places[entries->noted++ % entries->capacity].entry = *entry;
  return true;
}

static ssize_t run_one(const struct entry *entry) {
  off_t offset = (off_t)entry->offset;
  switch (entry->kind) {
  case ENTRY_READ: return preadv2(entry->fd, entry->vector, (int)entry->count, offset, entry->flags);
  case ENTRY_WRITE: return pwritev2(entry->fd, entry->vector, (int)entry->count, offset, entry->flags);
  case ENTRY_DATASYNC: return fdatasync(entry->fd);
  case ENTRY_ALLOCATE: return fallocate(entry->fd, entry->flags, offset, (off_t)entry->length);
  case ENTRY_BLOCK_DISCARD: {
    uint64_t range[2] = {entry->offset, entry->length};
    return ioctl(entry->fd, BLKDISCARD, range);
  }
  }
  errno = EINVAL;
  return -1;
}

void blocking_entries_run(struct blocking_entries *entries) {
  for (; entries->run != entries->noted; entries->run++) {
    const unsigned long place = entries->run % entries->capacity;
    ssize_t value = run_one(&entries->places[place].entry);
    entries->places[place].value = value < 0 ? -errno : (int32_t)value;
  }
}

bool blocking_entries_take(struct blocking_entries *entries, struct pv_ring_result *result) {
  if (entries->taken == entries->run) return false;
  const unsigned long place = entries->taken++ % entries->capacity;
  result->tag = entries->places[place].entry.tag;
  result->value = entries->places[place].value;
  return true;
}

unsigned blocking_entries_prepared(const struct blocking_entries *entries) {
  return (unsigned)(entries->noted - entries->run);
}

unsigned blocking_entries_finished(const struct blocking_entries *entries) {
  return (unsigned)(entries->run - entries->taken);
}
