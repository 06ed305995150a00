# What a request may ask, decided before anything is done (X7 to X19), and what a chunk may answer (C1, C22).


cdef inline bint _outside(const Request *request, uint64_t size) noexcept nogil:
    """Whether the request leaves the export; nothing is added, so nothing overflows (X10)."""
    return request.length > size or request.offset > size - request.length


cdef inline uint16_t _flags_of(const Request *request, const ExportFacts *facts, const Negotiated *agreed) \
        noexcept nogil:
    """The command flags that apply to the request's command here (X11)."""
    if request.type == CMD_READ:
        return CMD_FLAG_DF if facts.flags & TX_SEND_DF and (agreed.structured or agreed.extended) else 0
    if request.type == CMD_WRITE_ZEROES:
        return CMD_FLAG_NO_HOLE | (CMD_FLAG_FAST_ZERO if facts.flags & TX_SEND_FAST_ZERO else 0)
    if request.type == CMD_BLOCK_STATUS:
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
    leaves the payload of a WRITE to be consumed (X14). FAST_ZERO's ENOTSUP is the store's to say.
    """
    cdef uint16_t flags = request.flags
    cdef uint32_t maximum = facts.maximum if facts.maximum else DEFAULT_MAXIMUM
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
        if request.type == CMD_READ and not agreed.structured and not agreed.extended:
            return NBD_EINVAL
    return 0


cdef bint judge_chunk(const Reply *reply, const Request *request) noexcept nogil:
    """Whether a reply header may answer the request: type legal for the command, length possible for the type.

    For the client; the payload's own fields (offset inside the request, no overlap) are still to be checked. A simple
    reply may answer anything but a READ where structured replies were agreed: the caller knows that (X3).
    """
    if not reply.structured:
        return True
    if reply.type == CHUNK_NONE:
        return reply.length == 0 and reply.flags & REPLY_DONE
    if reply.type == CHUNK_OFFSET_DATA:
        return request.type == CMD_READ and reply.length > 8 and reply.length - 8 <= request.length
    if reply.type == CHUNK_OFFSET_HOLE:
        return request.type == CMD_READ and reply.length == 12
    if reply.type == CHUNK_BLOCK_STATUS:
        return request.type == CMD_BLOCK_STATUS and reply.length >= 12 and (reply.length - 4) % DESCRIPTOR_SIZE == 0
    if reply.type == CHUNK_ERROR:
        return 6 <= reply.length <= 6 + MAXIMUM_STRING
    if reply.type == CHUNK_ERROR_OFFSET:
        return 14 <= reply.length <= 14 + MAXIMUM_STRING
    return reply.type & 0x8000 != 0 and 6 <= reply.length <= 1 << 16
