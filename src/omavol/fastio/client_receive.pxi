# Replies in: headers in bulk, payload straight to where it is hashed and sent from; nothing is believed unchecked.
#
# While payload is due, one recvmsg takes it together with the headers behind it. A reply is good when it is for a
# request that was sent on this side and not answered, its type is legal for that, and a READ's content covers the
# request exactly once (proto.md, "Structured reply chunk message"; NBD.md C1, C22, C23).

cdef inline bint content_outside(uint64_t offset, uint64_t length, uint64_t begin, uint64_t whole) noexcept nogil:
    """Whether a content chunk is empty or leaves its READ of `whole` bytes at `begin`; nothing overflows (X26)."""
    return length == 0 or offset < begin or offset - begin > whole or length > whole - (offset - begin)


cdef int copy_breach(CopyState *c, CopyConnection *connection, uint64_t offset, const char *text) noexcept nogil:
    return fail_copy(c, connection.side, COPY_BREACH, 0, offset, text)


cdef int receive_replies(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Take what the socket has, a bounded share of it; 0, or -1 with c.fault set."""
    cdef iovec parts[2]
    cdef ssize_t n
    cdef uint32_t taken
    cdef int turn, count
    for turn in range(16):      # then the other connections have theirs
        count = 1
        if connection.used:
            memmove(connection.in_, connection.in_ + connection.used, connection.have - connection.used)
            connection.have -= connection.used
            connection.used = 0
        parts[1].iov_base = connection.in_ + connection.have
        parts[1].iov_len = RECEIVE_ROOM - connection.have
        if connection.payload_left:         # `in_` is empty then
            parts[0].iov_base, parts[0].iov_len = connection.into, connection.payload_left
            parts[1].iov_len = EXTENDED_CHUNK_SIZE + 8
            count = 2
        else:
            parts[0] = parts[1]
        n = receive_some(c, connection, parts, count)
        if n <= 0:
            return <int>n
        note_movement(c, connection)
        if connection.payload_left:
            taken = <uint32_t>n if <size_t>n < connection.payload_left else connection.payload_left
            if payload_came(c, connection, taken) < 0:
                return -1
            n -= taken
        connection.have += <uint32_t>n
        if parse_replies(c, connection) < 0:
            return -1
    return 0


cdef ssize_t receive_some(CopyState *c, CopyConnection *connection, iovec *parts, int count) noexcept nogil:
    """One call's worth: bytes, 0 when nothing is here, -1 with c.fault set. Of TLS the first part alone is filled."""
    cdef msghdr message
    cdef ssize_t n
    if connection.tls != NULL:
        n = channel_receive(connection.tls, <uint8_t *>parts[0].iov_base, parts[0].iov_len)
        return n if n >= 0 else channel_failed(c, connection, n, b"receive")
    memset(&message, 0, sizeof(message))
    message.msg_iov, message.msg_iovlen = parts, count
    n = recvmsg(connection.fd, &message, MSG_DONTWAIT)
    if n > 0:
        return n
    if n == 0:
        return lose(c, connection, COPY_CLOSED, 0, b"connection closed")
    if errno == EAGAIN or errno == EINTR:
        return 0
    return socket_failed(c, connection, b"receive")


cdef int payload_came(CopyState *c, CopyConnection *connection, uint32_t length) noexcept nogil:
    """Account `length` bytes that are already in place; ends the reply with its last one."""
    cdef int32_t index = connection.receiving
    connection.into += length
    connection.payload_left -= length
    c.bytes_read += length
    if connection.payload_left:
        return 0
    connection.receiving = NOTHING
    if connection.last_chunk:
        return reply_done(c, connection, index)
    return 0


cdef int parse_replies(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Parse every whole header that was received, up to a payload that is still to come."""
    cdef uint32_t left, take
    cdef int got
    while connection.used < connection.have:
        left = connection.have - connection.used
        if connection.payload_left:
            take = left if left < connection.payload_left else connection.payload_left
            memcpy(connection.into, connection.in_ + connection.used, take)
            connection.used += take
            if payload_came(c, connection, take) < 0:
                return -1
        elif connection.skip_left:
            take = left if left < connection.skip_left else connection.skip_left
            connection.used += take
            connection.skip_left -= take
        else:
            got = parse_one(c, connection, connection.in_ + connection.used, left)
            if got <= 0:
                return got
            connection.used += <uint32_t>got
    return 0


cdef int parse_one(CopyState *c, CopyConnection *connection, const uint8_t *data, uint32_t have) noexcept nogil:
    """One reply header with the fixed part of its payload: bytes used, 0 for "more", -1 with c.fault set."""
    cdef CopyEnd *end = end_of(c, connection)
    cdef Reply reply
    cdef CopyFlight *flight
    cdef int32_t index
    cdef Parsed parsed = parse_reply(data, have, end.form, &reply)
    if parsed == NEED_MORE:
        return 0
    if parsed == BAD_MAGIC:
        return copy_breach(c, connection, offset_of(c, connection), b"a reply with a wrong magic")
    index = flight_of(c, connection, reply.cookie)
    if index == NOTHING:
        return copy_breach(c, connection, offset_of(c, connection), b"a reply to a request that was not sent")
    flight = &c.flights[index]
    if reply.structured:
        return parse_chunk(c, connection, &reply, index, data, have)
    if end.form != FORM_SIMPLE and flight.type == CMD_READ:
        return copy_breach(c, connection, flight.offset, b"a simple reply to READ, structured ones were agreed")
    flight.error = reply.error
    if reply.error or flight.type != CMD_READ:
        return -1 if reply_done(c, connection, index) < 0 else SIMPLE_REPLY_SIZE
    flight.covered = flight.length
    content_comes(connection, index, flight.data, flight.length, True)
    return SIMPLE_REPLY_SIZE


cdef void content_comes(
    CopyConnection *connection, int32_t index, uint8_t *into, uint32_t length, bint last
) noexcept nogil:
    connection.receiving, connection.into, connection.payload_left = index, into, length
    connection.last_chunk = last


cdef int parse_chunk(
    CopyState *c, CopyConnection *connection, const Reply *reply, int32_t index, const uint8_t *data, uint32_t have
) noexcept nogil:
    """One chunk of a structured or extended reply, as parse_one."""
    cdef uint32_t header = <uint32_t>chunk_size(reply.extended)
    cdef CopyFlight *flight = &c.flights[index]
    cdef bint last = reply.flags & REPLY_DONE
    cdef Request request
    cdef uint32_t fixed, length
    cdef uint64_t offset
    request.type, request.flags, request.cookie = flight.type, flight.flags, reply.cookie
    request.offset, request.length = flight.offset, flight.length
    if not judge_chunk(reply, &request):
        return copy_breach(c, connection, flight.offset, b"a chunk that cannot answer this request")
    if reply.type == CHUNK_NONE:
        return -1 if last and reply_done(c, connection, index) < 0 else <int>header
    fixed = 8 if reply.type == CHUNK_OFFSET_DATA else 12 if reply.type == CHUNK_OFFSET_HOLE else 6
    if have < header + fixed:
        return 0
    data += header
    if reply.type & 0x8000:
        if be32(data) == 0:
            return copy_breach(c, connection, flight.offset, b"an error chunk without an error")
        flight.error = be32(data)
        connection.skip_left = <uint32_t>reply.length - fixed       # judged to be short
        return -1 if last and reply_done(c, connection, index) < 0 else <int>(header + fixed)
    offset = be64(data)
    length = <uint32_t>(reply.length - 8) if reply.type == CHUNK_OFFSET_DATA else be32(data + 8)
    if content_outside(offset, length, flight.offset, flight.length):
        return copy_breach(c, connection, flight.offset, b"content outside the request")
    offset -= flight.offset
    if not cover_flight(flight, <uint32_t>offset, length):
        return copy_breach(c, connection, flight.offset, b"content that overlaps earlier content")
    if reply.type == CHUNK_OFFSET_HOLE:
        memset(flight.data + offset, 0, length)
        return -1 if last and reply_done(c, connection, index) < 0 else <int>(header + fixed)
    content_comes(connection, index, flight.data + offset, length, last)
    return <int>(header + fixed)


cdef bint cover_flight(CopyFlight *flight, uint32_t start, uint32_t length) noexcept nogil:
    """Note content of a READ; False if some of it came before (or in more pieces than anybody sends)."""
    cdef uint32_t end = start + length, i = 0
    if flight.span_count == 0 and start == flight.covered:
        flight.covered += length            # in order: nothing to remember
        return True
    if flight.span_count == 0 and flight.covered:
        if not insert_span(flight, 0, 0, flight.covered):
            return False
    while i < flight.span_count and flight.spans[i].end <= start:
        i += 1
    if i < flight.span_count and flight.spans[i].start < end:
        return False
    flight.covered += length
    if i and flight.spans[i - 1].end == start:
        flight.spans[i - 1].end = end
        return True
    return insert_span(flight, i, start, end)


cdef bint insert_span(CopyFlight *flight, uint32_t at, uint32_t start, uint32_t end) noexcept nogil:
    cdef CopySpan *grown
    if flight.span_count == flight.span_room:
        if flight.span_room >= SPANS_MOST:
            return False
        grown = <CopySpan *>realloc(flight.spans, (flight.span_room * 2 + 8) * sizeof(CopySpan))
        if grown == NULL:
            return False
        flight.spans, flight.span_room = grown, flight.span_room * 2 + 8
    memmove(&flight.spans[at + 1], &flight.spans[at], (flight.span_count - at) * sizeof(CopySpan))
    flight.spans[at].start, flight.spans[at].end = start, end
    flight.span_count += 1
    return True


cdef int32_t flight_of(CopyState *c, CopyConnection *connection, uint64_t cookie) noexcept nogil:
    """The flight that a cookie names, if it is one of this connection that may be answered; else NOTHING."""
    cdef uint32_t index = <uint32_t>cookie
    cdef CopyFlight *flight
    if index >= c.flight_count:
        return NOTHING
    flight = &c.flights[index]
    if flight.generation != cookie >> 32 or flight.connection != connection:
        return NOTHING
    if flight.state == FLIGHT_SENT or flight.state == FLIGHT_SENDING:
        return <int32_t>index
    return NOTHING


cdef void release_flight(CopyState *c, CopyConnection *connection, int32_t index) noexcept nogil:
    """The request is over, answered or never sent. One that was refused while it is sent is sent to its end."""
    cdef CopyFlight *flight = &c.flights[index]
    connection.outstanding -= 1
    connection.load -= flight.length if flight.type == CMD_READ or flight.type == CMD_WRITE else 1
    end_of(c, connection).outstanding -= 1
    flight.generation += 1
    if flight.state == FLIGHT_SENDING:
        return
    flight.state, flight.next = FLIGHT_FREE, c.free_flight
    c.free_flight = index


cdef int reply_done(CopyState *c, CopyConnection *connection, int32_t index) noexcept nogil:
    """A reply is complete: judge it, release the flight, tell its piece; 0, or -1 with c.fault set.

    After an error it is 0 with c.fault set: what else was received is taken too, so that the end can be left (C6).
    """
    cdef CopyFlight *flight = &c.flights[index]
    cdef CopyEnd *end = end_of(c, connection)
    cdef int32_t piece = flight.piece
    cdef int type = flight.type
    if not flight.error and flight.state != FLIGHT_SENT:
        return copy_breach(c, connection, flight.offset, b"a write answered before it was sent")
    if not flight.error and type == CMD_READ and flight.covered != flight.length:
        return copy_breach(c, connection, flight.offset, b"a read answered without all of its data")
    release_flight(c, connection, index)
    if end.leaving:
        return 0
    if flight.error:
        end.leaving, end.lost = True, end.lost or flight.error == NBD_ESHUTDOWN
        fail_copy(
            c, connection.side, COPY_ANSWERED, <int>flight.error, flight.offset,
            b"read" if type == CMD_READ else b"flush" if type == CMD_FLUSH else
            b"zero" if type == CMD_WRITE_ZEROES else b"write",
        )
        return 0
    if type == CMD_FLUSH:
        flush_answered(c)
        return 0
    if type == CMD_READ and c.destination.lost:
        return 0                # nobody to give it to: the piece is due again
    return answered(c, piece, type)
