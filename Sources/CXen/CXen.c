// SPDX-License-Identifier: MIT
// The prototypes are those of xengnttab.h and xenevtchn.h (libxen-dev 4.17); both libraries keep them stable.
#include "CXen.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

static struct {
  void *(*gnttab_open)(void *logger, unsigned flags);
  int (*gnttab_close)(void *);
  void *(*map)(void *, uint32_t, uint32_t, uint32_t *, int);
  int (*unmap)(void *, void *, uint32_t);
  void *(*evtchn_open)(void *logger, unsigned flags);
  int (*evtchn_close)(void *);
  int (*evtchn_fd)(void *);
  int (*bind)(void *, uint32_t, uint32_t);
  int (*bind_unbound)(void *, uint32_t);
  void *(*shares_open)(void *logger, unsigned flags);
  int (*shares_close)(void *);
  void *(*share)(void *, uint32_t, int, uint32_t *, int);
  int (*unshare)(void *, void *, uint32_t);
  int (*notify)(void *, uint32_t);
  int (*pending)(void *);
  int (*unmask)(void *, uint32_t);
} xen;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char missing[160];

static void *library(const char *name) {
  void *handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  if (handle == NULL && missing[0] == 0) snprintf(missing, sizeof missing, "%s cannot be opened", name);
  return handle;
}

static void *function(void *handle, const char *name) {
  void *address = handle ? dlsym(handle, name) : NULL;
  if (address == NULL && missing[0] == 0) snprintf(missing, sizeof missing, "%s is missing", name);
  return address;
}

static void load(void) {
  void *grants = library("libxengnttab.so.1");
  void *events = library("libxenevtchn.so.1");
  *(void **)&xen.gnttab_open = function(grants, "xengnttab_open");
  *(void **)&xen.gnttab_close = function(grants, "xengnttab_close");
  *(void **)&xen.map = function(grants, "xengnttab_map_domain_grant_refs");
  *(void **)&xen.unmap = function(grants, "xengnttab_unmap");
  *(void **)&xen.evtchn_open = function(events, "xenevtchn_open");
  *(void **)&xen.evtchn_close = function(events, "xenevtchn_close");
  *(void **)&xen.evtchn_fd = function(events, "xenevtchn_fd");
  *(void **)&xen.bind = function(events, "xenevtchn_bind_interdomain");
  *(void **)&xen.bind_unbound = function(events, "xenevtchn_bind_unbound_port");
  *(void **)&xen.shares_open = function(grants, "xengntshr_open");
  *(void **)&xen.shares_close = function(grants, "xengntshr_close");
  *(void **)&xen.share = function(grants, "xengntshr_share_pages");
  *(void **)&xen.unshare = function(grants, "xengntshr_unshare");
  *(void **)&xen.notify = function(events, "xenevtchn_notify");
  *(void **)&xen.pending = function(events, "xenevtchn_pending");
  *(void **)&xen.unmask = function(events, "xenevtchn_unmask");
}

const char *pv_xen_load(void) {
  pthread_once(&once, load);
  return missing[0] ? missing : NULL;
}

void *pv_xen_grants_open(void) { return xen.gnttab_open(NULL, 0); }
void pv_xen_grants_close(void *handle) { xen.gnttab_close(handle); }

void *pv_xen_map(void *handle, uint32_t count, uint32_t domain, const uint32_t *references, int is_writable) {
  return xen.map(
      handle, count, domain, (uint32_t *)references, is_writable ? PROT_READ | PROT_WRITE : PROT_READ);
}

int pv_xen_unmap(void *handle, void *address, uint32_t count) { return xen.unmap(handle, address, count); }

void *pv_xen_shares_open(void) { return xen.shares_open(NULL, 0); }
void pv_xen_shares_close(void *handle) { xen.shares_close(handle); }

void *pv_xen_share(void *handle, uint32_t domain, uint32_t count, uint32_t *references) {
  return xen.share(handle, domain, (int)count, references, 1);
}

int pv_xen_unshare(void *handle, void *address, uint32_t count) { return xen.unshare(handle, address, count); }

void *pv_xen_events_open(void) {
  void *handle = xen.evtchn_open(NULL, 0);
  // A thread polls together with other descriptors, so a read must not wait.
  if (handle) {
    int descriptor = xen.evtchn_fd(handle);
    fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  }
  return handle;
}
void pv_xen_events_close(void *handle) { xen.evtchn_close(handle); }
int pv_xen_events_descriptor(void *handle) { return xen.evtchn_fd(handle); }
int pv_xen_bind_interdomain(void *handle, uint32_t domain, uint32_t port) { return xen.bind(handle, domain, port); }
int pv_xen_bind_unbound(void *handle, uint32_t domain) { return xen.bind_unbound(handle, domain); }
int pv_xen_notify(void *handle, uint32_t port) { return xen.notify(handle, port); }
int pv_xen_pending(void *handle) { return xen.pending(handle); }
int pv_xen_unmask(void *handle, uint32_t port) { return xen.unmask(handle, port); }
