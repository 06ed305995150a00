# Requests out: flights are queued on a connection and sent as far as its socket takes them, never waiting.
#
# READs and other requests without payload are gathered into one send. A WRITE's header goes with its payload: in one
# sendmsg from a buffer, or with MSG_MORE before sendfile, so that the header does not leave in a packet of its own.

cdef int64_t copy_clock() noexcept nogil:
    """Nanoseconds of a clock that only goes forward."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef int fail_copy(CopyState *c, int side, int kind, int code, uint64_t offset, const char *text) noexcept nogil:
    """Note the first thing that went wrong; always -1."""
    if c.fault.kind == COPY_WELL:
        c.fault.side, c.fault.kind, c.fault.code, c.fault.offset = side, kind, code, offset
        snprintf(c.fault.text, sizeof(c.fault.text), "%s", text)
    return -1


cdef inline CopyEnd *end_of(CopyState *c, CopyConnection *connection) noexcept nogil:
    return &c.source if connection.side == SOURCE else &c.destination


cdef inline void note_movement(CopyState *c, CopyConnection *connection) noexcept nogil:
    """A byte went or came: the end is alive."""
    end_of(c, connection).moved_at = copy_clock()


cdef CopyConnection *idlest(CopyEnd *end) noexcept nogil:
    """The connection with the fewest bytes to carry; ties go to the first."""
    cdef int i
    cdef CopyConnection *best = &end.connections[0]
    for i in range(1, end.count):
        if end.connections[i].load < best.load:
            best = &end.connections[i]
    return best


cdef CopyConnection *warmest(CopyEnd *end) noexcept nogil:
    """The first connection with little to carry, else the idlest.

    Small writes spread over all connections keep a worker of the server awake for each, and those wait for each other
    on the file's lock. Measured, 640 MiB in writes of 64 KiB into omavol serve: 1.00 s of processor time instead of
    1.05 s, 0.68 s instead of 0.81 s by the clock. A slow destination fills the first and gets the others too.
    """
    cdef int i
    for i in range(end.count):
        if end.connections[i].load < WARM_LOAD:
            return &end.connections[i]
    return idlest(end)


cdef int32_t queue_request(
    CopyState *c, CopyConnection *connection, int type, int flags, uint64_t offset, uint32_t length,
    uint8_t *data, int32_t piece
) noexcept nogil:
    """Queue one request on a connection; its flight, or NOTHING with c.fault set (no flight is free)."""
    cdef int32_t index = c.free_flight
    cdef CopyEnd *end = end_of(c, connection)
    cdef CopyFlight *flight
    if index == NOTHING:
        return fail_copy(c, connection.side, COPY_ERRNO, ENOMEM, offset, b"no room for another request")
    flight = &c.flights[index]
    c.free_flight = flight.next
    flight.offset, flight.length, flight.covered, flight.data = offset, length, 0, data
    flight.piece, flight.next, flight.error, flight.connection = piece, NOTHING, 0, connection
    flight.type, flight.flags, flight.state = <uint16_t>type, <uint16_t>flags, FLIGHT_QUEUED
    flight.span_count = 0
    if connection.head == NOTHING:
        connection.head = index
    else:
        c.flights[connection.tail].next = index
    connection.tail = index
    connection.outstanding += 1
    connection.load += length if type == CMD_READ or type == CMD_WRITE else 1
    if end.outstanding == 0:
        end.moved_at = copy_clock()
    end.outstanding += 1
    return index


cdef void gather_requests(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Encode queued requests into `out`: up to SEND_ROOM bytes, or up to and with the header of the next WRITE."""
    cdef bint extended = end_of(c, connection).form == FORM_EXTENDED
    cdef Request request
    cdef CopyFlight *flight
    cdef int32_t index
    connection.out_have = connection.out_sent = 0
    while connection.head != NOTHING and connection.out_have + request_size(extended) <= SEND_ROOM:
        index = connection.head
        flight = &c.flights[index]
        connection.head = flight.next
        request.flags, request.type = flight.flags, flight.type
        request.cookie = <uint64_t>flight.generation << 32 | <uint32_t>index
        request.offset, request.length = flight.offset, flight.length
        connection.out_have += <uint32_t>encode_request(connection.out + connection.out_have, extended, &request)
        if flight.type == CMD_WRITE:
            flight.state = FLIGHT_SENDING
            connection.sending, connection.payload_sent = index, 0
            return
        flight.state = FLIGHT_SENT


