# Replies to a load: checked as far as a client may believe them (C1, C22, C23), their data counted and dropped.
#
# A READ's chunks have to lie inside the request and to add up to it; that no two overlap in a reply of several chunks
# is not kept account of. What an answer says is never compared with what was written.


cdef int load_breach(LoadState *load, LoadSlot *slot, const char *text) noexcept nogil:
    return load_fault(load, COPY_BREACH, 0, slot.offset if slot != NULL else 0, text)


cdef int load_receive(LoadState *load, LoadConnection *c) noexcept nogil:
    """Take what the socket has, a bounded share of it, and ask anew; 0, or -1 with load.fault set."""
    cdef ssize_t n, used
    cdef size_t have, room
    cdef int turn
    for turn in range(LOAD_TURNS):
        room = LOAD_RECEIVE - c.kept_length
        n = channel_receive(&c.channel, load.buffer + c.kept_length, room)
        if n == CHANNEL_AGAIN:
            return 0
        if n < 0:
            return load_channel_failed(load, c, n)
        memcpy(load.buffer, c.kept, c.kept_length)
        have = c.kept_length + <size_t>n
        load.now = c.moved_at = copy_clock()
        used = load_take(load, c, load.buffer, have)
        if used < 0:
            return -1
        c.kept_length = <uint32_t>(have - <size_t>used)
        memcpy(c.kept, load.buffer + used, c.kept_length)
        if c.dialling == DIAL_OVER:
            return load_redial(load, c)
        if c.free_count and not c.blocked and load_transmit(load, c) < 0:
            return -1
        if <size_t>n < room and c.channel.tls == NULL:
            return 0        # a session may hold more than the socket tells of
    return 0


cdef ssize_t load_take(LoadState *load, LoadConnection *c, const uint8_t *data, size_t have) noexcept nogil:
    """Go through what came: bytes used (fewer than LOAD_KEPT are left), or -1 with load.fault set."""
    cdef size_t used = 0, left, take
    cdef int got
    while used < have and c.dialling != DIAL_OVER:
        left = have - used
        if c.skip_left:
            take = min(left, <size_t>c.skip_left)
            used += take
            c.skip_left -= <uint32_t>take
            got = 0
            if c.skip_left == 0 and c.last:
                got = load_answered(load, c, c.receiving)
        elif c.descriptors_left:
            if left < DESCRIPTOR_SIZE:
                break
            used += DESCRIPTOR_SIZE
            got = load_descriptor(load, c, data + used - DESCRIPTOR_SIZE)
        else:
            got = load_header(load, c, data + used, left)
            if got == 0:
                break
            used += <size_t>got
        if got < 0:
            return -1
    return <ssize_t>used


cdef LoadSlot *load_slot(LoadState *load, LoadConnection *c, uint64_t cookie) noexcept nogil:
    """The request that a cookie names, if it is in flight on this connection; else NULL."""
    cdef uint32_t index = <uint32_t>cookie
    if index >= load.depth or not c.slots[index].busy or c.slots[index].generation != cookie >> 32:
        return NULL
    return &c.slots[index]


cdef int load_header(LoadState *load, LoadConnection *c, const uint8_t *data, size_t have) noexcept nogil:
    """One reply header with the fixed part of its payload: bytes used, 0 for "more", -1 with load.fault set."""
    cdef Reply reply
    cdef LoadSlot *slot
    cdef Parsed parsed = parse_reply(data, have, FORM_STRUCTURED if c.structured else FORM_SIMPLE, &reply)
    if parsed == NEED_MORE:
        return 0
    if parsed == BAD_MAGIC:
        return load_breach(load, NULL, b"a reply with a wrong magic")
    slot = load_slot(load, c, reply.cookie)
    if slot == NULL:
        return load_breach(load, NULL, b"a reply to a request that was not sent")
    c.receiving = <uint32_t>reply.cookie
    if reply.structured:
        return load_chunk(load, c, &reply, slot, data, have)
    if c.structured and slot.type == CMD_READ:
        return load_breach(load, slot, b"a simple reply to READ, structured ones were agreed")
    if reply.error == 0 and slot.type == CMD_READ:
        slot.covered = slot.length
        c.skip_left, c.last = <uint32_t>slot.length, True
        return SIMPLE_REPLY_SIZE
    slot.error = reply.error
    return -1 if load_answered(load, c, c.receiving) < 0 else SIMPLE_REPLY_SIZE


