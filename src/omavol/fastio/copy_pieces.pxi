# A piece's way through a copy: begun, read, hashed where it lies, given on, accounted for.

cdef enum:
    RECORD_ZERO = 1


cdef inline bint reads_as_zero(const uint8_t *data, size_t length) noexcept nogil:
    """Whether all bytes are zero: the first ones decide for most data, memcmp against itself for the rest."""
    if length < 16:
        for i in range(length):
            if data[i]:
                return False
        return True
    return (<const uint64_t *>data)[0] == 0 and (<const uint64_t *>data)[1] == 0 \
        and memcmp(data, data + 16, length - 16) == 0


cdef int begin_piece(CopyState *c) noexcept nogil:
    """Take the next piece off the work and set it going; 0, or -1 with c.fault set. There is work and a free piece."""
    cdef WorkItem *item = &c.work[c.work_next]
    cdef int32_t index = c.free_piece
    cdef CopyPiece *piece = &c.pieces[index]
    cdef uint64_t left = item.length - c.work_done
    cdef uint32_t most = c.piece_size
    if item.kind == WORK_ZERO and can_zero(c):
        most = ZERO_MOST_EXTENDED if c.destination.form == FORM_EXTENDED else ZERO_MOST
    piece.kind, piece.offset = <uint8_t>item.kind, item.offset + c.work_done
    piece.length = most - <uint32_t>(piece.offset & (most - 1))
    if piece.length > left:
        piece.length = <uint32_t>left
    piece.padded = piece.length
    if c.destination.kind == END_NBD:
        piece.padded = (piece.length + c.destination.minimum - 1) & ~(c.destination.minimum - 1)
    piece.waiting, piece.under_way = 0, True
    c.free_piece = piece.next
    c.pieces_under_way += 1
    c.work_done += piece.length
    if c.work_done == item.length:
        c.work_next += 1
        c.work_done = 0
    if piece.kind == WORK_ZERO:
        if c.digests and note_record(c, piece, True) < 0:
            return -1
        return give_zeroes(c, index)
    c.bytes_under_way += piece.length
    if c.source.kind == END_NBD:
        return ask_for(c, index)
    if c.by_sendfile and piece.padded == piece.length:
        return write_requests(c, index, NULL)
    return read_from_file(c, index)


cdef bint can_zero(CopyState *c) noexcept nogil:
    """Whether a long run of zeroes is one request at the destination."""
    return (
        c.destination.kind != END_NBD
        or (c.destination_is_zero and not c.allocated)
        or c.destination.flags & TX_SEND_WRITE_ZEROES
    )


cdef int ask_for(CopyState *c, int32_t index) noexcept nogil:
    """Queue the READs of a piece, in whole blocks of the source, on its idlest connection."""
    cdef CopyPiece *piece = &c.pieces[index]
    cdef CopyConnection *connection = idlest(&c.source)
    cdef uint32_t whole = (piece.length + c.source.minimum - 1) & ~(c.source.minimum - 1)
    cdef uint32_t at = 0, length
    while at < whole:
        length = min(whole - at, c.source.request_most)
        if queue_request(c, connection, CMD_READ, 0, piece.offset + at, length, piece.buffer + at, index) < 0:
            return -1
        piece.waiting += 1
        at += length
    return 0


cdef int read_from_file(CopyState *c, int32_t index) noexcept nogil:
    """Read a piece from the source file into its buffer and pass it on."""
    cdef CopyPiece *piece = &c.pieces[index]
    cdef uint32_t have = 0
    cdef ssize_t n
    while have < piece.length:
        n = pread(c.source.fd, piece.buffer + have, piece.length - have, <off_t>(piece.offset + have))
        if n == 0:
            return fail_copy(c, SOURCE, COPY_SHORT, 0, piece.offset + have, b"the file ends before its size")
        if n < 0:
            if errno == EINTR:
                continue
            return fail_copy(c, SOURCE, COPY_ERRNO, errno, piece.offset + have, b"read")
        have += <uint32_t>n
        c.bytes_read += <size_t>n
    return piece_came(c, index)


cdef int answered(CopyState *c, int32_t index, int type) noexcept nogil:
    """One request of a piece was answered well; with the last one the piece goes on."""
    cdef CopyPiece *piece = &c.pieces[index]
    piece.waiting -= 1
    if piece.waiting:
        return 0
    if type == CMD_READ:
        return piece_came(c, index)
    return piece_done(c, index)


cdef int piece_came(CopyState *c, int32_t index) noexcept nogil:
    """All bytes of a piece are in its buffer: look, hash, give on; the only place where the copy touches them."""
    cdef CopyPiece *piece = &c.pieces[index]
    cdef bint zero = c.scan_zeroes and reads_as_zero(piece.buffer, piece.length)
    if c.digests and note_record(c, piece, zero) < 0:
        return -1
    if zero:
        c.bytes_under_way -= piece.length
        piece.kind = WORK_ZERO
        return give_zeroes(c, index)
    if c.destination.kind == END_FILE:
        return write_to_file(c, index, piece.buffer)
    if c.destination.kind == END_NULL:
        return piece_done(c, index)
    memset(piece.buffer + piece.length, 0, piece.padded - piece.length)
    return write_requests(c, index, piece.buffer)


