# The Python face of the copy loop: sets it up with the GIL held, runs it without, reads what came of it.

COPY_SIDES = {NO_SIDE: "", SOURCE: "source", DESTINATION: "destination"}
COPY_FAULTS = {
    COPY_ERRNO: "errno",
    COPY_ANSWERED: "answered",
    COPY_BREACH: "breach",
    COPY_CLOSED: "closed",
    COPY_SILENT: "silent",
    COPY_SHORT: "short",
    COPY_CANCELLED: "cancelled",
}
COPY_KINDS = {"null": END_NULL, "file": END_FILE, "nbd": END_NBD}


cdef object fault_as_tuple(CopyFault *fault):
    """(side, kind, code, offset, text), or None when all is well."""
    if fault.kind == COPY_WELL:
        return None
    return COPY_SIDES[fault.side], COPY_FAULTS[fault.kind], fault.code, fault.offset, fault.text.decode("ascii")


cdef int set_end(CopyEnd *end, CopySide side, object facts, uint32_t request_most) except -1:
    """Fill one end from its facts (copy.ends.End)."""
    cdef int i, fd
    cdef uint32_t maximum = facts.maximum
    cdef CopyConnection *connection
    cdef SecureChannel channel
    secured = facts.secured
    end.kind, end.size, end.flags = COPY_KINDS[facts.kind], facts.size, facts.flags
    end.minimum = max(1, facts.minimum)
    end.form = FORM_EXTENDED if facts.extended else FORM_STRUCTURED if facts.structured else FORM_SIMPLE
    end.request_most = max(end.minimum, min(request_most, maximum) & ~(end.minimum - 1))
    if len(facts.fds) > MOST_CONNECTIONS:
        raise ValueError(f"at most {MOST_CONNECTIONS} connections")
    end.fd = facts.fds[0] if end.kind == END_FILE else -1
    if end.kind != END_NBD:
        return 0
    end.count = len(facts.fds)
    for i in range(end.count):
        connection = &end.connections[i]
        connection.fd, connection.side = facts.fds[i], side
        if secured:
            channel = secured[i]
            connection.tls = &channel.channel
        connection.head = connection.tail = connection.sending = connection.receiving = NOTHING
    return 0


