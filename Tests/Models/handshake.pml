/* SPDX-License-Identifier: MIT
 *
 * The handshake in the store: the tables BackendHandshake and FrontendHandshake of Sources/XenBus, with the watches that drive
 * them, and a frontend that goes away and comes again RETURNS times.
 *
 * Shown: both ends come together and stay so (nobody waits for ever in another state), the backend maps rings only when there
 * are some, and always those that the frontend published last.
 *
 * Taken out, each of these steps must make the model fail:
 *   STATE_BEFORE_RINGS   rings are in the store before the state says so
 *   NO_FIRST_EVENT       a watch fires once when it is set
 *   EVENT_AFTER_LOOK     an event is taken before the look that answers it
 *   NO_WAIT_FOR_CLOSED   a frontend that comes again waits until the backend has seen it go
 *   FRESH_CLOSES         a frontend that comes again takes no notice of a backend that is still closed; Linux's table closes
 *                        here, which does for a toolstack that makes both folders anew, not for a driver that is loaded anew
 */
#ifndef RETURNS
#define RETURNS 2
#endif
#define INITIALISING 1
#define INIT_WAIT 2
#define INITIALISED 3
#define CONNECTED 4
#define CLOSING 5
#define CLOSED 6

byte front = INITIALISING, back = INITIALISING;
byte ring, mapped, generation;
bool front_watches, back_watches, front_event, back_event;

inline front_switch(to) { atomic { front = to; back_event = back_watches } }
inline back_switch(to) { atomic { back = to; front_event = front_watches } }

inline publish() {
#ifdef STATE_BEFORE_RINGS
  front_switch(INITIALISED);
  generation++;
  ring = generation
#else
  generation++;
  ring = generation;
  front_switch(INITIALISED)
#endif
}

proctype Front() {
  byte own = INITIALISING, peer, returns = 0;
  front_watches = true;
#ifndef NO_FIRST_EVENT
  front_event = true;
#endif
end_idle:
  do
  :: front_event ->
#ifdef EVENT_AFTER_LOOK
      peer = back;
      front_event = false;
#else
      front_event = false;
      peer = back;
#endif
      if
      :: peer == INIT_WAIT && own == INITIALISING -> own = INITIALISED; publish()
      :: peer == CONNECTED && own == INITIALISED -> own = CONNECTED; front_switch(CONNECTED)
      :: peer == CONNECTED && own != INITIALISED && own != CONNECTED && own != CLOSING ->
        own = CONNECTED; publish(); front_switch(CONNECTED)
#ifdef FRESH_CLOSES
      :: (peer == CLOSING || peer == CLOSED) && own != CLOSED ->
#else
      :: (peer == CLOSING || peer == CLOSED) && own != CLOSED && own != INITIALISING ->
#endif
        own = CLOSED; front_switch(CLOSED); ring = 0
      :: else
      fi
  :: own == CONNECTED && returns < RETURNS ->
      returns++;
      own = CLOSING;
      front_switch(CLOSING)
  :: own == CLOSED ->
#ifndef NO_WAIT_FOR_CLOSED
      back == CLOSED;
#endif
      own = INITIALISING;
      front_event = false;
      front_switch(INITIALISING);
      front_event = true
  od
}

proctype Back() {
  byte own, peer;
  own = INIT_WAIT;
  back_switch(INIT_WAIT);
  back_watches = true;
#ifndef NO_FIRST_EVENT
  back_event = true;
#endif
end_idle:
  do
  :: back_event ->
#ifdef EVENT_AFTER_LOOK
    peer = front;
    back_event = false;
#else
    back_event = false;
    peer = front;
#endif
    if
    :: peer == INITIALISING && own == CLOSED -> own = INIT_WAIT; back_switch(INIT_WAIT)
    :: (peer == INITIALISED || peer == CONNECTED) && own != CONNECTED ->
      /* The frontend may be gone again by now: then there is nothing to map, and the device closes. */
      if
      :: atomic { ring == 0 -> assert(front != INITIALISED && front != CONNECTED) }; own = CLOSING; back_switch(CLOSING)
      :: atomic { ring != 0 -> mapped = ring }; own = CONNECTED; back_switch(CONNECTED)
      fi
    :: peer == CLOSING -> own = CLOSING; back_switch(CLOSING)
    :: peer == CLOSED -> own = CLOSED; mapped = 0; back_switch(CLOSED)
    :: else
    fi
  od
}

init {
  atomic { run Front(); run Back() };
end_apart:
  /* Nothing happens any more: are they together? */
  timeout -> assert(front == CONNECTED && back == CONNECTED && mapped == ring)
}
