# What the server is made of: exports and their generations, connections, their queued replies, workers, the table.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from omavol._channel cimport Channel
from omavol._store cimport Store
from omavol._wire cimport ExportFacts, Negotiated, Request, ServerHandshake

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_attr_destroy(pthread_attr_t *attributes)
    int pthread_attr_init(pthread_attr_t *attributes)
    int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size)
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_cond_init(pthread_cond_t *condition, pthread_condattr_t *attributes)
    int pthread_condattr_init(pthread_condattr_t *attributes)
    int pthread_condattr_setclock(pthread_condattr_t *attributes, int clock)
    int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const server_timespec *until)
    int pthread_create(pthread_t *thread, pthread_attr_t *attributes, void *(*body)(void *) noexcept nogil, void *of)
    int pthread_join(pthread_t thread, void **result)
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<time.h>" nogil:
    struct server_timespec "timespec":
        long tv_sec
        long tv_nsec
    enum:
        SERVER_MONOTONIC "CLOCK_MONOTONIC"
    int server_gettime "clock_gettime"(int clock, server_timespec *now)

cdef extern from "failpoint.h" nogil:
    void server_failpoint "OMA_FAILPOINT"(const char *name)

cdef enum:
    SMALL_READ = 65536              # up to here a READ is copied into the outbox, above it goes by reference
    RECEIVE_BUFFER = 524288
    OUTBOX_ROOM = 524288            # what a worker's outbox begins with
    PIPE = 1048576                  # bytes that a worker's pipe holds: /proc/sys/fs/pipe-max-size of everyone
    LARGE_WRITE = 65536            # from here on a payload goes through the pipe: at 64 KiB it costs 4 % less already
    SEND_AT = 262144                # bytes gathered before they are sent though requests are left
    OUTBOX_MOST = 1048576           # queued replies of one connection; with more it is not read from
    EXTENTS_MOST = 2048              # extents in one answer; the client asks on from there
    LINGER = 3                      # milliseconds a worker stays with a silent connection
    TURNS = 64                      # receives of one connection before others get their turn
    WORKER_STACK = 262144
    QUIET_STEP = 500                # milliseconds between two looks of a drain at who moves
    QUIET_STEPS = 4                 # looks without movement, then the connection is shut down (2 s, D6)
    DRAIN_MOST = 30000              # milliseconds for a drain in all, however lively the clients are
    STOP_MOST = 5000                # the same when the server ends

cdef enum WatchKind:
    WATCH_CONNECTION
    WATCH_LISTENER
    WATCH_TICK
    WATCH_END

cdef struct Watched:                # what an epoll event points to begins like this
    WatchKind kind
    int fd

cdef struct Generation:
    Store store
    uint64_t number
    uint32_t holders                # connections with requests in hand that began with it

cdef enum ExportState:
    EXPORT_OPEN
    EXPORT_HELD                     # a retarget waits for the requests in hand
    EXPORT_ENDING                   # nobody new; present connections end

cdef struct Counts:
    uint64_t requests, changes, bytes_read, bytes_written, flushes

cdef struct Export:
    Export *next
    uint8_t *name
    uint32_t name_length
    ExportFacts facts
    ExportState state
    Generation *current
    uint32_t connections
    uint32_t stalled
    Counts counts

cdef enum PieceKind:
    PIECE_BYTES                     # the next `left` bytes of the outbox
    PIECE_FILE                      # a range of the generation held
    PIECE_ZEROES                    # what a failed or null store has instead
    PIECE_ERROR                     # the error chunk behind a range that was filled up (X28)

cdef struct Piece:
    PieceKind kind
    uint32_t error                  # of a range that failed: an NBD error
    uint64_t offset, left, cookie
    uint64_t begin                  # the request's offset: an extended error chunk repeats it (X60)

cdef struct Outbox:
    uint8_t *bytes
    size_t at, have, capacity       # the next byte to send, bytes queued, bytes of memory
    Piece *pieces
    uint32_t first, count, room     # the piece being sent, pieces queued, pieces of memory
    bint blocked                    # the socket took no more

cdef struct Opening:                # a connection in its handshake
    ServerHandshake shake
    int64_t deadline
    uint8_t *text                   # of the worker at hand: a description outlives its export there

cdef struct Served:                 # a connection
    WatchKind kind
    Channel channel
    Table *table
    Served *previous
    Served *next
    Export *export                  # entered; NULL in the handshake
    Generation *holding             # of the requests in hand; NULL between them
    Opening *opening                # NULL in the transmission phase
    Outbox *backlog                 # replies that wait while no worker has the connection
    uint8_t *kept                   # input that waits likewise
    uint32_t kept_length
    uint32_t write_error            # the write under way is refused or has failed; its payload is consumed
    Request write                   # under way: its payload is not all here; `payload` is what is left, `offset` moves
    uint64_t write_begin            # the offset it came with
    bint writing
    bint large                      # the last request was a large WRITE: the next header is received alone
    Negotiated agreed
    uint64_t peer                   # whose it is (peer_of); 0 where nobody counts
    uint64_t moved, moved_before    # bytes that went either way; as a drain saw it last
    uint8_t quiet                   # looks of a drain without movement
    bint taken, waiting             # a worker has it; that worker waits for the socket
    bint leaving                    # DISC or end of input: replies are sent, nothing is read
    bint held                       # stopped at the boundary of a request for a retarget

cdef struct Listener:
    WatchKind kind
    int fd
    Listener *next

cdef struct Table:
    pthread_mutex_t lock
    pthread_cond_t changed          # holders or connections became fewer
    Export *exports
    Served *connections
    Listener *listeners
    uint64_t generations            # given out so far
    uint32_t connection_count, connection_limit, opening_count, refused
    uint32_t client_limit           # connections that one client may have; 0: as many as there are
    int vacant                      # an eventfd that hears when the last connection has ended, -1: nobody asked;
    bint visited                    # it is told from here on: a client got past its handshake
    int64_t handshake_limit         # milliseconds
    bint hidden                     # LIST is refused (H24)
    uint32_t operating              # add, retarget, remove under way
    bint stopping, resting          # accept rests until the next tick: no descriptors left
    bint ticking
    int epoll
    int idle                        # workers that wait for an event
    int worker_count
    Worker *workers
    Watched tick, stop

cdef struct Worker:
    Table *table
    pthread_t thread
    bint started
    uint8_t *buffer                 # RECEIVE_BUFFER bytes
    uint8_t *text                   # MAXIMUM_STRING + 1 bytes
    size_t used, have
    int[2] pipe                     # empty between payloads; -1: there is none
    Outbox box
    Counts counts                   # of the batch in hand
    int ready                       # directions known to be ready
    uint32_t turns


cdef inline int64_t milliseconds() noexcept nogil:
    """Of a clock that only goes forward."""
    cdef server_timespec now
    server_gettime(SERVER_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
