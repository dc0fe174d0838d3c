#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

const int pv_mfd_cloexec = MFD_CLOEXEC;
const int pv_rwf_nowait = RWF_NOWAIT;
const int pv_rwf_dsync = RWF_DSYNC;
const int pv_o_direct = O_DIRECT;
const int pv_o_tmpfile = O_TMPFILE;
const int pv_falloc_keep_size = FALLOC_FL_KEEP_SIZE;
const int pv_falloc_punch_hole = FALLOC_FL_PUNCH_HOLE;
const int pv_falloc_zero_range = FALLOC_FL_ZERO_RANGE;
const int pv_seek_data = SEEK_DATA;
const int pv_seek_hole = SEEK_HOLE;
const unsigned long pv_blkgetsize64 = BLKGETSIZE64;
const unsigned long pv_blksszget = BLKSSZGET;
const unsigned long pv_blkpbszget = BLKPBSZGET;
const unsigned long pv_blkdiscard = BLKDISCARD;
const unsigned long pv_blkzeroout = BLKZEROOUT;
const unsigned long pv_blksecdiscard = BLKSECDISCARD;
const unsigned long pv_fuse_dev_ioc_clone = FUSE_DEV_IOC_CLONE;

static _Thread_local uint32_t held_lock_ranks;

uint32_t pv_held_lock_ranks(void) { return held_lock_ranks; }
void pv_set_held_lock_ranks(uint32_t ranks) { held_lock_ranks = ranks; }

int pv_errno(void) { return errno; }
void pv_set_errno(int value) { errno = value; }

int pv_futex_wait(const void *word, uint32_t expected, const struct timespec *timeout) {
  return (int)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout, NULL, 0);
}

int pv_futex_wake(const void *word, int count) {
  return (int)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

int pv_memfd_create(const char *name, unsigned int flags) { return memfd_create(name, flags); }

ssize_t pv_preadv2(int fd, const struct iovec *vector, int count, int64_t offset, int flags) {
  return preadv2(fd, vector, count, offset, flags);
}

ssize_t pv_pwritev2(int fd, const struct iovec *vector, int count, int64_t offset, int flags) {
  return pwritev2(fd, vector, count, offset, flags);
}

int pv_fallocate(int fd, int mode, int64_t offset, int64_t count) { return fallocate(fd, mode, offset, count); }
int64_t pv_lseek(int fd, int64_t offset, int whence) { return lseek(fd, offset, whence); }
int pv_open(const char *path, int flags, unsigned int mode) { return open(path, flags, mode); }
int pv_ioctl_u64(int fd, unsigned long request, uint64_t *value) { return ioctl(fd, request, value); }
int pv_ioctl_u32(int fd, unsigned long request, uint32_t *value) { return ioctl(fd, request, value); }

int pv_ioctl_range(int fd, unsigned long request, uint64_t start, uint64_t count) {
  uint64_t range[2] = {start, count};
  return ioctl(fd, request, range);
}

int pv_fcntl_int(int fd, int command, int value) { return fcntl(fd, command, value); }

int pv_ofd_lock(int fd, bool exclusive) {
  struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_SETLK, &lock);
}

int pv_lock_holder(int fd, bool exclusive) {
  struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK || lock.l_pid <= 0) return 0;
  return lock.l_pid;
}

int pv_ofd_lock_range(int fd, int kind, int64_t start, int64_t count) {
  struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = count};
  return fcntl(fd, F_OFD_SETLK, &lock);
}

int pv_ofd_lock_conflict(int fd, int kind, int64_t start, int64_t count) {
  struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = count};
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return -1;
  return lock.l_type != F_UNLCK;
}

int pv_direct_io_alignment(int fd, uint32_t *memory, uint32_t *offset) {
  *memory = *offset = 0;
#ifdef STATX_DIOALIGN
  struct statx status;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0) return -1;
  if (status.stx_mask & STATX_DIOALIGN) {
    *memory = status.stx_dio_mem_align;
    *offset = status.stx_dio_offset_align;
    return 1;
  }
#endif
  return 0;
}

int64_t pv_cached_pages(int fd, uint64_t start, uint64_t count) {
  // linux/mman.h of Linux 6.5: struct cachestat_range and struct cachestat, __NR_cachestat.
  uint64_t range[2] = {start, count}, found[5] = {0};
  return syscall(451, fd, range, found, 0) == 0 ? (int64_t)found[0] : -1;
}

int64_t pv_major_faults_of_thread(void) {
  struct rusage usage;
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
}

int64_t pv_file_system_type(int fd) {
  struct statfs status;
  return fstatfs(fd, &status) == 0 ? (int64_t)(uint32_t)status.f_type : -1;
}

int pv_pin_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof(set), &set);
}

int pv_unpin_thread(void) {
  cpu_set_t set;
  if (sched_getaffinity(getpid(), sizeof(set), &set) != 0) return -1;
  return sched_setaffinity(0, sizeof(set), &set);
}

