# The Python faces: bytes in, plain tuples out. nbd/ gives them names; tests and fuzzers call what the loops call.

from libc.stdlib cimport calloc, free


def decode_request(const uint8_t[::1] data not None):
    """(flags, type, cookie, offset, length), or None if more bytes are needed; ValueError on a wrong magic."""
    cdef Request request
    cdef Parsed parsed = parse_request(&data[0], data.shape[0], &request) if data.shape[0] else NEED_MORE
    if parsed == BAD_MAGIC:
        raise ValueError("not a request: wrong magic")
    if parsed == NEED_MORE:
        return None
    return request.flags, request.type, request.cookie, request.offset, request.length


def make_request(flags: int, type: int, cookie: int, offset: int, length: int) -> bytes:
    cdef Request request
    cdef uint8_t out[REQUEST_SIZE]
    request.flags, request.type, request.cookie = flags, type, cookie
    request.offset, request.length = offset, length
    if request.length >> 32:
        raise OverflowError("a compact request has a length of 32 bits")
    return out[:encode_request(out, &request)]


def decode_reply(const uint8_t[::1] data not None, bint structured):
    """(structured, flags, type, error, length, cookie), or None; ValueError on a magic that is wrong here."""
    cdef Reply reply
    cdef Parsed parsed = parse_reply(&data[0], data.shape[0], structured, &reply) if data.shape[0] else NEED_MORE
    if parsed == BAD_MAGIC:
        raise ValueError("not a reply: wrong magic")
    if parsed == NEED_MORE:
        return None
    return bool(reply.structured), reply.flags, reply.type, reply.error, reply.length, reply.cookie


def make_simple_reply(error: int, cookie: int) -> bytes:
    cdef uint8_t out[SIMPLE_REPLY_SIZE]
    return out[:encode_simple_reply(out, error, cookie)]


def make_chunk(flags: int, type: int, cookie: int, length: int) -> bytes:
    cdef uint8_t out[CHUNK_SIZE]
    return out[:encode_chunk(out, flags, type, cookie, length)]


def make_data_chunk(flags: int, cookie: int, offset: int, data_length: int) -> bytes:
    cdef uint8_t out[DATA_CHUNK_SIZE]
    return out[:encode_data_chunk(out, flags, cookie, offset, data_length)]


def make_hole_chunk(flags: int, cookie: int, offset: int, hole_length: int) -> bytes:
    cdef uint8_t out[HOLE_CHUNK_SIZE]
    return out[:encode_hole_chunk(out, flags, cookie, offset, hole_length)]


def make_error_chunk(flags: int, cookie: int, error: int, bytes message not None, offset=None) -> bytes:
    """An error chunk; with an offset it names where the failure is."""
    cdef uint8_t out[ERROR_OFFSET_CHUNK_SIZE + MAXIMUM_STRING]
    cdef const char *text = message
    cdef uint16_t length = <uint16_t>min(len(message), MAXIMUM_STRING)
    if offset is None:
        return out[:encode_error_chunk(out, flags, cookie, error, text, length)]
    return out[:encode_error_offset_chunk(out, flags, cookie, error, offset, text, length)]


def make_status_chunk(flags: int, cookie: int, context_id: int, descriptors: int) -> bytes:
    cdef uint8_t out[STATUS_CHUNK_SIZE]
    return out[:encode_status_chunk(out, flags, cookie, context_id, descriptors)]


cdef void _facts_from(ExportFacts *facts, tuple told):
    memset(facts, 0, sizeof(ExportFacts))
    facts.size, facts.flags, facts.minimum, facts.preferred, facts.maximum = told


def judge_request(request: tuple, facts: tuple, bint structured, bint contexts) -> int:
    """The verdict on (flags, type, offset, length) for an export of (size, flags, minimum, preferred, maximum)."""
    cdef Request asked
    cdef ExportFacts told
    cdef Negotiated agreed
    memset(&agreed, 0, sizeof(Negotiated))
    agreed.structured, agreed.contexts = structured, 1 if contexts else 0
    asked.flags, asked.type, asked.offset, asked.length = request
    asked.cookie = 0
    _facts_from(&told, facts)
    return judge(&asked, &told, &agreed)


