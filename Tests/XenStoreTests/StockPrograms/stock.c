// SPDX-License-Identifier: MIT
// Every call of libxenstore against the store at XENSTORED_PATH.
//
// usage: stock tools|guest    "guest": the socket's clients speak for domain 5, and the tools have made /local/domain/5
// exit status: 0 all as with xenstored, 1 the first difference is named on standard error
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xenstore.h>

#define CHECK(condition)                                                                       \
  do {                                                                                         \
    errno = 0;                                                                                 \
    if (!(condition)) {                                                                        \
      fprintf(stderr, "line %d: %s (errno: %s)\n", __LINE__, #condition, strerror(errno));     \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)

// A call fails, and says why.
#define REFUSED(call, code) CHECK(!(call) && errno == (code))

static struct xs_handle *store;

static bool holds(const char *path, const char *wanted) {
  unsigned length = 0;
  char *value = xs_read(store, XBT_NULL, path, &length);
  bool same = value && length == strlen(wanted) && !strcmp(value, wanted);
  free(value);
  return same;
}

static bool put(xs_transaction_t in, const char *path, const char *value) {
  return xs_write(store, in, path, value, strlen(value));
}

static void nodes(void) {
  CHECK(put(XBT_NULL, "/lib/a", "one"));
  CHECK(holds("/lib/a", "one"));
  CHECK(xs_write(store, XBT_NULL, "/lib/bytes", "\0\1\xff", 3));
  unsigned length = 0;
  char *value = xs_read(store, XBT_NULL, "/lib/bytes", &length);
  CHECK(value && length == 3 && !memcmp(value, "\0\1\xff", 3));
  free(value);
  CHECK(xs_mkdir(store, XBT_NULL, "/lib/made"));
  CHECK(xs_mkdir(store, XBT_NULL, "/lib/made"));
  unsigned count = 0;
  char **names = xs_directory(store, XBT_NULL, "/lib", &count);
  CHECK(names && count == 3 && !strcmp(names[0], "a") && !strcmp(names[1], "bytes") && !strcmp(names[2], "made"));
  free(names);
  CHECK(xs_rm(store, XBT_NULL, "/lib/made"));
  CHECK(xs_rm(store, XBT_NULL, "/lib/made"));
  REFUSED(xs_rm(store, XBT_NULL, "/lib/made/below"), ENOENT);
  REFUSED(xs_read(store, XBT_NULL, "/lib/made", NULL), ENOENT);
  REFUSED(xs_read(store, XBT_NULL, "/lib//made", NULL), EINVAL);
  REFUSED(xs_directory(store, XBT_NULL, "/none", &count), ENOENT);
  static char large[4097];
  memset(large, 'x', sizeof large);
  CHECK(xs_write(store, XBT_NULL, "/lib/large", large, 4096 - sizeof "/lib/large"));
  REFUSED(xs_write(store, XBT_NULL, "/lib/large", large, 4097 - sizeof "/lib/large"), E2BIG);
  // A list that fits no message comes in parts.
  char path[64];
  for (int index = 0; index < 700; index++) {
    snprintf(path, sizeof path, "/many/node-%04d", index);
    CHECK(put(XBT_NULL, path, ""));
  }
  names = xs_directory(store, XBT_NULL, "/many", &count);
  CHECK(names && count == 700 && !strcmp(names[0], "node-0000") && !strcmp(names[699], "node-0699"));
  free(names);
}

static void permissions(void) {
  struct xs_permissions wanted[2] = {{.id = 0, .perms = XS_PERM_NONE}, {.id = 7, .perms = XS_PERM_READ | XS_PERM_WRITE}};
  CHECK(xs_set_permissions(store, XBT_NULL, "/lib/a", wanted, 2));
  unsigned count = 0;
  struct xs_permissions *found = xs_get_permissions(store, XBT_NULL, "/lib/a", &count);
  CHECK(found && count == 2 && found[0].id == 0 && found[0].perms == XS_PERM_NONE && found[1].id == 7 &&
        found[1].perms == (XS_PERM_READ | XS_PERM_WRITE));
  free(found);
  REFUSED(xs_get_permissions(store, XBT_NULL, "/none", &count), ENOENT);
  CHECK(!xs_restrict(store, 5));
}

static void transactions(void) {
  xs_transaction_t one = xs_transaction_start(store), two = xs_transaction_start(store);
  CHECK(one != XBT_NULL && two != XBT_NULL && one != two);
  CHECK(put(one, "/lib/t", "1") && put(two, "/lib/t", "2"));
  REFUSED(xs_read(store, XBT_NULL, "/lib/t", NULL), ENOENT);
  CHECK(xs_transaction_end(store, one, false));
  REFUSED(xs_transaction_end(store, two, false), EAGAIN);
  REFUSED(xs_transaction_end(store, two, false), ENOENT);
  CHECK(holds("/lib/t", "1"));
  one = xs_transaction_start(store);
  CHECK(put(one, "/lib/t", "3"));
  CHECK(xs_transaction_end(store, one, true));
  CHECK(holds("/lib/t", "1"));
  REFUSED(put(99, "/lib/t", "4"), ENOENT);
}

static bool told(const char *path, const char *token) {
  struct pollfd entry = {.fd = xs_fileno(store), .events = POLLIN};
  if (poll(&entry, 1, 30000) != 1) return false;
  unsigned count = 0;
  char **event = xs_read_watch(store, &count);
  bool same = event && count == 2 && !strcmp(event[XS_WATCH_PATH], path) && !strcmp(event[XS_WATCH_TOKEN], token);
  free(event);
  return same;
}

static void watches(void) {
  CHECK(xs_watch(store, "/lib", "token with blanks"));
  CHECK(told("/lib", "token with blanks"));
  REFUSED(xs_watch(store, "/lib", "token with blanks"), EEXIST);
  CHECK(put(XBT_NULL, "/lib/w", "1"));
  CHECK(told("/lib/w", "token with blanks"));
  CHECK(xs_check_watch(store) == NULL && errno == EAGAIN);
  CHECK(xs_rm(store, XBT_NULL, "/lib/w"));
  CHECK(told("/lib/w", "token with blanks"));
  CHECK(xs_unwatch(store, "/lib", "token with blanks"));
  REFUSED(xs_unwatch(store, "/lib", "token with blanks"), ENOENT);
  CHECK(put(XBT_NULL, "/lib/w", "2"));
  CHECK(xs_check_watch(store) == NULL && errno == EAGAIN);
}

static void domains(void) {
  CHECK(xs_watch(store, "@introduceDomain", "i") && told("@introduceDomain", "i"));
  CHECK(xs_watch(store, "@releaseDomain", "r") && told("@releaseDomain", "r"));
  CHECK(!xs_is_domain_introduced(store, 9));
  CHECK(xs_introduce_domain(store, 9, 1, 2) && told("@introduceDomain", "i"));
  CHECK(xs_introduce_domain(store, 10, 1, 2) && told("@introduceDomain", "i"));
  CHECK(xs_is_domain_introduced(store, 9));
  CHECK(xs_set_target(store, 9, 10));
  CHECK(xs_resume_domain(store, 9));
  char *home = xs_get_domain_path(store, 9);
  CHECK(home && !strcmp(home, "/local/domain/9"));
  free(home);
  CHECK(xs_release_domain(store, 9) && told("@releaseDomain", "r"));
  CHECK(xs_release_domain(store, 10) && told("@releaseDomain", "r"));
  REFUSED(xs_release_domain(store, 10), ENOENT);
  char *answer = xs_control_command(store, "check", NULL, 0);
  CHECK(answer && !strcmp(answer, "OK"));
  free(answer);
  REFUSED(xs_control_command(store, "nonsense", NULL, 0), EINVAL);
}

// One handle, several threads: the library gives each its own reply.
static void *increment(void *unused) {
  (void)unused;
  for (int round = 0; round < 25;) {
    xs_transaction_t in = xs_transaction_start(store);
    if (in == XBT_NULL) return "no transaction";
    char *value = xs_read(store, in, "/lib/sum", NULL);
    if (!value) return "no value";
    char next[16];
    snprintf(next, sizeof next, "%d", atoi(value) + 1);
    free(value);
    if (!put(in, "/lib/sum", next)) return "not written";
    if (xs_transaction_end(store, in, false)) round++;
    else if (errno != EAGAIN) return "not committed";
  }
  return NULL;
}

static void threads(void) {
  CHECK(put(XBT_NULL, "/lib/sum", "0"));
  pthread_t workers[4];
  for (int index = 0; index < 4; index++) CHECK(pthread_create(&workers[index], NULL, increment, NULL) == 0);
  for (int index = 0; index < 4; index++) {
    void *complaint = NULL;
    CHECK(pthread_join(workers[index], &complaint) == 0);
    if (complaint) fprintf(stderr, "%s\n", (char *)complaint);
    CHECK(complaint == NULL);
  }
  CHECK(holds("/lib/sum", "100"));
}

static void guest(void) {
  CHECK(put(XBT_NULL, "device/x", "1") && holds("/local/domain/5/device/x", "1"));
  CHECK(xs_watch(store, "device", "t") && told("device", "t"));
  CHECK(put(XBT_NULL, "device/x", "2") && told("device/x", "t"));
  REFUSED(xs_read(store, XBT_NULL, "/tool", NULL), EACCES);
  REFUSED(put(XBT_NULL, "/outside", ""), EACCES);
  REFUSED(xs_introduce_domain(store, 9, 1, 2), EACCES);
  REFUSED(xs_release_domain(store, 5), EACCES);
  REFUSED(xs_control_command(store, "check", NULL, 0), EACCES);
  struct xs_permissions away = {.id = 6, .perms = XS_PERM_NONE};
  REFUSED(xs_set_permissions(store, XBT_NULL, "device/x", &away, 1), EPERM);
  static char large[2049];
  REFUSED(xs_write(store, XBT_NULL, "large", large, sizeof large), ENOSPC);
  xs_transaction_t open[10];
  for (int index = 0; index < 10; index++) CHECK((open[index] = xs_transaction_start(store)) != XBT_NULL);
  CHECK(xs_transaction_start(store) == XBT_NULL && errno == ENOSPC);
  for (int index = 0; index < 10; index++) CHECK(xs_transaction_end(store, open[index], true));
}

int main(int count, char **words) {
  alarm(120);
  CHECK((store = xs_open(0)) != NULL);
  if (count > 1 && !strcmp(words[1], "guest")) {
    guest();
  } else {
    nodes();
    permissions();
    transactions();
    watches();
    domains();
    threads();
  }
  xs_close(store);
  return 0;
}
