# The Python face of a load: sets it up with the GIL held, runs it without, reads what came of it.

LOAD_FAULTS = {COPY_ERRNO: "errno", COPY_ANSWERED: "answered", COPY_BREACH: "breach", COPY_CLOSED: "closed",
               COPY_SILENT: "silent"}


cdef object times_as_dict(const LoadTimes *times):
    """Counts and nanoseconds, and the histogram as (upper bound of a bucket in nanoseconds, requests in it)."""
    cdef uint32_t i, power
    buckets = []
    for i in range(LOAD_BUCKETS):
        if times.buckets[i]:
            power = (i >> 6) - 1 if i >= 128 else 0
            buckets.append((((<uint64_t>(i - (power << 6)) + 1) << power) - 1, times.buckets[i]))
    return {
        "count": times.count, "bytes": times.bytes, "sum": times.sum, "least": times.least, "most": times.most,
        "buckets": buckets,
    }


def count_times(times):
    """The histogram of these nanoseconds, as LoadLoop.outcome gives it."""
    cdef LoadTimes *counted = <LoadTimes *>calloc(1, sizeof(LoadTimes))
    if counted == NULL:
        raise MemoryError
    try:
        for nanoseconds in times:
            load_count(counted, nanoseconds, 0)
        return times_as_dict(counted)
    finally:
        free(counted)


cdef double seconds_between(const load_timeval *begin, const load_timeval *end):
    return (end.tv_sec - begin.tv_sec) + (end.tv_usec - begin.tv_usec) / 1e6


cdef class LoadLoop:
    """One load: what is asked in, what came of it out. `run` may be called once, from one thread.

    Either `fds` are negotiated nonblocking connections, which stay the caller's, with the TLS sessions of all of them
    in `secured` (SecureChannel), or `address` (a packed struct
    sockaddr) and `name` say where `count` connections are made again and again, each asked one READ.
    """

    cdef LoadState *state
    cdef object kept

    def __cinit__(
        self, *, fds=(), secured=(), bytes address=None, bytes name=b"", uint32_t count=0, int command=CMD_READ,
        uint32_t reads=100, bint random=False, bint once=False, bint flush=False, uint32_t depth=1,
        uint64_t size=0, uint64_t length=4096, bint structured=False, uint32_t context=0,
        double seconds=3.0, double warmup=0.0, double timeout=30.0
    ):
        cdef LoadState *load = <LoadState *>calloc(1, sizeof(LoadState))
        if load == NULL:
            raise MemoryError
        self.state = load
        self.kept = (address, name, tuple(secured))
        load.count, load.depth = count if address is not None else len(fds), depth
        load.command, load.reads, load.random, load.once, load.flush = <uint16_t>command, reads, random, once, flush
        load.size, load.length, load.blocks, load.context = size, length, size // length, context
        load.seed = <uint64_t>0x9E3779B97F4A7C15
        load.seconds, load.warmup = <int64_t>(seconds * 1e9), <int64_t>(warmup * 1e9)
        load.timeout = <int64_t>(timeout * 1e9)
        if address is not None:
            load.address, load.address_length = <const load_sockaddr *><const char *>address, <uint32_t>len(address)
            load.name, load.name_length = <const uint8_t *><const char *>name, <uint32_t>len(name)
        self.allocate(fds, secured, structured)
        self.share_out()

    cdef int allocate(self, fds, secured, bint structured) except -1:
        cdef LoadState *load = self.state
        cdef LoadConnection *c
        cdef uint32_t i, j
        load.buffer = <uint8_t *>malloc(LOAD_RECEIVE)
        load.payload = <uint8_t *>malloc(load.length)
        load.polled = <pollfd *>calloc(load.count, sizeof(pollfd))
        load.connections = <LoadConnection *>calloc(load.count, sizeof(LoadConnection))
        if load.buffer == NULL or load.payload == NULL or load.polled == NULL or load.connections == NULL:
            raise MemoryError
        for i in range(load.count):
            load.connections[i].channel.fd = -1
        for i in range(load.count):
            c = &load.connections[i]
            c.slots = <LoadSlot *>calloc(load.depth, sizeof(LoadSlot))
            c.free = <uint32_t *>calloc(load.depth + 1, sizeof(uint32_t))      # one more: the slot that a FLUSH borrows
            c.out = <uint8_t *>malloc(LOAD_OUT)
            if load.address != NULL:
                c.dial = <LoadDial *>calloc(1, sizeof(LoadDial))
            if c.slots == NULL or c.free == NULL or c.out == NULL or load.address != NULL and c.dial == NULL:
                raise MemoryError
            c.structured = structured
            if load.address == NULL:
                c.free_count = load.depth
                if secured:
                    c.channel = (<SecureChannel?>secured[i]).channel
                else:
                    channel_begin(&c.channel, fds[i])
            for j in range(load.depth):
                c.free[j] = load.depth - 1 - j
        for i in range(<uint32_t>load.length):     # no run of zeroes that a server could find
            load.payload[i] = <uint8_t>(load_below(load, 255) + 1)
        return 0

    cdef int share_out(self) except -1:
        """Give each slot its own stretch of the export, for BLOCK_STATUS."""
        cdef LoadState *load = self.state
        cdef LoadSlot *slot
        cdef uint64_t number = 0, slots = <uint64_t>load.count * load.depth
        cdef uint64_t share = (load.size // slots + 65535) & ~<uint64_t>65535
        cdef uint32_t i, j
        for i in range(load.count):
            for j in range(load.depth):
                slot = &load.connections[i].slots[j]
                slot.first = slot.at = min(number * share, load.size)
                slot.end = min(slot.first + share, load.size)
                number += 1
        load.live = load.count if load.address != NULL else slots
        return 0

    def __dealloc__(self):
        cdef LoadState *load = self.state
        cdef uint32_t i
        if load == NULL:
            return
        for i in range(load.count if load.connections != NULL else 0):
            if load.address != NULL:
                channel_close(&load.connections[i].channel)
            free(load.connections[i].slots)
            free(load.connections[i].free)
            free(load.connections[i].out)
            free(load.connections[i].dial)
        free(load.connections)
        free(load.polled)
        free(load.payload)
        free(load.buffer)
        free(load)

    def run(self):
        """Do it all; True, or False with `fault` set. Ctrl-C ends the load early, and is no fault."""
        cdef int outcome
        with nogil:
            outcome = run_load(self.state)
        return outcome == 0

    @property
    def fault(self):
        """(kind, code, offset, text) of what ended the load before its time, or None."""
        cdef CopyFault *fault = &self.state.fault
        if fault.kind == COPY_WELL:
            return None
        return LOAD_FAULTS[fault.kind], fault.code, fault.offset, fault.text.decode("ascii")

    def outcome(self):
        """What was counted, times in seconds but for the nanoseconds of `read` and `write`; to be asked after run."""
        cdef LoadState *load = self.state
        return {
            "seconds": (load.ended - load.started) / 1e9,
            "flush_seconds": load.flush_time / 1e9,
            "user": seconds_between(&load.before.ru_utime, &load.after.ru_utime),
            "system": seconds_between(&load.before.ru_stime, &load.after.ru_stime),
            "awake": load.awake / 1e9,
            "interrupted": bool(load.interrupted),
            "extents": load.extents,
            "errors": load.errors,
            "first_error": (load.first_error, load.first_type, load.first_offset) if load.errors else None,
            "read": times_as_dict(&load.read),
            "write": times_as_dict(&load.write),
        }