def judge_chunk_header(flags: int, type: int, length: int, command: int, requested: int) -> bool:
    """Whether a chunk of this type and payload length may answer that command."""
    cdef Request asked
    cdef Reply header
    memset(&asked, 0, sizeof(Request))
    memset(&header, 0, sizeof(Reply))
    asked.type, asked.length = command, requested
    header.structured, header.flags, header.type, header.length = True, flags, type, length
    return judge_chunk(&header, &asked)


def is_string(const uint8_t[::1] data not None) -> bool:
    """Whether the bytes are a string of the protocol."""
    return good_string(&data[0], data.shape[0]) if data.shape[0] else True


def handshake_sizes() -> tuple[int, int]:
    """Bytes that a waiting server's and client's handshake own (H55)."""
    return sizeof(ServerHandshake), sizeof(ClientHandshake)


# The server's face answers from a table of exports given once: no callback enters Python while a step runs.
cdef struct _Row:
    ExportFacts facts
    const uint8_t *name
    uint32_t length

cdef struct _Table:
    _Row *rows
    uint32_t count, entered
    bint listed


cdef int _find_row(void *owner, const uint8_t *name, uint32_t length, bint enter, ExportFacts *facts) noexcept nogil:
    cdef _Table *table = <_Table *>owner
    cdef uint32_t i
    for i in range(table.count):
        if table.rows[i].length == length and memcmp(table.rows[i].name, name, length) == 0:
            facts[0] = table.rows[i].facts
            if enter:
                table.entered = i + 1
            return 0
    return <int>REP_ERR_UNKNOWN


cdef int _name_row(void *owner, uint32_t index, uint8_t *name, uint32_t *length) noexcept nogil:
    cdef _Table *table = <_Table *>owner
    if not table.listed:
        return <int>REP_ERR_POLICY
    if index >= table.count:
        return 1
    length[0] = table.rows[index].length
    memcpy(name, table.rows[index].name, length[0])
    return 0


cdef class ServerMachine:
    """The server's handshake over a fixed table {name: (size, flags, minimum, preferred, maximum, description)}."""

    cdef ServerHandshake shake
    cdef _Table table
    cdef list kept

    def __cinit__(self, dict exports not None, bint listed=True, uint32_t capacity=HANDSHAKE_BUFFER):
        cdef uint32_t i = 0
        cdef bytes name, description
        self.kept = []
        self.table.rows = <_Row *>calloc(max(len(exports), 1), sizeof(_Row))
        if self.table.rows == NULL:
            raise MemoryError
        self.table.count, self.table.listed = <uint32_t>len(exports), listed
        for name, told in exports.items():
            _facts_from(&self.table.rows[i].facts, tuple(told[:5]))
            description = told[5]
            self.kept += [name, description]
            self.table.rows[i].name, self.table.rows[i].length = <const uint8_t *>name, <uint32_t>len(name)
            if description:
                self.table.rows[i].facts.description = description
            i += 1
        server_handshake_begin(&self.shake, &self.table, _find_row, _name_row)
        self.shake.capacity = capacity

    def __dealloc__(self):
        free(self.table.rows)

    def step(self, const uint8_t[::1] data not None, size_t room=HANDSHAKE_ROOM) -> tuple[int, int, bytes]:
        """(next, used, out): what to do, how many bytes of `data` are done with, what to send."""
        cdef size_t used = 0, wrote = 0
        cdef Next todo
        cdef const uint8_t *start = &data[0] if data.shape[0] else NULL
        cdef bytearray out = bytearray(room)
        cdef uint8_t *to = <uint8_t *><char *>out
        with nogil:
            todo = server_handshake_step(&self.shake, start, data.shape[0], &used, to, room, &wrote)
        return todo, used, bytes(out[:wrote])

    def resize(self, bytes name not None, uint64_t size) -> None:
        """Change an export under the handshake, as a live retarget does (H19)."""
        cdef uint32_t i
        for i in range(self.table.count):
            if self.table.rows[i].name[:self.table.rows[i].length] == name:
                self.table.rows[i].facts.size = size

    def shut_down(self) -> None:
        self.shake.shutting_down = True

    @property
    def agreed(self) -> dict[str, int]:
        return self.shake.agreed

    @property
    def told(self) -> tuple[int, int, int, int, int]:
        """Size, flags and block sizes as the client was told them."""
        cdef ExportFacts *facts = &self.shake.facts
        return facts.size, facts.flags, facts.minimum, facts.preferred, facts.maximum


