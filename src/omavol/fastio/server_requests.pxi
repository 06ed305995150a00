# Requests of the transmission phase: taken from the receive buffer, judged, done, answered into the outbox.

from omavol._channel cimport CHANNEL_BROKEN, CHANNEL_CLOSED, channel_splice
from omavol._store cimport (
    STORE_NULL,
    store_cache,
    store_extent,
    store_read,
    store_sync,
    store_trim,
    store_write,
    store_write_pipe,
    store_zero,
)
from omavol._wire cimport (
    ALLOCATION_CONTEXT,
    BAD_MAGIC,
    CMD_BLOCK_STATUS,
    CMD_CACHE,
    CMD_DISC,
    CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE,
    CMD_FLAG_REQ_ONE,
    CMD_FLUSH,
    CMD_READ,
    CMD_TRIM,
    CMD_WRITE,
    CMD_WRITE_ZEROES,
    CHUNK_NONE,
    CHUNK_SIZE,
    DATA_CHUNK_SIZE,
    DEFAULT_MAXIMUM,
    DESCRIPTOR_SIZE,
    NEED_MORE,
    REQUEST_SIZE,
    STATUS_CHUNK_SIZE,
    SURELY_NO_ATTACK,
    Parsed,
    encode_chunk,
    encode_data_chunk,
    encode_status_chunk,
    judge,
    parse_request,
    put_be32,
)

cdef enum Verdict:
    GO_ON
    PARK
    END


cdef Verdict take_requests(Worker *w, Served *c) noexcept nogil:
    """Do every whole request of the receive buffer, as long as there is room for replies and the export is not held."""
    cdef Request request
    cdef Parsed parsed
    while not c.leaving:
        if c.writing:
            if not take_payload(w, c):
                return GO_ON
            if c.writing:
                continue
            if end_write(w, c) < 0:
                return END
        parsed = parse_request(w.buffer + w.used, w.have - w.used, &request)
        if parsed == BAD_MAGIC:
            return END                      # X5
        if parsed == NEED_MORE or box_full(&w.box):
            return GO_ON
        if not may_begin(w, c):
            return GO_ON
        w.used += REQUEST_SIZE
        w.counts.requests += 1
        if do_request(w, c, &request) < 0:
            return END
        if w.box.have - w.box.at >= SEND_AT and not w.box.blocked and box_send(&w.box, c) < 0:
            return END
    return GO_ON


cdef int do_request(Worker *w, Served *c, Request *request) noexcept nogil:
    """Judge one request and do it; 0, or -1 if the connection is to end."""
    cdef uint32_t error = judge(request, &c.export.facts, &c.agreed)
    if request.type == CMD_DISC:
        c.leaving = True
        return 0
    if c.export.state == EXPORT_ENDING:
        error = NBD_ESHUTDOWN
    c.large = request.type == CMD_WRITE and request.length >= LARGE_WRITE and c.holding.store.kind != STORE_NULL
    if request.type == CMD_WRITE:
        return begin_write(w, c, request, error)
    if error:
        return say_error(&w.box, c, request.cookie, error)
    if request.type == CMD_READ:
        return do_read(w, c, request)
    if request.type == CMD_BLOCK_STATUS:
        return do_block_status(w, c, request)
    return say_outcome(w, c, request, do_simple(w, c, request))


cdef int do_simple(Worker *w, Served *c, Request *request) noexcept nogil:
    """The commands without payload either way; 0 or an errno."""
    cdef Store *store = &c.holding.store
    if request.type == CMD_FLUSH:
        server_failpoint(b"serve.before-flush")
        w.counts.flushes += 1
        return store_sync(store)
    if request.type == CMD_TRIM or request.type == CMD_WRITE_ZEROES:
        w.counts.changes += 1
    if request.type == CMD_TRIM:
        return store_trim(store, request.offset, request.length)
    if request.type == CMD_WRITE_ZEROES:
        return store_zero(store, request.offset, request.length, request.flags & CMD_FLAG_NO_HOLE != 0)
    return store_cache(store, request.offset, request.length)


