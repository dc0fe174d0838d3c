/* SPDX-License-Identifier: MIT
 *
 * Ending a grant against mapping it (XSA-396, XSA-218, XSA-230): GrantTable.endAccess of Sources/XenHypervisor on one side,
 * GrantMappings' marking and unmapping of two mappers on the other, at any moments.
 *
 * Shown: when ending has succeeded, and the page belongs to somebody else with a secret in it, no mapping of it lives; the
 * in-use mark is there as long as a mapping lives.
 *
 * Taken out, each of these steps must make the model fail:
 *   CHECK_THEN_CLEAR   ending is one compare-exchange, not a look and a store
 *   MARK_GOES_FIRST    the mark goes after the page is out of reach, not before
 *   MARK_GOES_ALONE    the mark goes with the last of several mappings, not with the first
 *   V2 NO_V2_BARRIER   version 2, where permission and mark are two words: the barrier between clearing one and reading
 *                      the other (without it a store and a load change places)
 *   V2 MARK_AFTER_LOOK version 2: the mapper marks first and looks at the permission again after that
 */
bool permitted, in_use;
byte pins, mapped;
bool is_secret;

proctype Granter() {
  bool seen;
  permitted = true;
  do
#ifdef V2
  :: 
#ifdef NO_V2_BARRIER
    if
    :: permitted = false; seen = in_use
    :: seen = in_use; permitted = false
    fi;
#else
    permitted = false;
    seen = in_use;
#endif
    if
    :: !seen -> break
    :: else -> permitted = true
    fi
#else
#ifdef CHECK_THEN_CLEAR
  :: !in_use -> permitted = false; break
#else
  :: atomic { !in_use -> permitted = false }; break
#endif
#endif
  od;
  is_secret = true;
  assert(mapped == 0)
}

/* The mapper's half runs in the hypervisor, under the granter's table lock; the granter's flag word is changed without it. */
bool locked;
#define LOCK atomic { !locked -> locked = true }
#define UNLOCK locked = false

proctype Mapper() {
  byte round = 0;
  bool has;
  do
  :: round == 2 -> break
  :: else ->
    round++;
    LOCK;
    has = false;
    if
    :: pins > 0 -> pins++; has = true
    :: else ->
#ifdef V2
#ifdef MARK_AFTER_LOOK
      if
      :: permitted -> in_use = true; pins++; has = true
      :: else
      fi
#else
      in_use = true;
      if
      :: permitted -> pins++; has = true
      :: else -> in_use = false
      fi
#endif
#else
      atomic {
        if
        :: permitted -> in_use = true; pins++; has = true
        :: else
        fi
      }
#endif
    fi;
    UNLOCK;
    if
    :: has ->
      mapped++;
      assert(!is_secret);
      assert(in_use);
      assert(!is_secret);
      /* Unmap: out of reach first, then pins, then the mark. */
#ifdef MARK_GOES_FIRST
      LOCK; pins--;
      if
      :: pins == 0 -> in_use = false
      :: else
      fi;
      UNLOCK;
      mapped--
#else
      mapped--;
      LOCK; pins--;
      if
#ifdef MARK_GOES_ALONE
      :: true -> in_use = false
#else
      :: pins == 0 -> in_use = false
      :: else
#endif
      fi;
      UNLOCK
#endif
    :: else
    fi
  od
}

/* At every moment a live mapping is marked and sees no secret. */
proctype Watch() {
end_watch:
  atomic { mapped > 0 && (is_secret || !in_use) -> assert(false) }
}

init { atomic { run Granter(); run Mapper(); run Mapper(); run Watch() } }
