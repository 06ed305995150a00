# The Python faces of codec and judgement: bytes in, plain tuples out. nbd/ gives them names; tests and fuzzers call
# what the loops call. Where a chunk has `begin`, the offset of the request it answers, its header is extended.


def decode_request(const uint8_t[::1] data not None, bint extended=False):
    """(flags, type, cookie, offset, length), or None if more bytes are needed; ValueError on a wrong magic."""
    cdef Request request
    cdef Parsed parsed = NEED_MORE
    if data.shape[0]:
        parsed = parse_request(&data[0], data.shape[0], extended, &request)
    if parsed == BAD_MAGIC:
        raise ValueError("not a request: wrong magic")
    if parsed == NEED_MORE:
        return None
    return request.flags, request.type, request.cookie, request.offset, request.length


def payload_of(flags: int, type: int, length: int, bint extended) -> int:
    """Bytes behind the header of such a request."""
    cdef Request request
    cdef uint8_t out[EXTENDED_REQUEST_SIZE]
    memset(&request, 0, sizeof(Request))
    request.flags, request.type, request.length = flags, type, length
    encode_request(out, extended, &request)
    put_be16(out + 4, request.flags)            # as it was said (X68)
    parse_request(out, sizeof(out), extended, &request)
    return request.payload


def make_request(flags: int, type: int, cookie: int, offset: int, length: int, bint extended=False) -> bytes:
    cdef Request request
    cdef uint8_t out[EXTENDED_REQUEST_SIZE]
    request.flags, request.type, request.cookie = flags, type, cookie
    request.offset, request.length = offset, length
    if request.length >> 32 and not extended:
        raise OverflowError("a compact request has a length of 32 bits")
    return out[:encode_request(out, extended, &request)]


def decode_reply(const uint8_t[::1] data not None, uint32_t form):
    """(structured, flags, type, error, length, cookie, extended, offset), or None; ValueError on a magic wrong here.

    `form` is a Form; False and True mean simple replies and structured ones.
    """
    cdef Reply reply
    cdef Parsed parsed = parse_reply(&data[0], data.shape[0], <Form>form, &reply) if data.shape[0] else NEED_MORE
    if parsed == BAD_MAGIC:
        raise ValueError("not a reply: wrong magic")
    if parsed == NEED_MORE:
        return None
    return (
        bool(reply.structured), reply.flags, reply.type, reply.error, reply.length, reply.cookie,
        bool(reply.extended), reply.offset,
    )


cdef Request _answered(cookie, begin):
    cdef Request request
    memset(&request, 0, sizeof(Request))
    request.cookie, request.offset = cookie, begin or 0
    return request


def make_simple_reply(error: int, cookie: int) -> bytes:
    cdef uint8_t out[SIMPLE_REPLY_SIZE]
    return out[:encode_simple_reply(out, error, cookie)]


def make_chunk(flags: int, type: int, cookie: int, length: int, begin=None) -> bytes:
    cdef uint8_t out[EXTENDED_CHUNK_SIZE]
    cdef Request to = _answered(cookie, begin)
    return out[:encode_chunk(out, begin is not None, flags, type, &to, length)]


def make_data_chunk(flags: int, cookie: int, offset: int, data_length: int, begin=None) -> bytes:
    cdef uint8_t out[EXTENDED_CHUNK_SIZE + 8]
    cdef Request to = _answered(cookie, begin)
    return out[:encode_data_chunk(out, begin is not None, flags, &to, offset, data_length)]


def make_hole_chunk(flags: int, cookie: int, offset: int, hole_length: int, begin=None) -> bytes:
    cdef uint8_t out[EXTENDED_CHUNK_SIZE + 12]
    cdef Request to = _answered(cookie, begin)
    return out[:encode_hole_chunk(out, begin is not None, flags, &to, offset, hole_length)]


def make_error_chunk(flags: int, cookie: int, error: int, bytes message not None, offset=None, begin=None) -> bytes:
    """An error chunk; with an offset it names where the failure is."""
    cdef uint8_t out[EXTENDED_CHUNK_SIZE + 14 + MAXIMUM_STRING]
    cdef const char *text = message
    cdef uint16_t length = <uint16_t>min(len(message), MAXIMUM_STRING)
    cdef Request to = _answered(cookie, begin)
    cdef bint extended = begin is not None
    if offset is None:
        return out[:encode_error_chunk(out, extended, flags, &to, error, text, length)]
    return out[:encode_error_offset_chunk(out, extended, flags, &to, error, offset, text, length)]


def make_status_chunk(flags: int, cookie: int, context_id: int, descriptors: int, begin=None) -> bytes:
    cdef uint8_t out[STATUS_CHUNK_MOST]
    cdef Request to = _answered(cookie, begin)
    return out[:encode_status_chunk(out, begin is not None, flags, &to, context_id, descriptors)]


def make_descriptor(length: int, status: int, bint extended=False) -> bytes:
    cdef uint8_t out[EXTENDED_DESCRIPTOR_SIZE]
    return out[:encode_descriptor(out, extended, length, status)]


cdef void _facts_from(ExportFacts *facts, tuple told):
    memset(facts, 0, sizeof(ExportFacts))
    facts.size, facts.flags, facts.minimum, facts.preferred, facts.maximum = told


cdef Negotiated _agreed_on(uint32_t form, contexts):
    """A Form and the ids of the selected contexts; True stands for one of them."""
    cdef Negotiated agreed
    memset(&agreed, 0, sizeof(Negotiated))
    agreed.structured, agreed.extended = form != FORM_SIMPLE, form == FORM_EXTENDED
    for id in (contexts if isinstance(contexts, tuple) else (ALLOCATION_CONTEXT,) * contexts):
        _select(&agreed, id)
    return agreed


def judge_request(request: tuple, facts: tuple, uint32_t form, contexts, payload=None) -> int:
    """The verdict on (flags, type, offset, length) for an export of (size, flags, minimum, preferred, maximum).

    With the payload of a BLOCK_STATUS given, the verdict on both.
    """
    cdef Request asked
    cdef ExportFacts told
    cdef Negotiated agreed = _agreed_on(form, contexts)
    cdef uint32_t error, chosen
    cdef const uint8_t[::1] data = payload
    asked.flags, asked.type, asked.offset, asked.length = request
    asked.cookie = 0
    asked.payload = payload_of(asked.flags, asked.type, asked.length, agreed.extended)
    _facts_from(&told, facts)
    error = judge(&asked, &told, &agreed)
    if error == 0 and payload is not None and asked.payload == <uint64_t>data.shape[0]:
        error = judge_status_payload(&asked, &data[0], &told, &agreed, &chosen)
    return error


def judge_chunk_header(flags: int, type: int, length: int, command: int, requested: int, begin=None, offset=0) -> bool:
    """Whether a chunk of this type and payload length may answer that command.

    Of an extended chunk `begin` is the offset it repeats, and `offset` the one that was asked for.
    """
    cdef Request asked
    cdef Reply header
    memset(&asked, 0, sizeof(Request))
    memset(&header, 0, sizeof(Reply))
    asked.type, asked.length, asked.offset = command, requested, offset
    header.structured, header.flags, header.type, header.length = True, flags, type, length
    header.extended, header.offset = begin is not None, begin or 0
    return judge_chunk(&header, &asked)


def is_string(const uint8_t[::1] data not None) -> bool:
    """Whether the bytes are a string of the protocol."""
    return good_string(&data[0], data.shape[0]) if data.shape[0] else True
