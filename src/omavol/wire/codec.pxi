# The codec of the transmission phase: fixed records in, fixed records out (proto.md, "Transmission").
#
# Compact and extended headers differ in two sizes, in the request's offset that extended chunks repeat, and in block
# status; payloads are otherwise the same, so each record has one function for both.

from libc.string cimport memcpy


cdef Parsed parse_request(const uint8_t *data, size_t have, bint extended, Request *out) noexcept nogil:
    """Parse one request (proto.md, "Request message"); only headers of the form that was agreed have a good magic.

    `payload` is what follows in any case: of a WRITE, and in the extended form of everything that says PAYLOAD_LEN
    (X66). QEMU 10.0 agrees on extended headers and leaves the flag out of its WRITEs, whose payload follows all the
    same: awaiting none would read that as requests, so a WRITE has its payload with or without the flag (X68).
    """
    if have >= 4 and be32(data) != (EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC):
        return BAD_MAGIC
    if have < request_size(extended):
        return NEED_MORE
    out.flags, out.type = be16(data + 4), be16(data + 6)
    out.cookie, out.offset = be64(data + 8), be64(data + 16)
    if extended:
        out.length = be64(data + 24)
        out.payload = out.length if out.flags & CMD_FLAG_PAYLOAD_LEN or out.type == CMD_WRITE else 0
    else:
        out.length = be32(data + 24)
        out.payload = out.length if out.type == CMD_WRITE else 0
    return PARSED


cdef size_t encode_request(uint8_t *out, bint extended, const Request *request) noexcept nogil:
    """Write one request; a compact one cannot say a `length` above 32 bits, which is the caller's fault.

    An extended WRITE says PAYLOAD_LEN whether the caller does or not (C21).
    """
    cdef uint16_t flags = request.flags
    if extended and request.type == CMD_WRITE:
        flags |= CMD_FLAG_PAYLOAD_LEN
    put_be32(out, EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC)
    put_be16(out + 4, flags)
    put_be16(out + 6, request.type)
    put_be64(out + 8, request.cookie)
    put_be64(out + 16, request.offset)
    if extended:
        put_be64(out + 24, request.length)
        return EXTENDED_REQUEST_SIZE
    put_be32(out + 24, <uint32_t>request.length)
    return REQUEST_SIZE


cdef Parsed parse_reply(const uint8_t *data, size_t have, Form form, Reply *out) noexcept nogil:
    """Parse one reply header of the form agreed (X2, X60): simple, or a chunk where there are chunks.

    A READ's data (simple) or `length` bytes of payload (a chunk) follow the header.
    """
    cdef uint32_t magic
    if have < 4:
        return NEED_MORE
    magic = be32(data)
    if magic == SIMPLE_MAGIC and form != FORM_EXTENDED:
        if have < SIMPLE_REPLY_SIZE:
            return NEED_MORE
        out.structured, out.extended, out.flags, out.type = False, False, REPLY_DONE, CHUNK_NONE
        out.error, out.cookie, out.length, out.offset = be32(data + 4), be64(data + 8), 0, 0
        return PARSED
    if form == FORM_SIMPLE or magic != (EXTENDED_REPLY_MAGIC if form == FORM_EXTENDED else CHUNK_MAGIC):
        return BAD_MAGIC
    if have < chunk_size(form == FORM_EXTENDED):
        return NEED_MORE
    out.structured, out.extended = True, form == FORM_EXTENDED
    out.flags, out.type, out.error, out.cookie = be16(data + 4), be16(data + 6), 0, be64(data + 8)
    if form == FORM_EXTENDED:
        out.offset, out.length = be64(data + 16), be64(data + 24)
    else:
        out.offset, out.length = 0, be32(data + 16)
    return PARSED


cdef size_t encode_simple_reply(uint8_t *out, uint32_t error, uint64_t cookie) noexcept nogil:
    put_be32(out, SIMPLE_MAGIC)
    put_be32(out + 4, error)
    put_be64(out + 8, cookie)
    return SIMPLE_REPLY_SIZE


