# The loop of a copy: begin pieces while there is room, send, wait for either end, receive; at the end, flush.

cdef enum:
    TICK = 100                  # milliseconds until cancel, rate and silence are looked at again
    CANCEL_GRACE = 2            # seconds that requests in flight have to be answered after a cancel
    FLUSH_PATIENCE = 10         # a FLUSH may take this many times the timeout


cdef int run_copy(CopyState *c) noexcept nogil:
    """Copy all work and flush; 0, or -1 with c.fault set. The descriptors stay the caller's."""
    cdef int outcome = move_and_flush(c)
    if c.source.leaving or c.destination.leaving:
        leave_ends(c)
    if outcome < 0 and c.reconnects and (c.source.lost or c.destination.lost):
        settle_other_end(c)
    return outcome


cdef int move_and_flush(CopyState *c) noexcept nogil:
    c.tokens_at = c.source.moved_at = c.destination.moved_at = c.flush_at = copy_clock()
    if c.in_kernel and copy_in_kernel(c) < 0:
        return -1
    while c.work_next < c.work_count or c.pieces_under_way:
        if copy_turn(c) < 0:
            return -1
    if not c.reconnects:
        say_goodbye(&c.source)
        c.source.count = 0      # nothing more is asked of it: it may go
    OMA_FAILPOINT(b"copy.before-flush")
    if flush_destination(c) < 0:
        return -1
    settle_records(c)
    say_goodbye(&c.source)
    say_goodbye(&c.destination)
    return 0


cdef int copy_turn(CopyState *c) noexcept nogil:
    """One round: begin what fits, send what can be sent, wait, receive."""
    cdef int wait = launch_pieces(c)
    if wait < 0 or flush_on_the_way(c) < 0 or send_all(c, &c.source) < 0 or send_all(c, &c.destination) < 0:
        return -1
    if c.work_next == c.work_count and c.pieces_under_way == 0:
        return 0
    if wait_for_ends(c, wait) < 0:
        return -1
    return watch_ends(c)


cdef int launch_pieces(CopyState *c) noexcept nogil:
    """Begin pieces while buffers, bytes and rate allow; milliseconds the poll may wait, or -1 with c.fault set."""
    cdef int wait
    while c.work_next < c.work_count and c.free_piece != NOTHING and not c.cancel:
        if c.work[c.work_next].kind == WORK_READ:
            if c.bytes_under_way >= c.bytes_allowed:
                return TICK
            wait = rate_allows(c)
            if wait:
                return wait
        if begin_piece(c) < 0:
            return -1
    return TICK


cdef int rate_allows(CopyState *c) noexcept nogil:
    """The token bucket, one piece of debt allowed: 0 to go on, else milliseconds until it is worth asking again."""
    cdef int64_t now
    cdef double most
    cdef uint64_t rate = c.rate
    if rate == 0:
        return 0
    now = copy_clock()
    most = <double>rate / 10
    c.tokens = min(most, c.tokens + <double>(now - c.tokens_at) * <double>rate / 1e9)
    c.tokens_at = now
    if c.tokens < 0:
        return <int>min(<double>TICK, 1 - c.tokens * 1000 / <double>rate)
    c.tokens -= min(c.piece_size, c.work[c.work_next].length - c.work_done)
    return 0


cdef int send_all(CopyState *c, CopyEnd *end) noexcept nogil:
    cdef int i
    for i in range(end.count):
        if wants_to_send(&end.connections[i]) and transmit_requests(c, &end.connections[i]) < 0:
            return -1
    return 0


cdef int add_to_poll(CopyEnd *end, pollfd *polled, CopyConnection **whose, int count) noexcept nogil:
    cdef int i
    for i in range(end.count):
        polled[count].fd = end.connections[i].fd
        polled[count].events = POLLIN | (POLLOUT if wants_to_send(&end.connections[i]) else 0)
        whose[count] = &end.connections[i]
        count += 1
    return count


cdef int wait_for_ends(CopyState *c, int wait) noexcept nogil:
    """Wait for any connection of either end, then receive from those that have something."""
    cdef pollfd polled[2 * MOST_CONNECTIONS]
    cdef CopyConnection *whose[2 * MOST_CONNECTIONS]
    cdef bint here = False
    cdef int i, ready, count = add_to_poll(&c.source, polled, whose, 0)
    count = add_to_poll(&c.destination, polled, whose, count)
    for i in range(count):
        here |= has_input(whose[i])
    ready = poll(polled, count, 0 if here else wait)
    if ready < 0 and errno != EINTR:
        return fail_copy(c, NO_SIDE, COPY_ERRNO, errno, 0, b"poll")
    if ready < 0 or ready == 0 and not here:
        return 0
    for i in range(count):
        if (polled[i].revents & (POLLIN | POLLHUP | POLLERR) or has_input(whose[i])) \
                and receive_replies(c, whose[i]) < 0:
            return -1
    return 0


cdef inline bint has_input(const CopyConnection *connection) noexcept nogil:
    """Whether TLS holds bytes that the socket does not tell of."""
    return connection.tls != NULL and channel_buffered(connection.tls)


cdef int watch_ends(CopyState *c) noexcept nogil:
    """End what was cancelled, and what has waited too long; 0, or -1 with c.fault set."""
    cdef int64_t now = copy_clock()
    if c.fault.kind != COPY_WELL:
        return -1               # an error was answered, or the destination lost while a reply of the source was taken
    if c.cancel:
        if c.cancelled_at == 0:
            c.cancelled_at = now
        if c.pieces_under_way == 0 or now - c.cancelled_at > CANCEL_GRACE * <int64_t>1000000000:
            return fail_copy(c, NO_SIDE, COPY_CANCELLED, 0, c.done, b"cancelled")
    if watch_end(c, &c.source, now, c.timeout) < 0:
        return -1
    return watch_end(c, &c.destination, now, c.timeout * (FLUSH_PATIENCE if c.flushing else 1))


cdef int watch_end(CopyState *c, CopyEnd *end, int64_t now, int64_t limit) noexcept nogil:
    cdef int i
    if end.outstanding == 0 or now - end.moved_at <= limit:
        return 0
    for i in range(end.count):
        if end.connections[i].outstanding:
            return lose(c, &end.connections[i], COPY_SILENT, 0, b"silent")
    return 0


cdef int flush_destination(CopyState *c) noexcept nogil:
    """Make it durable: FLUSH when every write was answered on all connections (proto.md, CAN_MULTI_CONN; C11)."""
    cdef CopyEnd *end = &c.destination
    if end.kind == END_FILE:
        if fsync(end.fd) < 0:
            return fail_copy(c, DESTINATION, COPY_ERRNO, errno, 0, b"flush")
        c.flushed = True
        return 0
    if not can_flush(end):
        return 0
    if bring_to_rest(c, end) < 0 or queue_flush(c) < 0:        # a FLUSH on the way may still be in flight
        return -1
    return bring_to_rest(c, end)
