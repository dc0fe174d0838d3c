// What the Swift importer cannot express: variadic system calls, one-shot copies, fences and CPU hints.
#ifndef PVDISK_CLINUX_H
#define PVDISK_CLINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

/// Copies bytes out of memory that a hostile peer may be writing: each byte is fetched once, and neither the fetch nor
/// a later look at the copy can be turned into another look at the source (Xen io/ring.h, RING_COPY_REQUEST).
static inline void pv_copy_once(void *destination, const void *source, size_t count) {
  __asm__ __volatile__("" ::: "memory");
  __builtin_memcpy(destination, source, count);
  __asm__ __volatile__("" ::: "memory");
}

/// Tells the CPU that this is a spin loop.
static inline void pv_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  __asm__ __volatile__("yield" ::: "memory");
#endif
}

/// A full barrier: earlier stores are seen before later loads are done.
static inline void pv_full_barrier(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/// CLOCK_MONOTONIC in nanoseconds.
static inline uint64_t pv_monotonic_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

int pv_errno(void);
void pv_set_errno(int value);
int pv_futex_wait(const void *word, uint32_t expected, const struct timespec *timeout);
int pv_futex_wake(const void *word, int count);
int pv_memfd_create(const char *name, unsigned int flags);
ssize_t pv_preadv2(int fd, const struct iovec *vector, int count, int64_t offset, int flags);
ssize_t pv_pwritev2(int fd, const struct iovec *vector, int count, int64_t offset, int flags);
int pv_fallocate(int fd, int mode, int64_t offset, int64_t count);
int64_t pv_lseek(int fd, int64_t offset, int whence);
int pv_open(const char *path, int flags, unsigned int mode);
int pv_ioctl_u64(int fd, unsigned long request, uint64_t *value);
int pv_ioctl_u32(int fd, unsigned long request, uint32_t *value);
int pv_ioctl_range(int fd, unsigned long request, uint64_t start, uint64_t count);
int pv_fcntl_int(int fd, int command, int value);
/// An open-file-description lock over a whole file; 0, or -1 with errno.
int pv_ofd_lock(int fd, bool exclusive);
/// The process that holds a conflicting lock on the file: its pid, 0 when there is none or it cannot be named.
int pv_lock_holder(int fd, bool exclusive);
/// Pins the calling thread to one CPU; 0, or -1 with errno.
int pv_pin_thread(int cpu);
/// The CPUs that this process may run on.
int pv_cpu_count(void);
/// prctl(PR_SET_IO_FLUSHER, 1): 0, or -1 with errno.
int pv_set_io_flusher(void);
/// Gives the calling thread, and those it starts, mount points of their own; 0, or -1 with errno.
int pv_unshare_mounts(void);
/// Names the calling thread (at most 15 bytes are kept).
void pv_name_thread(const char *name);
/// Starts a joinable thread with every signal blocked; 0, or a positive errno.
int pv_start_thread(pthread_t *thread, void *(*body)(void *), void *context);
/// Adds a descriptor to an epoll set; readiness is reported as bit `token` (0...30). 0, or -1 with errno.
int pv_epoll_add(int epoll, int fd, bool exclusive, int token);
/// Waits on an epoll set: the bits of what is ready, 0 when the time is over or a signal came, or -1 with errno.
/// `timeout_ms` -1 waits for ever.
int pv_epoll_wait_bits(int epoll, int timeout_ms);
unsigned int pv_major(uint64_t device);
unsigned int pv_minor(uint64_t device);

extern const int pv_mfd_cloexec;
extern const int pv_rwf_nowait;
extern const int pv_rwf_dsync;
extern const int pv_o_direct;
extern const int pv_falloc_keep_size;
extern const int pv_falloc_punch_hole;
extern const int pv_falloc_zero_range;
extern const int pv_seek_data;
extern const int pv_seek_hole;
extern const unsigned long pv_blkgetsize64;
extern const unsigned long pv_blksszget;
extern const unsigned long pv_blkpbszget;
extern const unsigned long pv_blkdiscard;
extern const unsigned long pv_blkzeroout;
extern const unsigned long pv_blksecdiscard;
/// FUSE_DEV_IOC_CLONE of linux/fuse.h.
extern const unsigned long pv_fuse_dev_ioc_clone;

#endif
