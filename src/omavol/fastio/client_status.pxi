# Extents in: block status of an export, holes of a file; both answer (offset, length, flags), neighbours merged.

cdef enum:
    STATUS_MOST = 0x7ff00000    # bytes asked about at once: fits an int, a multiple of every legal block size
    REPLY_MOST = (1 << 24) + 64     # 2^20 descriptors of 64 bits


cdef struct CopyExtent:
    uint64_t offset, length
    uint32_t flags

cdef struct CopyExtents:
    CopyExtent *items
    size_t count, room


cdef struct StatusQuestion:     # about a whole export of `size` bytes, in one context
    Channel *channel
    Form form
    uint32_t context
    uint64_t size
    int64_t timeout             # nanoseconds

cdef int add_copy_extent(CopyExtents *extents, uint64_t offset, uint64_t length, uint32_t flags) noexcept nogil:
    """Append, or lengthen the last one if it touches and says the same; 0, or -1 without memory."""
    cdef CopyExtent *grown
    cdef CopyExtent *last
    if extents.count:
        last = &extents.items[extents.count - 1]
        if last.flags == flags and last.offset + last.length == offset:
            last.length += length
            return 0
    if extents.count == extents.room:
        grown = <CopyExtent *>realloc(extents.items, (extents.room * 2 + 256) * sizeof(CopyExtent))
        if grown == NULL:
            return -1
        extents.items, extents.room = grown, extents.room * 2 + 256
    last = &extents.items[extents.count]
    last.offset, last.length, last.flags = offset, length, flags
    extents.count += 1
    return 0


cdef int exchange(StatusQuestion *ask, uint8_t *data, size_t length, bint out, CopyFault *fault) noexcept nogil:
    """Send or receive all of `data` within the time-out; 0, or -1 with the fault set."""
    cdef int64_t until = copy_clock() + ask.timeout
    cdef ssize_t n
    while length:
        if out:
            n = channel_send(ask.channel, data, length, False)
        else:
            n = channel_receive(ask.channel, data, length)
        if n > 0:
            data += n
            length -= <size_t>n
        elif n != CHANNEL_AGAIN:
            return status_channel_failed(ask.channel, n, fault)
        elif copy_clock() > until:
            fault.kind = COPY_SILENT
            return -1
        else:
            channel_wait(ask.channel, WAIT_WRITE if out else WAIT_READ, TICK)
    return 0


cdef int status_channel_failed(Channel *channel, ssize_t outcome, CopyFault *fault) noexcept nogil:
    """As channel_failed, of a connection that is asked for block status alone."""
    if outcome == CHANNEL_CLOSED or channel.error == ECONNRESET or channel.error == EPIPE:
        fault.kind = COPY_CLOSED
    elif channel.tls != NULL and tls_state(channel) == TLS_FAILED and channel.error == EPROTO:
        return status_breach(fault, tls_text(channel))
    else:
        fault.kind, fault.code = COPY_ERRNO, channel.error
    return -1


cdef int status_breach(CopyFault *fault, const char *text) noexcept nogil:
    fault.kind = COPY_BREACH
    snprintf(fault.text, sizeof(fault.text), "%s", text)
    return -1


cdef int next_status_chunk(
    StatusQuestion *ask, const Request *request, uint8_t *buffer, Reply *reply, CopyFault *fault
) noexcept nogil:
    """One reply to the question, header checked and payload in `buffer`; 0, or -1 with the fault."""
    cdef size_t head = chunk_size(True) if ask.form == FORM_EXTENDED else SIMPLE_REPLY_SIZE
    cdef Parsed parsed
    if exchange(ask, buffer, head, False, fault) < 0:
        return -1
    parsed = parse_reply(buffer, head, ask.form, reply)
    if parsed == NEED_MORE:
        if exchange(ask, buffer + head, CHUNK_SIZE - head, False, fault) < 0:
            return -1
        parsed = parse_reply(buffer, CHUNK_SIZE, ask.form, reply)
    if parsed != PARSED:
        return status_breach(fault, b"a reply with a wrong magic")
    if reply.cookie != request.cookie or not judge_chunk(reply, request) or reply.length > REPLY_MOST:
        return status_breach(fault, b"a chunk that cannot answer this request")
    if exchange(ask, buffer, <size_t>reply.length, False, fault) < 0:
        return -1
    if not reply.structured and reply.error or reply.type & 0x8000:
        fault.kind, fault.code = COPY_ANSWERED, <int>(be32(buffer) if reply.structured else reply.error)
        snprintf(fault.text, sizeof(fault.text), "block status")
        return -1
    return 0


cdef int take_descriptors(
    StatusQuestion *ask, const Request *request, const uint8_t *payload, uint64_t length, bint wide,
    CopyExtents *extents, uint64_t *reached, CopyFault *fault
) noexcept nogil:
    """The descriptors of one context: none empty, in the request but for the last, in the export (C26, X45 to X48).

    Of a status of 64 bits the lower half is kept: of the contexts asked about here no bit beyond is known (C3).
    """
    cdef uint64_t i = 8 if wide else 4, size
    cdef uint32_t status
    if wide and be32(payload + 4) != (length - 8) // EXTENDED_DESCRIPTOR_SIZE:
        return status_breach(fault, b"extents that are miscounted")
    while i < length:
        size = be64(payload + i) if wide else be32(payload + i)
        status = be32(payload + i + (12 if wide else 4))
        if size == 0:
            return status_breach(fault, b"an empty extent")
        if reached[0] >= request.offset + request.length:
            return status_breach(fault, b"extents past the request")
        if size > ask.size - reached[0]:
            return status_breach(fault, b"an extent past the end of the export")
        if add_copy_extent(extents, reached[0], size, status) < 0:
            fault.kind, fault.code = COPY_ERRNO, ENOMEM
            return -1
        reached[0] += size
        i += EXTENDED_DESCRIPTOR_SIZE if wide else DESCRIPTOR_SIZE
    return 0


