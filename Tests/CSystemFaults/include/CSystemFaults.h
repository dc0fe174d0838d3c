#ifndef PV_SYSTEM_FAULTS_H
#define PV_SYSTEM_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

/// The system calls that can be made to fail.
enum pv_faulty_call {
  PV_FAULTY_READ,     // preadv2(2)
  PV_FAULTY_WRITE,    // pwritev2(2)
  PV_FAULTY_SYNC,     // fdatasync(2)
  PV_FAULTY_ALLOCATE, // fallocate(2)
  PV_FAULTY_SEEK,     // lseek(2)
};

/// Makes calls of this thread, and its entries of an image's ring, fail: after `skip` of them, `count` times (0: for ever), with `error`; an error of 0 makes
/// reads and writes move only half of what was asked.
void pv_faults_set(enum pv_faulty_call call, int error, uint64_t skip, uint64_t count);

/// Makes nothing fail any more, and answers how often something did since `pv_faults_set`.
uint64_t pv_faults_clear(void);

/// Whether entries of io_uring can be made to fail, too: Linux 6.10 and later can be told what an entry is to answer.
bool pv_faults_reach_rings(void);

#endif
