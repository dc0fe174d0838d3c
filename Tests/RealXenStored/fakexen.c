// SPDX-License-Identifier: MIT
// Lets Debian's xenstored run where there is no Xen: the calls that it makes to Xen's libraries and two files of /proc/xen.
// Loaded with LD_PRELOAD; FAKEXEN names a folder with a FIFO 'events'. A guest's page is the file page.<domid> there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static const char *folder(void) { const char *f = getenv("FAKEXEN"); return f ? f : "/tmp"; }
static int page_file(const char *name) {
  char path[512]; snprintf(path, sizeof path, "%s/%s", folder(), name);
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
  int fd = real(path, O_RDWR | O_CREAT, 0600);
  if (fd >= 0 && lseek(fd, 0, SEEK_END) < 4096) ftruncate(fd, 4096);
  lseek(fd, 0, SEEK_SET);
  return fd;
}
int open(const char *path, int flags, ...) {
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
  va_list ap; va_start(ap, flags); mode_t mode = va_arg(ap, int); va_end(ap);
  if (strstr(path, "xsd_kva")) return page_file("dom0");
  if (strstr(path, "xsd_port")) { int fd = memfd_create("port", 0); write(fd, "1\n", 2); lseek(fd, 0, 0); return fd; }
  return real(path, flags, mode);
}
void *xc_interface_open(void *a, void *b, unsigned c) { return (void *)16; }
int xc_interface_close(void *h) { return 0; }
int xc_domain_getinfo(void *h, uint32_t first, unsigned max, uint32_t *info) {
  char path[512]; snprintf(path, sizeof path, "%s/dead.%u", folder(), first);
  if (access(path, F_OK) == 0) first++;
  memset(info, 0, 64); info[0] = first; return 1;
}
static int events = -1; static int next_port = 10;
void *xenevtchn_open(void *l, unsigned f) {
  char path[512]; snprintf(path, sizeof path, "%s/events", folder());
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
  events = real(path, O_RDWR | O_NONBLOCK);
  return (void *)16;
}
void *xenevtchn_fdopen(void *l, int fd, unsigned f) { return xenevtchn_open(l, f); }
int xenevtchn_fd(void *h) { return events; }
int xenevtchn_bind_virq(void *h, unsigned v) { return 2; }
int xenevtchn_bind_interdomain(void *h, uint32_t d, uint32_t p) {
  int port = next_port++;
  char name[64]; snprintf(name, sizeof name, "%s/port.%u", folder(), d);
  FILE *f = fopen(name, "w"); if (f) { fprintf(f, "%d\n", port); fclose(f); }
  return port;
}
int xenevtchn_unbind(void *h, uint32_t p) { return 0; }
int xenevtchn_notify(void *h, uint32_t p) { return 0; }
int xenevtchn_unmask(void *h, uint32_t p) { return 0; }
int xenevtchn_pending(void *h) { int p; return read(events, &p, 4) == 4 ? p : -1; }
void *xengnttab_open(void *l, unsigned f) { return (void *)16; }
int xengnttab_close(void *h) { return 0; }
int xengnttab_set_max_grants(void *h, uint32_t n) { return 0; }
void *xengnttab_map_grant_ref(void *h, uint32_t d, uint32_t r, int prot) {
  char name[64]; snprintf(name, sizeof name, "page.%u", d);
  int fd = page_file(name);
  return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}
int xengnttab_unmap(void *h, void *a, uint32_t n) { return munmap(a, 4096 * n); }
