# The options a server answers (proto.md, "Option types"), each in a function of its own.


cdef inline bint _known(uint32_t option) noexcept nogil:
    return OPT_EXPORT_NAME <= option <= OPT_LIST or OPT_INFO <= option <= OPT_EXTENDED_HEADERS


cdef void _answer(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """Answer one whole option (H53: while shutting down only ABORT is honoured; T4: without TLS, only STARTTLS too)."""
    if shake.option == OPT_ABORT:
        _abort(shake, turn)
        return
    if _awaits_tls(shake) or shake.shutting_down:
        if shake.option == OPT_EXPORT_NAME:
            shake.state = SERVER_CLOSED
        elif _awaits_tls(shake):
            refuse(shake, turn, REP_ERR_TLS_REQD, "this server wants TLS")
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
    elif shake.option == OPT_STRUCTURED_REPLY or shake.option == OPT_EXTENDED_HEADERS and not shake.compact:
        _agree_on_replies(shake, turn, length)
    elif shake.option == OPT_LIST_META_CONTEXT or shake.option == OPT_SET_META_CONTEXT:
        _meta_context(shake, turn, data, length)
    elif shake.option == OPT_STARTTLS:
        _starttls(shake, turn, length)
    else:
        refuse(shake, turn, REP_ERR_UNSUP, "the option is not supported")


cdef void _forget_what_it_replaces(ServerHandshake *shake) noexcept nogil:
    """SET_META_CONTEXT replaces what was set even when it fails (H31); only a GO right after INFO is bound by it."""
    if shake.option == OPT_SET_META_CONTEXT:
        _select_none(&shake.agreed)
    if shake.option != OPT_GO:
        shake.told = False


cdef void _agree_on_replies(ServerHandshake *shake, Turn *turn, uint32_t length) noexcept nogil:
    """STRUCTURED_REPLY and EXTENDED_HEADERS, which needs no structured replies first and replaces them (H50, H51)."""
    if shake.agreed.extended and shake.option == OPT_STRUCTURED_REPLY:
        refuse(shake, turn, REP_ERR_EXT_HEADER_REQD, "extended headers are agreed, and stay")
    elif length:
        refuse(shake, turn, REP_ERR_INVALID, "the option takes no data")
    else:
        shake.agreed.structured = True
        shake.agreed.extended |= shake.option == OPT_EXTENDED_HEADERS
        reply(shake, turn, REP_ACK, 0)


cdef void _abort(ServerHandshake *shake, Turn *turn) noexcept nogil:
    reply(shake, turn, REP_ACK, 0)
    shake.state = SERVER_CLOSED


cdef uint32_t _find(ServerHandshake *shake, const uint8_t *name, uint32_t length, bint enter) noexcept nogil:
    """Ask the owner for an export; its facts in the form in which the client is told them (H43 to H49)."""
    cdef uint16_t flags
    cdef ExportFacts *facts = &shake.facts
    memset(facts, 0, sizeof(ExportFacts))
    cdef uint32_t error = <uint32_t>shake.find(shake.owner, name, length, enter, facts)
    error = _without_tls(shake, error)
    if error:
        return error
    flags = facts.flags | TX_HAS_FLAGS
    if not shake.agreed.structured:
        flags &= <uint16_t>~TX_SEND_DF
    if not flags & TX_SEND_WRITE_ZEROES:
        flags &= <uint16_t>~TX_SEND_FAST_ZERO
    if not shake.agreed.extended or not _counts(shake, hash_bytes(name, length, 0)):
        flags &= <uint16_t>~TX_BLOCK_STATUS_PAYLOAD         # H49, H50
    facts.flags = flags & <uint16_t>~TX_SEND_RESIZE
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
        return b"this export wants TLS: STARTTLS comes first"
    return b"no such export"


cdef uint64_t _hash_facts(const ExportFacts *facts) noexcept nogil:
    cdef uint64_t told[4]
    told[0], told[1] = facts.size, facts.generation
    told[2] = (<uint64_t>facts.flags << 32) | facts.minimum
    told[3] = (<uint64_t>facts.preferred << 32) | facts.maximum
    return hash_bytes(<const uint8_t *>told, sizeof(told), 0)


cdef inline bint _counts(const ServerHandshake *shake, uint64_t name) noexcept nogil:
    """Whether contexts are selected for the export of that name; those set for another do not count (H42)."""
    return shake.agreed.contexts != 0 and shake.context_name == name


cdef void _enter(ServerHandshake *shake, uint64_t name) noexcept nogil:
    if not _counts(shake, name):
        _select_none(&shake.agreed)
    shake.state = SERVER_TRANSMITS


cdef void _export_name(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """EXPORT_NAME knows no error but the end of the connection (H6, T9); extended headers rule it out (H52)."""
    if shake.agreed.extended or not good_string(data, length) or _find(shake, data, length, True) != 0:
        shake.state = SERVER_CLOSED     # an export that was entered and then refused is let go by its owner
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
