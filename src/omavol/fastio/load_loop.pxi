# The loop of a load: wait for any connection, take its replies, ask anew; until the time is over and all is answered.

from cpython.exc cimport PyErr_CheckSignals

cdef enum:
    LOAD_TICK = 100             # milliseconds until signals and silence are looked at again
    LOAD_GRACE = 2              # seconds that what is in flight has after Ctrl-C


cdef int run_load(LoadState *load) noexcept nogil:
    """Do the whole load; 0, or -1 with load.fault set. Connections given stay the caller's, dialled ones are closed."""
    cdef int outcome = load_begin(load)
    while outcome == 0 and (load.outstanding or load.live and not load.over or load_dials(load)):
        outcome = load_turn(load)
    load.ended = load.now
    getrusage(RUSAGE_THREAD, &load.after)
    if outcome == 0 and load.flush and not load.interrupted:
        load.over = True
        outcome = load_flush(load)
        while outcome == 0 and load.outstanding:
            outcome = load_turn(load)
    if outcome == 0 and load.address == NULL:
        load_goodbye(load)
    return outcome


cdef void load_goodbye(LoadState *load) noexcept nogil:
    """DISC on every connection (C7): all is answered, so it fits the socket; a server that is gone needs none."""
    cdef uint8_t[REQUEST_SIZE] said
    cdef uint32_t i
    encode_disc(said, False)
    for i in range(load.count):
        channel_send(&load.connections[i].channel, said, REQUEST_SIZE, False)
        channel_flush(&load.connections[i].channel)


cdef inline bint load_dials(const LoadState *load) noexcept nogil:
    """Whether connections in the making are still to be finished."""
    return load.address != NULL and load.live > 0


cdef int load_begin(LoadState *load) noexcept nogil:
    cdef uint32_t i
    cdef LoadConnection *c
    load.now = load.started = load.looked = copy_clock()
    getrusage(RUSAGE_THREAD, &load.before)
    load.measuring = load.warmup == 0
    for i in range(load.count):
        c = &load.connections[i]
        c.moved_at = load.now
        if (load_dial(load, c) if c.dial != NULL else load_transmit(load, c)) < 0:
            return -1
    return 0


cdef int load_turn(LoadState *load) noexcept nogil:
    """Wait for any connection and attend to those that are ready; 0, or -1 with load.fault set."""
    cdef uint32_t i
    cdef LoadConnection *c
    cdef int ready, due, outcome = 0
    cdef bint buffered = False
    for i in range(load.count):
        c = &load.connections[i]
        load.polled[i].fd = c.channel.fd
        load.polled[i].events = POLLIN
        if c.blocked:
            load.polled[i].events = POLLIN | POLLOUT
        elif c.dialling == DIAL_CONNECTING:
            load.polled[i].events = POLLOUT
        buffered |= c.channel.tls != NULL and channel_buffered(&c.channel)
    ready = load_poll(load, buffered)
    if ready < 0 and errno != EINTR:
        return load_fault(load, COPY_ERRNO, errno, 0, b"poll")
    load.now = copy_clock()
    for i in range(load.count if ready > 0 or buffered else 0):
        c = &load.connections[i]
        if load.polled[i].revents & POLLOUT and c.blocked:
            outcome = load_transmit(load, c)
        due = load.polled[i].revents if c.dialling == DIAL_CONNECTING else load.polled[i].revents & ~POLLOUT
        if outcome == 0 and (due or buffered and channel_buffered(&c.channel)):
            if c.dialling == DIAL_CONNECTING or c.dialling == DIAL_HANDSHAKE:
                outcome = load_dialled(load, c)
            else:
                outcome = load_receive(load, c)
        if outcome < 0:
            return -1
    return load_watch(load)


cdef inline int load_poll(LoadState *load, bint buffered) noexcept nogil:
    """poll(2), awake for a prompt server while one request is in flight: a wake-up would be most of what is timed."""
    cdef int64_t began
    cdef bint awake = stays_awake(&load.brisk)
    cdef int ready = 0
    if buffered or load.outstanding != 1:
        return poll(load.polled, load.count, 0 if buffered else load_patience(load))
    began = copy_clock()
    while awake and ready == 0 and copy_clock() - began < BRISK:
        sched_yield()
        ready = poll(load.polled, load.count, 0)
    if awake:
        load.awake += copy_clock() - began
    if ready == 0:
        ready = poll(load.polled, load.count, load_patience(load))
    waited(&load.brisk, copy_clock() - began, awake)
    return ready


cdef inline int load_patience(const LoadState *load) noexcept nogil:
    """Milliseconds the poll may wait: up to the next change of phase, at most a tick."""
    cdef int64_t until = load.started + (load.seconds if load.measuring else load.warmup)
    if load.over or until - load.now > LOAD_TICK * <int64_t>1000000:
        return LOAD_TICK
    return <int>max(<int64_t>0, (until - load.now) // 1000000) + 1


cdef int load_watch(LoadState *load) noexcept nogil:
    """Begin to measure, end asking, look at signals and silence, each in its time; 0, or -1 with load.fault set."""
    cdef uint32_t i
    cdef LoadConnection *c
    if not load.measuring and load.now - load.started >= load.warmup:
        load_forget(load)
    if load.measuring and load.now - load.started >= load.seconds and not load.once:
        load.over = True
    if load.now - load.looked < LOAD_TICK * <int64_t>1000000:
        return 0
    load.looked = load.now
    if load_interrupted():
        load.over = load.interrupted = True
        load.timeout = min(load.timeout, LOAD_GRACE * <int64_t>1000000000)
    for i in range(load.count):
        c = &load.connections[i]
        if (c.outstanding or c.dial != NULL and c.channel.fd >= 0) and load.now - c.moved_at > load.timeout:
            return load_fault(load, COPY_SILENT, 0, 0, b"")
    return 0


cdef void load_forget(LoadState *load) noexcept nogil:
    """The warm-up is over: what it counted is dropped."""
    memset(&load.read, 0, sizeof(LoadTimes))
    memset(&load.write, 0, sizeof(LoadTimes))
    load.errors = load.extents = 0
    load.awake = 0
    load.started, load.measuring = load.now, True
    getrusage(RUSAGE_THREAD, &load.before)


cdef bint load_interrupted() noexcept with gil:
    """Whether Ctrl-C was pressed; everywhere but in the main thread the answer is no."""
    try:
        PyErr_CheckSignals()
    except KeyboardInterrupt:
        return True
    return False
