# What a load is made of: connections with slots for requests in flight, and what is counted of them.
#
# One thread, the caller's, drives every connection by poll. It is made to cost less than any server it measures:
# requests are gathered into one send, replies are taken in bulk and the data of a READ is counted where it stands,
# time is read once for each of both.

from omavol._channel cimport CHANNEL_BROKEN, channel_begin, channel_close
from omavol._wire cimport (
    GOAL_GO,
    HANDSHAKE_BUFFER,
    HANDSHAKE_ROOM,
    NBD_ESHUTDOWN,
    NEXT_CLOSE,
    NEXT_SEEN,
    NEXT_SEND,
    NEXT_TRANSMIT,
    WISH_OFFERED,
    ClientHandshake,
    Next,
    client_handshake_ask,
    client_handshake_begin,
    client_handshake_step,
)

cdef extern from "<sys/resource.h>" nogil:
    cdef struct load_timeval "timeval":
        long tv_sec
        long tv_usec
    cdef struct load_rusage "rusage":
        load_timeval ru_utime
        load_timeval ru_stime
    enum:
        RUSAGE_THREAD
    int getrusage(int who, load_rusage *usage)

cdef extern from "<sys/socket.h>" nogil:
    cdef struct load_sockaddr "sockaddr":
        unsigned short sa_family

cdef extern from * nogil:
    """
    #define oma_high_half(a, b) ((uint64_t)(((unsigned __int128)(a) * (b)) >> 64))
    #define oma_log2(value) (63 - __builtin_clzll(value))
    """
    uint64_t oma_high_half(uint64_t a, uint64_t b)
    int oma_log2(uint64_t value)

cdef enum:
    LOAD_RECEIVE = 262144       # replies taken at once: what a second-level cache holds
    LOAD_OUT = 262144           # requests with small payloads sent at once
    LOAD_COPIED = 32768         # a payload up to here is gathered with its header, a longer one sent from where it is
    LOAD_KEPT = 64              # the beginning of a header or descriptor, kept until the rest comes
    LOAD_TURNS = 16             # receives of one connection before the others have theirs
    LOAD_BUCKETS = 2304         # up to 2^40 ns, 64 for each power of two: within 1.6 %

cdef struct LoadTimes:              # of requests answered without an error, in nanoseconds
    uint64_t count, bytes, sum, least, most
    uint64_t[LOAD_BUCKETS] buckets

cdef struct LoadSlot:               # a request in flight, or the place for one
    uint64_t offset, length
    uint64_t covered                # bytes of the request that its reply has told of so far
    uint64_t at, first, end         # BLOCK_STATUS: where its own stretch of the export goes on, begins and ends
    int64_t begun
    uint32_t generation             # upper half of the cookie: a second answer is foreign
    uint32_t error
    uint16_t type
    bint busy

cdef enum Dialling:
    DIAL_NOT                        # the connection was given ready for requests
    DIAL_CONNECTING
    DIAL_HANDSHAKE
    DIAL_REQUEST                    # the READ that ends it is in flight
    DIAL_OVER

cdef struct LoadDial:               # of a load that connects: a connection in the making
    ClientHandshake shake
    int64_t begun
    uint32_t have
    uint8_t[HANDSHAKE_BUFFER] data

cdef struct LoadConnection:
    Channel channel
    bint structured
    bint blocked                    # the socket took no more
    LoadSlot *slots
    uint32_t *free
    uint32_t free_count, outstanding
    uint8_t *out
    uint32_t out_have, out_sent
    uint32_t payload_left           # of a WRITE whose payload is longer than LOAD_COPIED
    uint32_t receiving              # the slot whose reply is being received
    bint last                       # what is being received ends its reply
    uint32_t skip_left, descriptors_left
    uint32_t kept_length
    uint8_t[LOAD_KEPT] kept
    int64_t moved_at
    Dialling dialling
    LoadDial *dial

cdef struct LoadState:
    LoadConnection *connections
    pollfd *polled
    uint32_t count, depth
# what is asked
    uint16_t command                # CMD_READ (and CMD_WRITE by `reads`), CMD_BLOCK_STATUS
    uint32_t reads                  # percent
    bint random, once
    uint64_t size, length, blocks, cursor, seed
    uint32_t context                # the id of base:allocation
    uint8_t *payload
    bint flush
    const load_sockaddr *address    # of a load that connects
    uint32_t address_length
    const uint8_t *name             # of the export
    uint32_t name_length
# how long, in nanoseconds
    int64_t warmup, seconds, timeout
    int64_t now, started, looked, ended
    bint measuring, over, interrupted
# what is under way
    uint8_t *buffer
    uint32_t outstanding
    Brisk brisk                     # how promptly the server answers one request at a time
    int64_t awake                   # nanoseconds of the processor spent on waiting for that
    uint64_t live                   # slots that have something left to ask
# what came of it
    LoadTimes read, write           # `read` counts BLOCK_STATUS and connects too
    uint64_t extents
    uint64_t errors                 # requests answered by an error
    uint32_t first_error
    uint16_t first_type
    uint64_t first_offset
    load_rusage before, after
    int64_t flush_time
    CopyFault fault


cdef inline void load_count(LoadTimes *times, uint64_t nanoseconds, uint64_t bytes) noexcept nogil:
    cdef int power = oma_log2(nanoseconds | 127) - 6
    cdef uint64_t bucket = (<uint64_t>power << 6) + (nanoseconds >> power)
    if bucket >= LOAD_BUCKETS:
        bucket = LOAD_BUCKETS - 1
    times.buckets[bucket] += 1
    times.count += 1
    times.bytes += bytes
    times.sum += nanoseconds
    if nanoseconds > times.most:
        times.most = nanoseconds
    if nanoseconds < times.least or times.count == 1:
        times.least = nanoseconds


cdef int load_fault(LoadState *load, int kind, int code, uint64_t offset, const char *text) noexcept nogil:
    """Note the first thing that ends the load; always -1."""
    if load.fault.kind == COPY_WELL:
        load.fault.kind, load.fault.code, load.fault.offset = kind, code, offset
        snprintf(load.fault.text, sizeof(load.fault.text), "%s", text)
    return -1


cdef int load_channel_failed(LoadState *load, LoadConnection *c, ssize_t outcome) noexcept nogil:
    """The peer is gone, or the socket failed; always -1."""
    if outcome == CHANNEL_CLOSED or c.channel.error == ECONNRESET or c.channel.error == EPIPE:
        return load_fault(load, COPY_CLOSED, 0, 0, b"")
    return load_fault(load, COPY_ERRNO, c.channel.error, 0, b"the connection")