cdef int say_outcome(Worker *w, Served *c, Request *request, int failure) noexcept nogil:
    """Answer a request that changes something, synced first if it said FUA (X21)."""
    if failure == 0 and request.flags & CMD_FLAG_FUA and request.type != CMD_FLUSH and request.type != CMD_CACHE:
        failure = store_sync(&c.holding.store)
    if failure:
        return say_error(&w.box, c, request.cookie, nbd_error(failure))
    return say_done(&w.box, c, request.cookie)


cdef int begin_write(Worker *w, Served *c, Request *request, uint32_t error) noexcept nogil:
    """Await the payload, of a refused WRITE too (X14), unless it is so long that it can only be an attack (X15)."""
    if error and request.length > SURELY_NO_ATTACK:
        return -1
    w.counts.changes += error == 0
    c.write, c.write_error, c.writing = request[0], error, True
    return 0


cdef bint take_payload(Worker *w, Served *c) noexcept nogil:
    """Write what is here of the payload; False if more has to come first: whole payloads are written at once."""
    cdef size_t have = w.have - w.used
    if have < c.write.length and (have < RECEIVE_BUFFER // 2 or c.write.length <= RECEIVE_BUFFER - REQUEST_SIZE):
        return False
    write_some(w, c, c.write.length if have > c.write.length else have)
    return True


cdef void write_some(Worker *w, Served *c, size_t length) noexcept nogil:
    """Write (or drop, after an error) `length` bytes of payload from the receive buffer."""
    cdef int failure
    if c.write_error == 0 and length:
        if length == c.write.length:
            server_failpoint(b"serve.write-received")
        failure = store_write(&c.holding.store, w.buffer + w.used, length, c.write.offset)
        c.write_error = nbd_error(failure)
        w.counts.bytes_written += length
    w.used += length
    c.write.offset += length
    c.write.length -= length
    c.writing = c.write.length != 0


cdef Verdict write_spliced(Worker *w, Served *c) noexcept nogil:
    """Move payload from the socket to the store by reference, when none of it is in the receive buffer."""
    cdef ssize_t n = channel_splice(&c.channel, w.pipe[1], c.write.length if c.write.length < PIPE else PIPE)
    cdef size_t left
    cdef int failure
    if n == CHANNEL_BROKEN:
        return END
    if n == CHANNEL_CLOSED:
        c.leaving = True
    if n <= 0:
        return GO_ON
    c.moved += <uint64_t>n
    left = <size_t>n
    if left == c.write.length:
        server_failpoint(b"serve.write-received")
    failure = store_write_pipe(&c.holding.store, w.pipe[0], &left, c.write.offset)
    if left and not empty_pipe(w, c, left, failure):
        return END
    c.write_error = c.write_error if c.write_error else nbd_error(failure if failure != EINVAL else 0)
    w.counts.bytes_written += <uint64_t>n
    c.write.offset += <uint64_t>n
    c.write.length -= <uint64_t>n
    c.writing = c.write.length != 0
    return GO_ON if c.writing or end_write(w, c) == 0 else END


cdef bint empty_pipe(Worker *w, Served *c, size_t left, int failure) noexcept nogil:
    """Take what a failed write left in the pipe, and write it the plain way where the file takes from no pipe."""
    cdef uint64_t offset = c.write.offset
    cdef ssize_t n
    while left:
        n = server_read(w.pipe[0], w.buffer, left if left < RECEIVE_BUFFER else RECEIVE_BUFFER)
        if n <= 0:
            return False
        if failure == EINVAL and not c.write_error:
            c.write_error = nbd_error(store_write(&c.holding.store, w.buffer, <size_t>n, offset))
        offset += <uint64_t>n
        left -= <size_t>n
    if failure == EINVAL:
        close_pipe(w)
    return True


cdef int end_write(Worker *w, Served *c) noexcept nogil:
    """Answer the WRITE whose last byte was just taken."""
    if c.write_error:
        return say_error(&w.box, c, c.write.cookie, c.write_error)
    server_failpoint(b"serve.write-done")
    return say_outcome(w, c, &c.write, 0)


cdef int do_read(Worker *w, Served *c, Request *request) noexcept nogil:
    """Small: copied behind a header that says DONE. Large, or while the socket is full: by reference (D2)."""
    w.counts.bytes_read += request.length
    if request.length <= SMALL_READ and not w.box.blocked:
        return read_small(&w.box, c, request)
    if not c.agreed.structured:
        return read_simple(&w.box, c, request)
    return read_chunks(&w.box, c, request)


cdef int read_small(Outbox *box, Served *c, Request *request) noexcept nogil:
    cdef size_t header = DATA_CHUNK_SIZE if c.agreed.structured else SIMPLE_REPLY_SIZE
    cdef uint8_t *room = box_room(box, header + request.length)
    cdef int failure
    if room == NULL:
        return -1
    failure = store_read(&c.holding.store, room + header, request.length, request.offset)
    if failure:
        return say_error(box, c, request.cookie, nbd_error(failure))
    if c.agreed.structured:
        encode_data_chunk(room, REPLY_DONE, request.cookie, request.offset, <uint32_t>request.length)
    else:
        encode_simple_reply(room, 0, request.cookie)
    return box_add(box, header + request.length)


cdef int read_simple(Outbox *box, Served *c, Request *request) noexcept nogil:
    cdef uint8_t *room = box_room(box, SIMPLE_REPLY_SIZE)
    if room == NULL or box_add(box, encode_simple_reply(room, 0, request.cookie)) < 0:
        return -1
    return add_range(box, c, request.cookie, request.offset, request.length)


cdef int read_chunks(Outbox *box, Served *c, Request *request) noexcept nogil:
    """One data chunk for each DEFAULT_MAXIMUM (X32, X33), then NONE(DONE)."""
    cdef uint64_t offset = request.offset, left = request.length, length
    cdef uint8_t *room
    while left:
        length = DEFAULT_MAXIMUM if left > DEFAULT_MAXIMUM else left
        room = box_room(box, DATA_CHUNK_SIZE)
        if room == NULL:
            return -1
        if box_add(box, encode_data_chunk(room, 0, request.cookie, offset, <uint32_t>length)) < 0:
            return -1
        if add_range(box, c, request.cookie, offset, length) < 0:
            return -1
        offset += length
        left -= length
    room = box_room(box, CHUNK_SIZE)
    if room == NULL:
        return -1
    return box_add(box, encode_chunk(room, REPLY_DONE, CHUNK_NONE, request.cookie, 0))


cdef int add_range(Outbox *box, Served *c, uint64_t cookie, uint64_t offset, uint64_t length) noexcept nogil:
    cdef Piece *piece = box_piece(box)
    if piece == NULL:
        return -1
    piece.kind = PIECE_ZEROES if c.holding.store.kind == STORE_NULL else PIECE_FILE
    piece.cookie, piece.offset, piece.left = cookie, offset, length
    return 0


cdef int do_block_status(Worker *w, Served *c, Request *request) noexcept nogil:
    """Extents of base:allocation inside the request: neighbours differ, at most EXTENTS_MOST (X44 to X51)."""
    cdef uint64_t offset = request.offset, end = request.offset + request.length, length
    cdef uint32_t most = 1 if request.flags & CMD_FLAG_REQ_ONE else EXTENTS_MOST
    cdef uint32_t state, last = 0, count = 0
    cdef uint64_t run = 0
    cdef uint8_t *room = box_room(&w.box, STATUS_CHUNK_SIZE + EXTENTS_MOST * DESCRIPTOR_SIZE)
    cdef uint8_t *descriptor
    if room == NULL:
        return -1
    while offset < end:
        state = store_extent(&c.holding.store, offset, end, &length)
        if count and state == last:
            run += length
        elif count == most:
            break
        else:
            count += 1
            last, run = state, length
        descriptor = room + STATUS_CHUNK_SIZE + (count - 1) * DESCRIPTOR_SIZE
        put_be32(descriptor, <uint32_t>run)
        put_be32(descriptor + 4, state)
        offset += length
    encode_status_chunk(room, REPLY_DONE, request.cookie, ALLOCATION_CONTEXT, count)
    return box_add(&w.box, STATUS_CHUNK_SIZE + count * DESCRIPTOR_SIZE)