cdef size_t encode_chunk(
    uint8_t *out, bint extended, uint16_t flags, uint16_t type, const Request *to, uint32_t length
) noexcept nogil:
    """Write the header of a chunk whose payload is `length` bytes."""
    put_be32(out, EXTENDED_REPLY_MAGIC if extended else CHUNK_MAGIC)
    put_be16(out + 4, flags)
    put_be16(out + 6, type)
    put_be64(out + 8, to.cookie)
    if extended:
        put_be64(out + 16, to.offset)
        put_be64(out + 24, length)
        return EXTENDED_CHUNK_SIZE
    put_be32(out + 16, length)
    return CHUNK_SIZE


cdef size_t encode_data_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint64_t offset, uint32_t data_length
) noexcept nogil:
    """Write the header and the offset of a data chunk; `data_length` bytes follow (at most 2^32 - 9)."""
    cdef size_t size = encode_chunk(out, extended, flags, CHUNK_OFFSET_DATA, to, data_length + 8)
    put_be64(out + size, offset)
    return size + 8


cdef size_t encode_hole_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint64_t offset, uint32_t hole_length
) noexcept nogil:
    """Write a whole hole chunk: those bytes read as zero."""
    cdef size_t size = encode_chunk(out, extended, flags, CHUNK_OFFSET_HOLE, to, 12)
    put_be64(out + size, offset)
    put_be32(out + size + 8, hole_length)
    return size + 12


cdef size_t encode_error_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint32_t error,
    const char *message, uint16_t message_length
) noexcept nogil:
    """Write a whole error chunk; a message is cut at MAXIMUM_STRING bytes (X30)."""
    cdef size_t size
    if message_length > MAXIMUM_STRING:
        message_length = MAXIMUM_STRING
    size = encode_chunk(out, extended, flags, CHUNK_ERROR, to, 6 + <uint32_t>message_length)
    put_be32(out + size, error)
    put_be16(out + size + 4, message_length)
    if message_length:
        memcpy(out + size + 6, message, message_length)
    return size + 6 + message_length


cdef size_t encode_error_offset_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint32_t error, uint64_t offset,
    const char *message, uint16_t message_length
) noexcept nogil:
    """Write a whole error chunk that names the offset of the failure, which lies in the request (X29)."""
    cdef size_t size = encode_error_chunk(out, extended, flags, to, error, message, message_length)
    encode_chunk(out, extended, flags, CHUNK_ERROR_OFFSET, to, <uint32_t>(size + 8 - chunk_size(extended)))
    put_be64(out + size, offset)
    return size + 8


cdef size_t encode_status_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint32_t context_id, uint32_t descriptors
) noexcept nogil:
    """Write a block status chunk up to its descriptors, which encode_descriptor() writes behind it (X61)."""
    cdef size_t size
    if extended:
        size = encode_chunk(
            out, True, flags, CHUNK_BLOCK_STATUS_EXT, to, 8 + EXTENDED_DESCRIPTOR_SIZE * descriptors
        )
        put_be32(out + size + 4, descriptors)
        put_be32(out + size, context_id)
        return size + 8
    size = encode_chunk(out, False, flags, CHUNK_BLOCK_STATUS, to, 4 + DESCRIPTOR_SIZE * descriptors)
    put_be32(out + size, context_id)
    return size + 4


cdef size_t encode_descriptor(uint8_t *out, bint extended, uint64_t length, uint64_t status) noexcept nogil:
    """Write one extent; a compact descriptor has 32 bits for each number."""
    if extended:
        put_be64(out, length)
        put_be64(out + 8, status)
        return EXTENDED_DESCRIPTOR_SIZE
    put_be32(out, <uint32_t>length)
    put_be32(out + 4, <uint32_t>status)
    return DESCRIPTOR_SIZE
