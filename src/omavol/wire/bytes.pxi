# Big-endian numbers in memory and the sizes of headers, inlined wherever they are used (proto.md, "Conventions").

cdef inline uint16_t be16(const uint8_t *data) noexcept nogil:
    return <uint16_t>((<uint32_t>data[0] << 8) | data[1])


cdef inline uint32_t be32(const uint8_t *data) noexcept nogil:
    return (<uint32_t>data[0] << 24) | (<uint32_t>data[1] << 16) | (<uint32_t>data[2] << 8) | data[3]


cdef inline uint64_t be64(const uint8_t *data) noexcept nogil:
    return (<uint64_t>be32(data) << 32) | be32(data + 4)


cdef inline void put_be16(uint8_t *out, uint16_t value) noexcept nogil:
    out[0], out[1] = <uint8_t>(value >> 8), <uint8_t>value


cdef inline void put_be32(uint8_t *out, uint32_t value) noexcept nogil:
    put_be16(out, <uint16_t>(value >> 16))
    put_be16(out + 2, <uint16_t>value)


cdef inline void put_be64(uint8_t *out, uint64_t value) noexcept nogil:
    put_be32(out, <uint32_t>(value >> 32))
    put_be32(out + 4, <uint32_t>value)


cdef inline size_t request_size(bint extended) noexcept nogil:
    return EXTENDED_REQUEST_SIZE if extended else REQUEST_SIZE


cdef inline size_t chunk_size(bint extended) noexcept nogil:
    return EXTENDED_CHUNK_SIZE if extended else CHUNK_SIZE
