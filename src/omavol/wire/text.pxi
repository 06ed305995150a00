# Strings of the wire: UTF-8 without NUL, at most MAXIMUM_STRING bytes; and small tools of both handshakes.

from libc.string cimport memchr, memcmp, memset, strlen


cdef bint good_string(const uint8_t *text, size_t length) noexcept nogil:
    """Whether it is a string of the protocol (proto.md, "Conventions"): no NUL, no overlong form, no surrogate."""
    cdef size_t i = 0, more, k
    cdef uint32_t code
    if length > MAXIMUM_STRING:
        return False
    while i < length:
        if text[i] < 0x80:
            if text[i] == 0:
                return False
            i += 1
            continue
        if text[i] & 0xe0 == 0xc0:
            more, code = 1, text[i] & 0x1f
        elif text[i] & 0xf0 == 0xe0:
            more, code = 2, text[i] & 0x0f
        elif text[i] & 0xf8 == 0xf0:
            more, code = 3, text[i] & 0x07
        else:
            return False
        if length - i <= more:
            return False
        for k in range(1, more + 1):
            if text[i + k] & 0xc0 != 0x80:
                return False
            code = code << 6 | (text[i + k] & 0x3f)
        if code < (0x80 if more == 1 else 0x800 if more == 2 else 0x10000) or code > 0x10ffff:
            return False
        if 0xd800 <= code <= 0xdfff:
            return False
        i += more + 1
    return True


cdef inline uint64_t hash_bytes(const uint8_t *data, size_t length, uint64_t seed) noexcept nogil:
    """FNV-1a of 64 bits: tells two names of one client apart; nothing but that client's own answer depends on it."""
    cdef size_t i
    cdef uint64_t value = seed ^ <uint64_t>0xcbf29ce484222325
    for i in range(length):
        value = (value ^ data[i]) * <uint64_t>0x100000001b3
    return value


cdef inline bint same(const uint8_t *data, size_t length, const char *text) noexcept nogil:
    return length == strlen(text) and memcmp(data, text, length) == 0


cdef inline bint block_sizes_hold(uint32_t minimum, uint32_t preferred, uint32_t maximum) noexcept nogil:
    """Whether they keep proto.md's "Block size constraints" (H46)."""
    if minimum == 0 or minimum & (minimum - 1) or minimum > 65536:
        return False
    if preferred < 512 or preferred & (preferred - 1) or preferred < minimum:
        return False
    return maximum >= preferred


# What a step has read and written; both handshakes pass it on.
cdef struct Turn:
    const uint8_t *data
    size_t have, used
    uint8_t *out
    size_t room, wrote


cdef inline const uint8_t *ahead(const Turn *turn) noexcept nogil:
    return turn.data + turn.used


cdef inline size_t left(const Turn *turn) noexcept nogil:
    return turn.have - turn.used


cdef inline void say16(Turn *turn, uint16_t value) noexcept nogil:
    put_be16(turn.out + turn.wrote, value)
    turn.wrote += 2


cdef inline void say32(Turn *turn, uint32_t value) noexcept nogil:
    put_be32(turn.out + turn.wrote, value)
    turn.wrote += 4


cdef inline void say64(Turn *turn, uint64_t value) noexcept nogil:
    put_be64(turn.out + turn.wrote, value)
    turn.wrote += 8


cdef inline void say_bytes(Turn *turn, const void *data, size_t length) noexcept nogil:
    if length:
        memcpy(turn.out + turn.wrote, data, length)
    turn.wrote += length
