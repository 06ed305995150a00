# BLOCK_STATUS: the extents of the contexts that the client selected, a chunk for each (X44 to X51, X61 to X65).


cdef uint64_t context_extent(
    Served *c, Store *store, uint32_t context, uint64_t offset, uint64_t limit, uint64_t *length
) noexcept nogil:
    """The status in one context of the extent that begins at `offset`, and its length, cut at `limit`.

    Here a context that is not base:allocation finds its source; of one that has gone everything is to be assumed.
    """
    if context != ALLOCATION_CONTEXT:
        return tracked_extent(c.export.tracking, context, offset, limit, length)
    return store_extent(store, offset, limit, length)


cdef inline bint status_payload_is_here(const Worker *w, const Request *request) noexcept nogil:
    """Whether a payload that may be good is in the buffer behind its header; any other is not awaited here (X69)."""
    return request.payload > STATUS_PAYLOAD_SIZE + 4 * MAXIMUM_CONTEXTS \
        or w.have - w.used >= request_size(True) + request.payload


cdef int do_block_status(Worker *w, Served *c, Request *request) noexcept nogil:
    """Find out which contexts are to answer: those that the payload names, or all (X44, X64); a filter may delay it."""
    cdef uint32_t chosen = (<uint32_t>1 << c.agreed.contexts) - 1, error
    cdef Job *job
    if request.payload:
        error = judge_status_payload(request, w.buffer + w.used, &c.export.facts, &c.agreed, &chosen)
        w.used += request.payload
        if error:
            return say_error(&w.box, c, request, error)
    if not peek_flag(&c.export.filtered) and c.holding.store.hand != STORE_AWAY:
        return say_status(&w.box, c, &c.holding.store, request, chosen)
    job = new_job(c, request)
    if job == NULL:
        return -1
    job.contexts = chosen
    return submit(c, job)


cdef int say_status(Outbox *box, Served *c, Store *store, const Request *request, uint32_t chosen) noexcept nogil:
    """One chunk for each context chosen, of which there is one at least; the last says DONE."""
    cdef uint32_t i
    for i in range(c.agreed.contexts):
        if chosen >> i & 1:
            chosen ^= <uint32_t>1 << i
            if say_extents(box, c, store, request, c.agreed.ids[i], 0 if chosen else REPLY_DONE) < 0:
                return -1
    return 0


cdef int say_extents(
    Outbox *box, Served *c, Store *store, const Request *request, uint32_t context, uint16_t flags
) noexcept nogil:
    """Extents of one context inside the request: neighbours differ, at most EXTENTS_MOST (X45 to X49)."""
    cdef uint64_t offset = request.offset, end = request.offset + request.length, length = 0, run = 0
    cdef uint32_t most = 1 if request.flags & CMD_FLAG_REQ_ONE else EXTENTS_MOST, count = 0
    cdef uint64_t state, last = 0
    cdef uint8_t *room = box_room(box, STATUS_CHUNK_MOST + EXTENTS_MOST * EXTENDED_DESCRIPTOR_SIZE)
    cdef uint8_t *descriptor
    if room == NULL:
        return -1
    descriptor = room + encode_status_chunk(room, c.agreed.extended, flags, request, context, 0)
    while offset < end:
        state = whole_blocks(c, store, context, offset, end, &length)
        if count and state == last:
            run += length
        elif count == most:
            break
        else:
            if count:
                descriptor += encode_descriptor(descriptor, c.agreed.extended, run, last)
            count += 1
            last, run = state, length
        offset += length
    descriptor += encode_descriptor(descriptor, c.agreed.extended, run, last)
    encode_status_chunk(room, c.agreed.extended, flags, request, context, count)
    return box_add(box, <size_t>(descriptor - room))


cdef uint64_t whole_blocks(
    Served *c, Store *store, uint32_t context, uint64_t offset, uint64_t end, uint64_t *length
) noexcept nogil:
    """context_extent in multiples of the minimum block (X49, X62): in a block of two minds both states are told.

    Of base:allocation that is what both have (a hole beside data is data), of other contexts what either has.
    """
    cdef uint64_t block = c.export.facts.minimum, part
    cdef uint64_t state = context_extent(c, store, context, offset, end, length)
    if length[0] % block == 0 or offset + length[0] == end:
        return state
    if length[0] > block:
        length[0] -= length[0] % block
        return state
    end = offset + block
    while offset + length[0] < end:
        if context == ALLOCATION_CONTEXT:
            state &= context_extent(c, store, context, offset + length[0], end, &part)
        else:
            state |= context_extent(c, store, context, offset + length[0], end, &part)
        length[0] += part
    return state