cdef class CopyLoop:
    """One copy: work in, bytes moved, what came of it out.

    `run` belongs to one thread and may be called once; every other member may be used from any thread while it runs.
    `work` is a list of (offset, length, zero) in ascending order, as copy.plan makes it. The descriptors in the ends
    (nonblocking sockets behind a finished handshake, or a file) stay the caller's: keep them open until run returns.
    So do their TLS sessions, where they have any.
    """

    cdef CopyState *state
    cdef object kept                # the ends: TLS sessions are theirs

    def __cinit__(
        self, source, destination, work, *, bint digests=False, bint scan_zeroes=False,
        bint destination_is_zero=False, bint allocated=False, double timeout=60.0, uint64_t rate=0,
        uint32_t request_size=262144, uint64_t in_flight=16777216, bint reconnects=False,
        uint64_t flush_every=2147483648, const unsigned char[::1] records=b""
    ):
        self.state = <CopyState *>calloc(1, sizeof(CopyState))
        if self.state == NULL:
            raise MemoryError
        cdef CopyState *c = self.state
        self.kept = (source, destination)
        set_end(&c.source, SOURCE, source, request_size)
        set_end(&c.destination, DESTINATION, destination, request_size)
        c.digests, c.scan_zeroes = digests, scan_zeroes or digests
        c.destination_is_zero, c.allocated = destination_is_zero, allocated
        c.reconnects, c.flush_every = reconnects, flush_every
        c.timeout, c.rate, c.bytes_allowed = <int64_t>(timeout * 1e9), rate, in_flight
        c.by_sendfile = c.source.kind == END_FILE and c.destination.kind == END_NBD and not c.scan_zeroes
        c.in_kernel = c.source.kind == END_FILE and c.destination.kind == END_FILE and not c.scan_zeroes and not rate
        c.piece_size = DIGEST_PIECE
        while not c.digests and c.piece_size > max(request_size, c.source.minimum, c.destination.minimum):
            c.piece_size >>= 1
        self.take_work(work)
        self.take_records(records)
        self.allocate()

    cdef int take_work(self, work) except -1:
        cdef CopyState *c = self.state
        cdef size_t i
        c.work_count = len(work)
        c.work = <WorkItem *>calloc(c.work_count + 1, sizeof(WorkItem))
        if c.work == NULL:
            raise MemoryError
        for i in range(c.work_count):
            offset, length, zero = work[i]
            c.work[i].offset, c.work[i].length = offset, length
            c.work[i].kind = WORK_ZERO if zero else WORK_READ
            c.planned += c.work[i].length
        return 0

    cdef int take_records(self, const unsigned char[::1] records) except -1:
        """Digest records of an earlier loop, which still count."""
        cdef CopyState *c = self.state
        cdef size_t count = <size_t>records.shape[0] // sizeof(DigestRecord)
        if count == 0:
            return 0
        c.records = <DigestRecord *>malloc(count * sizeof(DigestRecord))
        if c.records == NULL:
            raise MemoryError
        memcpy(c.records, &records[0], count * sizeof(DigestRecord))
        c.record_count = c.record_room = count
        return 0

    cdef int allocate(self) except -1:
        """Pieces, flights and one arena of buffers, of which only what is used becomes memory."""
        cdef CopyState *c = self.state
        cdef uint32_t smallest = min(c.source.request_most, c.destination.request_most)
        cdef uint32_t slots, each, i
        slots = max(16, min(512, <uint32_t>(c.bytes_allowed // min(c.piece_size, 65536))))
        each = (c.piece_size + smallest - 1) // smallest
        c.piece_count, c.flight_count = slots, slots * each + 1
        c.pieces = <CopyPiece *>calloc(slots, sizeof(CopyPiece))
        c.flights = <CopyFlight *>calloc(c.flight_count, sizeof(CopyFlight))
        c.arena_size = <size_t>(slots + 1) * c.piece_size
        c.arena = <uint8_t *>mmap(NULL, c.arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if c.arena == MAP_FAILED:
            c.arena = NULL
        if c.pieces == NULL or c.flights == NULL or c.arena == NULL:
            raise MemoryError
        c.zeroes = c.arena + <size_t>slots * c.piece_size
        for i in range(slots):
            c.pieces[i].buffer = c.arena + <size_t>i * c.piece_size
            c.pieces[i].next = <int32_t>i + 1 if i + 1 < slots else NOTHING
        for i in range(c.flight_count):
            c.flights[i].next = <int32_t>i + 1 if i + 1 < c.flight_count else NOTHING
        return 0

    def __dealloc__(self):
        cdef CopyState *c = self.state
        cdef uint32_t i
        if c == NULL:
            return
        if c.flights != NULL:
            for i in range(c.flight_count):
                free(c.flights[i].spans)
        if c.arena != NULL:
            munmap(c.arena, c.arena_size)
        free(c.flights)
        free(c.pieces)
        free(c.work)
        free(c.unflushed)
        free(c.records)
        free(c)

    def run(self):
        """Move everything and flush; True, or False with `fault` set."""
        cdef int outcome
        with nogil:
            outcome = run_copy(self.state)
        return outcome == 0

    def cancel(self):
        """End soon: nothing new is begun, what is in flight has two seconds."""
        self.state.cancel = 1

    @property
    def fault(self):
        """(side, kind, code, offset, text) of what went wrong, or None."""
        return fault_as_tuple(&self.state.fault)

    @property
    def lost(self):
        """The sides whose connections are lost, where that is the fault; made anew, the copy goes on with what is due.

        The connections of a side that is not named are at rest: another loop may use them.
        """
        cdef CopyState *c = self.state
        sides = [side for side, lost in (("source", c.source.lost), ("destination", c.destination.lost)) if lost]
        return tuple(sides) if COPY_SIDES[c.fault.side] in sides else ()

    def due(self):
        """After a loss: (again, rest), work as the constructor takes it.

        `again` was begun or acknowledged, and no answered FLUSH covers it; `rest` was never begun. Where the
        destination offers no FLUSH, nothing is covered: all that was begun is due again.
        """
        cdef CopyState *c = self.state
        cdef WorkItem *item
        cdef uint64_t begun
        cdef size_t i
        cdef bint nothing_covered = c.destination.lost and not can_flush(&c.destination)
        again, rest = [], []
        for i in range(c.unflushed_count):
            again.append((c.unflushed[i].offset, c.unflushed[i].length, c.unflushed[i].kind == WORK_ZERO))
        for i in range(0 if nothing_covered else c.piece_count):
            if c.pieces[i].under_way:
                again.append((c.pieces[i].offset, c.pieces[i].length, c.pieces[i].kind == WORK_ZERO))
        for i in range(c.work_count):
            item = &c.work[i]
            begun = item.length if i < c.work_next else c.work_done if i == c.work_next else 0
            if nothing_covered and begun:
                again.append((item.offset, begun, item.kind == WORK_ZERO))
            if begun < item.length:
                rest.append((item.offset + begun, item.length - begun, item.kind == WORK_ZERO))
        return sorted(again), rest

    @property
    def rate(self):
        """Bytes a second, 0 without a limit; may be set while it runs."""
        return self.state.rate

    @rate.setter
    def rate(self, uint64_t value):
        self.state.rate = value

    @property
    def planned(self):
        """Bytes of all work."""
        return self.state.planned

    @property
    def done(self):
        """Bytes of work that the destination acknowledged."""
        return self.state.done

    @property
    def bytes_read(self):
        return self.state.bytes_read

    @property
    def bytes_sent(self):
        return self.state.bytes_sent

    @property
    def bytes_zero(self):
        """Bytes that were passed on as "reads as zero", or not at all where the destination is zero already."""
        return self.state.bytes_zero

    @property
    def flushed(self):
        """Whether the destination answered a FLUSH (or fsync) after the last write."""
        return bool(self.state.flushed)

    def records(self):
        """The digest records, packed, sorted, zero runs joined; to be asked after run."""
        return PyBytes_FromStringAndSize(
            <const char *>self.state.records, <Py_ssize_t>(self.state.record_count * sizeof(DigestRecord))
        )
