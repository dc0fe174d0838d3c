// A narrow door to fuse-over-io_uring (Linux 6.14, Documentation/filesystems/fuse-io-uring.rst): requests of one or more
// of the kernel's queues come in as completions, an answer goes out with the command that fetches the next request.
#ifndef PVDISK_FUSERING_H
#define PVDISK_FUSERING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pv_ring_result;

/// An io_uring of 128-byte entries whose one registered file is a connection of /dev/fuse.
struct pv_fuse_ring;

/// Makes a ring for `entries` requests and a few watched descriptors; NULL with errno. It starts disabled, so that the
/// thread which enables it, and not the one which made it, becomes its only submitter.
struct pv_fuse_ring *pv_fuse_ring_create(unsigned entries, int fuse);
/// Lets the calling thread, and no other, use the ring; 0 or a negative errno.
int pv_fuse_ring_enable(struct pv_fuse_ring *ring);
/// Closes the ring; the kernel takes back what it still holds, and no longer touches the memory of entries.
void pv_fuse_ring_destroy(struct pv_fuse_ring *ring);

/// Prepares FUSE_IO_URING_CMD_REGISTER: memory for one request of a queue, and a wish for it. `header` has the room of
/// struct fuse_uring_req_header, 288 bytes.
void pv_fuse_ring_register(
  struct pv_fuse_ring *ring, uint16_t queue, uint64_t tag, void *header, void *payload, size_t payload_size);
/// Prepares FUSE_IO_URING_CMD_COMMIT_AND_FETCH: the answer in the entry's memory, and a wish for the next request.
void pv_fuse_ring_commit(struct pv_fuse_ring *ring, uint16_t queue, uint64_t tag, uint64_t commit);
/// Prepares a completion for the moment when a descriptor is readable, or now if it is.
void pv_fuse_ring_watch(struct pv_fuse_ring *ring, uint64_t tag, int fd);

/// The ring's descriptor, by which another ring tells it something.
int pv_fuse_ring_descriptor(const struct pv_fuse_ring *ring);
/// Prepares a completion with `value` in another ring. It costs none here, unless it fails: then `refusal` is the tag.
void pv_fuse_ring_tell(struct pv_fuse_ring *ring, int other, uint64_t tag, uint32_t value, uint64_t refusal);

/// Hands what was prepared to the kernel and lets it post completions, and with `wait` sleeps until there is one. 0 or a
/// negative errno.
int pv_fuse_ring_enter(struct pv_fuse_ring *ring, bool wait);
/// Entries prepared and not handed over.
unsigned pv_fuse_ring_prepared(const struct pv_fuse_ring *ring);
/// Whether the kernel wants to be entered to post completions.
bool pv_fuse_ring_has_task_work(const struct pv_fuse_ring *ring);
/// Whether a completion can be taken.
bool pv_fuse_ring_has_completion(const struct pv_fuse_ring *ring);
/// The errno of the first waiting completion that tells of a refusal, 0 if there is none; takes nothing.
int pv_fuse_ring_first_failure(const struct pv_fuse_ring *ring);
/// Takes one completion; false when there is none.
bool pv_fuse_ring_take(struct pv_fuse_ring *ring, struct pv_ring_result *result);

#endif
