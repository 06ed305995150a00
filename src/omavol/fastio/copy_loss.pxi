# A connection that is lost: what is due again, and how the other end is left in peace (NBD.md, C5).
#
# What the destination acknowledged is durable once a FLUSH that was sent afterwards is answered by the same server;
# over plain NBD nobody can tell whether it is the same after a reconnect. So everything acknowledged since the last
# answered FLUSH is kept by range, and is due again when the destination is lost, with what was under way. On the way a
# FLUSH bounds how much that is. Whoever called makes the connection anew and runs another loop over what is due.

cdef enum:
    FLUSH_SECONDS = 30          # between two flushes on the way
    FLUSH_RANGES = 1 << 16      # acknowledged ranges that ask for one too

cdef int lose(CopyState *c, CopyConnection *connection, int kind, int code, const char *text) noexcept nogil:
    """The connection is gone, or of no more use: note it and what it strikes; always -1.

    That an end goes which has answered an error is no loss: the error stands.
    """
    if not end_of(c, connection).leaving:
        end_of(c, connection).lost = True
    return fail_copy(c, connection.side, kind, code, offset_of(c, connection), text)


cdef inline bint can_flush(CopyEnd *end) noexcept nogil:
    return end.kind == END_NBD and end.flags & TX_SEND_FLUSH != 0


cdef int note_unflushed(CopyState *c, const CopyPiece *piece) noexcept nogil:
    """Keep an acknowledged piece until a FLUSH covers it; 0, or -1 with c.fault set."""
    cdef WorkItem *grown
    cdef WorkItem *item
    if c.unflushed_count == c.unflushed_room:
        grown = <WorkItem *>realloc(c.unflushed, (c.unflushed_room * 2 + 1024) * sizeof(WorkItem))
        if grown == NULL:
            return fail_copy(c, NO_SIDE, COPY_ERRNO, ENOMEM, piece.offset, b"no memory for what is not flushed")
        c.unflushed, c.unflushed_room = grown, c.unflushed_room * 2 + 1024
    item = &c.unflushed[c.unflushed_count]
    item.offset, item.length, item.kind = piece.offset, piece.length, piece.kind
    c.unflushed_count += 1
    c.unflushed_bytes += piece.length
    return 0


cdef int queue_flush(CopyState *c) noexcept nogil:
    """Queue a FLUSH, which covers what was acknowledged before it is sent (C11); none is in flight."""
    c.flush_covers = c.unflushed_count
    c.unflushed_bytes = 0
    c.flush_at = copy_clock()
    c.flushing = True
    return 0 if queue_request(c, &c.destination.connections[0], CMD_FLUSH, 0, 0, 0, NULL, NOTHING) >= 0 else -1


cdef void flush_answered(CopyState *c) noexcept nogil:
    """What the FLUSH covered is durable: forget it."""
    c.flushing, c.flushed = False, True
    c.unflushed_count -= c.flush_covers
    if c.unflushed_count:
        memmove(c.unflushed, c.unflushed + c.flush_covers, c.unflushed_count * sizeof(WorkItem))
    c.flush_covers = 0


cdef int flush_on_the_way(CopyState *c) noexcept nogil:
    """Bound what would be due again: a FLUSH every `flush_every` bytes or FLUSH_SECONDS, while writes go on."""
    if not c.reconnects or c.flushing or c.unflushed_count == 0 or not can_flush(&c.destination):
        return 0
    if c.unflushed_bytes < c.flush_every and c.unflushed_count < FLUSH_RANGES \
            and copy_clock() - c.flush_at < FLUSH_SECONDS * <int64_t>1000000000:
        return 0
    return queue_flush(c)


cdef int bring_to_rest(CopyState *c, CopyEnd *end) noexcept nogil:
    """Wait until nothing is in flight at one end; 0, or -1 with c.fault set."""
    while end.outstanding:
        if send_all(c, end) < 0 or wait_for_ends(c, TICK) < 0:
            return -1
        if c.cancel:
            return fail_copy(c, NO_SIDE, COPY_CANCELLED, 0, c.done, b"cancelled")
        if watch_end(c, end, copy_clock(), c.timeout * (FLUSH_PATIENCE if c.flushing else 1)) < 0:
            return -1
    return -1 if c.fault.kind != COPY_WELL else 0


