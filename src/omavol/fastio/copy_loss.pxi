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
    """The connection is gone, or of no more use: note it and what it strikes; always -1."""
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
    return 0


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
