"""The NBD protocol for the loops that move data: numbers, records, codec, judgement and both handshakes.

Everything here is `noexcept nogil`, does no I/O and allocates nothing. Numbers on the wire are big-endian; names are
those of the protocol document (proto.md); extended headers are those of its branch extension-ext-header.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

include "wire/numbers.pxi"      # every number of the protocol
include "wire/bytes.pxi"        # be16, be32, be64, put_be16, put_be32, put_be64, request_size, chunk_size


# ---- Messages of the transmission phase ------------------------------------------------------------------------------
cdef enum Parsed:
    PARSED
    NEED_MORE
    BAD_MAGIC

cdef enum Form:                 # how headers look, by what was agreed (form_of)
    FORM_SIMPLE                 # compact requests, simple replies
    FORM_STRUCTURED             # compact requests, replies in chunks or simple ones
    FORM_EXTENDED               # requests and chunks of 32 bytes, nothing simple; chunks repeat the request's offset

cdef struct Request:
    uint16_t flags, type
    uint64_t cookie, offset
    uint64_t length             # bytes of effect; of a BLOCK_STATUS with payload they are in the payload
    uint64_t payload            # bytes behind the header; parse_request sets it, encode_request does not ask

cdef struct Reply:              # a header alone
    bint structured, extended   # a chunk (of either form), an extended one
    uint16_t flags, type        # of a chunk; a simple reply reads as REPLY_DONE, CHUNK_NONE
    uint32_t error              # of a simple reply
    uint64_t length             # payload of a chunk; 0 for a simple reply, whose READ data follows unannounced
    uint64_t cookie, offset     # offset: the request's, in an extended chunk; else 0

cdef Parsed parse_request(const uint8_t *data, size_t have, bint extended, Request *out) noexcept nogil
cdef size_t encode_request(uint8_t *out, bint extended, const Request *request) noexcept nogil
cdef Parsed parse_reply(const uint8_t *data, size_t have, Form form, Reply *out) noexcept nogil
cdef size_t encode_simple_reply(uint8_t *out, uint32_t error, uint64_t cookie) noexcept nogil
# Chunks take cookie and offset from the request they answer; `extended` is what was agreed.
cdef size_t encode_chunk(
    uint8_t *out, bint extended, uint16_t flags, uint16_t type, const Request *to, uint32_t length
) noexcept nogil
cdef size_t encode_data_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint64_t offset, uint32_t data_length
) noexcept nogil
cdef size_t encode_hole_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint64_t offset, uint32_t hole_length
) noexcept nogil
cdef size_t encode_error_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint32_t error,
    const char *message, uint16_t message_length
) noexcept nogil
cdef size_t encode_error_offset_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint32_t error, uint64_t offset,
    const char *message, uint16_t message_length
) noexcept nogil
cdef size_t encode_status_chunk(
    uint8_t *out, bint extended, uint16_t flags, const Request *to, uint32_t context_id, uint32_t descriptors
) noexcept nogil
cdef size_t encode_descriptor(uint8_t *out, bint extended, uint64_t length, uint64_t status) noexcept nogil


# ---- Judgement -------------------------------------------------------------------------------------------------------
cdef struct ExportFacts:
    uint64_t size
    uint16_t flags                          # transmission flags, TX_...
    uint32_t minimum, preferred, maximum    # block sizes; 0: the default (1, 4096, DEFAULT_MAXIMUM)
    const char *description                 # UTF-8 or NULL; must live until the step that asked has returned
    const char *name                        # the canonical name if it is another than the one asked for, or NULL
    uint64_t generation                     # differs when what is behind the name differs (retarget); compared alone
    bint tls_only                           # entered and described inside TLS alone (T6 to T9)

cdef struct Negotiated:
    bint structured                         # replies come in chunks: structured replies, or extended headers with them
    bint extended                           # headers are extended
    bint no_zeroes
    bint allocation                         # base:allocation is among the contexts
    uint32_t allocation_context             # its id; servers other than ours may say 0
    uint32_t contexts                       # how many meta contexts are selected,
    uint32_t ids[MAXIMUM_CONTEXTS]          # and their ids, in the order they were selected

cdef inline Form form_of(const Negotiated *agreed) noexcept nogil:
    return FORM_EXTENDED if agreed.extended else FORM_STRUCTURED if agreed.structured else FORM_SIMPLE

cdef uint32_t judge(const Request *request, const ExportFacts *facts, const Negotiated *agreed) noexcept nogil
cdef uint32_t judge_status_payload(
    Request *request, const uint8_t *payload, const ExportFacts *facts, const Negotiated *agreed, uint32_t *chosen
) noexcept nogil
cdef bint judge_chunk(const Reply *reply, const Request *request) noexcept nogil


# ---- Handshakes ------------------------------------------------------------------------------------------------------
# A step reads from `data`, writes to `out`, and says how much of each it took in `used` and `wrote`. Whatever it
# returns, out[:wrote] is to be sent and data[:used] is to be dropped. `data` must be able to hold HANDSHAKE_BUFFER
# bytes (or `capacity`, set after begin), `out` must offer HANDSHAKE_ROOM; then every call makes progress.
cdef enum Next:
    NEXT_MORE           # send, then wait for more bytes
    NEXT_SEND           # `out` is full: send, and call again with what is left
    NEXT_TRANSMIT       # the transmission phase begins with the byte behind `used`
    NEXT_CLOSE          # send, then close; the client's struct says why (fault)
    NEXT_TLS            # send all of it, then begin TLS on what comes next, then call *_handshake_secured()
    NEXT_SEEN           # client: something is seen (seen, text, text_length...), call again
    NEXT_ANSWERED       # client: the question is answered (refused: how), ask another or leave

# 0: found; else an option error (REP_ERR_UNKNOWN, REP_ERR_SHUTDOWN, REP_ERR_POLICY). `facts` is zeroed before.
# With `enter` the owner takes its reference on the export: the answer that follows lets the client in, and whatever
# ends the connection afterwards releases it.
ctypedef int (*FindExport)(void *owner, const uint8_t *name, uint32_t length, bint enter, ExportFacts *facts) \
    noexcept nogil
# Writes the name of export `index` (MAXIMUM_STRING bytes of room) and its length; nonzero past the last one, or an
# option error at index 0.
ctypedef int (*NameExport)(void *owner, uint32_t index, uint8_t *name, uint32_t *length) noexcept nogil

# Writes the full name (MAXIMUM_STRING bytes of room) and the id of meta context `index` of an export, beside
# base:allocation, which every export has; nonzero past the last one. An id is above ALLOCATION_CONTEXT, is that
# context's for good and no other's: what is asked about it after it has gone is still answered.
ctypedef int (*NameContext)(
    void *owner, const uint8_t *export, uint32_t export_length, uint32_t index,
    uint8_t *name, uint32_t *length, uint32_t *id
) noexcept nogil

cdef enum Tls:          # the modes of proto.md, "Server-side requirements"
    TLS_NONE            # STARTTLS is unknown
    TLS_SELECTIVE       # exports that are `tls_only` want it
    TLS_FORCED          # nothing is told without it

cdef struct ServerHandshake:
    void *owner
    FindExport find
    NameExport name_export
    NameContext name_context            # or NULL: base:allocation alone. It and the next two may be set after begin
    Tls tls
    bint compact                        # EXTENDED_HEADERS is not offered
    bint secured                        # inside TLS
    ExportFacts facts                   # of the export entered, exactly as they were told to the client
    Negotiated agreed
    uint32_t capacity                   # bytes the caller's receive buffer holds; may be set after begin
    bint shutting_down                  # may be set at any time: every option but ABORT gets SHUTDOWN
    uint8_t state
    bint fixed
    bint told                           # facts were told by INFO, and nothing but GO came since
    uint32_t options, refusals          # counted against MAXIMUM_OPTIONS and MAXIMUM_REFUSALS
    uint32_t option                     # the one under way
    uint32_t skip, skip_error           # bytes still to drop, and the answer due then
    uint32_t listed                     # the next index of LIST, of the contexts
    uint64_t told_name, context_name    # hashes of the names given with INFO, SET_META_CONTEXT
    uint64_t told_facts

cdef void server_handshake_begin(
    ServerHandshake *shake, void *owner, FindExport find, NameExport name_export
) noexcept nogil
cdef Next server_handshake_step(
    ServerHandshake *shake, const uint8_t *data, size_t have, size_t *used, uint8_t *out, size_t room, size_t *wrote
) noexcept nogil

# TLS stands: what was agreed in the clear is forgotten, options begin anew (T11, T20). What the peer sent before it
# does not count: the caller's buffer is empty when TLS begins.
cdef void server_handshake_secured(ServerHandshake *shake) noexcept nogil

cdef enum Goal:
    GOAL_GO             # TLS, headers, contexts, then GO; falls back to EXPORT_NAME unless headers are extended (C21)
    GOAL_INFO           # the same questions, nothing entered
    GOAL_LIST           # the names of all exports
    GOAL_CONTEXTS       # all meta contexts of an export
    GOAL_ABORT          # leave; the server's answer is awaited, then NEXT_CLOSE

cdef enum Wish:
    WISH_NEVER          # do not ask
    WISH_OFFERED        # ask, go on without
    WISH_DEMANDED       # ask, stop without

cdef enum Seen:
    SEEN_NOTHING
    SEEN_EXPORT         # LIST: text is a name, more what follows it
    SEEN_NAME           # INFO_NAME: text
    SEEN_DESCRIPTION    # INFO_DESCRIPTION: text
    SEEN_CONTEXT        # LIST_META_CONTEXT: text

cdef enum Fault:
    FAULT_NONE
    FAULT_NOT_NBD               # the first bytes are no NBD greeting
    FAULT_OLDSTYLE              # the oldstyle handshake
    FAULT_NOT_FIXED             # the question needs fixed newstyle, which the server does not speak
    FAULT_REPLY_MAGIC
    FAULT_REPLY_OPTION          # an answer to another option than the one asked
    FAULT_REPLY_TYPE            # a type of answer that the option does not have
    FAULT_REPLY_LENGTH          # inside an answer lengths do not add up, or it is longer than `capacity`
    FAULT_STRING                # a string is too long, has a NUL or is no UTF-8
    FAULT_NO_EXPORT             # GO was granted without the size
    FAULT_SIZE                  # a size of 2^63 or more
    FAULT_FLAGS                 # transmission flags without HAS_FLAGS
    FAULT_BLOCK_SIZE            # block sizes that break proto.md, "Block size constraints"
    FAULT_CONTEXT               # a context that was not asked for, or one id twice
    FAULT_FLOOD                 # more than MAXIMUM_REPLIES answers to one option
    FAULT_CALLER                # `out` has less than HANDSHAKE_ROOM
    FAULT_UNASKED               # bytes behind the last answer; for the caller to say

cdef struct ContextWish:
    const uint8_t *name
    uint32_t length, id
    bint selected

cdef struct ClientHandshake:
    const uint8_t *name                 # of the export; it and the contexts' names live as long as the handshake
    uint32_t name_length
    Goal goal
    Wish structured
    Wish extended, tls                  # WISH_NEVER unless set after begin; extended is asked for before structured
    ContextWish contexts[MAXIMUM_CONTEXTS]
    uint32_t context_count
    ExportFacts facts                   # of the export, from INFO, GO or EXPORT_NAME
    Negotiated agreed
    uint32_t capacity
    uint32_t refused                    # NEXT_ANSWERED: 0, or the server's REP_ERR_...; text is its message
    Fault fault                         # NEXT_CLOSE: why
    Seen seen
    const uint8_t *text                 # NEXT_SEEN, NEXT_ANSWERED: points into `data` of that call
    uint32_t text_length
    const uint8_t *more
    uint32_t more_length
    uint8_t state
    bint fixed, has_export, sizes_told
    bint secured                        # inside TLS
    uint32_t option, replies, asked

cdef void client_handshake_begin(ClientHandshake *shake, Wish structured) noexcept nogil
cdef int client_handshake_want(ClientHandshake *shake, const uint8_t *context, uint32_t length) noexcept nogil
cdef void client_handshake_ask(ClientHandshake *shake, Goal goal, const uint8_t *name, uint32_t length) noexcept nogil
cdef Next client_handshake_step(
    ClientHandshake *shake, const uint8_t *data, size_t have, size_t *used, uint8_t *out, size_t room, size_t *wrote
) noexcept nogil
cdef void client_handshake_secured(ClientHandshake *shake) noexcept nogil