cdef class ClientMachine:
    """The client's handshake. `structured` is a Wish; `contexts` are full names to select before GO or INFO."""

    cdef ClientHandshake shake
    cdef list kept

    def __cinit__(self, uint32_t structured=WISH_OFFERED, contexts=(), uint32_t capacity=HANDSHAKE_BUFFER):
        cdef bytes context
        self.kept = []
        client_handshake_begin(&self.shake, <Wish>structured)
        self.shake.capacity = capacity
        for context in contexts:
            self.kept.append(context)
            if client_handshake_want(&self.shake, context, <uint32_t>len(context)) < 0:
                raise ValueError(f"more than {MAXIMUM_CONTEXTS} contexts, or one that is no string of the protocol")

    def ask(self, uint32_t goal, bytes name not None = b"") -> None:
        """Ask the next question (a Goal), about the export `name` where it is about one."""
        if len(name) > MAXIMUM_STRING:
            raise ValueError("a name has at most 4096 bytes")
        self.kept.append(name)
        client_handshake_ask(&self.shake, <Goal>goal, name, <uint32_t>len(name))

    def step(self, const uint8_t[::1] data not None) -> tuple[int, int, bytes]:
        """(next, used, out), as ServerMachine.step."""
        cdef size_t used = 0, wrote = 0
        cdef Next todo
        cdef const uint8_t *start = &data[0] if data.shape[0] else NULL
        cdef uint8_t out[HANDSHAKE_ROOM]
        with nogil:
            todo = client_handshake_step(&self.shake, start, data.shape[0], &used, out, HANDSHAKE_ROOM, &wrote)
        self.seen = None
        if todo == NEXT_SEEN:
            self.seen = (self.shake.seen, self._text(), self._more())
        elif todo == NEXT_ANSWERED:
            self.message = self._text()
        return todo, used, out[:wrote]

    cdef readonly object seen
    cdef readonly object message

    cdef bytes _text(self):
        return self.shake.text[:self.shake.text_length] if self.shake.text != NULL else b""

    cdef bytes _more(self):
        return self.shake.more[:self.shake.more_length] if self.shake.more != NULL else b""

    @property
    def refused(self) -> int:
        return self.shake.refused

    @property
    def fault(self) -> int:
        return self.shake.fault

    @property
    def option(self) -> int:
        """The option last sent, 0 before the first."""
        return self.shake.option

    @property
    def fixed(self) -> bool:
        return self.shake.fixed

    @property
    def agreed(self) -> dict[str, int]:
        return self.shake.agreed

    @property
    def facts(self) -> tuple[int, int, int, int, int]:
        """Size, flags, minimum, preferred and maximum block size; sizes of 0 were not told."""
        cdef ExportFacts *facts = &self.shake.facts
        return facts.size, facts.flags, facts.minimum, facts.preferred, facts.maximum

    @property
    def contexts(self) -> dict[str, int]:
        """The selected contexts and their ids."""
        cdef uint32_t i
        return {
            self.shake.contexts[i].name[:self.shake.contexts[i].length].decode(): self.shake.contexts[i].id
            for i in range(self.shake.context_count) if self.shake.contexts[i].selected
        }