cdef int load_chunk(
    LoadState *load, LoadConnection *c, const Reply *reply, LoadSlot *slot, const uint8_t *data, size_t have
) noexcept nogil:
    """One chunk of a structured reply, as load_header."""
    cdef Request request
    cdef uint64_t offset, length
    cdef uint32_t fixed
    request.type, request.flags, request.cookie = slot.type, 0, reply.cookie
    request.offset, request.length = slot.offset, slot.length
    c.last = reply.flags & REPLY_DONE
    if not judge_chunk(reply, &request):
        return load_breach(load, slot, b"a chunk that cannot answer this request")
    if reply.type == CHUNK_NONE:
        return -1 if load_answered(load, c, c.receiving) < 0 else CHUNK_SIZE
    fixed = 8 if reply.type == CHUNK_OFFSET_DATA else 12 if reply.type == CHUNK_OFFSET_HOLE else 4
    if have < CHUNK_SIZE + fixed:
        return 0
    data += CHUNK_SIZE
    if reply.type == CHUNK_BLOCK_STATUS:
        if be32(data) != load.context:
            return load_breach(load, slot, b"block status of a context that was not selected")
        c.descriptors_left = (reply.length - fixed) // DESCRIPTOR_SIZE
        return CHUNK_SIZE + fixed
    if reply.type & 0x8000:
        if be32(data) == 0:
            return load_breach(load, slot, b"an error chunk without an error")
        slot.error = be32(data)
        c.skip_left = reply.length - fixed
        return CHUNK_SIZE + fixed
    offset = be64(data)
    length = reply.length - 8 if reply.type == CHUNK_OFFSET_DATA else be32(data + 8)
    if content_outside(offset, length, slot.offset, slot.length):
        return load_breach(load, slot, b"content outside the request")
    slot.covered += length
    if reply.type == CHUNK_OFFSET_DATA:
        c.skip_left = <uint32_t>length
    elif c.last and load_answered(load, c, c.receiving) < 0:
        return -1
    return CHUNK_SIZE + fixed


cdef int load_descriptor(LoadState *load, LoadConnection *c, const uint8_t *data) noexcept nogil:
    """One extent of a status chunk; 0, or -1 with load.fault set."""
    cdef LoadSlot *slot = &c.slots[c.receiving]
    if be32(data) == 0:
        return load_breach(load, slot, b"an empty extent")
    if slot.covered >= slot.length:
        return load_breach(load, slot, b"extents past the request")
    slot.covered += be32(data)
    load.extents += 1
    c.descriptors_left -= 1
    if c.descriptors_left == 0 and c.last:
        return load_answered(load, c, c.receiving)
    return 0


cdef int load_answered(LoadState *load, LoadConnection *c, uint32_t index) noexcept nogil:
    """A reply is complete: judge and count it, free its slot; 0, or -1 with load.fault set."""
    cdef LoadSlot *slot = &c.slots[index]
    if slot.error:
        load_note_error(load, slot)
        if slot.error == NBD_ESHUTDOWN:
            return load_fault(load, COPY_ANSWERED, NBD_ESHUTDOWN, slot.offset, b"")
    elif slot.type == CMD_READ and slot.covered != slot.length:
        return load_breach(load, slot, b"a read answered without exactly its data")
    elif slot.type == CMD_BLOCK_STATUS and slot.covered == 0:
        return load_breach(load, slot, b"block status without extents")
    elif slot.type == CMD_FLUSH:
        load.flush_time = load.now - slot.begun
    elif c.dialling == DIAL_NOT:
        load_count(
            &load.write if slot.type == CMD_WRITE else &load.read, <uint64_t>(load.now - slot.begun), slot.length
        )
    if slot.type == CMD_BLOCK_STATUS:
        slot.at += slot.length if slot.error else min(slot.covered, slot.length)
    slot.busy = False
    slot.generation += 1
    load.outstanding -= 1
    c.outstanding -= 1
    if c.dialling == DIAL_REQUEST:
        c.dialling = DIAL_OVER
    else:
        c.free[c.free_count] = index
        c.free_count += 1
    return 0


cdef void load_note_error(LoadState *load, const LoadSlot *slot) noexcept nogil:
    load.errors += 1
    if load.errors == 1:
        load.first_error, load.first_type, load.first_offset = slot.error, slot.type, slot.offset
