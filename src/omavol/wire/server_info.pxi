# INFO and GO: what they ask for, and what an export is told to be (H12 to H22).


# What INFO and GO ask for.
cdef struct _Asked:
    const uint8_t *name
    uint32_t name_length
    uint64_t hash
    bint name_wanted, description_wanted


cdef bint _read_info(_Asked *asked, const uint8_t *data, uint32_t length) noexcept nogil:
    """Length of the name, name, count of requests, requests, and nothing behind them (H10, H13); False if not so."""
    cdef uint32_t i
    cdef uint16_t requests, wanted
    if length < 6 or be32(data) > length - 6:
        return False
    asked.name, asked.name_length = data + 4, be32(data)
    data += 4 + asked.name_length
    requests = be16(data)
    if length - 6 - asked.name_length != 2 * <uint32_t>requests or not good_string(asked.name, asked.name_length):
        return False
    asked.hash = hash_bytes(asked.name, asked.name_length, 0)
    asked.name_wanted = asked.description_wanted = False
    for i in range(requests):
        wanted = be16(data + 2 + 2 * i)
        asked.name_wanted |= wanted == INFO_NAME
        asked.description_wanted |= wanted == INFO_DESCRIPTION
    return True


cdef void _info(ServerHandshake *shake, Turn *turn, const uint8_t *data, uint32_t length) noexcept nogil:
    """INFO and GO (H12 to H22). A GO right after INFO keeps to what was told, or is refused (H18, H19)."""
    cdef _Asked asked
    cdef uint32_t error
    cdef bint go = shake.option == OPT_GO, bound
    if not _read_info(&asked, data, length):
        shake.told = False
        refuse(shake, turn, REP_ERR_INVALID, "the lengths do not add up, or the name is no string")
        return
    bound = go and shake.told and shake.told_name == asked.hash
    shake.told = False
    error = _find(shake, asked.name, asked.name_length, False)
    if error:
        refuse(shake, turn, error, _why(error))
        return
    if bound and shake.told_facts != _hash_facts(&shake.facts):
        refuse(shake, turn, REP_ERR_INVALID, "the export has changed since it was described; ask again")
        return
    if go:
        error = _find(shake, asked.name, asked.name_length, True)
        if error:
            refuse(shake, turn, error, _why(error))
            return
        if bound and shake.told_facts != _hash_facts(&shake.facts):
            shake.state = SERVER_CLOSED     # it changed between two looks, and is entered: the owner lets it go
            return
    _describe(shake, turn, &asked)
    reply(shake, turn, REP_ACK, 0)
    if go:
        _enter(shake, asked.hash)
    else:
        shake.told, shake.told_name, shake.told_facts = True, asked.hash, _hash_facts(&shake.facts)


cdef void _tell(ServerHandshake *shake, Turn *turn, uint16_t type, const void *text, size_t length) noexcept nogil:
    """An information reply with a string."""
    if length <= MAXIMUM_STRING:
        reply(shake, turn, REP_INFO, 2 + <uint32_t>length)
        say16(turn, type)
        say_bytes(turn, text, length)


cdef void _describe(ServerHandshake *shake, Turn *turn, const _Asked *asked) noexcept nogil:
    """The information replies before the ACK; block sizes go to everyone, asked for or not (H12, H14, H15)."""
    reply(shake, turn, REP_INFO, 12)
    say16(turn, INFO_EXPORT)
    say64(turn, shake.facts.size)
    say16(turn, shake.facts.flags)
    if asked.name_wanted and shake.facts.name != NULL:
        _tell(shake, turn, INFO_NAME, shake.facts.name, strlen(shake.facts.name))
    elif asked.name_wanted:
        _tell(shake, turn, INFO_NAME, asked.name, asked.name_length)
    if asked.description_wanted and shake.facts.description != NULL:
        _tell(shake, turn, INFO_DESCRIPTION, shake.facts.description, strlen(shake.facts.description))
    reply(shake, turn, REP_INFO, 14)
    say16(turn, INFO_BLOCK_SIZE)
    say32(turn, shake.facts.minimum)
    say32(turn, shake.facts.preferred)
    say32(turn, shake.facts.maximum)
