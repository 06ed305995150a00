# The client's handshake: one question at a time, each answer checked before it is believed (C13, C18, C19, C22).
#
# A question is a goal. STARTTLS comes before anything (T23); GO and INFO are asked after EXTENDED_HEADERS or, without
# these, STRUCTURED_REPLY, and after SET_META_CONTEXT, where these are wished for. What is refused is gone on without,
# but where it was demanded (C27). After NEXT_ANSWERED the caller may ask again. client_replies.pxi reads what a server
# says to an option.

cdef enum:
    CLIENT_GREETING         # waits for the server's greeting
    CLIENT_ASKS             # the next option is to be sent
    CLIENT_WAITS            # an option was sent, its answers are read
    CLIENT_ENTERS           # EXPORT_NAME was sent: its answer has a form of its own
    CLIENT_SECURES          # STARTTLS was acknowledged: the caller begins TLS
    CLIENT_RESTS            # answered; nothing is asked
    CLIENT_TRANSMITS
    CLIENT_CLOSED

cdef enum:
    CLIENT_FLAGS_SIZE = 4

# What was agreed in earlier questions of this session; kept in ClientHandshake.asked.
cdef enum:
    ASKED_STRUCTURED = 1
    ASKED_CONTEXTS = 2
    GO_UNSUPPORTED = 4
    ASKED_EXTENDED = 8
    ASKED_TLS = 16


cdef void client_handshake_begin(ClientHandshake *shake, Wish structured) noexcept nogil:
    """Start a session; then client_handshake_want() for each context and client_handshake_ask()."""
    memset(shake, 0, sizeof(ClientHandshake))
    shake.structured = structured
    shake.capacity = HANDSHAKE_BUFFER
    shake.state = CLIENT_GREETING


cdef int client_handshake_want(ClientHandshake *shake, const uint8_t *context, uint32_t length) noexcept nogil:
    """Wish for a meta context by its full name before GO or INFO; -1: too many, or no string of the protocol."""
    if shake.context_count >= MAXIMUM_CONTEXTS or not good_string(context, length):
        return -1
    shake.contexts[shake.context_count].name = context
    shake.contexts[shake.context_count].length = length
    shake.context_count += 1
    return 0


cdef void client_handshake_ask(ClientHandshake *shake, Goal goal, const uint8_t *name, uint32_t length) noexcept nogil:
    """Ask the next question, about the export `name` where it is about one (at most MAXIMUM_STRING bytes)."""
    cdef bint same_name = shake.name_length == length and shake.name != NULL and memcmp(shake.name, name, length) == 0
    if not same_name:
        shake.asked &= ~<uint32_t>ASKED_CONTEXTS      # contexts belong to the name they were set for (H42)
        _unselect(shake)
    shake.goal, shake.name, shake.name_length = goal, name, length
    shake.refused, shake.has_export, shake.sizes_told = 0, False, False
    if shake.state == CLIENT_RESTS:
        shake.state = CLIENT_ASKS


cdef Next client_handshake_step(
    ClientHandshake *shake, const uint8_t *data, size_t have, size_t *used, uint8_t *out, size_t room, size_t *wrote
) noexcept nogil:
    """Take what came, answer or ask; see _wire.pxd, "Handshakes", for the contract."""
    cdef Turn turn
    cdef Next todo = NEXT_SEND
    turn.data, turn.have, turn.used = data, have, 0
    turn.out, turn.room, turn.wrote = out, room, 0
    shake.seen = SEEN_NOTHING
    if room < HANDSHAKE_ROOM:
        broken(shake, FAULT_CALLER)
    while todo == NEXT_SEND:
        if shake.state == CLIENT_ASKS and turn.wrote > CLIENT_FLAGS_SIZE:
            break                   # one option a step: a server that answers ahead of questions must not fill `out`
        todo = _client_turn(shake, &turn)
    used[0], wrote[0] = turn.used, turn.wrote
    return todo


