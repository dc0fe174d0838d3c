#include <liburing.h>

#include "CUring.h"
#include "BlockingEntries.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

// linux/blkdev.h of Linux 6.12, which the headers of Debian 12 do not have.
#define PV_BLOCK_URING_CMD_DISCARD _IO(0x12, 0)

struct pv_ring {
  /// Used instead of `uring` when not NULL.
  struct blocking_entries *blocking;
  struct io_uring uring;
  int wait_descriptor;
  /// Entries prepared and not taken back.
  unsigned outstanding;
  /// The descriptor that the ring knows as its file 0; -1 for none.
  int registered_file;
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

struct pv_ring *pv_ring_create(unsigned entries, bool blocking) {
  struct pv_ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL) return NULL;
  int result = 0;
  ring->registered_file = -1;
  if (blocking) {
    ring->blocking = blocking_entries_create(entries);
    result = ring->blocking == NULL ? -ENOMEM : 0;
  } else {
    result = create_uring(&ring->uring, entries);
  }
  if (result < 0) {
    free(ring);
    errno = -result;
    return NULL;
  }
  ring->wait_descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (ring->wait_descriptor < 0) {
    result = -errno;
  } else if (!blocking) {
    result = io_uring_register_eventfd(&ring->uring, ring->wait_descriptor);
  }
  if (result < 0) {
    pv_ring_destroy(ring);
    errno = -result;
    return NULL;
  }
  return ring;
}

bool pv_ring_register_file(struct pv_ring *ring, int fd) {
  if (ring->blocking || io_uring_register_files(&ring->uring, &fd, 1) != 0) return false;
  ring->registered_file = fd;
  return true;
}

int pv_ring_enable(struct pv_ring *ring) {
  if (ring->blocking) return 0;
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
  if (ring->blocking) {
    blocking_entries_destroy(ring->blocking);
  } else {
    settle(ring);
    // A ring that is closed lets go of its files later than it returns.
    if (ring->registered_file >= 0) io_uring_unregister_files(&ring->uring);
    io_uring_queue_exit(&ring->uring);
  }
  if (ring->wait_descriptor >= 0) close(ring->wait_descriptor);
  free(ring);
}

int pv_ring_wait_descriptor(const struct pv_ring *ring) { return ring->wait_descriptor; }

static void fill(struct io_uring_sqe *slot, const struct entry *entry) {
  switch (entry->kind) {
  case ENTRY_READ:
    io_uring_prep_readv2(slot, entry->fd, entry->vector, entry->count, entry->offset, entry->flags);
    break;
  case ENTRY_WRITE:
    io_uring_prep_writev2(slot, entry->fd, entry->vector, entry->count, entry->offset, entry->flags);
    break;
  case ENTRY_DATASYNC:
    io_uring_prep_fsync(slot, entry->fd, IORING_FSYNC_DATASYNC);
    break;
  case ENTRY_ALLOCATE:
    io_uring_prep_fallocate(slot, entry->fd, entry->flags, (off_t)entry->offset, (off_t)entry->length);
    break;
  case ENTRY_BLOCK_DISCARD:
    io_uring_prep_rw(IORING_OP_URING_CMD, slot, entry->fd, NULL, 0, 0);
    slot->cmd_op = PV_BLOCK_URING_CMD_DISCARD;
    slot->addr = entry->offset;
    slot->addr3 = entry->length;
    break;
  }
  io_uring_sqe_set_data64(slot, entry->tag);
  if (entry->punt) slot->flags |= IOSQE_ASYNC;
}

static bool prepare(struct pv_ring *ring, struct entry entry) {
  if (ring->blocking) {
    if (!blocking_entries_prepare(ring->blocking, &entry)) return false;
  } else {
    struct io_uring_sqe *slot = io_uring_get_sqe(&ring->uring);
    if (slot == NULL) return false;
    fill(slot, &entry);
    if (entry.fd == ring->registered_file) {
      slot->fd = 0;
      slot->flags |= IOSQE_FIXED_FILE;
    }
  }
  ring->outstanding++;
  return true;
}

bool pv_ring_read(
  struct pv_ring *ring, uint64_t tag, int fd, const struct iovec *vector, unsigned count, uint64_t offset, int flags,
  bool punt) {
  return prepare(
    ring, (struct entry){
            .kind = ENTRY_READ, .tag = tag, .fd = fd, .vector = vector, .count = count, .offset = offset,
            .flags = flags, .punt = punt});
}

bool pv_ring_write(
  struct pv_ring *ring, uint64_t tag, int fd, const struct iovec *vector, unsigned count, uint64_t offset, int flags,
  bool punt) {
  return prepare(
    ring, (struct entry){
            .kind = ENTRY_WRITE, .tag = tag, .fd = fd, .vector = vector, .count = count, .offset = offset,
            .flags = flags, .punt = punt});
}

bool pv_ring_datasync(struct pv_ring *ring, uint64_t tag, int fd) {
  return prepare(ring, (struct entry){.kind = ENTRY_DATASYNC, .tag = tag, .fd = fd});
}

bool pv_ring_allocate(struct pv_ring *ring, uint64_t tag, int fd, int mode, uint64_t offset, uint64_t count) {
  return prepare(
    ring, (struct entry){
            .kind = ENTRY_ALLOCATE, .tag = tag, .fd = fd, .flags = mode, .offset = offset, .length = count});
}

bool pv_ring_block_discard(struct pv_ring *ring, uint64_t tag, int fd, uint64_t offset, uint64_t count) {
  return prepare(
    ring, (struct entry){.kind = ENTRY_BLOCK_DISCARD, .tag = tag, .fd = fd, .offset = offset, .length = count});
}

int pv_ring_enter(struct pv_ring *ring) {
  if (ring->blocking) {
    blocking_entries_run(ring->blocking);
    return 0;
  }
  int result = io_uring_submit_and_get_events(&ring->uring);
  return result < 0 ? result : 0;
}

bool pv_ring_needs_enter(const struct pv_ring *ring) {
  if (ring->blocking) return blocking_entries_prepared(ring->blocking) > 0;
  if (io_uring_sq_ready(&ring->uring) > 0) return true;
  return (IO_URING_READ_ONCE(*ring->uring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

bool pv_ring_has_result(const struct pv_ring *ring) {
  if (ring->blocking) return blocking_entries_finished(ring->blocking) > 0;
  return io_uring_cq_ready(&ring->uring) > 0;
}

unsigned pv_ring_take(struct pv_ring *ring, struct pv_ring_result *results, unsigned capacity) {
  unsigned taken = 0;
  if (ring->blocking) {
    while (taken < capacity && blocking_entries_take(ring->blocking, &results[taken])) taken++;
  } else {
    unsigned head = 0;
    struct io_uring_cqe *entry = NULL;
    io_uring_for_each_cqe(&ring->uring, head, entry) {
      if (taken == capacity) break;
      results[taken].tag = io_uring_cqe_get_data64(entry);
      results[taken].value = entry->res;
      taken++;
    }
    io_uring_cq_advance(&ring->uring, taken);
  }
  ring->outstanding -= taken;
  return taken;
}

void pv_ring_drain_wait_descriptor(struct pv_ring *ring) {
  uint64_t count;
  ssize_t ignored = read(ring->wait_descriptor, &count, sizeof count);
  (void)ignored;
}
