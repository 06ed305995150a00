# The codec of the transmission phase: fixed records in, fixed records out (proto.md, "Transmission").

from libc.string cimport memcpy


cdef Parsed parse_request(const uint8_t *data, size_t have, Request *out) noexcept nogil:
    """Parse one compact request of REQUEST_SIZE bytes (proto.md, "Request message")."""
    if have >= 4 and be32(data) != REQUEST_MAGIC:
        return BAD_MAGIC
    if have < REQUEST_SIZE:
        return NEED_MORE
    out.flags, out.type = be16(data + 4), be16(data + 6)
    out.cookie, out.offset, out.length = be64(data + 8), be64(data + 16), be32(data + 24)
    return PARSED


cdef size_t encode_request(uint8_t *out, const Request *request) noexcept nogil:
    """Write one compact request; `length` above 32 bits cannot be said and is the caller's fault."""
    put_be32(out, REQUEST_MAGIC)
    put_be16(out + 4, request.flags)
    put_be16(out + 6, request.type)
    put_be64(out + 8, request.cookie)
    put_be64(out + 16, request.offset)
    put_be32(out + 24, <uint32_t>request.length)
    return REQUEST_SIZE


cdef Parsed parse_reply(const uint8_t *data, size_t have, bint structured, Reply *out) noexcept nogil:
    """Parse one reply header; chunks are legal only where `structured` was negotiated, simple replies always.

    A READ's data (simple) or `length` bytes of payload (a chunk) follow the SIMPLE_REPLY_SIZE or CHUNK_SIZE bytes.
    """
    cdef uint32_t magic
    if have < 4:
        return NEED_MORE
    magic = be32(data)
    if magic == SIMPLE_MAGIC:
        if have < SIMPLE_REPLY_SIZE:
            return NEED_MORE
        out.structured, out.flags, out.type = False, REPLY_DONE, CHUNK_NONE
        out.error, out.cookie, out.length = be32(data + 4), be64(data + 8), 0
        return PARSED
    if magic != CHUNK_MAGIC or not structured:
        return BAD_MAGIC
    if have < CHUNK_SIZE:
        return NEED_MORE
    out.structured, out.flags, out.type = True, be16(data + 4), be16(data + 6)
    out.error, out.cookie, out.length = 0, be64(data + 8), be32(data + 16)
    return PARSED


cdef size_t encode_simple_reply(uint8_t *out, uint32_t error, uint64_t cookie) noexcept nogil:
    put_be32(out, SIMPLE_MAGIC)
    put_be32(out + 4, error)
    put_be64(out + 8, cookie)
    return SIMPLE_REPLY_SIZE


cdef size_t encode_chunk(uint8_t *out, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t length) noexcept nogil:
    """Write the header of a chunk whose payload is `length` bytes."""
    put_be32(out, CHUNK_MAGIC)
    put_be16(out + 4, flags)
    put_be16(out + 6, type)
    put_be64(out + 8, cookie)
    put_be32(out + 16, length)
    return CHUNK_SIZE


cdef size_t encode_data_chunk(
    uint8_t *out, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t data_length
) noexcept nogil:
    """Write the header and the offset of a data chunk; `data_length` bytes follow (at most 2^32 - 9)."""
    encode_chunk(out, flags, CHUNK_OFFSET_DATA, cookie, data_length + 8)
    put_be64(out + CHUNK_SIZE, offset)
    return DATA_CHUNK_SIZE


cdef size_t encode_hole_chunk(
    uint8_t *out, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t hole_length
) noexcept nogil:
    """Write a whole hole chunk: those bytes read as zero."""
    encode_chunk(out, flags, CHUNK_OFFSET_HOLE, cookie, 12)
    put_be64(out + CHUNK_SIZE, offset)
    put_be32(out + CHUNK_SIZE + 8, hole_length)
    return HOLE_CHUNK_SIZE


cdef size_t encode_error_chunk(
    uint8_t *out, uint16_t flags, uint64_t cookie, uint32_t error, const char *message, uint16_t message_length
) noexcept nogil:
    """Write a whole error chunk; a message is cut at MAXIMUM_STRING bytes (X30)."""
    if message_length > MAXIMUM_STRING:
        message_length = MAXIMUM_STRING
    encode_chunk(out, flags, CHUNK_ERROR, cookie, 6 + <uint32_t>message_length)
    put_be32(out + CHUNK_SIZE, error)
    put_be16(out + CHUNK_SIZE + 4, message_length)
    if message_length:
        memcpy(out + ERROR_CHUNK_SIZE, message, message_length)
    return ERROR_CHUNK_SIZE + <size_t>message_length


cdef size_t encode_error_offset_chunk(
    uint8_t *out, uint16_t flags, uint64_t cookie, uint32_t error, uint64_t offset,
    const char *message, uint16_t message_length
) noexcept nogil:
    """Write a whole error chunk that names the offset of the failure, which lies in the request (X29)."""
    cdef size_t size = encode_error_chunk(out, flags, cookie, error, message, message_length)
    encode_chunk(out, flags, CHUNK_ERROR_OFFSET, cookie, <uint32_t>(size + 8 - CHUNK_SIZE))
    put_be64(out + size, offset)
    return size + 8


cdef size_t encode_status_chunk(
    uint8_t *out, uint16_t flags, uint64_t cookie, uint32_t context_id, uint32_t descriptors
) noexcept nogil:
    """Write the header of a block status chunk; `descriptors` pairs (length, status) of put_be32 follow."""
    encode_chunk(out, flags, CHUNK_BLOCK_STATUS, cookie, 4 + DESCRIPTOR_SIZE * descriptors)
    put_be32(out + CHUNK_SIZE, context_id)
    return STATUS_CHUNK_SIZE
