# What a copy is made of: its two ends, their connections, pieces under way and requests in flight.
#
# One thread runs a whole copy: every connection of both ends is a nonblocking socket in one poll set, so nothing here
# needs a lock, and no end is written to while the other cannot be read. The thread is bound by one copy of the data in
# and one out (about 2 GiB/s here), or by nothing (sendfile); the peers on the other side of the sockets are slower.
# Python reads the counters and writes `cancel` and `rate` from other threads: aligned words, each with one writer.

cdef enum CopySide:
    NO_SIDE
    SOURCE
    DESTINATION

cdef enum CopyEndKind:
    END_NULL        # a destination that drops everything
    END_FILE        # a regular file or block device
    END_NBD         # negotiated connections to one export

cdef enum CopyFaultKind:
    COPY_WELL
    COPY_ERRNO      # a system call of ours failed: code is errno
    COPY_ANSWERED   # the peer answered with an error: code is the NBD error
    COPY_BREACH     # the peer broke the protocol: text says how
    COPY_CLOSED     # the peer went away
    COPY_SILENT     # nothing moved for `timeout`
    COPY_SHORT      # a file ended before its size
    COPY_CANCELLED

cdef enum WorkKind:
    WORK_READ       # read it, send it
    WORK_ZERO       # known to read as zeroes: say so

cdef enum:
    MOST_CONNECTIONS = 16
    DIGEST_PIECE = 1 << 20
    ZERO_MOST = 1 << 27         # the longest WRITE_ZEROES: a peer that must write it out still answers in time
    ZERO_MOST_EXTENDED = 1 << 30    # with extended headers, whose servers are made for long ones
    RECEIVE_ROOM = 512          # headers taken in bulk; payload received into it is copied once more
    SEND_ROOM = 32 * 64         # requests without payload sent at once
    WARM_LOAD = 1 << 19         # bytes a connection to the destination is given before the next one gets any
    SPANS_MOST = 4096           # disjoint pieces of one reply; more is an attack
    NOTHING = -1

cdef struct CopyFault:
    int side, kind, code
    uint64_t offset
    char text[128]

cdef struct WorkItem:
    uint64_t offset, length
    uint32_t kind, unused

cdef struct DigestRecord:       # as stored: little-endian, packed (copy/digests.py)
    uint64_t offset, length
    uint32_t flags, unused
    uint8_t digest[16]

cdef struct CopySpan:
    uint32_t start, end

cdef enum FlightState:
    FLIGHT_FREE
    FLIGHT_QUEUED
    FLIGHT_SENDING
    FLIGHT_SENT

cdef struct CopyConnection

cdef struct CopyFlight:             # one request
    uint64_t offset
    uint32_t length             # of effect
    uint32_t covered            # bytes of a READ's content that came, or were declared a hole
    uint8_t *data               # payload; NULL: none, or the source file by sendfile
    int32_t piece, next
    uint32_t generation         # upper half of the cookie: a late answer to an earlier use is foreign
    uint32_t error              # of an error chunk, until the reply is done
    uint16_t type, flags
    uint8_t state
    CopyConnection *connection
    CopySpan *spans                 # content that came out of order, sorted and disjoint; NULL while it is in order
    uint32_t span_count, span_room

cdef struct CopyPiece:              # a stretch of the disk under way, at most DIGEST_PIECE or ZERO_MOST
    uint64_t offset
    uint32_t length             # of the disk
    uint32_t padded             # `length` up to the destination's minimum block
    uint32_t waiting            # requests not answered
    int32_t next
    uint8_t kind
    bint under_way              # begun and not acknowledged
    uint8_t *buffer

cdef struct CopyConnection:
    int fd
    Channel *tls                # the session's, which its SecureChannel owns; NULL: plain
    CopySide side
    int32_t head, tail          # flights to be sent
    int32_t sending             # the WRITE whose payload is being sent, or NOTHING
    int32_t receiving           # the READ whose payload is being received, or NOTHING
    uint32_t outstanding        # flights queued or in flight
    uint64_t load               # their bytes
    uint32_t out_have, out_sent
    uint32_t payload_sent
    uint32_t have, used         # of `in_`
    uint8_t *into               # where the payload being received goes
    uint32_t payload_left, skip_left
    bint last_chunk             # the payload being received is the reply's last
    uint8_t out[SEND_ROOM]
    uint8_t in_[RECEIVE_ROOM]

cdef struct CopyEnd:
    CopyEndKind kind
    int fd                      # END_FILE
    uint64_t size
    uint32_t flags, minimum, request_most
    Form form                   # of headers
    bint lost                   # a connection is gone, or of no more use
    bint leaving                # an error was answered: nothing more is asked, and answers say nothing any more
    int count
    CopyConnection connections[MOST_CONNECTIONS]
    uint32_t outstanding
    int64_t moved_at            # monotonic nanoseconds of the last byte either way

cdef struct CopyState:
    CopyEnd source, destination
    WorkItem *work
    size_t work_count, work_next
    uint64_t work_done          # of the item `work_next`
    CopyPiece *pieces
    CopyFlight *flights
    uint32_t piece_count, flight_count
    int32_t free_piece, free_flight
    uint32_t pieces_under_way
    uint64_t bytes_under_way, bytes_allowed
    uint32_t piece_size
    uint8_t *arena
    uint8_t *zeroes
    size_t arena_size
# how
    bint digests, scan_zeroes, by_sendfile, in_kernel, destination_is_zero, allocated
    int64_t timeout, cancelled_at
# asked from outside while it runs
    int cancel
    uint64_t rate               # bytes a second, 0: no limit
    double tokens
    int64_t tokens_at
# seen from outside while it runs
    uint64_t planned, done, bytes_read, bytes_sent, bytes_zero
    bint flushed
# what a lost destination would have to be sent again (copy_loss.pxi)
    bint reconnects
    WorkItem *unflushed
    size_t unflushed_count, unflushed_room
    size_t flush_covers         # of `unflushed`, by the FLUSH in flight
    bint flushing               # a FLUSH is in flight
    uint64_t unflushed_bytes, flush_every
    int64_t flush_at
# outcome
    DigestRecord *records
    size_t record_count, record_room
    bint half_seen, first_seen
    CopyFault fault
