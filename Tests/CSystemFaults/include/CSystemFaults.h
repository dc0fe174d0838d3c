#ifndef PV_SYSTEM_FAULTS_H
#define PV_SYSTEM_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// The system calls that can be made to fail.
enum pv_faulty_call {
  PV_FAULTY_READ,     // preadv2(2)
  PV_FAULTY_WRITE,    // pwritev2(2)
  PV_FAULTY_SYNC,     // fdatasync(2)
  PV_FAULTY_ALLOCATE, // fallocate(2)
  PV_FAULTY_SEEK,     // lseek(2)
  PV_FAULTY_DISCARD,  // ioctl(2) with BLKDISCARD, or what io_uring has for it
  PV_FAULTY_RESIZE,   // ftruncate(2)
  PV_FAULTY_FULL_SYNC // fsync(2)
};

/// A call as it was made when it was struck last.
struct pv_struck_call {
  enum pv_faulty_call call;
  bool is_ring_entry;
  /// Flags of preadv2(2) or pwritev2(2), the mode of fallocate(2), or the whence of lseek(2).
  int flags;
};

/// Makes calls of this thread, and its entries of an image's ring, fail: after `skip` of them, `count` times (0: for ever), with `error`; an error of 0 makes
/// reads and writes move only half of what was asked.
void pv_faults_set(enum pv_faulty_call call, int error, uint64_t skip, uint64_t count);

/// Makes nothing fail any more, and answers how often something did since `pv_faults_set`.
uint64_t pv_faults_clear(void);

/// The call of this thread that was struck last.
struct pv_struck_call pv_faults_last(void);

/// Whether entries of io_uring can be made to fail, too: Linux 6.10 and later can be told what an entry is to answer.
bool pv_faults_reach_rings(void);

/// A change of a file that a call of this thread has made, or the durability that one asked for.
enum pv_change_kind {
  PV_CHANGE_WRITE,  // to the page cache
  PV_CHANGE_FORCED, // with RWF_DSYNC: durable when it returned
  PV_CHANGE_ZERO,   // fallocate(2) that leaves zeros
  PV_CHANGE_SYNC,   // fdatasync(2): all before it durable when it returned
};

struct pv_change {
  enum pv_change_kind kind;
  uint64_t offset, byte_count;
  /// What was written: the change's own copy.
  uint8_t *bytes;
};

/// Starts to note what this thread's calls change, in the order in which they return; forgets what was noted before.
void pv_log_start(void);

/// Takes the oldest note; false when there is none. Free it with `pv_change_free`.
bool pv_log_take(struct pv_change *change);

/// Ends the noting, and forgets.
void pv_log_end(void);

/// Gives a note's bytes back.
void pv_change_free(struct pv_change *change);

#endif
