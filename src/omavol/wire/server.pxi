# The server's handshake (proto.md, "Fixed newstyle negotiation"): one option at a time, taken when it is whole.
#
# An option waits in the caller's receive buffer until all its bytes are there, so a connection that dawdles owns a
# ServerHandshake and what it has sent, nothing else. An option that could never fit is answered after its data has
# been dropped piece by piece; an absurd one ends the session (H11). server_options.pxi answers the options.

cdef enum:
    SERVER_GREETS
    SERVER_FLAGS            # waits for the client's flags
    SERVER_OPTION           # waits for an option
    SERVER_LISTS            # LIST is being answered
    SERVER_CONTEXTS         # LIST_ or SET_META_CONTEXT is, and stands in the buffer until it has been
    SERVER_SKIPS            # drops the data of an option that is refused
    SERVER_SECURES          # STARTTLS was acknowledged: the caller begins TLS
    SERVER_TRANSMITS
    SERVER_CLOSED

cdef enum:
    ANSWER_ROOM = 8448          # the largest answer at once: INFO with name, description, block sizes and ACK


cdef void server_handshake_begin(
    ServerHandshake *shake, void *owner, FindExport find, NameExport name_export
) noexcept nogil:
    """Start a session; the greeting is the first output of the first step."""
    memset(shake, 0, sizeof(ServerHandshake))
    shake.owner, shake.find, shake.name_export = owner, find, name_export
    shake.capacity = HANDSHAKE_BUFFER
    shake.state = SERVER_GREETS


cdef Next server_handshake_step(
    ServerHandshake *shake, const uint8_t *data, size_t have, size_t *used, uint8_t *out, size_t room, size_t *wrote
) noexcept nogil:
    """Take what came and answer it; see _wire.pxd, "Handshakes", for the contract."""
    cdef Turn turn
    cdef Next todo = NEXT_SEND
    cdef bint stepped = True
    turn.data, turn.have, turn.used = data, have, 0
    turn.out, turn.room, turn.wrote = out, room, 0
    while stepped:
        if shake.state == SERVER_TRANSMITS or shake.state == SERVER_CLOSED or shake.state == SERVER_SECURES:
            break
        if turn.room - turn.wrote < ANSWER_ROOM:
            if turn.wrote == 0:
                shake.state = SERVER_CLOSED
            break
        stepped = _server_turn(shake, &turn)
        if not stepped:
            todo = NEXT_MORE
    used[0], wrote[0] = turn.used, turn.wrote
    if shake.state == SERVER_TRANSMITS:
        return NEXT_TRANSMIT
    if shake.state == SERVER_SECURES:
        return NEXT_TLS
    return NEXT_CLOSE if shake.state == SERVER_CLOSED else todo


