# Jobs at both ends: a worker submits a request and takes over its reply; a thread of the pool does it in between.

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

cdef enum:
    PAGE = 4096                     # what memory for a store without a page cache is aligned to (open(2), O_DIRECT)
    REPLY_ROOM = 8192               # bytes of a reply without data, an error and its text


cdef bint goes_elsewhere(Worker *w, Served *c, const Request *request) noexcept nogil:
    """Whether a request must not be done here and now: a filter or the disk may make it wait.

    Of a store with a page cache, writes and small things are taken by memory; what is read is tried or looked up.
    """
    cdef Store *store = &c.holding.store
    if c.export.filtered or store.hand == STORE_AWAY:
        return True
    if request.type == CMD_READ:
        if request.length <= SMALL_READ and not w.box.blocked:
            return False                    # tried by read_small
        return not store_cached(store, request.offset, request.length)
    if request.type == CMD_WRITE_ZEROES:
        return request.length >= LARGE_WRITE or request.flags & CMD_FLAG_FUA != 0
    return request.type == CMD_FLUSH or request.type == CMD_TRIM or request.type == CMD_CACHE


cdef inline bint has_room(const Served *c, const Request *request) noexcept nogil:
    """Whether the connection may have one more request elsewhere; the longest one alone always may."""
    if c.in_flight == 0:
        return True
    return c.in_flight < JOBS_MOST and c.work.bytes + cost_of(&c.agreed, request) <= JOB_BYTES_MOST


cdef inline uint64_t cost_of(const Negotiated *agreed, const Request *request) noexcept nogil:
    """The memory that a request may need elsewhere."""
    if request.type == CMD_WRITE:
        return request.payload
    if request.type != CMD_READ:
        return 0
    return READ_PIECE if request.length > READ_PIECE and in_pieces(agreed, request) else request.length


cdef inline bint in_pieces(const Negotiated *agreed, const Request *request) noexcept nogil:
    """Whether a READ may come in several chunks (X34)."""
    return agreed.structured and not request.flags & CMD_FLAG_DF


cdef Job *new_job(Served *c, const Request *request) noexcept nogil:
    """A job for a request, with memory for its payload; NULL without memory."""
    cdef Job *job = <Job *>calloc(1, sizeof(Job))
    if c.work == NULL:
        c.work = <Work *>calloc(1, sizeof(Work))
    if job == NULL or c.work == NULL:
        free(job)
        return NULL
    job.connection, job.request, job.cost = c, request[0], cost_of(&c.agreed, request)
    if request.type == CMD_WRITE and posix_memalign(<void **>&job.payload, PAGE, request.payload):
        job.payload = NULL
        free(job)
        return NULL
    return job


cdef int submit(Served *c, Job *job) noexcept nogil:
    """Send a job on its way, or the rest of a READ in pieces; 0."""
    c.in_flight += 1
    c.work.bytes += job.cost
    lock(c.table)
    c.work.jobs += 1
    if job.left:
        job.left = 0
        c.work.held -= 1
    admit(c.table, job, nanoseconds())
    unlock(c.table)
    return 0


cdef int send_elsewhere(Worker *w, Served *c, const Request *request) noexcept nogil:
    """A request without payload is to be done elsewhere; 0, or -1 without memory."""
    cdef Job *job = new_job(c, request)
    if job == NULL:
        return -1
    count_request(w, request)
    return submit(c, job)


cdef int sync_elsewhere(Served *c, const Request *request) noexcept nogil:
    """A request is done and only its sync is left (X21), on the generation that it was done on."""
    cdef Job *job = <Job *>calloc(1, sizeof(Job))
    if c.work == NULL:
        c.work = <Work *>calloc(1, sizeof(Work))
    if job == NULL or c.work == NULL:
        free(job)
        return -1
    job.connection, job.request, job.written, job.admitted = c, request[0], True, True
    lock(c.table)
    job.generation = c.holding
    job.generation.holders += 1
    unlock(c.table)
    return submit(c, job)


cdef Verdict collect(Worker *w, Served *c) noexcept nogil:
    """Take over the replies of finished jobs while there is room; END without memory.

    What stays counts among the bytes that has_room bounds; requests are read on until then, so that a client that sends
    much before it reads does not lock with us (D5).
    """
    cdef Job *job
    cdef bint failed
    while c.withheld or not box_full(&w.box) and w.box.owned < OUTBOX_MOST:
        lock(c.table)
        job = c.work.finished
        if job != NULL:
            c.work.finished = job.next
        unlock(c.table)
        if job == NULL:
            return GO_ON
        c.sated = False
        c.in_flight -= 1
        if job.request.type == FILTER_OPEN:
            failed = job.error != 0
            free_job(job)
            if failed:
                return END
            c.withheld = False
            continue
        if take_over(&w.box, job) < 0:
            lose_job(c, job)
            return END
        c.work.bytes -= job.cost
        if job.left:
            submit(c, job)
        else:
            free_job(job)
    return GO_ON


