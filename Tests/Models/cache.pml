/* SPDX-License-Identifier: MIT
 *
 * The persistent-grant cache against requests in flight: PersistentGrantCache, mapPages and releasePages of
 * Sources/BlockBack. One thread owns them; what is arbitrary is which request comes, which ends next, and when the purge runs.
 *
 * Shown: a page that a request in flight uses is mapped; count = idle + active and never above the limit; every page that was
 * mapped is unmapped once; and when nothing is in flight nothing is active (a failed request gives its pages back).
 *
 * Taken out, each of these steps must make the model fail:
 *   PURGE_ACTIVE    the purge passes over pages in use
 *   SHARE_ACTIVE    a page in use by one request is mapped once more for another
 *   NO_LIMIT        a page that finds no room is unmapped with its request
 *   FAILURE_KEEPS   a request that failed lets go of its pages (XSA-371)
 */
#define PAGES 3
#define REQUESTS 3
#define LIMIT 2
#define ABSENT 0
#define IDLE 1
#define ACTIVE 2
#define NONE 255

byte state[PAGES];
byte mappings[PAGES];
byte count;
/* A request in flight: its page, and whether its mapping is its own. */
byte page[REQUESTS] = NONE;
bool own[REQUESTS];
byte started;

inline take(request, wanted) {
  if
  :: state[wanted] == IDLE -> state[wanted] = ACTIVE; own[request] = false
#ifdef SHARE_ACTIVE
  :: state[wanted] == ACTIVE -> own[request] = false
#else
  :: state[wanted] == ACTIVE -> mappings[wanted]++; own[request] = true
#endif
  :: state[wanted] == ABSENT ->
    mappings[wanted]++;
    if
#ifdef NO_LIMIT
    :: true -> state[wanted] = ACTIVE; count++; own[request] = false
#else
    :: count < LIMIT -> state[wanted] = ACTIVE; count++; own[request] = false
    :: else -> own[request] = true
#endif
    fi
  fi;
  page[request] = wanted
}

inline finish(request, failed) {
  assert(mappings[page[request]] > 0);
  if
  :: own[request] -> mappings[page[request]]--
  :: else ->
#ifdef FAILURE_KEEPS
    if
    :: failed
    :: else -> assert(state[page[request]] == ACTIVE); state[page[request]] = IDLE
    fi
#else
    assert(state[page[request]] == ACTIVE);
    state[page[request]] = IDLE
#endif
  fi;
  page[request] = NONE
}

inline purge(victim) {
  state[victim] = ABSENT;
  count--;
  mappings[victim]--
}

active proctype Queue() {
  byte request, wanted, index, active_pages, shared;
  do
  :: started < 6 ->
    atomic {
      request = 0;
      do
      :: request < REQUESTS && page[request] != NONE -> request++
      :: else -> break
      od
    }
    if
    :: request < REQUESTS ->
      select(wanted : 0 .. PAGES - 1);
      atomic { take(request, wanted) };
      started++
    :: else -> skip
    fi
  :: select(request : 0 .. REQUESTS - 1);
    if
    :: page[request] != NONE ->
      if
      :: atomic { finish(request, true) }
      :: atomic { finish(request, false) }
      fi
    :: else
    fi
  :: select(wanted : 0 .. PAGES - 1);
    if
#ifdef PURGE_ACTIVE
    :: state[wanted] != ABSENT -> atomic { purge(wanted) }
#else
    :: state[wanted] == IDLE -> atomic { purge(wanted) }
#endif
    :: else
    fi
  :: started == 6 && page[0] == NONE && page[1] == NONE && page[2] == NONE -> break
  od;
  atomic {
    index = 0;
    do
    :: index < PAGES ->
      assert(state[index] != ACTIVE);
      assert(mappings[index] == (state[index] == IDLE -> 1 : 0));
      index++
    :: else -> break
    od
  }
}

/* At every moment: what is in flight is mapped, and the cache is not above its limit. */
active proctype Watch() {
end_watch:
  atomic {
    (count > LIMIT ||
      (page[0] != NONE && mappings[page[0]] == 0) ||
      (page[1] != NONE && mappings[page[1]] == 0) ||
      (page[2] != NONE && mappings[page[2]] == 0)) -> assert(false)
  }
}