cdef bint wants_to_send(CopyConnection *connection) noexcept nogil:
    return connection.head != NOTHING or connection.sending != NOTHING or connection.out_sent < connection.out_have \
        or connection.tls != NULL and channel_unsent(connection.tls)


cdef int transmit_requests(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Send what is queued until nothing is left or the socket is full; 0, or -1 with c.fault set."""
    cdef ssize_t n
    while True:
        if connection.out_sent == connection.out_have and connection.sending == NOTHING:
            if connection.head == NOTHING:
                return 0 if connection.tls == NULL else let_out(c, connection)
            gather_requests(c, connection)
        n = send_some(c, connection)
        if n == 0:
            return 0
        if n < 0:
            return -1
        note_movement(c, connection)
        if connection.sending != NOTHING and connection.payload_sent == c.flights[connection.sending].length:
            finish_sending(c, connection)


cdef ssize_t send_some(CopyState *c, CopyConnection *connection) noexcept nogil:
    """One system call's worth of headers and payload: bytes sent, 0 when the socket is full, -1 with c.fault set."""
    cdef uint32_t headers = connection.out_have - connection.out_sent
    cdef CopyFlight *flight = NULL
    cdef iovec parts[2]
    cdef msghdr message
    cdef ssize_t n
    if connection.sending != NOTHING:
        flight = &c.flights[connection.sending]
        if flight.data == NULL and headers == 0:
            return send_from_file(c, connection, flight)
    if connection.tls != NULL:
        return send_secured(c, connection, flight, headers)
    memset(&message, 0, sizeof(message))
    parts[0].iov_base, parts[0].iov_len = connection.out + connection.out_sent, headers
    message.msg_iov, message.msg_iovlen = parts, 1
    if flight != NULL and flight.data != NULL:
        parts[1].iov_base = flight.data + connection.payload_sent
        parts[1].iov_len = flight.length - connection.payload_sent
        message.msg_iovlen = 2
    n = sendmsg(
        connection.fd, &message,
        MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if flight != NULL and flight.data == NULL else 0),
    )
    if n < 0:
        return send_failed(c, connection)
    if <size_t>n < headers:
        connection.out_sent += <uint32_t>n
    else:
        connection.out_sent = connection.out_have
        if flight != NULL and flight.data != NULL:
            connection.payload_sent += <uint32_t>n - headers
            c.bytes_sent += <size_t>n - headers
    return n


cdef ssize_t send_from_file(CopyState *c, CopyConnection *connection, CopyFlight *flight) noexcept nogil:
    """Let the kernel move payload from the source file into the socket; bytes, 0 when full, -1 with c.fault set."""
    cdef off_t at = <off_t>(flight.offset + connection.payload_sent)
    cdef ssize_t n
    if connection.tls != NULL:
        return send_file_secured(c, connection, flight)
    n = sendfile(connection.fd, c.source.fd, &at, flight.length - connection.payload_sent)
    if n > 0:
        return file_went(c, connection, n)
    if n == 0:
        return fail_copy(c, SOURCE, COPY_SHORT, 0, <uint64_t>at, b"the file ends before its size")
    if errno == EIO:        # sendfile does not say whose: reading a file fails so, a socket does not
        return fail_copy(c, SOURCE, COPY_ERRNO, errno, <uint64_t>at, b"read")
    return send_failed(c, connection)


cdef inline ssize_t file_went(CopyState *c, CopyConnection *connection, ssize_t n) noexcept nogil:
    connection.payload_sent += <uint32_t>n
    c.bytes_read += <size_t>n
    c.bytes_sent += <size_t>n
    return n


cdef ssize_t send_secured(
    CopyState *c, CopyConnection *connection, CopyFlight *flight, uint32_t headers
) noexcept nogil:
    """send_some inside TLS, which gathers by itself: headers, or payload from a buffer."""
    cdef ssize_t n
    if headers:
        n = channel_send(connection.tls, connection.out + connection.out_sent, headers, flight != NULL)
    else:
        n = channel_send(
            connection.tls, flight.data + connection.payload_sent, flight.length - connection.payload_sent,
            connection.head != NOTHING,
        )
    if n < 0:
        return secured_send_failed(c, connection, n)
    if headers:
        connection.out_sent += <uint32_t>n
    else:
        connection.payload_sent += <uint32_t>n
        c.bytes_sent += <size_t>n
    return n


