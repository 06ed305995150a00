# The live table: exports, their generations, who holds them; drains. Everything here is under Table.lock.

from libc.string cimport memcmp

from omavol._wire cimport REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_UNKNOWN

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLLERR
        EPOLLHUP
        EPOLLIN
        EPOLLOUT
        EPOLLONESHOT
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SHUT_RDWR
    int server_shutdown "shutdown"(int fd, int how)


cdef inline void lock(Table *table) noexcept nogil:
    pthread_mutex_lock(&table.lock)


cdef inline void unlock(Table *table) noexcept nogil:
    pthread_mutex_unlock(&table.lock)


cdef Export *export_named(Table *table, const uint8_t *name, uint32_t length) noexcept nogil:
    cdef Export *export = table.exports
    while export != NULL:
        if export.name_length == length and memcmp(export.name, name, length) == 0:
            return export
        export = export.next
    return NULL


cdef int find_export(
    void *owner, const uint8_t *name, uint32_t length, bint enter, ExportFacts *facts
) noexcept nogil:
    """The handshake asks for an export; with `enter` the connection is counted as its client from here on."""
    cdef Served *c = <Served *>owner
    cdef Export *export
    cdef uint32_t error = 0
    lock(c.table)
    export = export_named(c.table, name, length)
    if c.table.stopping:
        error = REP_ERR_SHUTDOWN
    elif export == NULL or export.state == EXPORT_ENDING:
        error = REP_ERR_UNKNOWN
    else:
        facts[0] = export.facts
        if export.facts.description != NULL:
            memcpy(c.opening.text, export.facts.description, strlen(export.facts.description) + 1)
            facts.description = <char *>c.opening.text
        if enter:
            if c.export != NULL:
                c.export.connections -= 1
            c.export = export
            export.connections += 1
    unlock(c.table)
    return <int>error


cdef int name_export(void *owner, uint32_t index, uint8_t *name, uint32_t *length) noexcept nogil:
    """LIST: the name of the export at `index`, or POLICY where names are secrets (H24)."""
    cdef Served *c = <Served *>owner
    cdef Export *export
    cdef int outcome = -1
    if c.table.hidden:
        return <int>REP_ERR_POLICY
    lock(c.table)
    export = c.table.exports
    while export != NULL:
        if export.state != EXPORT_ENDING:
            if index == 0:
                memcpy(name, export.name, export.name_length)
                length[0] = export.name_length
                outcome = 0
                break
            index -= 1
        export = export.next
    unlock(c.table)
    return outcome


cdef bint may_begin(Worker *w, Served *c) noexcept nogil:
    """Whether the next request may be begun now: not while its export is held. Takes hold of the generation."""
    if c.holding != NULL:
        # Without the lock on purpose: a request begun just now still finds the generation it holds.
        c.held = peek_state(&c.export.state) == EXPORT_HELD
        return not c.held
    lock(c.table)
    c.held = c.export.state == EXPORT_HELD
    if not c.held:
        c.holding = c.export.current
        c.holding.holders += 1
    unlock(c.table)
    return not c.held


cdef void let_go(Worker *w, Served *c) noexcept nogil:
    """Nothing is in hand any more: give the generation back and add up what was done with it."""
    if c.holding == NULL:
        return
    lock(c.table)
    add_counts(w, c)
    c.holding.holders -= 1
    c.holding = NULL
    if c.export.state != EXPORT_OPEN:
        pthread_cond_broadcast(&c.table.changed)
    unlock(c.table)


cdef void add_counts(Worker *w, Served *c) noexcept nogil:
    cdef Counts *counts = &c.export.counts
    counts.requests += w.counts.requests
    counts.bytes_read += w.counts.bytes_read
    counts.bytes_written += w.counts.bytes_written
    counts.changes += w.counts.changes
    counts.flushes += w.counts.flushes
    memset(&w.counts, 0, sizeof(Counts))


cdef int watch(Table *table, int operation, int fd, uint32_t events, void *of) noexcept nogil:
    cdef epoll_event event
    event.events, event.data.ptr = events, of
    return epoll_ctl(table.epoll, operation, fd, &event)


cdef inline uint32_t inward(const Served *c) noexcept nogil:
    """EPOLLIN if a parked connection is to be read from: also while replies wait for one that writes first (D5)."""
    if c.leaving or c.sated or c.withheld or c.backlog != NULL and box_full(c.backlog):
        return 0
    return EPOLLIN