cdef bint _server_turn(ServerHandshake *shake, Turn *turn) noexcept nogil:
    """Do the next thing; False if it needs more bytes."""
    if shake.state == SERVER_GREETS:
        say64(turn, GREETING_MAGIC)
        say64(turn, OPTION_MAGIC)
        say16(turn, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        shake.state = SERVER_FLAGS
        return True
    if shake.state == SERVER_FLAGS:
        return _server_flags(shake, turn)
    if shake.state == SERVER_OPTION:
        return _server_option(shake, turn)
    if shake.state == SERVER_LISTS:
        _list_next(shake, turn)
        return True
    if shake.state == SERVER_CONTEXTS:
        return _context_next(shake, turn)
    return _server_skip(shake, turn)


cdef bint _server_flags(ServerHandshake *shake, Turn *turn) noexcept nogil:
    """The client's flags: one we do not know or did not offer ends the session (H2, H3)."""
    cdef uint32_t flags
    if left(turn) < 4:
        return False
    flags = be32(ahead(turn))
    turn.used += 4
    if flags & ~<uint32_t>(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES):
        shake.state = SERVER_CLOSED
        return True
    shake.fixed = flags & FLAG_FIXED_NEWSTYLE != 0
    shake.agreed.no_zeroes = flags & FLAG_NO_ZEROES != 0
    shake.state = SERVER_OPTION
    return True


cdef bint _server_option(ServerHandshake *shake, Turn *turn) noexcept nogil:
    """An option's header, and its data once that is whole; what is too long is skipped or ends the session."""
    cdef const uint8_t *header = ahead(turn)
    cdef uint32_t length
    if left(turn) < OPTION_SIZE:
        return False
    length = be32(header + 12)
    shake.option = be32(header + 8)
    if be64(header) != OPTION_MAGIC or shake.options >= MAXIMUM_OPTIONS:
        shake.state = SERVER_CLOSED
        return True
    if not shake.fixed and shake.option != OPT_EXPORT_NAME:
        shake.state = SERVER_CLOSED         # honouring other options is a MAY (H5)
        return True
    if length > shake.capacity - OPTION_SIZE:
        turn.used += OPTION_SIZE
        shake.options += 1
        return _too_long(shake, turn, length)
    if left(turn) - OPTION_SIZE < length:
        return False
    turn.used += OPTION_SIZE + length
    shake.options += 1
    _answer(shake, turn, header + OPTION_SIZE, length)
    return True


cdef bint _too_long(ServerHandshake *shake, Turn *turn, uint32_t length) noexcept nogil:
    """An option that cannot fit: TOO_BIG (or what it would get anyway) once its data is dropped; or the end (H11)."""
    if shake.option == OPT_EXPORT_NAME or length > MAXIMUM_SKIP:
        if shake.option != OPT_EXPORT_NAME:
            refuse(shake, turn, REP_ERR_TLS_REQD if _awaits_tls(shake) else REP_ERR_TOO_BIG, "the option is too long")
        shake.state = SERVER_CLOSED
        return True
    shake.skip = length
    shake.skip_error = _too_long_error(shake)
    shake.state = SERVER_SKIPS
    return True


cdef uint32_t _too_long_error(const ServerHandshake *shake) noexcept nogil:
    if _awaits_tls(shake):
        return REP_ERR_TLS_REQD
    if shake.option == OPT_STARTTLS and (shake.tls != TLS_NONE or shake.secured):
        return REP_ERR_INVALID              # it takes no data at all (T13)
    if shake.option == OPT_EXTENDED_HEADERS and shake.compact:
        return REP_ERR_UNSUP
    return REP_ERR_TOO_BIG if _known(shake.option) else REP_ERR_UNSUP


cdef bint _server_skip(ServerHandshake *shake, Turn *turn) noexcept nogil:
    cdef size_t piece = left(turn)
    if piece > shake.skip:
        piece = shake.skip
    turn.used += piece
    shake.skip -= <uint32_t>piece
    if shake.skip:
        return False
    shake.state = SERVER_OPTION
    if shake.option == OPT_ABORT:
        _abort(shake, turn)
    elif shake.shutting_down and not _awaits_tls(shake):
        refuse(shake, turn, REP_ERR_SHUTDOWN, "the server is shutting down")
    else:
        _forget_what_it_replaces(shake)
        refuse(shake, turn, shake.skip_error, "the option is too long")
    return True


cdef void reply(ServerHandshake *shake, Turn *turn, uint32_t type, uint32_t length) noexcept nogil:
    """The header of an answer to the option under way; `length` bytes follow."""
    say64(turn, OPTION_REPLY_MAGIC)
    say32(turn, shake.option)
    say32(turn, type)
    say32(turn, length)


cdef void refuse(ServerHandshake *shake, Turn *turn, uint32_t error, const char *message) noexcept nogil:
    """Answer by an error, whose text never repeats what the client sent (CVE-2020-10761)."""
    cdef uint32_t length = <uint32_t>strlen(message)
    if not error & <uint32_t>REP_ERROR:
        error = REP_ERR_UNKNOWN
    reply(shake, turn, error, length)
    say_bytes(turn, message, length)
    shake.refusals += 1
    if shake.refusals >= MAXIMUM_REFUSALS:
        shake.state = SERVER_CLOSED
