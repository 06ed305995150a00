# What a request may ask, decided before anything is done (X7 to X19, X64 to X70), and what a chunk may answer (C1).


cdef inline bint _outside(const Request *request, uint64_t size) noexcept nogil:
    """Whether the request leaves the export; nothing is added, so nothing overflows (X10)."""
    return request.length > size or request.offset > size - request.length


cdef inline uint16_t _flags_of(const Request *request, const ExportFacts *facts, const Negotiated *agreed) \
        noexcept nogil:
    """The command flags that apply to the request's command here (X11, X70)."""
    if request.type == CMD_READ:
        return CMD_FLAG_DF if facts.flags & TX_SEND_DF and agreed.structured else 0
    if request.type == CMD_WRITE:
        return CMD_FLAG_PAYLOAD_LEN if agreed.extended else 0
    if request.type == CMD_WRITE_ZEROES:
        return CMD_FLAG_NO_HOLE | (CMD_FLAG_FAST_ZERO if facts.flags & TX_SEND_FAST_ZERO else 0)
    if request.type == CMD_BLOCK_STATUS:
        if agreed.extended and facts.flags & TX_BLOCK_STATUS_PAYLOAD:
            return CMD_FLAG_REQ_ONE | CMD_FLAG_PAYLOAD_LEN
        return CMD_FLAG_REQ_ONE
    return 0


cdef inline bint _offered(const Request *request, const ExportFacts *facts, const Negotiated *agreed) noexcept nogil:
    """Whether the command was advertised; READ and WRITE always are (X11, X50)."""
    if request.type == CMD_FLUSH:
        return facts.flags & TX_SEND_FLUSH != 0
    if request.type == CMD_TRIM:
        return facts.flags & TX_SEND_TRIM != 0
    if request.type == CMD_CACHE:
        return facts.flags & TX_SEND_CACHE != 0
    if request.type == CMD_WRITE_ZEROES:
        return facts.flags & TX_SEND_WRITE_ZEROES != 0
    if request.type == CMD_BLOCK_STATUS:
        return agreed.contexts != 0
    return request.type == CMD_READ or request.type == CMD_WRITE


cdef uint32_t judge(const Request *request, const ExportFacts *facts, const Negotiated *agreed) noexcept nogil:
    """0, or the error that the request gets; `facts.flags` are those told to the client.

    FUA is masked off first wherever SEND_FUA is advertised (D7, X12). DISC is never refused. An answer other than 0
    leaves the payload to be consumed (X14, X65, X66); 0 for a BLOCK_STATUS with payload is about its header, and
    judge_status_payload() has the next word. FAST_ZERO's ENOTSUP is the store's to say.
    """
    cdef uint16_t flags = request.flags
    cdef bint changes = (
        request.type == CMD_WRITE or request.type == CMD_TRIM or request.type == CMD_WRITE_ZEROES
    )
    if request.type == CMD_DISC:
        return 0
    if facts.flags & TX_SEND_FUA:
        flags &= <uint16_t>~CMD_FLAG_FUA
    if changes and facts.flags & TX_READ_ONLY:
        return NBD_EPERM
    if not _offered(request, facts, agreed):
        return NBD_EINVAL
    if flags & ~_flags_of(request, facts, agreed):
        return NBD_EINVAL
    if request.type == CMD_FLUSH:
        return NBD_EINVAL if request.offset or request.length else 0
    if request.type == CMD_BLOCK_STATUS and flags & CMD_FLAG_PAYLOAD_LEN:
        return 0 if _status_payload_fits(request.payload, agreed) else NBD_EINVAL
    return _judge_range(request, flags, facts, agreed)


