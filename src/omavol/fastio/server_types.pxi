# What the server is made of: exports and their generations, connections, their queued replies, workers, the table.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from omavol._channel cimport Channel, TlsKeeper
from omavol._store cimport Store
from omavol._wire cimport ExportFacts, Negotiated, Request, ServerHandshake, Tls

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
    ctypedef struct pthread_mutexattr_t:
        pass
    enum:
        PTHREAD_MUTEX_ADAPTIVE_NP
    int pthread_attr_destroy(pthread_attr_t *attributes)
    int pthread_attr_init(pthread_attr_t *attributes)
    int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size)
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_cond_init(pthread_cond_t *condition, pthread_condattr_t *attributes)
    int pthread_condattr_init(pthread_condattr_t *attributes)
    int pthread_condattr_setclock(pthread_condattr_t *attributes, int clock)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const server_timespec *until)
    int pthread_create(pthread_t *thread, pthread_attr_t *attributes, void *(*body)(void *) noexcept nogil, void *of)
    int pthread_join(pthread_t thread, void **result)
    int pthread_mutex_init(pthread_mutex_t *mutex, pthread_mutexattr_t *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutexattr_init(pthread_mutexattr_t *attributes)
    int pthread_mutexattr_settype(pthread_mutexattr_t *attributes, int type)

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
    JOBS_MOST = 128                 # requests of one connection that are done elsewhere at a time
    JOB_BYTES_MOST = 16777216       # bytes that they move, unless it is one alone; with more it is not read from
    READ_PIECE = 4194304            # a longer READ done elsewhere comes in pieces, where chunks were agreed
    PAGE = 4096                     # what memory for a store without a page cache is aligned to (open(2), O_DIRECT)
    PIPED_MOST = 1044480            # PIPE less a page, for a start in the middle of one: more takes several turns
    PIPES_MOST = 32                 # half of what the kernel lets a user have of that size (pipe(7))
    ROOM_LEAST = 65536              # memory of a parcel: this or a power of two more,
    SHELF_SIZES = 10                # up to 32 MiB;
    SHELF_MOST = 16777216           # bytes kept for the next requests while the pool is at work
    POOL_MOST = 64                  # threads that wait for stores
    POOL_IDLE = 2000                # milliseconds after which such a thread ends
    REPLY_HEAD = 40                 # EXTENDED_CHUNK_SIZE and the offset of a data chunk
    FILTER_OPEN = 8                 # the place of entering among the delays of commands
    FILTER_COMMANDS = 9

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

cdef enum FilterKind:
    FILTER_DELAY
    FILTER_ERROR
    FILTER_RATE
    FILTER_PAUSE

cdef struct Filter:                 # each kind uses its own; times are nanoseconds
    FilterKind kind
    uint32_t commands               # FILTER_ERROR: bits by command number
    uint32_t error                  # an NBD error
    uint32_t every, next            # 0: that is not asked
    uint32_t met                    # requests that it has judged so far
    uint64_t chance                 # in 2^32
    uint64_t start, end             # only what touches these bytes
    bint refuse_fast_zero           # FILTER_DELAY
    int64_t[FILTER_COMMANDS] delay
    uint64_t[2] rate                # FILTER_RATE: bytes a second read, written; 0: any
    int64_t[2] paid                 # when all that was let through will have been at its rate

cdef enum ExportState:
    EXPORT_OPEN
    EXPORT_HELD                     # a retarget waits for the requests in hand
    EXPORT_ENDING                   # nobody new; present connections end

cdef extern from * nogil:
    """
    #define oma_peek(place) __atomic_load_n(place, __ATOMIC_RELAXED)
    #define oma_post(place, value) __atomic_store_n(place, value, __ATOMIC_RELAXED)
    """
    # Of what others look at without the lock: a value of before or of after, whichever, but a whole one.
    ExportState peek_state "oma_peek"(const ExportState *place)
    void post_state "oma_post"(ExportState *place, ExportState value)
    bint peek_flag "oma_peek"(const bint *place)
    void post_flag "oma_post"(bint *place, bint value)
    uint8_t peek_8 "oma_peek"(const uint8_t *place)
    void post_8 "oma_post"(uint8_t *place, uint8_t value)
    uint32_t peek_32 "oma_peek"(const uint32_t *place)
    void post_32 "oma_post"(uint32_t *place, uint32_t value)
    uint64_t peek_64 "oma_peek"(const uint64_t *place)
    void post_64 "oma_post"(uint64_t *place, uint64_t value)

cdef struct Counts:
    uint64_t requests, changes, bytes_read, bytes_written, flushes

cdef struct Export:
    Export *next
    uint8_t *name
    uint32_t name_length
    ExportFacts facts
    ExportState state
    Filter *filters                 # in the order in which requests pass them
    uint32_t filter_count
    bint filtered                   # there are some; looked at without the lock
    Generation *current
    uint32_t connections
    uint32_t stalled
    Counts counts
    Tracking *tracking              # or NULL: what it changes is nobody's concern

cdef enum PieceKind:
    PIECE_BYTES                     # the next `left` bytes of the outbox
    PIECE_FILE                      # a range of the generation held
    PIECE_ZEROES                    # what a failed or null store has instead
    PIECE_ERROR                     # the error chunk behind a range that was filled up (X28)
    PIECE_PARCEL                    # what is in a parcel, from `offset` on, put back when it is sent

cdef struct Shelf

cdef struct Parcel:                 # bytes between the store and a socket
    Parcel *next
    Shelf *shelf
    uint8_t *memory                 # aligned to PAGE; NULL: they are in the pipe
    size_t room                     # bytes of memory, ROOM_LEAST << size
    uint32_t size
    int[2] pipe

cdef struct Shelf:
    pthread_mutex_t lock
    Parcel *piped
    Parcel *roomy[SHELF_SIZES]
    size_t kept                     # bytes of memory here
    uint32_t pipes                  # open ones, here and in use

cdef struct Piece:
    PieceKind kind
    uint32_t error                  # of a range that failed: an NBD error
    uint64_t offset, left, cookie
    uint64_t begin                  # the request's offset: an extended error chunk repeats it (X60)
    Parcel *parcel                  # PIECE_PARCEL

cdef struct Outbox:
    uint8_t *bytes
    size_t at, have, capacity       # the next byte to send, bytes queued, bytes of memory
    Piece *pieces
    uint32_t first, count, room     # the piece being sent, pieces queued, pieces of memory
    size_t owned                    # bytes queued that are in parcels
    bint blocked                    # the socket took no more

cdef struct Opening:                # a connection in its handshake
    ServerHandshake shake
    int64_t deadline
    bint securing                   # TLS begins when the ACK of STARTTLS is sent
    uint8_t *text                   # of the worker at hand: a description outlives its export there

cdef struct Job:                    # a request that is done elsewhere: it waits in a filter, or for the store
    Job *next                       # in the pool's queue, among its held ones, or among the connection's finished
    Served *connection
    Generation *generation          # held from when it may begin; NULL before
    Request request
    uint32_t contexts               # of a BLOCK_STATUS: which of those agreed are to answer
    uint64_t cost                   # bytes it counts among those of its connection
    int64_t due                     # nanoseconds: the filters let it go on then
    uint32_t error                  # an NBD error that stands in for the store's answer
    bint paused                     # held by a filter, not by a retarget
    bint admitted                   # the filters are behind it
    bint written                    # a WRITE that is done but for its sync
    Parcel *parcel                  # the payload of a WRITE; once finished, what a READ brings
    size_t have                     # bytes in it
    uint8_t[REPLY_HEAD] head        # once finished: the header of a READ's reply,
    uint8_t *memory                 # or the whole of another, to be freed;
    size_t length                   # bytes of either
    uint64_t done, left             # of a READ in pieces: bytes up to the end of this one, and behind it

cdef struct Work:                   # what a connection has elsewhere
    Job *finished                   # by the lock
    Job *finished_last
    uint32_t jobs                   # not finished, by the lock
    uint32_t held                   # pieces of a READ that hold their generation until the client takes them
    bint called                     # parked, and epoll was told that something is finished
    bint gone                       # the connection has ended and goes when its last job is back
    Job *write                      # the owner's: its payload is being received
    uint64_t bytes                  # the owner's: what its jobs move

cdef struct Served:                 # a connection
    WatchKind kind
    int taken                       # a worker has it; whoever turns 0 into 1 does, and nobody else touches what follows
    Channel channel
    Table *table
    Served *previous
    Served *next
    Export *export                  # entered; NULL in the handshake
    Generation *holding             # of the requests in hand; NULL between them
    Opening *opening                # NULL in the transmission phase
    Work *work                      # NULL if nothing of it ever went elsewhere
    uint32_t in_flight              # requests elsewhere, until their replies are in the outbox
    Outbox *backlog                 # replies that wait while no worker has the connection
    uint8_t *kept                   # input that waits likewise
    uint32_t kept_length
    uint32_t write_error            # the write under way is refused or has failed; its payload is consumed
    Request write                   # under way: its payload is not all here; `payload` is what is left, `offset` moves
    uint64_t write_begin            # the offset it came with
    uint8_t writing
    uint8_t large                   # the last request was a large WRITE: the next header is received alone
    Negotiated agreed
    uint64_t peer                   # whose it is (peer_of); 0 where nobody counts
    uint64_t moved, moved_before    # bytes that went either way; as a drain saw it last
    uint8_t quiet                   # looks of a drain without movement
    uint8_t waiting                 # the worker that has it waits for the socket
    uint8_t sated                   # no room for the next request until one of those elsewhere is back
    uint8_t withheld                # entering takes its time: nothing is sent or read before
    uint8_t parted                  # by DISC: what it asked for is done, though nobody waits for it (X52)
    uint8_t leaving                 # DISC or end of input: replies are sent, nothing is read
    uint8_t held                    # stopped at the boundary of a request for a retarget

cdef struct Listener:
    WatchKind kind
    int fd
    Listener *next

cdef struct Table

cdef struct PoolThread:
    Table *table
    pthread_t thread
    bint started, ended             # ended: to be joined, then the place is free

cdef struct Pool:                   # all of it by Table.lock
    pthread_cond_t work             # a job may begin
    pthread_cond_t time             # the earliest due time is another
    Job *first                      # jobs that may begin, in order
    Job *last
    Job *held                       # jobs that wait for a change: of filters, or of a retarget's end
    Job **waiting                   # a heap: jobs by due time, the earliest first
    uint32_t ready, waiting_count, waiting_room
    uint32_t threads, idle          # idle: without a job, or just started
    bint watched                    # one of the idle waits for the earliest due time
    bint stopping
    PoolThread[POOL_MOST] thread

cdef struct Table:
    pthread_mutex_t lock
    pthread_cond_t changed          # holders or connections became fewer
    Export *exports
    Served *connections
    Served *retired                 # ended connections that an event may still name; their memory is used again
    Listener *listeners
    Pool pool
    Shelf shelf
    uint64_t generations            # given out so far
    uint32_t contexts               # ids of meta contexts likewise
    uint32_t connection_count, connection_limit, opening_count, refused
    uint32_t client_limit           # connections that one client may have; 0: as many as there are
    int vacant                      # an eventfd that hears when the last connection has ended, -1: nobody asked;
    bint visited                    # it is told from here on: a client got past its handshake
    int64_t handshake_limit         # milliseconds
    bint hidden                     # LIST is refused (H24)
    TlsKeeper *tls                  # the server's credentials; NULL: no TLS
    Tls tls_mode
    uint64_t tls_sessions, tls_in_kernel, tls_failures      # since the start
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
    bint hung_up                    # the event said that the peer is gone
    uint32_t turns
    Brisk brisk                     # how promptly its client asks again


cdef inline int64_t milliseconds() noexcept nogil:
    """Of a clock that only goes forward."""
    cdef server_timespec now
    server_gettime(SERVER_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000


cdef inline int64_t nanoseconds() noexcept nogil:
    """Of the same clock."""
    cdef server_timespec now
    server_gettime(SERVER_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