cdef Next broken(ClientHandshake *shake, Fault fault) noexcept nogil:
    """The server broke the protocol, or speaks none we can use: the connection ends without a word (C7)."""
    shake.fault = fault
    shake.state = CLIENT_CLOSED
    return NEXT_CLOSE


cdef Next _client_turn(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """Do the next thing; NEXT_SEND means only "go on"."""
    if shake.state == CLIENT_GREETING:
        return _greeting(shake, turn)
    if shake.state == CLIENT_ASKS:
        return _ask(shake, turn)
    if shake.state == CLIENT_WAITS:
        return _option_reply(shake, turn)
    if shake.state == CLIENT_ENTERS:
        return _export_name_reply(shake, turn)
    if shake.state == CLIENT_TRANSMITS:
        return NEXT_TRANSMIT
    if shake.state == CLIENT_SECURES:
        return NEXT_TLS
    return NEXT_CLOSE if shake.state == CLIENT_CLOSED else NEXT_ANSWERED


cdef Next _greeting(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """The greeting and our flags; what the server did not offer is not asked for (C4: unknown flags are ignored)."""
    cdef uint16_t flags
    if left(turn) >= 8 and be64(ahead(turn)) != GREETING_MAGIC:
        return broken(shake, FAULT_NOT_NBD)
    if left(turn) >= 16 and be64(ahead(turn) + 8) != OPTION_MAGIC:
        return broken(shake, FAULT_OLDSTYLE if be64(ahead(turn) + 8) == OLDSTYLE_MAGIC else FAULT_NOT_NBD)
    if left(turn) < GREETING_SIZE:
        return NEXT_MORE
    flags = be16(ahead(turn) + 16) & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
    turn.used += GREETING_SIZE
    shake.fixed = flags & FLAG_FIXED_NEWSTYLE != 0
    shake.agreed.no_zeroes = flags & FLAG_NO_ZEROES != 0
    if not shake.fixed and shake.goal != GOAL_GO and shake.goal != GOAL_ABORT:
        return broken(shake, FAULT_NOT_FIXED)
    if not shake.fixed and (
        shake.structured == WISH_DEMANDED or shake.extended == WISH_DEMANDED or shake.tls == WISH_DEMANDED
    ):
        return broken(shake, FAULT_NOT_FIXED)
    say32(turn, flags)
    shake.state = CLIENT_ASKS
    return NEXT_SEND


cdef Next _ask(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """Send the option that the goal needs next."""
    cdef bint about_an_export = shake.goal == GOAL_GO or shake.goal == GOAL_INFO
    cdef uint32_t first = _agreed_first(shake)
    if shake.goal == GOAL_ABORT and not shake.fixed:
        shake.state = CLIENT_CLOSED
        return NEXT_CLOSE
    if first == OPT_STARTTLS and shake.asked & ASKED_TLS:
        shake.option = OPT_STARTTLS         # refused once, and demanded: nothing is asked without (T23, C27)
        return _rest(shake, REP_ERR_UNSUP)
    if first:
        _option(shake, turn, first, 0)
    elif shake.goal == GOAL_ABORT or shake.goal == GOAL_LIST:
        _option(shake, turn, OPT_ABORT if shake.goal == GOAL_ABORT else OPT_LIST, 0)
    elif not shake.fixed or shake.asked & GO_UNSUPPORTED and shake.goal == GOAL_GO:
        _option(shake, turn, OPT_EXPORT_NAME, shake.name_length)
        say_bytes(turn, shake.name, shake.name_length)
        shake.state = CLIENT_ENTERS
        return NEXT_SEND
    elif shake.goal == GOAL_CONTEXTS and not shake.agreed.structured:
        return _rest(shake, REP_ERR_UNSUP)  # contexts come with chunks; the server is not asked (H30)
    elif shake.goal == GOAL_CONTEXTS:
        _option(shake, turn, OPT_LIST_META_CONTEXT, 8 + shake.name_length)
        say32(turn, shake.name_length)
        say_bytes(turn, shake.name, shake.name_length)
        say32(turn, 0)
    elif about_an_export and shake.agreed.structured and shake.context_count and not shake.asked & ASKED_CONTEXTS:
        _ask_contexts(shake, turn)
    else:
        _ask_export(shake, turn)
    shake.state = CLIENT_WAITS
    return NEXT_SEND


cdef uint32_t _agreed_first(const ClientHandshake *shake) noexcept nogil:
    """The option without data that comes before the goal's own, or 0."""
    if not shake.fixed or shake.goal == GOAL_ABORT:
        return 0
    if not shake.secured and (shake.tls == WISH_DEMANDED or shake.tls and not shake.asked & ASKED_TLS):
        return OPT_STARTTLS
    if shake.goal == GOAL_LIST or shake.asked & GO_UNSUPPORTED and shake.goal == GOAL_GO:
        return 0
    if shake.extended != WISH_NEVER and not shake.asked & ASKED_EXTENDED:
        return OPT_EXTENDED_HEADERS
    if shake.structured != WISH_NEVER and not shake.asked & ASKED_STRUCTURED:
        return OPT_STRUCTURED_REPLY
    return 0


cdef Next _rest(ClientHandshake *shake, uint32_t refused) noexcept nogil:
    """The question is answered, by the server or without asking it."""
    shake.refused = refused
    shake.text, shake.text_length = NULL, 0
    shake.state = CLIENT_RESTS
    return NEXT_ANSWERED


cdef void _option(ClientHandshake *shake, Turn *turn, uint32_t option, uint32_t length) noexcept nogil:
    """An option's header; `length` bytes follow."""
    say64(turn, OPTION_MAGIC)
    say32(turn, option)
    say32(turn, length)
    shake.option = option
    shake.replies = 0


cdef void _ask_contexts(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """SET_META_CONTEXT for every wish that still fits the room; the longest names may cost later ones their place."""
    cdef uint32_t i, length = 8 + shake.name_length, count = 0
    cdef size_t room = turn.room - turn.wrote
    for i in range(shake.context_count):
        shake.contexts[i].id, shake.contexts[i].selected = 0, False
        if OPTION_SIZE + <size_t>length + 4 + shake.contexts[i].length <= room:
            length += 4 + shake.contexts[i].length
            count += 1
        else:
            break
    _select_none(&shake.agreed)
    _option(shake, turn, OPT_SET_META_CONTEXT, length)
    say32(turn, shake.name_length)
    say_bytes(turn, shake.name, shake.name_length)
    say32(turn, count)
    for i in range(count):
        say32(turn, shake.contexts[i].length)
        say_bytes(turn, shake.contexts[i].name, shake.contexts[i].length)


cdef void _ask_export(ClientHandshake *shake, Turn *turn) noexcept nogil:
    """INFO or GO, with the requests for all that can be told, each once (C13)."""
    _option(shake, turn, OPT_GO if shake.goal == GOAL_GO else OPT_INFO, 4 + shake.name_length + 2 + 3 * 2)
    say32(turn, shake.name_length)
    say_bytes(turn, shake.name, shake.name_length)
    say16(turn, 3)
    say16(turn, INFO_NAME)
    say16(turn, INFO_DESCRIPTION)
    say16(turn, INFO_BLOCK_SIZE)
    memset(&shake.facts, 0, sizeof(ExportFacts))
    shake.has_export, shake.sizes_told = False, False


cdef void client_handshake_secured(ClientHandshake *shake) noexcept nogil:
    """Inside TLS: everything is agreed anew (T20), but for the client's flags, which are not said again."""
    if shake.state != CLIENT_SECURES:
        broken(shake, FAULT_CALLER)
        return
    _unselect(shake)
    shake.agreed.structured = shake.agreed.extended = False
    shake.asked = ASKED_TLS
    shake.secured = True
    shake.state = CLIENT_ASKS
