# READ: small ones copied behind a header that says DONE, large ones a header and a range that sendfile takes (D2).


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
