// A narrow door to io_uring: positional file requests in, numbered results out. liburing's own header defines
// _GNU_SOURCE and so cannot share a program with Swift's Glibc module; it stays behind CUring.c.
#ifndef PVDISK_CURING_H
#define PVDISK_CURING_H

#include <stdbool.h>
#include <stdint.h>

#include "FuseRing.h"

struct iovec;

/// A submission ring, its completion ring and the eventfd that tells of completions.
struct pv_ring;

/// One finished entry.
struct pv_ring_result {
  /// The number that the entry was prepared with.
  uint64_t tag;
  /// What the system call would have returned: at least 0, or a negative errno.
  int32_t value;
};

/// Makes a ring for `entries` requests in flight; NULL with errno when the kernel refuses. The ring starts disabled, so
/// that the thread which enables it, and not the one which made it, becomes its only submitter. With `blocking` there is
/// no io_uring behind it: `pv_ring_enter` makes the system calls itself, one after the other.
struct pv_ring *pv_ring_create(unsigned entries, bool blocking);
/// Lets entries for that descriptor spare the kernel its look-up (IORING_REGISTER_FILES); before pv_ring_enable. Whether the
/// kernel took it; entries work without, too.
bool pv_ring_register_file(struct pv_ring *ring, int fd);
/// Lets the calling thread, and no other, use the ring; 0 or a negative errno.
int pv_ring_enable(struct pv_ring *ring);
/// Waits for what is in flight (when the calling thread is the ring's), then closes the ring.
void pv_ring_destroy(struct pv_ring *ring);
/// The eventfd that becomes readable when results wait.
int pv_ring_wait_descriptor(const struct pv_ring *ring);

/// Prepares a `preadv2(2)`; false when all entries are taken. `punt` sends it to a kernel thread at once.
bool pv_ring_read(
  struct pv_ring *ring, uint64_t tag, int fd, const struct iovec *vector, unsigned count, uint64_t offset, int flags,
  bool punt);
/// Prepares a `pwritev2(2)`.
bool pv_ring_write(
  struct pv_ring *ring, uint64_t tag, int fd, const struct iovec *vector, unsigned count, uint64_t offset, int flags,
  bool punt);
/// Prepares an `fdatasync(2)`.
bool pv_ring_datasync(struct pv_ring *ring, uint64_t tag, int fd);
/// Prepares a `fallocate(2)`.
bool pv_ring_allocate(struct pv_ring *ring, uint64_t tag, int fd, int mode, uint64_t offset, uint64_t count);
/// Prepares a discard of a block device's bytes (`BLOCK_URING_CMD_DISCARD`, Linux 6.12, or the `BLKDISCARD` ioctl when
/// blocking); older kernels answer -EINVAL or -EOPNOTSUPP.
bool pv_ring_block_discard(struct pv_ring *ring, uint64_t tag, int fd, uint64_t offset, uint64_t count);

/// Hands what was prepared to the kernel and lets it post what has finished; 0 or a negative errno, after which what
/// was not taken is still prepared.
int pv_ring_enter(struct pv_ring *ring);
/// Whether entries are prepared, or the kernel wants to be entered to post results.
bool pv_ring_needs_enter(const struct pv_ring *ring);
/// Whether a result can be taken.
bool pv_ring_has_result(const struct pv_ring *ring);
/// Takes up to `capacity` results; their number.
unsigned pv_ring_take(struct pv_ring *ring, struct pv_ring_result *results, unsigned capacity);
/// Makes the eventfd unreadable, until the next completion.
void pv_ring_drain_wait_descriptor(struct pv_ring *ring);

#endif
