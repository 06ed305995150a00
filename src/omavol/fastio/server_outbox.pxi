# Replies in order: bytes and file ranges, sent as far as the socket takes them.

from libc.errno cimport EACCES, EINVAL, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset, strlen

from omavol._channel cimport (
    CHANNEL_AGAIN,
    CHANNEL_SHORT,
    CHANNEL_UNREADABLE,
    channel_buffered,
    channel_flush,
    channel_send,
    channel_send_file,
    channel_send_pipe,
    channel_sent,
    channel_unsent,
)
from omavol._store cimport STORE_SLOW
from omavol._wire cimport (
    EXTENDED_CHUNK_SIZE,
    MAXIMUM_STRING,
    NBD_EINVAL,
    NBD_EIO,
    NBD_ENOSPC,
    NBD_ENOTSUP,
    NBD_EOVERFLOW,
    NBD_EPERM,
    NBD_ESHUTDOWN,
    REPLY_DONE,
    SIMPLE_REPLY_SIZE,
    encode_error_chunk,
    encode_error_offset_chunk,
    encode_simple_reply,
)

cdef enum:
    ERROR_PAYLOAD = 14              # of an error chunk with offset and no message

cdef uint8_t[SMALL_READ] nothing_but_zeroes


cdef inline bint box_empty(const Outbox *box) noexcept nogil:
    return box.first == box.count


cdef inline bint box_full(const Outbox *box) noexcept nogil:
    """Whether the client owes us so much reading that its requests have to wait."""
    return box.have - box.at + (box.count - box.first) * sizeof(Piece) >= OUTBOX_MOST


cdef inline void box_clear(Outbox *box) noexcept nogil:
    if box.owned:
        drop_parcels(box)
    box.at = box.have = 0
    box.first = box.count = 0
    box.blocked = False


cdef void drop_parcels(Outbox *box) noexcept nogil:
    """Put back what is in parcels and will not be sent."""
    cdef uint32_t index
    for index in range(box.first, box.count):
        put_back(box.pieces[index].parcel, False)
        box.pieces[index].parcel = NULL
    box.owned = 0


cdef void box_free(Outbox *box) noexcept nogil:
    drop_parcels(box)
    free(box.bytes)
    free(box.pieces)
    memset(box, 0, sizeof(Outbox))


cdef uint8_t *box_room(Outbox *box, size_t length) noexcept nogil:
    """Where `length` more bytes may be written, to be queued by box_add; NULL without memory."""
    cdef size_t capacity = box.capacity if box.capacity else OUTBOX_ROOM
    cdef uint8_t *bytes
    while capacity < box.have + length:
        capacity *= 2
    if capacity != box.capacity:
        bytes = <uint8_t *>realloc(box.bytes, capacity)
        if bytes == NULL:
            return NULL
        box.bytes, box.capacity = bytes, capacity
    return box.bytes + box.have


cdef Piece *box_piece(Outbox *box) noexcept nogil:
    """A new last piece; NULL without memory."""
    cdef uint32_t room = box.room * 2 if box.room else 256
    cdef Piece *pieces
    if box.count == box.room:
        pieces = <Piece *>realloc(box.pieces, room * sizeof(Piece))
        if pieces == NULL:
            return NULL
        box.pieces, box.room = pieces, room
    box.count += 1
    memset(&box.pieces[box.count - 1], 0, sizeof(Piece))
    return &box.pieces[box.count - 1]


cdef int box_add(Outbox *box, size_t length) noexcept nogil:
    """Queue the bytes just written to box_room, as one piece with bytes before them; 0, or -1 without memory."""
    cdef Piece *piece
    if length == 0:
        return 0
    if not box_empty(box) and box.pieces[box.count - 1].kind == PIECE_BYTES:
        piece = &box.pieces[box.count - 1]
    else:
        piece = box_piece(box)
        if piece == NULL:
            return -1
        piece.kind = PIECE_BYTES
    piece.left += length
    box.have += length
    return 0


cdef int box_pack(Outbox *box, Outbox *into) noexcept nogil:
    """Move what is not sent yet to a fresh outbox of just that size; 0, or -1 without memory."""
    memset(into, 0, sizeof(Outbox))
    into.capacity = into.have = box.have - box.at
    into.room = into.count = box.count - box.first
    into.bytes = <uint8_t *>malloc(into.capacity + 1)
    into.pieces = <Piece *>malloc(into.room * sizeof(Piece) + 1)
    if into.bytes == NULL or into.pieces == NULL:
        free(into.bytes)
        free(into.pieces)
        return -1
    memcpy(into.bytes, box.bytes + box.at, into.have)
    memcpy(into.pieces, box.pieces + box.first, into.count * sizeof(Piece))
    into.owned, box.owned = box.owned, 0
    box_clear(box)
    return 0


cdef int box_unpack(Outbox *box, Outbox *kept) noexcept nogil:
    """Take over what box_pack kept into an empty outbox; 0, or -1 without memory."""
    cdef uint32_t index
    cdef Piece *piece
    cdef uint8_t *room = box_room(box, kept.have)
    if room == NULL:
        return -1
    memcpy(room, kept.bytes, kept.have)
    box.have, box.owned = kept.have, kept.owned
    for index in range(kept.count):
        piece = box_piece(box)
        if piece == NULL:
            return -1
        piece[0] = kept.pieces[index]
        kept.pieces[index].parcel = NULL
    return 0


