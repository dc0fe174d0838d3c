/* SPDX-License-Identifier: MIT
 *
 * A shared ring with hold-off: FrontRing and BackRing of Sources/SharedRing, step by step.
 *
 * Shown: no wake-up is lost (nobody sleeps for ever), every request is answered once and in full, no end passes the
 * other by more than a ring, and all of it while the free-running indices wrap (they are taken modulo MOD and start
 * just below it).
 *
 * A store and a load of different words, in this order, may change places unless a full barrier stands between them:
 * that is what x86 does, and what the NO_..._BARRIER variants allow. Taken out, each of these steps must make the model fail:
 *   NO_FRONT_BARRIER, NO_BACK_BARRIER   the barrier between publishing a producer and reading the peer's event
 *   NO_ARM_BARRIER                      the barrier between arming an event and looking again
 *   NO_RECHECK                          the look after arming
 *   NO_RELEASE                          a slot is written before its producer is published
 *   NO_ROOM                             a full ring takes no request
 */
#ifndef SIZE
#define SIZE 2
#endif
#ifndef TOTAL
#define TOTAL 5
#endif
#define MOD 8
#define START 6
#define DIST(from, to) (((to) + MOD - (from)) % MOD)
#define NEXT(index) (((index) + 1) % MOD)
/* ring.h: (new - event) < (new - old) */
#define MUST_NOTIFY(old, new, event) (DIST(event, new) < DIST(old, new))

byte req_prod = START, rsp_prod = START;
byte req_event = (START + 1) % MOD, rsp_event = (START + 1) % MOD;
byte slot[SIZE];
bool kick_back, kick_front;

byte issued, answered, finished;

proctype Front() {
  byte produced = START, consumed = START, published = START, event, ahead;
  do
  :: finished == TOTAL -> break
  :: else ->
    /* A batch of any length that fits. */
    do
#ifdef NO_ROOM
    :: issued < TOTAL && DIST(consumed, produced) < SIZE + 1 ->
#else
    :: issued < TOTAL && DIST(consumed, produced) < SIZE ->
#endif
#ifdef NO_RELEASE
      atomic { req_prod = NEXT(produced); published = req_prod }
#endif
      issued++;
      slot[produced % SIZE] = issued;
      produced = NEXT(produced)
    :: issued == TOTAL || produced != published || DIST(consumed, produced) >= SIZE -> break
    od;
    if
    :: published != produced ->
#ifdef NO_FRONT_BARRIER
      if
      :: req_prod = produced; event = req_event
      :: event = req_event; req_prod = produced
      fi;
#else
      req_prod = produced;
      event = req_event;
#endif
      if
      :: MUST_NOTIFY(published, produced, event) -> kick_back = true
      :: else
      fi;
      published = produced
    :: else
    fi;
    ahead = rsp_prod;
    assert(DIST(consumed, ahead) <= DIST(consumed, published));
    do
    :: consumed != ahead ->
      finished++;
      assert(slot[consumed % SIZE] == 100 + finished);
      consumed = NEXT(consumed)
    :: else -> break
    od;
    /* Whether it may sleep: arm, then look again. */
    if
    :: finished < TOTAL && (issued == TOTAL || DIST(consumed, produced) >= SIZE) ->
#ifdef NO_ARM_BARRIER
      if
      :: rsp_event = NEXT(consumed); ahead = rsp_prod
      :: ahead = rsp_prod; rsp_event = NEXT(consumed)
      fi;
#else
      rsp_event = NEXT(consumed);
      ahead = rsp_prod;
#endif
#ifdef NO_RECHECK
      ahead = consumed;
#endif
      if
      :: ahead == consumed -> kick_front -> kick_front = false
      :: else
      fi
    :: else
    fi
  od
}

proctype Back() {
  byte consumed = START, produced = START, published = START, event, ahead;
  do
  :: ahead = req_prod;
    assert(DIST(produced, ahead) <= SIZE);
    do
    :: consumed != ahead ->
      answered++;
      assert(slot[consumed % SIZE] == answered);
      slot[produced % SIZE] = 100 + answered;
      consumed = NEXT(consumed);
      produced = NEXT(produced)
    :: consumed == ahead || produced != published -> break
    od;
    if
    :: published != produced ->
#ifdef NO_BACK_BARRIER
      if
      :: rsp_prod = produced; event = rsp_event
      :: event = rsp_event; rsp_prod = produced
      fi;
#else
      rsp_prod = produced;
      event = rsp_event;
#endif
      if
      :: MUST_NOTIFY(published, produced, event) -> kick_front = true
      :: else
      fi;
      published = produced
    :: else
    fi;
    ahead = req_prod;
    if
    :: ahead == consumed ->
#ifdef NO_ARM_BARRIER
      if
      :: req_event = NEXT(consumed); ahead = req_prod
      :: ahead = req_prod; req_event = NEXT(consumed)
      fi;
#else
      req_event = NEXT(consumed);
      ahead = req_prod;
#endif
#ifdef NO_RECHECK
      ahead = consumed;
#endif
      if
      :: ahead == consumed ->
end_idle: kick_back -> kick_back = false
      :: else
      fi
    :: else
    fi
  od
}

init { atomic { run Front(); run Back() } }
