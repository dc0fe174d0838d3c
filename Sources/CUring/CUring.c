#include <liburing.h>

#include "CUring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

// linux/blkdev.h of Linux 6.12, which the headers of Debian 12 do not have.
#define PV_BLOCK_URING_CMD_DISCARD _IO(0x12, 0)

struct pv_ring {
  struct io_uring uring;
  int wait_descriptor;
  /// Entries prepared and not taken back.
  unsigned outstanding;
};

/// Deferred task work runs only when the owner enters the ring, so that no system call of the owner is ever interrupted
/// by a completion; kernels before 6.1 do not know it.
static const unsigned flag_choices[] = {
  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
  0,
};

static int create_uring(struct io_uring *uring, unsigned entries) {
  int result = -EINVAL;
  for (unsigned choice = 0; choice < sizeof flag_choices / sizeof flag_choices[0]; choice++) {
    struct io_uring_params parameters = {.flags = flag_choices[choice] | IORING_SETUP_R_DISABLED};
    result = io_uring_queue_init_params(entries, uring, &parameters);
    if (result != -EINVAL) return result;
  }
  return result;
}

struct pv_ring *pv_ring_create(unsigned entries) {
  struct pv_ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL) return NULL;
  int result = create_uring(&ring->uring, entries);
  if (result < 0) {
    free(ring);
    errno = -result;
    return NULL;
  }
  ring->wait_descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  result = ring->wait_descriptor < 0 ? -errno : io_uring_register_eventfd(&ring->uring, ring->wait_descriptor);
  if (result < 0) {
    pv_ring_destroy(ring);
    errno = -result;
    return NULL;
  }
  return ring;
}

int pv_ring_enable(struct pv_ring *ring) {
  // liburing 2.3 declares io_uring_enable_rings and does not export it.
  long result = syscall(__NR_io_uring_register, ring->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
  return result < 0 ? -errno : 0;
}

/// What is still in flight names memory that its owner is about to free, so wait for it; only the owning thread can.
static void settle(struct pv_ring *ring) {
  struct pv_ring_result ignored;
  while (ring->outstanding > 0) {
    int result = io_uring_submit_and_wait(&ring->uring, 1);
    if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) return;
    while (pv_ring_take(ring, &ignored, 1) == 1) {}
  }
}

void pv_ring_destroy(struct pv_ring *ring) {
  settle(ring);
  io_uring_queue_exit(&ring->uring);
  if (ring->wait_descriptor >= 0) close(ring->wait_descriptor);
  free(ring);
}

int pv_ring_wait_descriptor(const struct pv_ring *ring) { return ring->wait_descriptor; }

static bool finish_entry(struct pv_ring *ring, struct io_uring_sqe *entry, uint64_t tag, bool punt) {
  ring->outstanding++;
  io_uring_sqe_set_data64(entry, tag);
  if (punt) io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
  return true;
}

bool pv_ring_read(
  struct pv_ring *ring, uint64_t tag, int fd, const struct iovec *vector, unsigned count, uint64_t offset, int flags,
  bool punt) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
  if (entry == NULL) return false;
  io_uring_prep_readv2(entry, fd, vector, count, offset, flags);
  return finish_entry(ring, entry, tag, punt);
}

bool pv_ring_write(
  struct pv_ring *ring, uint64_t tag, int fd, const struct iovec *vector, unsigned count, uint64_t offset, int flags,
  bool punt) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
  if (entry == NULL) return false;
  io_uring_prep_writev2(entry, fd, vector, count, offset, flags);
  return finish_entry(ring, entry, tag, punt);
}

bool pv_ring_datasync(struct pv_ring *ring, uint64_t tag, int fd) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
  if (entry == NULL) return false;
  io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
  return finish_entry(ring, entry, tag, false);
}

bool pv_ring_allocate(struct pv_ring *ring, uint64_t tag, int fd, int mode, uint64_t offset, uint64_t count) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
  if (entry == NULL) return false;
  io_uring_prep_fallocate(entry, fd, mode, (off_t)offset, (off_t)count);
  return finish_entry(ring, entry, tag, false);
}

bool pv_ring_block_discard(struct pv_ring *ring, uint64_t tag, int fd, uint64_t offset, uint64_t count) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->uring);
  if (entry == NULL) return false;
  io_uring_prep_rw(IORING_OP_URING_CMD, entry, fd, NULL, 0, 0);
  entry->cmd_op = PV_BLOCK_URING_CMD_DISCARD;
  entry->addr = offset;
  entry->addr3 = count;
  return finish_entry(ring, entry, tag, false);
}

int pv_ring_enter(struct pv_ring *ring) {
  int result = io_uring_submit_and_get_events(&ring->uring);
  return result < 0 ? result : 0;
}

bool pv_ring_needs_enter(const struct pv_ring *ring) {
  if (io_uring_sq_ready(&ring->uring) > 0) return true;
  return (IO_URING_READ_ONCE(*ring->uring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

bool pv_ring_has_result(const struct pv_ring *ring) { return io_uring_cq_ready(&ring->uring) > 0; }

unsigned pv_ring_take(struct pv_ring *ring, struct pv_ring_result *results, unsigned capacity) {
  unsigned taken = 0;
  unsigned head = 0;
  struct io_uring_cqe *entry = NULL;
  io_uring_for_each_cqe(&ring->uring, head, entry) {
    if (taken == capacity) break;
    results[taken].tag = io_uring_cqe_get_data64(entry);
    results[taken].value = entry->res;
    taken++;
  }
  io_uring_cq_advance(&ring->uring, taken);
  ring->outstanding -= taken;
  return taken;
}

void pv_ring_drain_wait_descriptor(struct pv_ring *ring) {
  uint64_t count;
  ssize_t ignored = read(ring->wait_descriptor, &count, sizeof count);
  (void)ignored;
}