cdef int ask_status(
    StatusQuestion *ask, uint64_t offset, uint8_t *buffer, CopyExtents *extents, uint64_t *reached, CopyFault *fault
) noexcept nogil:
    """One BLOCK_STATUS with its whole reply; moves `reached` to where the knowledge ends; 0, or -1 with the fault."""
    cdef Request request
    cdef Reply reply
    cdef size_t length
    cdef bint last = False, wide
    fault.offset = reached[0] = offset
    request.flags, request.type, request.cookie, request.offset = 0, CMD_BLOCK_STATUS, offset, offset
    request.length = ask.size - offset
    if ask.form != FORM_EXTENDED and request.length > STATUS_MOST:
        request.length = STATUS_MOST
    length = encode_request(buffer, ask.form == FORM_EXTENDED, &request)
    if exchange(ask, buffer, length, True, fault) < 0:
        return -1
    while not last:
        if next_status_chunk(ask, &request, buffer, &reply, fault) < 0:
            return -1
        last = reply.flags & REPLY_DONE
        wide = reply.type == CHUNK_BLOCK_STATUS_EXT
        if not wide and reply.type != CHUNK_BLOCK_STATUS or be32(buffer) != ask.context:
            continue
        if reached[0] != offset:
            return status_breach(fault, b"a context that is described twice")
        if take_descriptors(ask, &request, buffer, reply.length, wide, extents, reached, fault) < 0:
            return -1
    if reached[0] == offset:
        return status_breach(fault, b"block status without extents")
    return 0


cdef int ask_all_status(StatusQuestion *ask, CopyExtents *extents, CopyFault *fault) noexcept nogil:
    """Block status of the whole export, one request after the other; 0, or -1 with the fault set."""
    cdef uint8_t *buffer = <uint8_t *>malloc(REPLY_MOST)
    cdef uint64_t offset = 0
    cdef int outcome = 0
    if buffer == NULL:
        fault.kind, fault.code = COPY_ERRNO, ENOMEM
        return -1
    while offset < ask.size and outcome == 0:
        outcome = ask_status(ask, offset, buffer, extents, &offset, fault)
    free(buffer)
    return outcome


cdef int scan_holes(int fd, uint64_t size, CopyExtents *extents, CopyFault *fault) noexcept nogil:
    """Extents of a file by SEEK_DATA and SEEK_HOLE; what cannot tell holes (a block device) is all data."""
    cdef off_t at = 0, data, hole
    while <uint64_t>at < size:
        data = lseek(fd, at, SEEK_DATA)
        if data < 0 and errno == ENXIO:
            data = <off_t>size
        elif data < 0:
            data, hole = at, <off_t>size
        if <uint64_t>data > size:
            data = <off_t>size
        if data > at and add_copy_extent(extents, <uint64_t>at, <uint64_t>(data - at), STATE_HOLE | STATE_ZERO) < 0:
            break
        at = data
        if <uint64_t>at >= size:
            return 0
        hole = lseek(fd, at, SEEK_HOLE)
        if hole <= at or <uint64_t>hole > size:
            hole = <off_t>size
        if add_copy_extent(extents, <uint64_t>at, <uint64_t>(hole - at), 0) < 0:
            break
        at = hole
    if <uint64_t>at < size:
        fault.kind, fault.code = COPY_ERRNO, ENOMEM
        return -1
    return 0


cdef object extents_as_list(CopyExtents *extents):
    cdef size_t i
    return [
        (extents.items[i].offset, extents.items[i].length, extents.items[i].flags) for i in range(extents.count)
    ]


cdef object status_outcome(int outcome, CopyExtents *extents, CopyFault *fault):
    """The list and None, or None and the fault as CopyLoop.fault gives it; frees the extents."""
    answer = extents_as_list(extents) if outcome == 0 else None
    free(extents.items)
    if outcome == 0:
        return answer, None
    return None, fault_as_tuple(fault)


def block_status(
    int fd, uint32_t context, uint64_t size, double timeout=60.0, int side=SOURCE, bint extended=False,
    SecureChannel secured=None
):
    """Block status of a whole export in one context: ([(offset, length, flags)], None) or (None, fault).

    `fd` is a negotiated connection with nothing in flight; it has nothing in flight afterwards either. `secured` is
    its TLS session, where it has one.
    """
    cdef Channel plain
    cdef StatusQuestion ask
    cdef CopyExtents extents
    cdef CopyFault fault
    cdef int outcome
    plain.fd, plain.error, plain.tls = fd, 0, NULL
    ask.channel = &plain if secured is None else &secured.channel
    ask.form, ask.context, ask.size = FORM_EXTENDED if extended else FORM_STRUCTURED, context, size
    ask.timeout = <int64_t>(timeout * 1e9)
    memset(&extents, 0, sizeof(extents))
    memset(&fault, 0, sizeof(fault))
    fault.side = side
    with nogil:
        outcome = ask_all_status(&ask, &extents, &fault)
    return status_outcome(outcome, &extents, &fault)


def file_extents(int fd, uint64_t size, int side=SOURCE):
    """Extents of a file or block device, flags as of base:allocation; the answer as block_status."""
    cdef CopyExtents extents
    cdef CopyFault fault
    cdef int outcome
    memset(&extents, 0, sizeof(extents))
    memset(&fault, 0, sizeof(fault))
    fault.side = side
    with nogil:
        outcome = scan_holes(fd, size, &extents, &fault)
    return status_outcome(outcome, &extents, &fault)
