"""Every limit of this transport, each with its reason."""

from __future__ import annotations

# libzmq ends a connection on which a longer frame arrives. 1 GiB holds the largest batch in use (9.6 MB) a hundred
# times; the allowance is for a header, so that a payload of exactly 1 GiB fits with it in one frame.
FRAME_BYTES_MAX = (1 << 30) + (64 << 10)

# libzmq has no limit on the frames of a message. These are a header and two for each of 1,024 components, the most that
# an element has.
FRAMES_MAX = 2049

# Parcels that libzmq holds per connection and direction, beyond which they wait in our outbox. Few, so that
# a receiver that stands still holds few large messages; many enough that small messages do not wait for the turn of
# libzmq's thread.
MESSAGES_MAX = 256

# Messages that wait in an outbox for a peer that does not read, before it is cut off: more than all the answers that a
# client with its bounded requests under way can be owed, few enough that small ones stay at some tens of MB.
OUTBOX_MESSAGES_MAX = 65_536

# From this size on a frame is sent in place: below, a copy costs less than telling Python when libzmq is done.
SEND_IN_PLACE_BYTES = 64 << 10

# From this size on a frame travels on its own, and is handed over in place. libzmq receives smaller ones into a shared
# buffer of this size, so they would lie unaligned in it and one small frame would keep the whole buffer; and to copy
# one twice costs less than a frame more.
OWN_FRAME_BYTES = 8 << 10

# Messages that travel together: so many bytes that the wake-up of libzmq's thread no longer counts, so few that what
# `MESSAGES_MAX` of them hold stays at some tens of MB; and so many that one parcel does not exceed a turn.
PARCEL_BYTES_MAX = 64 << 10
PARCEL_MESSAGES_MAX = 256

# The longest head of a parcel: that of one message with as many frames as are allowed, each just small enough for it.
HEAD_BYTES_MAX = 8 + FRAMES_MAX * (OWN_FRAME_BYTES + 4)

# Messages received in one turn before the event loop gets its turn.
MESSAGES_PER_TURN = 256

# How long a server waits at most before it tries a full peer again, while there is one. The wake-up for it can be eaten
# by a send to another peer, which processes libzmq's pending commands without saying so.
RETRY_S = 0.01

# The bound of `Connection.aclose` and `Listener.aclose`.
CLOSE_S = 1.0

# How long closing waits for libzmq's thread to let go of a socket that has nothing left to send: its next turn.
DESTROY_S = 0.5

# Connection attempts: soon again, for a server that is just starting, then less often.
CONNECT_AGAIN_FIRST_S = 0.005
CONNECT_AGAIN_MAX_S = 0.1

# Attempts that connect and break off in the handshake, in a row, before what listens there is taken for no server of
# ours; and how long libzmq's silence after one lasts before it counts, which otherwise speaks within its thread's turn.
REFUSALS_MAX = 3
REFUSED_S = 0.05

# Beats: libzmq's own attempts to reconnect, the longest frame of their answers (a parcel of headers), and how many of
# them, sent and not answered, are kept in mind: a minute's, at one a second.
RECONNECT_FIRST_S = 0.1
RECONNECT_MAX_S = 1.0
BEAT_BYTES_MAX = 128 << 10
BEATS_UNANSWERED_MAX = 64

# Handshakes in a row that the other side breaks off, before it is asked for its greeting, and for how long.
BROKEN_OFF_MAX = 2
GREETING_S = 1.0

# How often a server looks up the keys of open connections.
LOOK_AGAIN_S = 1.0

# How many refusals a server logs at once, and how often in the long run.
REFUSALS_LOGGED_MAX = 50
REFUSALS_LOGGED_EVERY_S = 1.0

# A side that connects and says nothing is let go after this.
HANDSHAKE_S = 5

# Connections that the kernel holds until libzmq accepts them: many workers start at the same moment.
BACKLOG = 1024

# libzmq allots a slot for each socket of a process when its context is made; a client takes three,
# and three more for its beats.
SOCKETS_MAX = 16_384

# The size of `sockaddr_un.sun_path` on Linux, less the terminating zero (macOS: 103).
IPC_PATH_BYTES_MAX = 107