int pv_cpu_count_of_process(void) {
  cpu_set_t set;
  return sched_getaffinity(getpid(), sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

int pv_cpu_count(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  int count = CPU_COUNT(&set);
  return count > 0 ? count : 1;
}

int pv_set_io_flusher(void) { return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); }
int pv_unshare_mounts(void) { return unshare(CLONE_NEWNS); }
void pv_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }

int pv_start_thread(pthread_t *thread, void *(*body)(void *), void *context) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int result = pthread_create(thread, NULL, body, context);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return result;
}

/// A descriptor of the control file system of FUSE, which need not be mounted anywhere; -1 if there is none to be had.
static int open_fuse_control(void) {
  int place = open("/sys/fs/fuse/connections", O_PATH | O_DIRECTORY | O_CLOEXEC);
  struct statfs status;
  // FUSE_CTL_SUPER_MAGIC, linux/magic.h
  if (place >= 0 && fstatfs(place, &status) == 0 && status.f_type == 0x65735543) return place;
  if (place >= 0) close(place);
  int context = fsopen("fusectl", FSOPEN_CLOEXEC);
  if (context < 0) return -1;
  int root = fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0 ? fsmount(context, FSMOUNT_CLOEXEC, 0) : -1;
  close(context);
  return root;
}

int pv_fuse_abort(int fd, unsigned int minor) {
  int control = open_fuse_control();
  if (control < 0) return -1;
  char name[32];
  snprintf(name, sizeof(name), "%u/abort", minor);
  int file = openat(control, name, O_WRONLY | O_CLOEXEC);
  close(control);
  if (file < 0) return -1;
  // A number is free for another mount once its connection is gone; the file is of the mount that had it when it was opened.
  struct pollfd entry = {.fd = fd};
  int result = poll(&entry, 1, 0) == 0 ? (write(file, "1", 1) == 1 ? 0 : -1) : 0;
  close(file);
  return result;
}

static void note_nothing(int number) { (void)number; }

int pv_interrupt_prepare(void) {
  struct sigaction now;
  if (sigaction(SIGURG, NULL, &now) != 0) return -1;
  if (now.sa_flags & SA_SIGINFO || (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN)) return 0;
  // Without SA_RESTART: a read that is interrupted has to end.
  struct sigaction action = {.sa_handler = note_nothing};
  sigemptyset(&action.sa_mask);
  return sigaction(SIGURG, &action, NULL);
}

void pv_interrupt_allow(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGURG);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void pv_interrupt(pthread_t thread) { pthread_kill(thread, SIGURG); }

int pv_epoll_add(int epoll, int fd, bool exclusive, int token) {
  struct epoll_event event = {.events = EPOLLIN | (exclusive ? EPOLLEXCLUSIVE : 0), .data.u32 = (uint32_t)token};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int pv_epoll_wait_bits(int epoll, int timeout_ms) {
  struct epoll_event events[8];
  int count = epoll_wait(epoll, events, 8, timeout_ms);
  if (count < 0) return errno == EINTR ? 0 : -1;
  int bits = 0;
  for (int i = 0; i < count; i++) bits |= 1 << events[i].data.u32;
  return bits;
}

unsigned int pv_major(uint64_t device) { return major(device); }
unsigned int pv_minor(uint64_t device) { return minor(device); }

int pv_get_peer_credentials(int fd, struct pv_peer_credentials *credentials) {
  struct ucred peer;
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -1;
  *credentials = (struct pv_peer_credentials){.pid = peer.pid, .uid = peer.uid, .gid = peer.gid};
  return 0;
}

int pv_epoll_control(int poll, int operation, int fd, uint32_t interest, uint64_t token) {
  struct epoll_event event = {.events = interest, .data = {.u64 = token}};
  return epoll_ctl(poll, operation, fd, &event);
}

int pv_epoll_wait(int poll, struct pv_ready *ready, int count, int timeout) {
  struct epoll_event events[64];
  if (count > 64) count = 64;
  int found = epoll_wait(poll, events, count, timeout);
  for (int i = 0; i < found; i++) ready[i] = (struct pv_ready){.token = events[i].data.u64, .events = events[i].events};
  return found;
}

int pv_daemonize_begin(void) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  pid_t child = fork();
  if (child < 0) return -1;
  if (child == 0) {
    close(ends[0]);
    setsid();
    return ends[1];
  }
  close(ends[1]);
  unsigned char status = 0;
  if (read(ends[0], &status, 1) == 1) _exit(status);
  int result = 0;
  if (waitpid(child, &result, 0) == child && WIFEXITED(result)) _exit(WEXITSTATUS(result));
  _exit(2);
}

void pv_daemonize_end(int ready) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    close(null);
  }
  unsigned char status = 0;
  if (write(ready, &status, 1) != 1) _exit(2);
  close(ready);
}