cdef ssize_t send_file_secured(CopyState *c, CopyConnection *connection, CopyFlight *flight) noexcept nogil:
    """send_from_file inside TLS."""
    cdef uint64_t at = flight.offset + connection.payload_sent
    cdef ssize_t n = channel_send_file(connection.tls, c.source.fd, at, flight.length - connection.payload_sent)
    if n > 0:
        return file_went(c, connection, n)
    if n == CHANNEL_AGAIN:
        return 0
    if n == CHANNEL_SHORT:
        return fail_copy(c, SOURCE, COPY_SHORT, 0, at, b"the file ends before its size")
    if n == CHANNEL_UNREADABLE:
        return fail_copy(c, SOURCE, COPY_ERRNO, connection.tls.error, at, b"read")
    return secured_send_failed(c, connection, n)


cdef int let_out(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Nothing follows: what TLS gathered goes, as far as the socket takes it; 0, or -1 with c.fault set."""
    cdef int flushed = channel_flush(connection.tls)
    return 0 if flushed >= 0 else secured_send_failed(c, connection, flushed)


cdef int secured_send_failed(CopyState *c, CopyConnection *connection, ssize_t outcome) noexcept nogil:
    """Always -1, with c.fault set."""
    if connection.tls.error == EPIPE and receive_replies(c, connection) < 0:     # before it went, it may have said why
        return -1
    return channel_failed(c, connection, outcome, b"send")


cdef int channel_failed(CopyState *c, CopyConnection *connection, ssize_t outcome, const char *call) noexcept nogil:
    """A call of the channel failed: the peer went away, broke TLS, or what the system says; always -1."""
    cdef int code = connection.tls.error
    if outcome == CHANNEL_CLOSED:
        return lose(c, connection, COPY_CLOSED, 0, call)
    if tls_state(connection.tls) == TLS_FAILED and code == EPROTO:
        return lose(c, connection, COPY_BREACH, 0, tls_text(connection.tls))
    return lose(c, connection, COPY_CLOSED if code == ECONNRESET or code == EPIPE else COPY_ERRNO, code, call)


cdef ssize_t send_failed(CopyState *c, CopyConnection *connection) noexcept nogil:
    """0 if the socket is full or the call was interrupted, else -1 with c.fault set."""
    if errno == EAGAIN or errno == EINTR:
        return 0
    if errno == EPIPE:          # before it went, it may have said why
        if receive_replies(c, connection) == 0:
            lose(c, connection, COPY_CLOSED, 0, b"send")
        return -1
    return socket_failed(c, connection, b"send")


cdef int socket_failed(CopyState *c, CopyConnection *connection, const char *call) noexcept nogil:
    """A socket's call failed by errno: the peer went away, or what the system says; always -1."""
    return lose(c, connection, COPY_CLOSED if errno == ECONNRESET else COPY_ERRNO, errno, call)


cdef uint64_t offset_of(CopyState *c, CopyConnection *connection) noexcept nogil:
    """Where a failure of the connection strikes: the lowest offset it has a request for."""
    cdef uint64_t lowest = <uint64_t>-1
    cdef uint32_t index
    cdef CopyFlight *flight
    for index in range(c.flight_count):
        flight = &c.flights[index]
        if flight.state != FLIGHT_FREE and flight.connection.side == connection.side and flight.offset < lowest:
            lowest = flight.offset
    return 0 if lowest == <uint64_t>-1 else lowest


cdef void finish_sending(CopyState *c, CopyConnection *connection) noexcept nogil:
    """The payload went out: the flight waits for its answer."""
    c.flights[connection.sending].state = FLIGHT_SENT
    connection.sending = NOTHING
    if not c.first_seen:
        c.first_seen = True
        OMA_FAILPOINT(b"copy.first-sent")


cdef size_t encode_disc(uint8_t *out, bint extended) noexcept nogil:
    """DISC, whose every other field is 0 (C10); the bytes it takes."""
    cdef Request request
    memset(&request, 0, sizeof(request))
    request.type = CMD_DISC
    return encode_request(out, extended, &request)


cdef void say_goodbye(CopyEnd *end) noexcept nogil:
    """DISC on every connection with nothing in flight; best effort, the socket is closed right after (C8).

    Inside TLS the close says close_notify behind it (T18).
    """
    cdef CopyConnection *connection
    cdef uint8_t out[EXTENDED_REQUEST_SIZE]
    cdef size_t length = encode_disc(out, end.form == FORM_EXTENDED)
    cdef int i
    for i in range(end.count):
        connection = &end.connections[i]
        if connection.outstanding or wants_to_send(connection):
            continue
        if connection.tls == NULL:
            send(connection.fd, out, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            channel_send(connection.tls, out, length, False)
