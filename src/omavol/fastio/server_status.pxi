# BLOCK_STATUS: the extents of the contexts that the client selected (X44 to X51).


cdef int do_block_status(Worker *w, Served *c, Request *request) noexcept nogil:
    """Extents of base:allocation inside the request: neighbours differ, at most EXTENTS_MOST (X44 to X51)."""
    cdef uint64_t offset = request.offset, end = request.offset + request.length, length
    cdef uint32_t most = 1 if request.flags & CMD_FLAG_REQ_ONE else EXTENTS_MOST
    cdef uint32_t state, last = 0, count = 0
    cdef uint64_t run = 0
    cdef uint8_t *room = box_room(&w.box, STATUS_CHUNK_SIZE + EXTENTS_MOST * DESCRIPTOR_SIZE)
    cdef uint8_t *descriptor
    if room == NULL:
        return -1
    while offset < end:
        state = store_extent(&c.holding.store, offset, end, &length)
        if count and state == last:
            run += length
        elif count == most:
            break
        else:
            count += 1
            last, run = state, length
        descriptor = room + STATUS_CHUNK_SIZE + (count - 1) * DESCRIPTOR_SIZE
        put_be32(descriptor, <uint32_t>run)
        put_be32(descriptor + 4, state)
        offset += length
    encode_status_chunk(room, REPLY_DONE, request.cookie, ALLOCATION_CONTEXT, count)
    return box_add(&w.box, STATUS_CHUNK_SIZE + count * DESCRIPTOR_SIZE)
