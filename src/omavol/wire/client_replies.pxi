# What a server says to an option (proto.md, "Option reply types"), checked field by field.


cdef Next _option_reply(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """One whole reply to the option under way."""
    cdef const uint8_t *header = ahead(turn)
    cdef uint32_t type, length
    if left(turn) >= 8 and be64(header) != OPTION_REPLY_MAGIC:
        return broken(shake, FAULT_REPLY_MAGIC)
    if left(turn) < OPTION_REPLY_SIZE:
        return NEXT_MORE
    if be32(header + 8) != shake.option:
        return broken(shake, FAULT_REPLY_OPTION)
    type, length = be32(header + 12), be32(header + 16)
    if length > shake.capacity - OPTION_REPLY_SIZE:
        return broken(shake, FAULT_REPLY_LENGTH)
    if left(turn) - OPTION_REPLY_SIZE < length:
        return NEXT_MORE
    turn.used += OPTION_REPLY_SIZE + length
    shake.replies += 1
    if shake.replies > MAXIMUM_REPLIES:
        return broken(shake, FAULT_FLOOD)
    header += OPTION_REPLY_SIZE
    if type & <uint32_t>REP_ERROR:
        return _refused(shake, type, header, length)
    if type == REP_ACK:
        return _acknowledged(shake, left(turn)) if length == 0 else broken(shake, FAULT_REPLY_LENGTH)
    if type == REP_SERVER and shake.option == OPT_LIST:
        return _server(shake, header, length)
    if type == REP_INFO and (shake.option == OPT_GO or shake.option == OPT_INFO):
        return _information(shake, header, length)
    if type == REP_META_CONTEXT and shake.option == OPT_LIST_META_CONTEXT:
        return _listed_context(shake, header, length)
    if type == REP_META_CONTEXT and shake.option == OPT_SET_META_CONTEXT:
        return _selected_context(shake, header, length)
    return broken(shake, FAULT_REPLY_TYPE)


cdef Next _refused(ClientHandshake *shake, uint32_t error, const uint8_t *text, uint32_t length) noexcept nogil:
    """An error: the fall-backs go on (C19), all else is for the caller, who may ask something else."""
    if shake.option == OPT_STARTTLS:
        shake.asked |= ASKED_TLS                  # it is asked once (T19)
        if shake.tls != WISH_DEMANDED:
            shake.state = CLIENT_ASKS
            return NEXT_SEND
    elif shake.option == OPT_EXTENDED_HEADERS and shake.extended != WISH_DEMANDED:
        shake.asked |= ASKED_EXTENDED
        shake.state = CLIENT_ASKS
        return NEXT_SEND
    elif shake.option == OPT_STRUCTURED_REPLY and shake.structured != WISH_DEMANDED:
        shake.asked |= ASKED_STRUCTURED
        shake.state = CLIENT_ASKS
        return NEXT_SEND
    elif shake.option == OPT_SET_META_CONTEXT:
        _unselect(shake)                          # contexts before an error count for nothing (C18)
        shake.asked |= ASKED_CONTEXTS
        shake.state = CLIENT_ASKS
        return NEXT_SEND
    elif shake.option == OPT_GO and error == REP_ERR_UNSUP and not shake.agreed.extended:
        shake.asked |= GO_UNSUPPORTED
        shake.state = CLIENT_ASKS
        return NEXT_SEND
    elif shake.option == OPT_ABORT:
        shake.state = CLIENT_CLOSED
        return NEXT_CLOSE
    shake.refused = error
    shake.text, shake.text_length = text, length if good_string(text, length) else 0
    shake.state = CLIENT_RESTS
    return NEXT_ANSWERED


cdef void _unselect(ClientHandshake *shake) noexcept nogil:
    cdef uint32_t i
    _select_none(&shake.agreed)
    for i in range(shake.context_count):
        shake.contexts[i].id, shake.contexts[i].selected = 0, False


cdef Next _acknowledged(ClientHandshake *shake, size_t behind) noexcept nogil:
    """The last answer to an option; `behind` it stand so many bytes."""
    if shake.option == OPT_STARTTLS:
        if behind:          # in TLS the client speaks first: somebody in between put it there (T20)
            return broken(shake, FAULT_UNASKED)
        shake.state = CLIENT_SECURES
        return NEXT_TLS
    if shake.option == OPT_EXTENDED_HEADERS or shake.option == OPT_STRUCTURED_REPLY:
        shake.agreed.structured = True
        shake.agreed.extended |= shake.option == OPT_EXTENDED_HEADERS
        shake.asked |= ASKED_STRUCTURED | (ASKED_EXTENDED if shake.agreed.extended else 0)
        shake.state = CLIENT_ASKS
        return NEXT_SEND
    if shake.option == OPT_SET_META_CONTEXT:
        shake.asked |= ASKED_CONTEXTS
        shake.state = CLIENT_ASKS
        return NEXT_SEND
    if shake.option == OPT_ABORT:
        shake.state = CLIENT_CLOSED
        return NEXT_CLOSE
    if (shake.option == OPT_GO or shake.option == OPT_INFO) and not shake.has_export:
        return broken(shake, FAULT_NO_EXPORT)
    if shake.option == OPT_GO:
        shake.state = CLIENT_TRANSMITS
        return NEXT_TRANSMIT
    return _rest(shake, 0)


cdef Next _see(ClientHandshake *shake, Seen seen, const uint8_t *text, uint32_t length) noexcept nogil:
    if not good_string(text, length):
        return broken(shake, FAULT_STRING)
    shake.seen, shake.text, shake.text_length = seen, text, length
    shake.more, shake.more_length = NULL, 0
    return NEXT_SEEN


cdef Next _server(ClientHandshake *shake, const uint8_t *data, uint32_t length) noexcept nogil:
    """One export of LIST; what follows its name is for people, and dropped when it is no string (CVE-2017-2630)."""
    cdef Next seen
    if length < 4 or be32(data) > length - 4:
        return broken(shake, FAULT_REPLY_LENGTH)
    seen = _see(shake, SEEN_EXPORT, data + 4, be32(data))
    if seen == NEXT_SEEN and good_string(data + 4 + be32(data), length - 4 - be32(data)):
        shake.more, shake.more_length = data + 4 + be32(data), length - 4 - be32(data)
    return seen


cdef Next _information(ClientHandshake *shake, const uint8_t *data, uint32_t length) noexcept nogil:
    """One INFO; types we do not know are passed over (C3)."""
    cdef uint16_t type
    if length < 2:
        return broken(shake, FAULT_REPLY_LENGTH)
    type = be16(data)
    if type == INFO_EXPORT:
        if length != 12:
            return broken(shake, FAULT_REPLY_LENGTH)
        return _believe_export(shake, be64(data + 2), be16(data + 10))
    if type == INFO_BLOCK_SIZE:
        if length != 14:
            return broken(shake, FAULT_REPLY_LENGTH)
        if not block_sizes_hold(be32(data + 2), be32(data + 6), be32(data + 10)):
            return broken(shake, FAULT_BLOCK_SIZE)
        shake.facts.minimum, shake.facts.preferred = be32(data + 2), be32(data + 6)
        shake.facts.maximum = be32(data + 10)
        shake.sizes_told = True
    elif type == INFO_NAME:
        return _see(shake, SEEN_NAME, data + 2, length - 2)
    elif type == INFO_DESCRIPTION:
        return _see(shake, SEEN_DESCRIPTION, data + 2, length - 2)
    return NEXT_SEND


cdef Next _believe_export(ClientHandshake *shake, uint64_t size, uint16_t flags) noexcept nogil:
    """Size and flags; flags that contradict what was agreed are taken off (C14, C24, CVE-2023-5215)."""
    if size >> 63:
        return broken(shake, FAULT_SIZE)
    if not flags & TX_HAS_FLAGS:
        return broken(shake, FAULT_FLAGS)
    if not shake.agreed.structured:
        flags &= <uint16_t>~TX_SEND_DF
    if not flags & TX_SEND_WRITE_ZEROES:
        flags &= <uint16_t>~TX_SEND_FAST_ZERO
    if not shake.agreed.extended:
        flags &= <uint16_t>~TX_BLOCK_STATUS_PAYLOAD
    shake.facts.size, shake.facts.flags = size, flags
    shake.has_export = True
    return NEXT_SEND


cdef Next _listed_context(ClientHandshake *shake, const uint8_t *data, uint32_t length) noexcept nogil:
    """One context that could be selected; its id means nothing here (C18)."""
    if length < 4:
        return broken(shake, FAULT_REPLY_LENGTH)
    return _see(shake, SEEN_CONTEXT, data + 4, length - 4)


cdef Next _selected_context(ClientHandshake *shake, const uint8_t *data, uint32_t length) noexcept nogil:
    """One context selected: it must be one of the wishes, and its id nobody else's (H34, C22)."""
    cdef uint32_t i, found = MAXIMUM_CONTEXTS
    cdef ContextWish *wish
    if length < 4:
        return broken(shake, FAULT_REPLY_LENGTH)
    for i in range(shake.context_count):
        wish = &shake.contexts[i]
        if wish.selected and wish.id == be32(data):
            return broken(shake, FAULT_CONTEXT)
        if found == MAXIMUM_CONTEXTS and not wish.selected and wish.length == length - 4 \
                and memcmp(wish.name, data + 4, length - 4) == 0:
            found = i
    if found == MAXIMUM_CONTEXTS:
        return broken(shake, FAULT_CONTEXT)
    shake.contexts[found].id, shake.contexts[found].selected = be32(data), True
    shake.agreed.ids[shake.agreed.contexts] = be32(data)
    shake.agreed.contexts += 1
    if same(data + 4, length - 4, b"base:allocation"):
        shake.agreed.allocation, shake.agreed.allocation_context = True, be32(data)
    return NEXT_SEND


cdef Next _export_name_reply(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """The answer to EXPORT_NAME: size, flags and zeroes (H7); a refusal is the end of the connection."""
    cdef size_t size = EXPORT_NAME_REPLY_SIZE + (0 if shake.agreed.no_zeroes else ZEROES)
    if left(turn) < size:
        return NEXT_MORE
    if _believe_export(shake, be64(ahead(turn)), be16(ahead(turn) + 8)) == NEXT_CLOSE:
        return NEXT_CLOSE
    turn.used += size
    shake.state = CLIENT_TRANSMITS
    return NEXT_TRANSMIT