cdef void arm(Served *c) noexcept nogil:
    """Park: the next event on the socket gives it to a worker. Lock held; nothing of it may be touched behind this."""
    cdef uint32_t events = inward(c) | <uint32_t>EPOLLONESHOT
    if (c.backlog != NULL and not c.withheld) or c.held or c.work != NULL and c.work.finished != NULL:
        events |= EPOLLOUT          # held: true at once, for requests may wait in `kept`; so is a finished job's reply
    if c.channel.tls != NULL and not c.withheld and (
        channel_unsent(&c.channel) or (events & EPOLLIN and channel_buffered(&c.channel))
    ):
        events |= EPOLLOUT          # the socket tells nothing of what TLS has taken from it already
    c.held = False
    if c.work != NULL:
        c.work.called = False
    oma_give(&c.taken)
    watch(c.table, EPOLL_CTL_MOD, c.channel.fd, events, c)


cdef inline void add_moved(Served *c, ssize_t n) noexcept nogil:
    post_64(&c.moved, c.moved + <uint64_t>n)


cdef void begin_drain(Table *table, Export *export) noexcept nogil:
    """Remember what every client of `export` (NULL: of the server) has moved so far."""
    cdef Served *c = table.connections
    while c != NULL:
        if export == NULL or c.export == export:
            c.moved_before, c.quiet = moved(c), 0
        c = c.next


cdef void end_the_idle(Table *table, Export *export) noexcept nogil:
    """Hang up on parked clients that await no reply; a worker sees it and ends them."""
    cdef Served *c = table.connections
    while c != NULL:
        if (export == NULL or c.export == export) and not oma_look(&c.taken) and c.holding == NULL and c.in_flight == 0:
            server_shutdown(c.channel.fd, SHUT_RDWR)
        c = c.next


cdef inline uint64_t moved(const Served *c) noexcept nogil:
    """What tells a drain whether a client moves: bytes given and taken, those of TLS when the socket has them."""
    return peek_64(&c.moved) + channel_sent(&c.channel)


cdef inline bint holds(const Served *c) noexcept nogil:
    """Whether a drain of its generation waits for the client to take something."""
    return c.holding != NULL or c.work != NULL and c.work.held != 0


cdef inline bint moves(const Served *c) noexcept nogil:
    """Whether a byte went either way since a drain looked, or a worker is at work on it."""
    return moved(c) != c.moved_before or oma_look(&c.taken) and not peek_8(&c.waiting)


cdef void end_the_quiet(Table *table, Export *export, bint all_of_them) noexcept nogil:
    """Hang up on who has something in hand and has neither taken nor given a byte for QUIET_STEPS looks (D6)."""
    cdef Served *c = table.connections
    cdef bint ending = export == NULL or export.state == EXPORT_ENDING
    while c != NULL:
        if (export == NULL or c.export == export) and (ending or holds(c)) and c.quiet < QUIET_STEPS:
            if all_of_them:
                c.quiet = QUIET_STEPS
            elif moves(c) or (c.work != NULL and c.work.jobs):
                c.moved_before, c.quiet = moved(c), 0
            else:
                c.quiet += 1
            if c.quiet == QUIET_STEPS:
                server_shutdown(c.channel.fd, SHUT_RDWR)
                if c.export != NULL and (c.in_flight or holds(c)):
                    c.export.stalled += 1
        c = c.next


cdef bint wait_changed(Table *table, int64_t limit) noexcept nogil:
    """Wait for a change or `limit` milliseconds; False when the time was over."""
    return wait_until(&table.changed, &table.lock, nanoseconds() + limit * 1000000)


cdef void drain(Table *table, Export *export, uint32_t *busy, int64_t most) noexcept nogil:
    """Wait until `busy` (holders, connections) is 0; who does not move is hung up on. Lock held, given up to wait."""
    cdef int64_t begun = milliseconds(), looked = begun, now
    begin_drain(table, export)
    while busy[0]:
        wait_changed(table, QUIET_STEP)
        now = milliseconds()
        if now - looked >= QUIET_STEP:
            looked = now
            end_the_quiet(table, export, now - begun >= most)


cdef void release_the_held(Table *table, Export *export) noexcept nogil:
    """Connections that stopped for a retarget go on; EPOLLOUT is true at once, for requests may wait in `kept`."""
    cdef Served *c = table.connections
    release_jobs(table, export)
    while c != NULL:
        if c.export == export and not oma_look(&c.taken) and c.held:
            c.held = False
            watch(table, EPOLL_CTL_MOD, c.channel.fd, EPOLLIN | EPOLLOUT | EPOLLONESHOT, c)
        c = c.next
