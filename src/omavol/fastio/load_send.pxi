# Requests of a load: chosen, gathered, sent as far as the socket takes them.


cdef uint64_t load_below(LoadState *load, uint64_t limit) noexcept nogil:
    """A number from 0 to `limit` - 1 by xorshift64*: the same sequence in every run, so that peers get the same."""
    load.seed ^= load.seed >> 12
    load.seed ^= load.seed << 25
    load.seed ^= load.seed >> 27
    return oma_high_half(load.seed * <uint64_t>0x2545F4914F6CDD1D, limit)


cdef bint load_choose(LoadState *load, LoadSlot *slot) noexcept nogil:
    """Decide what a free slot asks next; False when everything was asked once."""
    if load.command == CMD_BLOCK_STATUS:
        return load_choose_status(load, slot)
    slot.type = CMD_READ
    if load.reads == 0 or load.reads < 100 and load_below(load, 100) >= load.reads:
        slot.type = CMD_WRITE
    if load.random:
        slot.offset, slot.length = load_below(load, load.blocks) * load.length, load.length
        return True
    if load.cursor >= load.size:
        if load.once:
            return False
        load.cursor = 0
    slot.offset, slot.length = load.cursor, min(load.length, load.size - load.cursor)
    load.cursor += slot.length
    return True


cdef bint load_choose_status(LoadState *load, LoadSlot *slot) noexcept nogil:
    """The slot goes on through its own stretch from where the last answer ended."""
    if slot.at >= slot.end:
        if load.once or slot.first >= slot.end:
            return False
        slot.at = slot.first
    slot.type, slot.offset = CMD_BLOCK_STATUS, slot.at
    slot.length = min(<uint64_t>STATUS_MOST, slot.end - slot.at)
    return True


cdef void load_fill(LoadState *load, LoadConnection *c) noexcept nogil:
    """Encode requests for free slots, with the payloads of small writes, up to and with the header of a large one."""
    cdef LoadSlot *slot
    cdef Request request
    cdef uint32_t index
    c.out_have = c.out_sent = 0
    while c.free_count and c.out_have + REQUEST_SIZE + LOAD_COPIED <= LOAD_OUT:
        if load.over and c.dialling == DIAL_NOT:
            return
        index = c.free[c.free_count - 1]
        slot = &c.slots[index]
        c.free_count -= 1
        if not load_choose(load, slot):
            load.live -= 1             # never free again: it has nothing left to ask
            continue
        slot.busy, slot.begun, slot.covered, slot.error = True, load.now, 0, 0
        load.outstanding += 1
        c.outstanding += 1
        request.flags, request.type, request.cookie = 0, slot.type, <uint64_t>slot.generation << 32 | index
        request.offset, request.length = slot.offset, slot.length
        c.out_have += <uint32_t>encode_request(c.out + c.out_have, False, &request)
        if slot.type != CMD_WRITE:
            continue
        if slot.length > LOAD_COPIED:
            c.payload_left = <uint32_t>slot.length
            return
        memcpy(c.out + c.out_have, load.payload, slot.length)
        c.out_have += <uint32_t>slot.length


cdef int load_transmit(LoadState *load, LoadConnection *c) noexcept nogil:
    """Send what free slots ask until nothing is left or the socket is full; 0, or -1 with load.fault set."""
    cdef ssize_t n
    c.blocked = False
    while True:
        if c.out_sent == c.out_have and c.payload_left == 0:
            load_fill(load, c)
            if c.out_have == 0:
                return load_let_out(load, c)
        if c.out_sent < c.out_have:
            n = channel_send(&c.channel, c.out + c.out_sent, c.out_have - c.out_sent, c.payload_left > 0)
            if n > 0:
                c.out_sent += <uint32_t>n
        else:
            n = channel_send(&c.channel, load.payload, c.payload_left, False)
            if n > 0:
                c.payload_left -= <uint32_t>n
        if n == CHANNEL_AGAIN:
            c.blocked = True
            return 0
        if n < 0:
            return load_channel_failed(load, c, n)
        c.moved_at = load.now


cdef inline int load_let_out(LoadState *load, LoadConnection *c) noexcept nogil:
    """Nothing is left to say: what TLS gathered goes out; 0, or -1 with load.fault set."""
    cdef int flushed = channel_flush(&c.channel) if c.channel.tls != NULL else 1
    c.blocked = flushed == 0
    return 0 if flushed >= 0 else load_channel_failed(load, c, flushed)


cdef int load_flush(LoadState *load) noexcept nogil:
    """Queue one FLUSH on the first connection; nothing else is in flight (C11)."""
    cdef LoadConnection *c = &load.connections[0]
    cdef LoadSlot *slot = &c.slots[0]
    cdef Request request
    memset(&request, 0, sizeof(Request))
    request.type = slot.type = CMD_FLUSH
    request.cookie = <uint64_t>slot.generation << 32
    slot.offset = slot.length = slot.covered = slot.error = 0
    slot.busy, slot.begun = True, load.now
    c.out_sent, c.out_have = 0, <uint32_t>encode_request(c.out, False, &request)
    c.moved_at = load.now
    load.outstanding += 1
    c.outstanding += 1
    return load_transmit(load, c)