cdef int write_requests(CopyState *c, int32_t index, uint8_t *data) noexcept nogil:
    """Queue the WRITEs of a piece on the warmest connection and send what its socket takes while the data is hot.

    `data` NULL sends from the source file; the shared zeroes are sent from their start, whatever the offset.
    """
    cdef CopyPiece *piece = &c.pieces[index]
    cdef CopyConnection *connection = warmest(&c.destination)
    cdef uint32_t at = 0, length
    cdef uint8_t *payload
    while at < piece.padded:
        length = min(piece.padded - at, c.destination.request_most)
        payload = data + at if data != NULL and data != c.zeroes else data
        if queue_request(c, connection, CMD_WRITE, 0, piece.offset + at, length, payload, index) < 0:
            return -1
        piece.waiting += 1
        at += length
    if transmit_requests(c, connection) < 0 and not (c.reconnects and c.destination.lost):
        return -1
    return 0                    # a loss is the turn's to see: the source's reply that led here is taken to its end


cdef int write_to_file(CopyState *c, int32_t index, const uint8_t *data) noexcept nogil:
    """Write a piece to the destination file."""
    cdef CopyPiece *piece = &c.pieces[index]
    cdef uint32_t at = 0
    cdef ssize_t n
    while at < piece.length:
        n = pwrite(c.destination.fd, data + at, piece.length - at, <off_t>(piece.offset + at))
        if n < 0:
            if errno == EINTR:
                continue
            return fail_copy(c, DESTINATION, COPY_ERRNO, errno, piece.offset + at, b"write")
        at += <uint32_t>n
        c.bytes_sent += <size_t>n
    return piece_done(c, index)


cdef int give_zeroes(CopyState *c, int32_t index) noexcept nogil:
    """Let the destination read as zero over a piece, at the least cost it offers."""
    cdef CopyPiece *piece = &c.pieces[index]
    cdef int flags = CMD_FLAG_NO_HOLE if c.allocated else 0
    c.bytes_zero += piece.length
    if c.destination.kind == END_NULL or (c.destination_is_zero and not c.allocated):
        return piece_done(c, index)
    if c.destination.kind == END_FILE:
        return zero_in_file(c, index)
    if not c.destination.flags & TX_SEND_WRITE_ZEROES:
        return write_requests(c, index, c.zeroes)
    piece.waiting = 1
    if queue_request(
        c, warmest(&c.destination), CMD_WRITE_ZEROES, flags, piece.offset, piece.padded, NULL, index
    ) < 0:
        return -1
    return 0


cdef int zero_in_file(CopyState *c, int32_t index) noexcept nogil:
    """Punch a hole (or provision, if asked), and write zeroes where the file system cannot."""
    cdef CopyPiece *piece = &c.pieces[index]
    cdef int mode = FALLOC_FL_ZERO_RANGE if c.allocated else FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    cdef uint32_t at = 0, length
    cdef ssize_t n
    if fallocate(c.destination.fd, mode, <off_t>piece.offset, piece.length) == 0:
        return piece_done(c, index)
    while at < piece.length:
        length = min(piece.length - at, c.piece_size)
        n = pwrite(c.destination.fd, c.zeroes, length, <off_t>(piece.offset + at))
        if n < 0:
            if errno == EINTR:
                continue
            return fail_copy(c, DESTINATION, COPY_ERRNO, errno, piece.offset + at, b"zero")
        at += <uint32_t>n
    return piece_done(c, index)


cdef int piece_done(CopyState *c, int32_t index) noexcept nogil:
    """The destination has it (unflushed): account it and free its buffer for the next, the hottest first.

    0, or -1 with c.fault set.
    """
    cdef CopyPiece *piece = &c.pieces[index]
    if c.reconnects and can_flush(&c.destination) and note_unflushed(c, piece) < 0:
        return -1
    c.done += piece.length
    piece.under_way = False
    if piece.kind == WORK_READ:
        c.bytes_under_way -= piece.length
    c.pieces_under_way -= 1
    piece.next, c.free_piece = c.free_piece, index
    if not c.half_seen and c.done >= c.planned / 2:
        c.half_seen = True
        OMA_FAILPOINT(b"copy.half-sent")
    return 0


cdef int note_record(CopyState *c, CopyPiece *piece, bint zero) noexcept nogil:
    """Keep what was seen of a piece: that it is zero, or its hash; 0, or -1 with c.fault set."""
    cdef DigestRecord *record
    cdef DigestRecord *grown
    if c.record_count == c.record_room:
        grown = <DigestRecord *>realloc(c.records, (c.record_room * 2 + 1024) * sizeof(DigestRecord))
        if grown == NULL:
            return fail_copy(c, NO_SIDE, COPY_ERRNO, ENOMEM, piece.offset, b"no memory for digests")
        c.records, c.record_room = grown, c.record_room * 2 + 1024
    record = &c.records[c.record_count]
    memset(record, 0, sizeof(DigestRecord))
    record.offset, record.length, record.flags = piece.offset, piece.length, RECORD_ZERO if zero else 0
    if not zero:
        digest_of(piece.buffer, piece.length, record.digest)
    c.record_count += 1
    return 0


cdef int by_offset(const void *a, const void *b) noexcept nogil:
    cdef uint64_t left = (<const DigestRecord *>a).offset, right = (<const DigestRecord *>b).offset
    return (left > right) - (left < right)


cdef void settle_records(CopyState *c) noexcept nogil:
    """Sort the records and join zero runs that touch."""
    cdef size_t i, kept = 0
    cdef DigestRecord *last
    cdef DigestRecord *record
    if c.record_count == 0:
        return
    qsort(c.records, c.record_count, sizeof(DigestRecord), by_offset)
    for i in range(c.record_count):
        record = &c.records[i]
        last = &c.records[kept - 1] if kept else NULL
        if last != NULL and record.flags & last.flags & RECORD_ZERO and last.offset + last.length == record.offset:
            last.length += record.length
        else:
            c.records[kept] = record[0]
            kept += 1
    c.record_count = kept
