# READ: small ones copied behind a header that says DONE, large ones a header and a range that sendfile takes (D2).


cdef int do_read(Worker *w, Served *c, Request *request) noexcept nogil:
    """Small: copied behind a header that says DONE. Large, or while the socket is full: by reference (D2)."""
    cdef int outcome
    if request.length <= SMALL_READ and not w.box.blocked:
        outcome = read_small(&w.box, c, request)
        if outcome > 0:
            return send_elsewhere(w, c, request)
        w.counts.bytes_read += request.length
        return outcome
    w.counts.bytes_read += request.length
    if not c.agreed.structured:
        return read_simple(&w.box, c, request)
    return read_chunks(&w.box, c, request)


cdef int read_small(Outbox *box, Served *c, Request *request) noexcept nogil:
    """1: the disk would make us wait, and nothing is queued."""
    cdef size_t header = chunk_size(c.agreed.extended) + 8 if c.agreed.structured else SIMPLE_REPLY_SIZE
    cdef uint8_t *room = box_room(box, header + request.length)
    cdef int failure
    if room == NULL:
        return -1
    failure = store_read_now(&c.holding.store, room + header, request.length, request.offset)
    if failure == STORE_WAITS:
        return 1
    if failure:
        return say_error(box, c, request, nbd_error(failure))
    if c.agreed.structured:
        encode_data_chunk(room, c.agreed.extended, REPLY_DONE, request, request.offset, <uint32_t>request.length)
    else:
        encode_simple_reply(room, 0, request.cookie)
    return box_add(box, header + request.length)


cdef int read_simple(Outbox *box, Served *c, Request *request) noexcept nogil:
    cdef uint8_t *room = box_room(box, SIMPLE_REPLY_SIZE)
    if room == NULL or box_add(box, encode_simple_reply(room, 0, request.cookie)) < 0:
        return -1
    return add_range(box, c, request, request.offset, request.length)


cdef int read_chunks(Outbox *box, Served *c, Request *request) noexcept nogil:
    """One data chunk for each DEFAULT_MAXIMUM (X32, X33), then NONE(DONE)."""
    cdef uint64_t offset = request.offset, left = request.length, length
    cdef uint8_t *room
    while left:
        length = DEFAULT_MAXIMUM if left > DEFAULT_MAXIMUM else left
        room = box_room(box, EXTENDED_CHUNK_SIZE + 8)
        if room == NULL:
            return -1
        if box_add(box, encode_data_chunk(room, c.agreed.extended, 0, request, offset, <uint32_t>length)) < 0:
            return -1
        if add_range(box, c, request, offset, length) < 0:
            return -1
        offset += length
        left -= length
    return say_none(box, c, request)


cdef int add_range(Outbox *box, Served *c, const Request *request, uint64_t offset, uint64_t length) noexcept nogil:
    cdef Piece *piece = box_piece(box)
    if piece == NULL:
        return -1
    piece.kind = PIECE_ZEROES if c.holding.store.kind == STORE_NULL else PIECE_FILE
    piece.cookie, piece.begin, piece.offset, piece.left = request.cookie, request.offset, offset, length
    return 0