cdef inline uint32_t _judge_range(
    const Request *request, uint16_t flags, const ExportFacts *facts, const Negotiated *agreed
) noexcept nogil:
    """Where the request lies and how much it asks for (X9, X16 to X19, X33 to X36)."""
    cdef uint32_t maximum = facts.maximum if facts.maximum else DEFAULT_MAXIMUM
    if request.length == 0:
        return NBD_EINVAL
    if _outside(request, facts.size):
        return NBD_ENOSPC if request.type == CMD_WRITE or request.type == CMD_WRITE_ZEROES else NBD_EINVAL
    if facts.minimum > 1 and (request.offset | request.length) & (facts.minimum - 1):
        return NBD_EINVAL
    if request.length > maximum:
        if request.type == CMD_WRITE:
            return NBD_EINVAL
        if request.type == CMD_READ and flags & CMD_FLAG_DF:
            return NBD_EOVERFLOW
        if request.type == CMD_READ and (not agreed.structured or request.length >> 32):
            return NBD_EINVAL       # chunks for 2^32 bytes are queued at most: more is no request for data
    return 0


cdef inline bint _status_payload_fits(uint64_t payload, const Negotiated *agreed) noexcept nogil:
    """Whether a payload of BLOCK_STATUS is a length and ids of some of the contexts selected, by its size (X69)."""
    cdef uint64_t ids = payload - STATUS_PAYLOAD_SIZE
    return payload > STATUS_PAYLOAD_SIZE and ids % 4 == 0 and ids // 4 <= agreed.contexts


cdef uint32_t judge_status_payload(
    Request *request, const uint8_t *payload, const ExportFacts *facts, const Negotiated *agreed, uint32_t *chosen
) noexcept nogil:
    """The payload of a BLOCK_STATUS whose header judge() let pass, all `request.payload` bytes of it (X64, X65).

    0 or an NBD error. Its effect length goes to `request.length`; in `chosen` bit i stands for agreed.ids[i].
    """
    cdef uint32_t count = <uint32_t>(request.payload - STATUS_PAYLOAD_SIZE) // 4, i, k, id
    chosen[0] = 0
    request.length = be64(payload)
    for i in range(count):
        id = be32(payload + STATUS_PAYLOAD_SIZE + 4 * i)
        for k in range(agreed.contexts):
            if agreed.ids[k] == id and not chosen[0] >> k & 1:
                break
        else:
            return NBD_EINVAL                       # not selected, or named twice
        chosen[0] |= <uint32_t>1 << k
    return _judge_range(request, request.flags, facts, agreed)


cdef bint judge_chunk(const Reply *reply, const Request *request) noexcept nogil:
    """Whether a reply header may answer the request: type legal for the command, length possible for the type.

    For the client; the payload's own fields (offset inside the request, no overlap) are still to be checked. A simple
    reply may answer anything but a READ where structured replies were agreed: the caller knows that (X3). An extended
    chunk repeats the request's offset (X60); of 64 bits of length none is believed that could not be.
    """
    if not reply.structured:
        return True
    if reply.extended and reply.offset != request.offset:
        return False
    if reply.type == CHUNK_NONE:
        return reply.length == 0 and reply.flags & REPLY_DONE
    if reply.type == CHUNK_OFFSET_DATA:
        return request.type == CMD_READ and reply.length > 8 and reply.length - 8 <= request.length
    if reply.type == CHUNK_OFFSET_HOLE:
        return request.type == CMD_READ and reply.length == 12
    if reply.type == CHUNK_BLOCK_STATUS and not reply.extended:
        return request.type == CMD_BLOCK_STATUS and reply.length >= 12 and (reply.length - 4) % DESCRIPTOR_SIZE == 0
    if reply.type == CHUNK_BLOCK_STATUS_EXT and reply.extended:
        return request.type == CMD_BLOCK_STATUS and 24 <= reply.length <= DEFAULT_MAXIMUM \
            and (reply.length - 8) % EXTENDED_DESCRIPTOR_SIZE == 0
    if reply.type == CHUNK_ERROR:
        return 6 <= reply.length <= 6 + MAXIMUM_STRING
    if reply.type == CHUNK_ERROR_OFFSET:
        return 14 <= reply.length <= 14 + MAXIMUM_STRING
    return reply.type & 0x8000 != 0 and 6 <= reply.length <= 1 << 16
