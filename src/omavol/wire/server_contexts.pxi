# LIST_META_CONTEXT and SET_META_CONTEXT (H29 to H42): each context of the export in turn is held against the queries.
#
# So a query asked twice selects once (H35), and a client's thousand queries cost its owner one question a context. The
# option stands in the caller's buffer until the last context has had its turn: a long list is told as room comes.


cdef void _meta_context(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """LIST_ and SET_META_CONTEXT: name, count of queries, queries (H9, H29 to H41)."""
    cdef uint32_t error
    if not shake.agreed.structured:
        refuse(shake, turn, REP_ERR_INVALID, "structured replies or extended headers come first")
        return
    if length < 8 or be32(data) > length - 8 or not _queries_add_up(data, length):
        refuse(shake, turn, REP_ERR_INVALID, "the lengths do not add up, or a query is no NAMESPACE:LEAF")
        return
    error = _find(shake, data + 4, be32(data), False)
    if error:
        refuse(shake, turn, error, _why(error))
        return
    if shake.option == OPT_SET_META_CONTEXT:
        shake.context_name = hash_bytes(data + 4, be32(data), 0)
    shake.listed = 0
    shake.state = SERVER_CONTEXTS
    turn.used -= OPTION_SIZE + length


cdef bint _context_next(ServerHandshake *shake, Turn *turn) noexcept nogil:
    """Answer by one more context if a query wants it; behind the last one comes the ACK, and the option is done."""
    cdef const uint8_t *data = ahead(turn) + OPTION_SIZE
    cdef uint8_t *name = turn.out + turn.wrote + OPTION_REPLY_SIZE + 4
    cdef uint32_t size = MAXIMUM_STRING, id = ALLOCATION_CONTEXT
    cdef bint setting = shake.option == OPT_SET_META_CONTEXT
    if left(turn) < OPTION_SIZE or left(turn) - OPTION_SIZE < be32(data - 4):
        return False                            # the caller has not kept what was not used
    if not _name_context(shake, data + 4, be32(data), name, &size, &id):
        turn.used += OPTION_SIZE + be32(data - 4)
        reply(shake, turn, REP_ACK, 0)
        shake.state = SERVER_OPTION
        return True
    shake.listed += 1
    if not _wanted(data, name, size, setting) or setting and not _select(&shake.agreed, id):
        return True
    reply(shake, turn, REP_META_CONTEXT, 4 + size)
    say32(turn, id)
    turn.wrote += size
    return True


cdef bint _name_context(
    ServerHandshake *shake, const uint8_t *export, uint32_t length, uint8_t *name, uint32_t *size, uint32_t *id
) noexcept nogil:
    """Context `shake.listed` of an export: base:allocation is first, the others are its owner's; False past the end."""
    if shake.listed == 0:
        memcpy(name, b"base:allocation", 15)
        size[0] = 15
        return True
    if shake.name_context == NULL:
        return False
    if shake.name_context(shake.owner, export, length, shake.listed - 1, name, size, id) != 0:
        return False
    return size[0] <= MAXIMUM_STRING


cdef bint _select(Negotiated *agreed, uint32_t id) noexcept nogil:
    """Add a context to those selected; False when there are too many, or one has that id (H34)."""
    cdef uint32_t i
    for i in range(agreed.contexts):
        if agreed.ids[i] == id:
            return False
    if agreed.contexts == MAXIMUM_CONTEXTS:
        return False
    agreed.ids[agreed.contexts] = id
    agreed.contexts += 1
    if id == ALLOCATION_CONTEXT:
        agreed.allocation, agreed.allocation_context = True, id
    return True


cdef void _select_none(Negotiated *agreed) noexcept nogil:
    agreed.contexts, agreed.allocation, agreed.allocation_context = 0, False, 0


cdef bint _wanted(const uint8_t *data, const uint8_t *name, uint32_t size, bint setting) noexcept nogil:
    """Whether a query asks for the context `name`: by its full name, or in LIST by its beginning up to a colon.

    H32, H36. The queries have added up (_queries_add_up). None at all ask for everything in LIST, for nothing in SET.
    """
    cdef uint32_t at = 4 + be32(data), queries = be32(data + at), i, length
    cdef const uint8_t *query
    if queries == 0:
        return not setting
    at += 4
    for i in range(queries):
        query, length = data + at + 4, be32(data + at)
        if length <= size and memcmp(query, name, length) == 0:
            if length == size:
                return True
            if not setting and query[length - 1] == 0x3a:
                return True
        at += 4 + length
    return False


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
