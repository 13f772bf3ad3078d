"""Every limit of this transport, each with its reason."""

from __future__ import annotations

# What all transports carry and an allowance for a header, so that a payload of exactly 1 GiB fits in one frame.
FRAME_BYTES_MAX = (1 << 30) + (64 << 10)

# A header and two frames for each of 1,024 components, the most that an element has.
FRAMES_MAX = 2049

# A packet is copied into the kernel and out of it whole. Larger ones are hardly faster, and of these the kernel's usual
# buffer for a socket (208 KiB) holds three.
PACKET_BYTES_MAX = 64 << 10

# The buffer that is asked for; the kernel grants what net.core.wmem_max allows.
SOCKET_BUFFER_BYTES = 1 << 20

# Messages that travel together: so many bytes that the wake-up of the other side no longer counts, and so few that
# they fit in a packet with their table; and so many that one parcel does not exceed a turn.
PARCEL_BYTES_MAX = 48 << 10
PARCEL_MESSAGES_MAX = 256

# From this size on a frame within packets is handed over in place, if it came in several; a smaller one, as a copy,
# does not keep the memory of the others. In place it begins at a multiple of so many bytes.
OWN_FRAME_BYTES = 8 << 10
ALIGN_BYTES = 64

# From this size on a frame goes into a segment, if there is a place: below, two more copies cost less than the place's
# way back.
MEMORY_FROM = 64 << 10

# The same for a piece of a frame: it comes back in a message with others.
PIECE_FROM = 4 << 10

# The memory of one connection and direction that is kept for frames: what a queue holds by default, and a bit.
# However large frames are, it is that of so many: one is written, one is read, and others wait in a queue.
MEMORY_BYTES = 320 << 20
FRAMES_MIN = 4

# Where a server shares more than this with its clients in all, what a queue holds by default and a tenth, segments that
# were not in use for so long are given back. What goes through queues all the time comes round sooner: given back at
# once, memory was asked for all the time, and a shuffled queue was four times slower.
SHARED_BYTES = 280_000_000
TRIM_S = 0.25

# A client that asks for memory beyond that waits until others have given back what they do not use, but not what they
# have just used; and who has sent something a moment ago keeps two groups of a writer by default, as it will go on.
# They have so long for it: one that loads data in its event loop answers when it is done.
RECENT_S = 0.02
ACTIVE_S = 0.1
CLIENT_BYTES = 20_000_000
LEAVE_S = 0.05

# A segment has places of one size, as many as it takes to be so large. The first is smaller, as there may be no other
# frame of about that size, and each next one larger by as much.
SEGMENT_BYTES = 4 << 20
FIRST_BYTES = 1 << 20
MANY_SEGMENTS = 8  # of one size: further ones rather have a place too many, as there may be so many segments only

# Frames below this size that are copied lie one behind the other, in segments that have such a share of them all, as a
# power of two, up to so many bytes. Larger ones have segments with places of their size: there may only be so many.
COPIED_BYTES_MAX = 5 << 19
ANY_SHARE = 8
ANY_BYTES_MAX = 16 << 20

# Of frames of this size and more, that of a writer's groups by default, there may be few of one size.
LARGE_BYTES = 1 << 20

# Of a segment at most such a part is in no place: of a client's, as what it puts may stay in a queue, and of one of the
# server's own that gets places of another size, as batches are soon read.
UNUSED_SHARE = 1 / 16
UNUSED_SHARE_OWN = 1 / 4

# Segments of one direction; each takes two or three descriptors of the server and one or two of the client.
SEGMENTS_MAX = 96

# The same of memory that came through other connections and is passed on; and what one side maps at most.
FOREIGN_MAX = 128
MAPPED_MAX = SEGMENTS_MAX + FOREIGN_MAX

# What one client is lent at most: of the largest frames, rounded up, as many as it keeps memory for.
LENT_BYTES_MAX = FRAMES_MIN * 2 * FRAME_BYTES_MAX

# Segments take descriptors from the lower half of those that are allowed: the sockets of sessions need the others more.
SHARE_OF_DESCRIPTORS = 2

# Messages that wait in an outbox for a peer that does not read, before it is cut off: more than all the answers that a
# client with its bounded requests under way can be owed, few enough that small ones stay at some tens of MB.
OUTBOX_MESSAGES_MAX = 65_536

# Messages received in one turn before the event loop gets its turn.
MESSAGES_PER_TURN = 256

# The bound of `Connection.aclose` and `Listener.aclose`.
CLOSE_S = 1.0

# Connection attempts: soon again, for a server that is just starting, then less often.
CONNECT_AGAIN_FIRST_S = 0.005
CONNECT_AGAIN_MAX_S = 0.1

# The same for beats, and how many of them, sent and not answered, are kept in mind: a minute's, at one a second.
BEATS_AGAIN_S = 0.1
BEATS_UNANSWERED_MAX = 64

# Connections that the kernel holds until they are accepted: many workers start at the same moment.
BACKLOG = 1024

# The size of `sockaddr_un.sun_path`, less the terminating zero.
PATH_BYTES_MAX = 107
