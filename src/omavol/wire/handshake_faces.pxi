# The Python faces of both handshakes: machines to step through, as the loops step through theirs.

from libc.stdlib cimport calloc, free


def handshake_sizes() -> tuple[int, int]:
    """Bytes that a waiting server's and client's handshake own (H55)."""
    return sizeof(ServerHandshake), sizeof(ClientHandshake)


# The server's face answers from a table of exports given once: no callback enters Python while a step runs.
cdef struct _Row:
    ExportFacts facts
    const uint8_t *name
    uint32_t length

cdef struct _ContextRow:
    const uint8_t *export
    const uint8_t *name
    uint32_t export_length, length, id

cdef struct _Table:
    _Row *rows
    _ContextRow *contexts
    uint32_t count, context_count, entered
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


cdef int _name_context_row(
    void *owner, const uint8_t *export, uint32_t export_length, uint32_t index,
    uint8_t *name, uint32_t *length, uint32_t *id
) noexcept nogil:
    cdef _Table *table = <_Table *>owner
    cdef _ContextRow *row
    cdef uint32_t i
    for i in range(table.context_count):
        row = &table.contexts[i]
        if row.export_length == export_length and memcmp(row.export, export, export_length) == 0:
            if index == 0:
                memcpy(name, row.name, row.length)
                length[0], id[0] = row.length, row.id
                return 0
            index -= 1
    return 1


cdef class ServerMachine:
    """The server's handshake over a fixed table {name: (size, flags, minimum, preferred, maximum, description)}.

    `contexts` are (export, full name, id) beside base:allocation; `tls` is a Tls, `tls_only` the exports that want it.
    """

    cdef ServerHandshake shake
    cdef _Table table
    cdef list kept

    def __cinit__(
        self, dict exports not None, bint listed=True, uint32_t capacity=HANDSHAKE_BUFFER, contexts=(),
        uint32_t tls=TLS_NONE, tls_only=(), bint compact=False,
    ):
        self.kept = []
        self.table.rows = <_Row *>calloc(len(exports) + 1, sizeof(_Row))
        self.table.contexts = <_ContextRow *>calloc(len(contexts) + 1, sizeof(_ContextRow))
        if self.table.rows == NULL or self.table.contexts == NULL:
            raise MemoryError
        self.table.listed = listed
        for name, told in exports.items():
            self._add(name, told, name in tls_only)
        for export, name, number in contexts:
            self._add_context(export, name, number)
        server_handshake_begin(&self.shake, &self.table, _find_row, _name_row)
        self.shake.capacity, self.shake.name_context = capacity, _name_context_row
        self.shake.tls, self.shake.compact = <Tls>tls, compact

    cdef void _add(self, bytes name, told, bint tls_only) except *:
        cdef _Row *row = &self.table.rows[self.table.count]
        cdef bytes description = told[5]
        _facts_from(&row.facts, tuple(told[:5]))
        self.kept += [name, description]
        row.name, row.length, row.facts.tls_only = <const uint8_t *>name, <uint32_t>len(name), tls_only
        if description:
            row.facts.description = description
        self.table.count += 1

    cdef void _add_context(self, bytes export, bytes name, uint32_t id) except *:
        cdef _ContextRow *row = &self.table.contexts[self.table.context_count]
        if len(name) > MAXIMUM_STRING:
            raise ValueError("a context's name has at most 4096 bytes")
        self.kept += [export, name]
        row.export, row.export_length = export, <uint32_t>len(export)
        row.name, row.length, row.id = name, <uint32_t>len(name), id
        self.table.context_count += 1

    def __dealloc__(self):
        free(self.table.rows)
        free(self.table.contexts)

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

    def secured(self) -> None:
        """TLS stands, after a step said TLS: everything is negotiated anew."""
        server_handshake_secured(&self.shake)

    @property
    def agreed(self) -> dict:
        return _agreed(&self.shake.agreed)

    @property
    def told(self) -> tuple[int, int, int, int, int]:
        """Size, flags and block sizes as the client was told them."""
        cdef ExportFacts *facts = &self.shake.facts
        return facts.size, facts.flags, facts.minimum, facts.preferred, facts.maximum


cdef dict _agreed(const Negotiated *agreed):
    return {
        "structured": bool(agreed.structured),
        "extended": bool(agreed.extended),
        "no_zeroes": bool(agreed.no_zeroes),
        "allocation": bool(agreed.allocation),
        "allocation_context": agreed.allocation_context,
        "contexts": agreed.contexts,
        "ids": [agreed.ids[i] for i in range(agreed.contexts)],
    }


cdef class ClientMachine:
    """The client's handshake. `structured`, `extended`, `tls` are Wishes; `contexts` are full names to select."""

    cdef ClientHandshake shake
    cdef list kept

    def __cinit__(
        self, uint32_t structured=WISH_OFFERED, contexts=(), uint32_t capacity=HANDSHAKE_BUFFER,
        uint32_t extended=WISH_NEVER, uint32_t tls=WISH_NEVER,
    ):
        cdef bytes context
        self.kept = []
        client_handshake_begin(&self.shake, <Wish>structured)
        self.shake.extended, self.shake.tls = <Wish>extended, <Wish>tls
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

    def secured(self) -> None:
        """TLS stands, after a step said TLS: everything is negotiated anew."""
        client_handshake_secured(&self.shake)

    @property
    def agreed(self) -> dict:
        return _agreed(&self.shake.agreed)

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
