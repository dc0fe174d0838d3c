#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <liburing.h>

#include "CUring.h"
#include "FuseRing.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// linux/fuse.h of Linux 6.14, protocol 7.42, which the headers of Debian 12 do not have.
enum { PV_FUSE_CMD_REGISTER = 1, PV_FUSE_CMD_COMMIT_AND_FETCH = 2 };
enum { PV_FUSE_REQUEST_HEADER = 288 };

/// struct fuse_uring_cmd_req, in the 80 bytes that a command has of a large entry.
struct fuse_command {
  uint64_t flags;
  uint64_t commit_id;
  uint16_t queue;
  uint8_t padding[6];
};

struct pv_fuse_ring {
  struct io_uring uring;
  unsigned entries;
  /// The memory that each registration names, kept until it has been handed over.
  struct iovec (*vectors)[2];
};

struct pv_fuse_ring *pv_fuse_ring_create(unsigned entries, int fuse) {
  struct pv_fuse_ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL) return NULL;
  ring->entries = entries;
  ring->vectors = calloc(entries, sizeof ring->vectors[0]);
  // Deferred task work: a request is copied into its memory when the owner enters the ring, and never interrupts it.
  struct io_uring_params parameters = {
    .flags = IORING_SETUP_SQE128 | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
             | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED,
    .cq_entries = 2 * (entries + 8),
  };
  int result = ring->vectors == NULL ? -ENOMEM : io_uring_queue_init_params(entries + 8, &ring->uring, &parameters);
  if (result == 0) {
    result = io_uring_register_files(&ring->uring, &fuse, 1);
    if (result < 0) io_uring_queue_exit(&ring->uring);
  }
  if (result < 0) {
    free(ring->vectors);
    free(ring);
    errno = -result;
    return NULL;
  }
  return ring;
}

int pv_fuse_ring_enable(struct pv_fuse_ring *ring) {
  // liburing 2.3 declares io_uring_enable_rings and does not export it.
  long result = syscall(__NR_io_uring_register, ring->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
  if (result < 0) return -errno;
  // Spares the kernel a look-up at each entering; it may have no room, and then it looks up.
  io_uring_register_ring_fd(&ring->uring);
  return 0;
}

void pv_fuse_ring_destroy(struct pv_fuse_ring *ring) {
  // A closed ring lives on until every thread that had to do with it, its maker too, has passed through the kernel; one
  // that waits for an answer of this very file system would wait for the connection's end, and that for the ring's.
  io_uring_unregister_files(&ring->uring);
  io_uring_queue_exit(&ring->uring);
  free(ring->vectors);
  free(ring);
}

/// There is a free one for each request and for the watched descriptors; what a neighbour asks for comes on top.
static struct io_uring_sqe *free_entry(struct pv_fuse_ring *ring) {
  struct io_uring_sqe *slot = io_uring_get_sqe(&ring->uring);
  if (slot == NULL) {
    io_uring_submit(&ring->uring);
    slot = io_uring_get_sqe(&ring->uring);
  }
  if (slot == NULL) abort();
  return slot;
}

static struct io_uring_sqe *command(struct pv_fuse_ring *ring, uint32_t code, uint64_t tag, struct fuse_command body) {
  struct io_uring_sqe *slot = free_entry(ring);
  memset(slot, 0, 2 * sizeof *slot);
  slot->opcode = IORING_OP_URING_CMD;
  slot->flags = IOSQE_FIXED_FILE;
  slot->fd = 0;
  slot->cmd_op = code;
  slot->user_data = tag;
  memcpy(slot->cmd, &body, sizeof body);
  return slot;
}

void pv_fuse_ring_register(
  struct pv_fuse_ring *ring, uint16_t queue, uint64_t tag, void *header, void *payload, size_t payload_size) {
  if (tag >= ring->entries) abort();
  ring->vectors[tag][0] = (struct iovec){header, PV_FUSE_REQUEST_HEADER};
  ring->vectors[tag][1] = (struct iovec){payload, payload_size};
  struct io_uring_sqe *slot = command(ring, PV_FUSE_CMD_REGISTER, tag, (struct fuse_command){.queue = queue});
  slot->addr = (uint64_t)(uintptr_t)ring->vectors[tag];
  slot->len = 2;
}

void pv_fuse_ring_commit(struct pv_fuse_ring *ring, uint16_t queue, uint64_t tag, uint64_t commit) {
  command(ring, PV_FUSE_CMD_COMMIT_AND_FETCH, tag, (struct fuse_command){.commit_id = commit, .queue = queue});
}

void pv_fuse_ring_watch(struct pv_fuse_ring *ring, uint64_t tag, int fd) {
  struct io_uring_sqe *slot = free_entry(ring);
  io_uring_prep_poll_add(slot, fd, POLLIN);
  io_uring_sqe_set_data64(slot, tag);
}

int pv_fuse_ring_descriptor(const struct pv_fuse_ring *ring) { return ring->uring.ring_fd; }

void pv_fuse_ring_tell(struct pv_fuse_ring *ring, int other, uint64_t tag, uint32_t value, uint64_t refusal) {
  struct io_uring_sqe *slot = free_entry(ring);
  io_uring_prep_msg_ring(slot, other, value, tag, 0);
  io_uring_sqe_set_flags(slot, IOSQE_CQE_SKIP_SUCCESS);
  io_uring_sqe_set_data64(slot, refusal);
}

int pv_fuse_ring_enter(struct pv_fuse_ring *ring, bool wait) {
  int result = wait ? io_uring_submit_and_wait(&ring->uring, 1) : io_uring_submit_and_get_events(&ring->uring);
  return result < 0 ? result : 0;
}

unsigned pv_fuse_ring_prepared(const struct pv_fuse_ring *ring) { return io_uring_sq_ready(&ring->uring); }

bool pv_fuse_ring_has_task_work(const struct pv_fuse_ring *ring) {
  return (IO_URING_READ_ONCE(*ring->uring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

bool pv_fuse_ring_has_completion(const struct pv_fuse_ring *ring) { return io_uring_cq_ready(&ring->uring) > 0; }

int pv_fuse_ring_first_failure(const struct pv_fuse_ring *ring) {
  unsigned head = 0;
  struct io_uring_cqe *entry = NULL;
  io_uring_for_each_cqe(&ring->uring, head, entry) {
    if (entry->res < 0 && entry->res != -EAGAIN && entry->res != -EINTR) return -entry->res;
  }
  return 0;
}

bool pv_fuse_ring_take(struct pv_fuse_ring *ring, struct pv_ring_result *result) {
  unsigned head = 0;
  struct io_uring_cqe *entry = NULL;
  io_uring_for_each_cqe(&ring->uring, head, entry) {
    result->tag = entry->user_data;
    result->value = entry->res;
    io_uring_cq_advance(&ring->uring, 1);
    return true;
  }
  return false;
}
