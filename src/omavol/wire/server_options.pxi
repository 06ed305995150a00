# The options a server answers (proto.md, "Option types"), each in a function of its own.


cdef inline bint _known(uint32_t option) noexcept nogil:
    return OPT_EXPORT_NAME <= option <= OPT_LIST or OPT_INFO <= option <= OPT_SET_META_CONTEXT


cdef void _answer(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """Answer one whole option (H53: while shutting down only ABORT is honoured)."""
    if shake.option == OPT_ABORT:
        _abort(shake, turn)
        return
    if shake.shutting_down:
        if shake.option == OPT_EXPORT_NAME:
            shake.state = SERVER_CLOSED
        else:
            refuse(shake, turn, REP_ERR_SHUTDOWN, "the server is shutting down")
        return
    _forget_what_it_replaces(shake)
    if shake.option == OPT_EXPORT_NAME:
        _export_name(shake, turn, data, length)
    elif shake.option == OPT_LIST:
        _list(shake, turn, length)
    elif shake.option == OPT_INFO or shake.option == OPT_GO:
        _info(shake, turn, data, length)
    elif shake.option == OPT_STRUCTURED_REPLY:
        if length:
            refuse(shake, turn, REP_ERR_INVALID, "the option takes no data")
        else:
            shake.agreed.structured = True
            reply(shake, turn, REP_ACK, 0)
    elif shake.option == OPT_LIST_META_CONTEXT or shake.option == OPT_SET_META_CONTEXT:
        _meta_context(shake, turn, data, length)
    else:       # STARTTLS and EXTENDED_HEADERS are served in a later release
        refuse(shake, turn, REP_ERR_UNSUP, "the option is not supported")


cdef void _forget_what_it_replaces(ServerHandshake *shake) noexcept nogil:
    """SET_META_CONTEXT replaces what was set even when it fails (H31); only a GO right after INFO is bound by it."""
    if shake.option == OPT_SET_META_CONTEXT:
        _select(shake, False)
    if shake.option != OPT_GO:
        shake.told = False


cdef void _select(ServerHandshake *shake, bint allocation) noexcept nogil:
    shake.agreed.allocation = allocation
    shake.agreed.allocation_context = ALLOCATION_CONTEXT if allocation else 0
    shake.agreed.contexts = 1 if allocation else 0


cdef void _abort(ServerHandshake *shake, Turn *turn) noexcept nogil:
    reply(shake, turn, REP_ACK, 0)
    shake.state = SERVER_CLOSED


cdef uint32_t _find(ServerHandshake *shake, const uint8_t *name, uint32_t length, bint enter) noexcept nogil:
    """Ask the owner for an export; its facts in the form in which the client is told them (H43 to H49)."""
    cdef uint16_t flags
    cdef ExportFacts *facts = &shake.facts
    memset(facts, 0, sizeof(ExportFacts))
    cdef uint32_t error = <uint32_t>shake.find(shake.owner, name, length, enter, facts)
    if error:
        return error
    flags = facts.flags | TX_HAS_FLAGS
    if not shake.agreed.structured and not shake.agreed.extended:
        flags &= <uint16_t>~TX_SEND_DF
    if not flags & TX_SEND_WRITE_ZEROES:
        flags &= <uint16_t>~TX_SEND_FAST_ZERO
    facts.flags = flags & <uint16_t>~(TX_BLOCK_STATUS_PAYLOAD | TX_SEND_RESIZE)
    facts.minimum = facts.minimum if facts.minimum else 1
    facts.preferred = facts.preferred if facts.preferred else 4096
    facts.maximum = facts.maximum if facts.maximum else DEFAULT_MAXIMUM
    return 0


cdef const char *_why(uint32_t error) noexcept nogil:
    """Words for an error of the owner's."""
    if error == REP_ERR_POLICY:
        return b"this export is not for you"
    if error == REP_ERR_SHUTDOWN:
        return b"the export is shutting down"
    if error == REP_ERR_TLS_REQD:
        return b"this export wants TLS"
    return b"no such export"


cdef uint64_t _hash_facts(const ExportFacts *facts) noexcept nogil:
    cdef uint64_t told[4]
    told[0], told[1] = facts.size, facts.generation
    told[2] = (<uint64_t>facts.flags << 32) | facts.minimum
    told[3] = (<uint64_t>facts.preferred << 32) | facts.maximum
    return hash_bytes(<const uint8_t *>told, sizeof(told), 0)


cdef void _enter(ServerHandshake *shake, uint64_t name) noexcept nogil:
    """The client is let in; contexts set for another name do not count (H42)."""
    if shake.context_name != name:
        _select(shake, False)
    shake.state = SERVER_TRANSMITS


cdef void _export_name(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """EXPORT_NAME knows no error but the end of the connection (H6)."""
    if not good_string(data, length) or _find(shake, data, length, True) != 0:
        shake.state = SERVER_CLOSED
        return
    say64(turn, shake.facts.size)
    say16(turn, shake.facts.flags)
    if not shake.agreed.no_zeroes:
        memset(turn.out + turn.wrote, 0, ZEROES)
        turn.wrote += ZEROES
    _enter(shake, hash_bytes(data, length, 0))


cdef void _list(ServerHandshake *shake, Turn *turn, uint32_t length) noexcept nogil:
    if length:
        refuse(shake, turn, REP_ERR_INVALID, "the option takes no data")
        return
    shake.listed = 0
    shake.state = SERVER_LISTS


cdef void _list_next(ServerHandshake *shake, Turn *turn) noexcept nogil:
    """One more SERVER, or the ACK that ends the list (H23), or the owner's refusal of any list (H24)."""
    cdef uint32_t length = MAXIMUM_STRING
    cdef uint8_t *name = turn.out + turn.wrote + OPTION_REPLY_SIZE + 4
    cdef uint32_t end = <uint32_t>shake.name_export(shake.owner, shake.listed, name, &length)
    if end:
        shake.state = SERVER_OPTION
        if shake.listed == 0 and end & <uint32_t>REP_ERROR:
            refuse(shake, turn, end, "this server does not list its exports")
        else:
            reply(shake, turn, REP_ACK, 0)
        return
    shake.listed += 1
    if length > MAXIMUM_STRING:
        return
    reply(shake, turn, REP_SERVER, 4 + length)
    say32(turn, length)
    turn.wrote += length
