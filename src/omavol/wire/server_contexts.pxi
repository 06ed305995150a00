# LIST_META_CONTEXT and SET_META_CONTEXT (H29 to H42).


cdef void _meta_context(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """LIST_ and SET_META_CONTEXT: name, count of queries, queries (H9, H29 to H41)."""
    cdef uint32_t at, queries, i, error
    cdef bint setting = shake.option == OPT_SET_META_CONTEXT, allocation = False
    if not shake.agreed.structured and not shake.agreed.extended:
        refuse(shake, turn, REP_ERR_INVALID, "structured replies come first")
        return
    if length < 8 or be32(data) > length - 8 or not _queries_add_up(data, length):
        refuse(shake, turn, REP_ERR_INVALID, "the lengths do not add up, or a query is no NAMESPACE:LEAF")
        return
    error = _find(shake, data + 4, be32(data), False)
    if error:
        refuse(shake, turn, error, _why(error))
        return
    at = 4 + be32(data)
    queries = be32(data + at)
    allocation = queries == 0 and not setting
    at += 4
    for i in range(queries):
        allocation |= same(data + at + 4, be32(data + at), b"base:allocation")
        allocation |= not setting and same(data + at + 4, be32(data + at), b"base:")
        at += 4 + be32(data + at)
    if allocation:
        reply(shake, turn, REP_META_CONTEXT, 4 + 15)
        say32(turn, ALLOCATION_CONTEXT)
        say_bytes(turn, b"base:allocation", 15)
    reply(shake, turn, REP_ACK, 0)
    if setting:
        _select(shake, allocation)
        shake.context_name = hash_bytes(data + 4, be32(data), 0)


cdef bint _queries_add_up(const uint8_t *data, uint32_t length) noexcept nogil:
    """Whether the name and every query lie inside the option and nothing lies behind them; `length` covers the name."""
    cdef uint32_t at = 4 + be32(data), i, queries = be32(data + at), size
    if not good_string(data + 4, be32(data)):
        return False
    at += 4
    for i in range(queries):
        if length - at < 4:
            return False
        size = be32(data + at)
        if size > length - at - 4:
            return False
        if not good_string(data + at + 4, size) or memchr(data + at + 4, 0x3a, size) == NULL:
            return False
        at += 4 + size
    return at == length
