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

/// Keeps the compiler from moving memory accesses across: stores happen in program order as far as whoever looks after this
/// thread was killed can see.
static inline void pv_compiler_barrier(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

/// CLOCK_MONOTONIC in nanoseconds.
static inline uint64_t pv_monotonic_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/// The ranks of the locks that this thread holds, one bit each; debug builds check their order.
uint32_t pv_held_lock_ranks(void);
void pv_set_held_lock_ranks(uint32_t ranks);

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
/// Sets an open-file-description lock of a kind (`F_RDLCK`, `F_WRLCK`, `F_UNLCK`) on bytes of a file; 0, or -1 with errno.
int pv_ofd_lock_range(int fd, int kind, int64_t start, int64_t count);
/// Whether another open file description holds what would keep this lock away: 0 or 1, or -1 with errno.
int pv_ofd_lock_conflict(int fd, int kind, int64_t start, int64_t count);
/// What O_DIRECT asks of memory and offsets, in bytes: 1 when the system tells (0 bytes: no O_DIRECT here), 0 when it does
/// not, -1 with errno.
int pv_direct_io_alignment(int fd, uint32_t *memory, uint32_t *offset);
/// The pages of a file's range that are in the page cache (cachestat(2), Linux 6.5), or -1 with errno.
int64_t pv_cached_pages(int fd, uint64_t start, uint64_t count);
/// The `f_type` of the file system that a file lies in, or -1 with errno.
int64_t pv_file_system_type(int fd);
/// Pins the calling thread to one CPU; 0, or -1 with errno.
int pv_pin_thread(int cpu);
/// Lets the calling thread run wherever its process's first thread may; 0, or -1 with errno.
int pv_unpin_thread(void);
/// The CPUs that the process's first thread may run on.
int pv_cpu_count_of_process(void);
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
/// Ends the FUSE connection of a descriptor of /dev/fuse whose mount has the given minor device number, if it lives: what
/// waits for an answer fails with ENOTCONN. Needs no mounted fusectl as root. 0, or -1 with errno.
int pv_fuse_abort(int fd, unsigned int minor);

/// Lets pv_mapped_read catch SIGBUS; whoever caught it before is still told of everything else. 0, or -1 with errno.
int pv_mapped_read_prepare(void);
/// Copies from a file's mapping of `length` bytes to memory: the number of bytes, which the caller has checked to lie in the
/// mapping, or -EFAULT when the file does not have one of the pages any more.
ssize_t pv_mapped_read(const void *mapping, uint64_t length, uint64_t offset, const struct iovec *vector, int count);
/// Makes SIGURG end a blocking system call with EINTR, unless the process has a handler of its own for it. 0, or -1 with
/// errno.
int pv_interrupt_prepare(void);
/// Lets pv_interrupt reach the calling thread, whatever its parent had blocked.
void pv_interrupt_allow(void);
/// Interrupts the system call in which a living thread is.
void pv_interrupt(pthread_t thread);

/// Adds a descriptor to an epoll set; readiness is reported as bit `token` (0...30). 0, or -1 with errno.
int pv_epoll_add(int epoll, int fd, bool exclusive, int token);
/// Waits on an epoll set: the bits of what is ready, 0 when the time is over or a signal came, or -1 with errno.
/// `timeout_ms` -1 waits for ever.
int pv_epoll_wait_bits(int epoll, int timeout_ms);
unsigned int pv_major(uint64_t device);
unsigned int pv_minor(uint64_t device);
/// Goes to the background: the child gets a descriptor for pv_daemonize_end; the parent waits and never returns. It exits
/// with 0 once the child says that it is ready, with the child's own status if the child ends before that. Call it
/// before any thread exists. -1 with errno.
int pv_daemonize_begin(void);
/// Says that the child is ready; standard input, output and error are /dev/null from here on.
void pv_daemonize_end(int ready);
/// What epoll found ready: the token it was registered with, and the events.
struct pv_ready {
  uint64_t token;
  uint32_t events;
};
/// epoll_ctl(2) with a 64-bit token.
int pv_epoll_control(int poll, int operation, int fd, uint32_t interest, uint64_t token);
/// epoll_wait(2) for at most 64 at a time; the timeout in milliseconds, -1 for none.
int pv_epoll_wait(int poll, struct pv_ready *ready, int count, int timeout);
/// Who is at the other end of a Unix socket.
struct pv_peer_credentials {
  int32_t pid;
  uint32_t uid;
  uint32_t gid;
};
/// SO_PEERCRED: 0, or -1 with errno.
int pv_get_peer_credentials(int fd, struct pv_peer_credentials *credentials);

/// Whether this CPU multiplies without carries (x86 PCLMULQDQ).
bool pv_has_carryless_multiply(void);
/// Shortens a message to 16 bytes of the same CRC-16/T10-DIF, by carry-less multiplications: folds the whole 64-byte blocks
/// of `count` bytes, on top of a CRC that went before, into `rest`, and returns how many bytes that were (0: too few, and
/// `rest` is untouched). Only where pv_has_carryless_multiply.
size_t pv_crc16_fold(uint16_t seed, const void *message, size_t count, uint8_t rest[16]);

extern const int pv_mfd_cloexec;
extern const int pv_rwf_nowait;
extern const int pv_rwf_dsync;
extern const int pv_o_direct;
extern const int pv_o_tmpfile;
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
