# Requests of the transmission phase: taken from the receive buffer, judged, done, answered into the outbox.

from omavol._channel cimport CHANNEL_BROKEN, CHANNEL_CLOSED, channel_splice
from omavol._store cimport (
    STORE_AT_HAND,
    STORE_AWAY,
    STORE_NO_PIPE,
    STORE_NULL,
    STORE_WAITS,
    store_cache,
    store_cached,
    store_extent,
    store_read,
    store_read_now,
    store_read_pipe,
    store_sync,
    store_trim,
    store_write,
    store_write_pipe,
    store_zero,
    store_zero_fast,
)
from omavol._wire cimport (
    ALLOCATION_CONTEXT,
    BAD_MAGIC,
    CMD_BLOCK_STATUS,
    CMD_CACHE,
    CMD_DISC,
    CMD_FLAG_DF,
    CMD_FLAG_FAST_ZERO,
    CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE,
    CMD_FLAG_REQ_ONE,
    CMD_FLUSH,
    CMD_READ,
    CMD_TRIM,
    CMD_WRITE,
    CMD_WRITE_ZEROES,
    CHUNK_NONE,
    DEFAULT_MAXIMUM,
    EXTENDED_CHUNK_SIZE,
    EXTENDED_DESCRIPTOR_SIZE,
    MAXIMUM_CONTEXTS,
    NEED_MORE,
    STATUS_CHUNK_MOST,
    STATUS_PAYLOAD_SIZE,
    SURELY_NO_ATTACK,
    Parsed,
    chunk_size,
    encode_chunk,
    encode_data_chunk,
    encode_descriptor,
    encode_status_chunk,
    judge,
    judge_status_payload,
    parse_request,
    request_size,
)

cdef enum Verdict:
    GO_ON
    PARK
    END


cdef Verdict take_requests(Worker *w, Served *c) noexcept nogil:
    """Do every whole request of the receive buffer, as long as there is room for replies and the export is not held."""
    cdef Request request
    cdef Parsed parsed
    while not c.leaving and not c.withheld:
        if c.writing:
            if not take_payload(w, c):
                return GO_ON
            if c.writing:
                continue
            if end_write(w, c) < 0:
                return END
        parsed = parse_request(w.buffer + w.used, w.have - w.used, c.agreed.extended, &request)
        if parsed == BAD_MAGIC:
            return END                      # X5
        if parsed == NEED_MORE or box_full(&w.box):
            return GO_ON
        if request.type == CMD_BLOCK_STATUS and request.payload and not status_payload_is_here(w, &request):
            return GO_ON
        if c.in_flight and not has_room(c, &request):
            c.sated = True
            return GO_ON
        if not may_begin(w, c):
            return GO_ON
        w.used += request_size(c.agreed.extended)
        w.counts.requests += 1
        if do_request(w, c, &request) < 0:
            return END
        if w.box.have - w.box.at >= SEND_AT and not w.box.blocked and box_send(&w.box, c) < 0:
            return END
    return GO_ON


cdef int do_request(Worker *w, Served *c, Request *request) noexcept nogil:
    """Judge one request and do it; 0, or -1 if the connection is to end."""
    cdef uint32_t error = judge(request, &c.export.facts, &c.agreed)
    cdef bint elsewhere
    cdef int failure
    if request.type == CMD_DISC:
        c.leaving = c.parted = True
        return 0
    if peek_state(&c.export.state) == EXPORT_ENDING:
        error = NBD_ESHUTDOWN
    if error == 0:
        error = nbd_error(note_change(c, request))
    if request.payload and (request.type == CMD_WRITE or error):
        elsewhere = writes_elsewhere(c)     # looked at once: filters may come and go
        c.large = request.type == CMD_WRITE and request.payload >= LARGE_WRITE and (elsewhere or spliced(c))
        return begin_write(w, c, request, error, elsewhere)
    c.large = False
    if error:
        return say_error(&w.box, c, request, error)
    if request.type == CMD_BLOCK_STATUS:
        return do_block_status(w, c, request)
    if (peek_flag(&c.export.filtered) or c.holding.store.hand != STORE_AT_HAND) and goes_elsewhere(w, c, request):
        return send_elsewhere(w, c, request)
    if request.type == CMD_READ:
        return do_read(w, c, request)
    count_request(w, request)
    failure = do_simple(c.export.tracking, &c.holding.store, request)
    return say_outcome(&w.box, c, request, failure if failure else sync_if_asked(&c.holding.store, request))


cdef inline bint writes_elsewhere(const Served *c) noexcept nogil:
    """Whether payloads are kept until a thread of the pool writes them."""
    return peek_flag(&c.export.filtered) or c.holding.store.hand == STORE_AWAY


cdef inline bint spliced(const Served *c) noexcept nogil:
    """Whether large payloads that are written here go to the store through a pipe."""
    return c.holding.store.kind != STORE_NULL and c.channel.tls == NULL


cdef void count_request(Worker *w, const Request *request) noexcept nogil:
    if request.type == CMD_READ:
        w.counts.bytes_read += request.length
    elif request.type == CMD_FLUSH:
        w.counts.flushes += 1
    elif request.type == CMD_TRIM or request.type == CMD_WRITE_ZEROES:
        w.counts.changes += 1


cdef int do_simple(Tracking *tracking, Store *store, const Request *request) noexcept nogil:
    """The commands without payload either way; 0 or an errno."""
    if request.type == CMD_FLUSH:
        server_failpoint(b"serve.before-flush")
        return store_sync(store) or closed_record(tracking, store)
    if request.type == CMD_TRIM:
        return store_trim(store, request.offset, request.length)
    if request.type == CMD_WRITE_ZEROES and request.flags & CMD_FLAG_FAST_ZERO:
        return store_zero_fast(store, request.offset, request.length, request.flags & CMD_FLAG_NO_HOLE != 0)
    if request.type == CMD_WRITE_ZEROES:
        return store_zero(store, request.offset, request.length, request.flags & CMD_FLAG_NO_HOLE != 0)
    return store_cache(store, request.offset, request.length)


cdef inline bint wants_sync(const Request *request) noexcept nogil:
    """Whether it changes something and said FUA (X21)."""
    return request.flags & CMD_FLAG_FUA != 0 and request.type != CMD_FLUSH and request.type != CMD_CACHE


cdef int sync_if_asked(Store *store, const Request *request) noexcept nogil:
    return store_sync(store) if wants_sync(request) else 0


cdef int say_outcome(Outbox *box, Served *c, const Request *request, int failure) noexcept nogil:
    """Answer a request that brings no data."""
    if failure:
        return say_error(box, c, request, nbd_error(failure))
    return say_done(box, c, request)