cdef void lose_job(Served *c, Job *job) noexcept nogil:
    lock(c.table)
    give_back(c.table, job)
    unlock(c.table)
    free_job(job)


cdef int take_over(Outbox *box, Job *job) noexcept nogil:
    """Queue a finished reply: a small one joins the bytes, a large one is sent from where it is."""
    cdef Piece *piece
    cdef uint8_t *room
    if job.length == 0:
        return 0
    if job.length <= SMALL_READ + EXTENDED_CHUNK_SIZE + 8:
        room = box_room(box, job.length)
        if room == NULL:
            return -1
        memcpy(room, job.reply, job.length)
        free(job.memory)
        job.memory = NULL
        return box_add(box, job.length)
    piece = box_piece(box)
    if piece == NULL:
        return -1
    piece.kind, piece.memory, piece.left = PIECE_OWNED, job.memory, job.length
    piece.offset = <uint64_t>(job.reply - job.memory)
    box.owned += job.length
    job.memory = NULL
    return 0


cdef void do_job(Job *job) noexcept nogil:
    """Do what was asked and make its reply, in memory of its own. By a thread of the pool, without the lock.

    Without memory for a reply there is none, and the connection is shut down: its client must not wait for ever.
    """
    cdef Served *c = job.connection
    cdef Outbox box
    cdef Piece piece
    cdef int outcome = -1
    if job.request.type == FILTER_OPEN or job.request.type == CMD_READ and not job.error and read_job(job):
        return
    memset(&box, 0, sizeof(box))
    box.pieces, box.room = &piece, 1        # bytes alone make one piece
    box.bytes = <uint8_t *>malloc(REPLY_ROOM)
    if box.bytes != NULL:
        box.capacity = REPLY_ROOM
        if job.error:
            outcome = say_error(&box, c, &job.request, job.error)
        elif job.request.type == CMD_BLOCK_STATUS:
            outcome = say_status(&box, c, &job.generation.store, &job.request, job.contexts)
        else:
            outcome = say_outcome(&box, c, &job.request, change_store(job))
    job.memory, job.reply, job.length = box.bytes, box.bytes, box.have
    if outcome < 0:
        server_shutdown(c.channel.fd, SHUT_RDWR)


cdef bint read_job(Job *job) noexcept nogil:
    """Read what is asked, or its next piece, behind the header of its reply; False: it failed, job.error says how."""
    cdef Served *c = job.connection
    cdef const Request *request = &job.request
    cdef uint64_t offset = request.offset + job.done, length = request.length - job.done
    cdef size_t header = chunk_size(c.agreed.extended) + 8 if c.agreed.structured else SIMPLE_REPLY_SIZE
    cdef uint8_t *memory
    cdef int failure
    if length > READ_PIECE and in_pieces(&c.agreed, request):
        length = READ_PIECE
    if posix_memalign(<void **>&memory, PAGE, PAGE + length):
        job.error = NBD_EIO
        return False
    failure = store_read(&job.generation.store, memory + PAGE, length, offset)
    if failure:
        free(memory)
        job.error = nbd_error(failure)
        return False
    job.done += length
    job.left = request.length - job.done
    job.memory, job.reply, job.length = memory, memory + PAGE - header, header + length
    if c.agreed.structured:
        encode_data_chunk(
            job.reply, c.agreed.extended, 0 if job.left else REPLY_DONE, request, offset, <uint32_t>length
        )
    else:
        encode_simple_reply(job.reply, 0, request.cookie)
    return True


cdef int change_store(Job *job) noexcept nogil:
    """Everything that answers without data, its sync included; 0 or an errno."""
    cdef Store *store = &job.generation.store
    cdef Request *request = &job.request
    cdef int failure = 0
    if job.written:
        return sync_if_asked(store, request)
    failure = note_change(job.connection, request)  # anew: a point may have been taken since it came
    if failure:
        return failure
    if request.type == CMD_WRITE:
        server_failpoint(b"serve.write-received")
        failure = store_write(store, job.payload, request.length, request.offset)
        free(job.payload)
        job.payload = NULL
        if failure == 0:
            server_failpoint(b"serve.write-done")
    else:
        failure = do_simple(job.connection.export.tracking, store, request)
    return failure if failure else sync_if_asked(store, request)