cdef int box_send(Outbox *box, Served *c) noexcept nogil:
    """Send until all is sent (1) or the socket takes no more (0); -1: the connection is to be closed."""
    cdef ssize_t n
    box.blocked = False
    while box.first < box.count:
        n = piece_send(box, c, &box.pieces[box.first])
        if n < 0:
            return -1
        if n == 0:
            box.blocked = True
            return 0
        add_moved(c, n)
        if box.pieces[box.first].left == 0:
            put_back(box.pieces[box.first].parcel, True)
            box.first += 1
    box_clear(box)
    if c.channel.tls != NULL:
        n = channel_flush(&c.channel)
        box.blocked = n == 0
        return <int>n if n >= 0 else -1
    return 1


cdef ssize_t piece_send(Outbox *box, Served *c, Piece *piece) noexcept nogil:
    """Send some of a piece: bytes sent (a range that failed counts as one), 0: blocked, -1: close."""
    cdef bint more = box.first + 1 < box.count
    cdef size_t length = piece.left
    cdef ssize_t n
    if piece.kind == PIECE_BYTES:
        n = channel_send(&c.channel, box.bytes + box.at, length, more)
        if n > 0:
            box.at += <size_t>n
    elif piece.kind == PIECE_PARCEL:
        if piece.parcel.memory != NULL:
            n = channel_send(&c.channel, piece.parcel.memory + piece.offset, length, more)
        else:
            n = channel_send_pipe(&c.channel, piece.parcel.pipe[0], length, more)
        if n > 0:
            box.owned -= <size_t>n
    elif piece.kind == PIECE_FILE:
        n = channel_send_file(&c.channel, c.holding.store.fd, piece.offset, length)
        if n == CHANNEL_SHORT or n == CHANNEL_UNREADABLE:
            if not c.agreed.structured:
                return -1                   # an error after the header went out (X25)
            piece.kind, piece.error = PIECE_ZEROES, NBD_EIO
            return 1
    elif piece.kind == PIECE_ZEROES:
        if length > SMALL_READ:
            length, more = SMALL_READ, True
        n = channel_send(&c.channel, nothing_but_zeroes, length, more)
    else:
        n = error_piece_send(c, piece, more)
    if n == CHANNEL_AGAIN:
        return 0
    if n < 0:
        return -1
    piece.left -= <size_t>n
    piece.offset += <uint64_t>n
    if piece.kind == PIECE_ZEROES and piece.left == 0 and piece.error:
        piece.kind, piece.left = PIECE_ERROR, chunk_size(c.agreed.extended) + ERROR_PAYLOAD
        piece.offset -= 1                   # an offset inside the request, all of whose content went before (X29)
    return n


cdef ssize_t error_piece_send(Served *c, Piece *piece, bint more) noexcept nogil:
    """The error chunk of a range that was filled up; the closing NONE(DONE) is queued behind it."""
    cdef uint8_t[EXTENDED_CHUNK_SIZE + ERROR_PAYLOAD] chunk
    cdef size_t sent = chunk_size(c.agreed.extended) + ERROR_PAYLOAD - piece.left
    cdef Request to
    to.cookie, to.offset = piece.cookie, piece.begin
    encode_error_offset_chunk(chunk, c.agreed.extended, 0, &to, piece.error, piece.offset - sent, NULL, 0)
    return channel_send(&c.channel, chunk + sent, piece.left, more)


cdef uint32_t nbd_error(int error) noexcept nogil:
    """What a client is told of an errno: those of the document that help it, EIO for the rest (X57)."""
    if error == 0:
        return 0
    if error == STORE_SLOW:
        return NBD_ENOTSUP
    if error == ENOSPC or error == EDQUOT or error == EFBIG:
        return NBD_ENOSPC
    if error == EPERM or error == EACCES or error == EROFS:
        return NBD_EPERM
    return NBD_EIO


cdef const char *error_text(uint32_t error) noexcept nogil:
    if error == NBD_EPERM:
        return b"the export is read-only"
    if error == NBD_EINVAL:
        return b"the request is not valid here"
    if error == NBD_ENOSPC:
        return b"no space is left for it"
    if error == NBD_ENOTSUP:
        return b"zeroes would have to be written here"
    if error == NBD_EOVERFLOW:
        return b"too long for one chunk"
    if error == NBD_ESHUTDOWN:
        return b"the export is being removed"
    return b"input or output failed"


cdef int say_done(Outbox *box, Served *c, const Request *request) noexcept nogil:
    """A success without payload: a simple reply (proto.md, "Structured replies"), NONE with extended headers (X60)."""
    cdef uint8_t *room
    if c.agreed.extended:
        return say_none(box, c, request)
    room = box_room(box, SIMPLE_REPLY_SIZE)
    if room == NULL:
        return -1
    return box_add(box, encode_simple_reply(room, 0, request.cookie))


cdef int say_none(Outbox *box, Served *c, const Request *request) noexcept nogil:
    """The chunk NONE(DONE) that ends a reply."""
    cdef uint8_t *room = box_room(box, EXTENDED_CHUNK_SIZE)
    if room == NULL:
        return -1
    return box_add(box, encode_chunk(room, c.agreed.extended, REPLY_DONE, CHUNK_NONE, request, 0))


cdef int say_error(Outbox *box, Served *c, const Request *request, uint32_t error) noexcept nogil:
    """An error: a chunk where structured replies were agreed (X3, X4)."""
    cdef const char *text = error_text(error)
    cdef uint8_t *room = box_room(box, EXTENDED_CHUNK_SIZE + 6 + MAXIMUM_STRING)
    if room == NULL:
        return -1
    if not c.agreed.structured:
        return box_add(box, encode_simple_reply(room, error, request.cookie))
    return box_add(
        box, encode_error_chunk(room, c.agreed.extended, REPLY_DONE, request, error, text, <uint16_t>strlen(text))
    )
