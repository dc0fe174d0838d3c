// SPDX-License-Identifier: MIT
// Xen's own libraries, found when the program runs: nothing is linked, so the program builds and runs without them.
#ifndef PVDISK_CXEN_H
#define PVDISK_CXEN_H

#include <stdint.h>

/// Opens libxengnttab and libxenevtchn, once; answers null when all is there, else what is missing, in words.
const char *_Nullable pv_xen_load(void);

/// A way to map other domains' pages (xengnttab_open); null with errno.
void *_Nullable pv_xen_grants_open(void);
void pv_xen_grants_close(void *_Nonnull handle);
/// Maps `count` pages one behind the other, all or nothing; null with errno.
void *_Nullable pv_xen_map(
    void *_Nonnull handle, uint32_t count, uint32_t domain, const uint32_t *_Nonnull references, int is_writable);
/// Unmaps what one call of `pv_xen_map` mapped; 0 or -1 with errno.
int pv_xen_unmap(void *_Nonnull handle, void *_Nonnull address, uint32_t count);

/// A way to share pages with other domains (xengntshr_open); null with errno.
void *_Nullable pv_xen_shares_open(void);
void pv_xen_shares_close(void *_Nonnull handle);
/// Takes `count` zeroed pages one behind the other, lets `domain` map and write them, and writes their references; null with
/// errno.
void *_Nullable pv_xen_share(void *_Nonnull handle, uint32_t domain, uint32_t count, uint32_t *_Nonnull references);
/// Undoes one call of `pv_xen_share`; the kernel keeps a page that the other domain still maps until it lets go.
int pv_xen_unshare(void *_Nonnull handle, void *_Nonnull address, uint32_t count);

/// A way to event channels (xenevtchn_open); null with errno.
void *_Nullable pv_xen_events_open(void);
/// Closes all its channels too.
void pv_xen_events_close(void *_Nonnull handle);
/// Readable when a port is pending.
int pv_xen_events_descriptor(void *_Nonnull handle);
/// The local port, or -1 with errno.
int pv_xen_bind_interdomain(void *_Nonnull handle, uint32_t domain, uint32_t port);
/// A local port that `domain` may bind to, or -1 with errno.
int pv_xen_bind_unbound(void *_Nonnull handle, uint32_t domain);
int pv_xen_notify(void *_Nonnull handle, uint32_t port);
/// Takes a pending port, which is masked from then on; -1 when there is none.
int pv_xen_pending(void *_Nonnull handle);
int pv_xen_unmask(void *_Nonnull handle, uint32_t port);

#endif