cdef void leave_ends(CopyState *c) noexcept nogil:
    """After an error that was answered: leave its end, and the other one too if it is not to be used again."""
    cdef bint of_source = c.source.leaving, of_destination = c.destination.leaving
    if of_source:
        leave_end(c, &c.source, &c.destination, c.timeout)
    if of_destination:
        leave_end(c, &c.destination, &c.source, c.timeout)
    if c.reconnects and (c.source.lost or c.destination.lost):
        return
    if not of_source and not c.source.lost:
        leave_end(c, &c.source, &c.destination, CANCEL_GRACE * <int64_t>1000000000)
    if not of_destination and not c.destination.lost:
        leave_end(c, &c.destination, &c.source, CANCEL_GRACE * <int64_t>1000000000)


cdef void leave_end(CopyState *c, CopyEnd *end, CopyEnd *other, int64_t limit) noexcept nogil:
    """Disconnect softly: within `limit` nanoseconds what is in flight is answered, then DISC (NBD.md, C6 to C8).

    Nothing more is asked, no answer leads to anything, of the other end nothing is taken meanwhile. The fault stays.
    """
    cdef CopyFault first = c.fault
    cdef int64_t until = copy_clock() + limit
    cdef int i, others = other.count
    other.count, end.leaving = 0, True
    for i in range(end.count):
        drop_queued(c, &end.connections[i])
    while is_busy(end) and copy_clock() < until and not c.cancel:
        if send_all(c, end) < 0 or wait_for_ends(c, TICK) < 0:
            break
    for i in range(end.count):
        leave_connection(c, &end.connections[i], until)
    other.count = others
    c.fault = first


cdef void leave_connection(CopyState *c, CopyConnection *connection, int64_t until) noexcept nogil:
    """DISC, if nothing is in flight, as soon as the socket has room: a refused WRITE's payload may still fill it."""
    cdef pollfd polled
    if connection.outstanding or wants_to_send(connection):
        return
    connection.out_sent = 0
    connection.out_have = <uint32_t>encode_disc(connection.out, end_of(c, connection).form == FORM_EXTENDED)
    while transmit_requests(c, connection) == 0 and wants_to_send(connection) and copy_clock() < until and not c.cancel:
        polled.fd, polled.events = connection.fd, POLLOUT
        poll(&polled, 1, TICK)


cdef bint is_busy(CopyEnd *end) noexcept nogil:
    """Whether anything is in flight, or on its way out."""
    cdef int i
    for i in range(end.count):
        if wants_to_send(&end.connections[i]):
            return True
    return end.outstanding > 0


cdef void drop_queued(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Forget the requests of which no byte was sent."""
    cdef int32_t index
    while connection.head != NOTHING:
        index = connection.head
        connection.head = c.flights[index].next
        release_flight(c, connection, index)


cdef void settle_other_end(CopyState *c) noexcept nogil:
    """After a loss: bring the end that is still there to rest, so that its connections can be used again.

    The destination gets what was read already, and a FLUSH; of the source, answers on their way are dropped. An end
    that is lost meanwhile counts as lost too; one that fails for good makes that the fault.
    """
    cdef CopyFault first = c.fault
    cdef bint of_source = c.source.lost
    cdef int outcome
    if c.source.lost:
        c.source.count = 0
    if c.destination.lost:
        c.destination.count = 0
    memset(&c.fault, 0, sizeof(CopyFault))
    if of_source:
        outcome = bring_to_rest(c, &c.destination)
        if outcome == 0 and can_flush(&c.destination):
            outcome = queue_flush(c)
            if outcome == 0:
                outcome = bring_to_rest(c, &c.destination)
    else:
        outcome = bring_to_rest(c, &c.source)
    if outcome == 0 or (c.source.lost and c.destination.lost):
        c.fault = first
