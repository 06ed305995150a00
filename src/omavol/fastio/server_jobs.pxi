# Jobs at both ends: a worker submits a request and takes over its reply; a thread of the pool does it in between.

cdef enum:
    REPLY_ROOM = 8192               # bytes of a reply without data, an error and its text


cdef bint goes_elsewhere(Worker *w, Served *c, const Request *request) noexcept nogil:
    """Whether a request must not be done here and now: a filter or the disk may make it wait.

    Of a store with a page cache, writes and small things are taken by memory; what is read is tried or looked up.
    """
    cdef Store *store = &c.holding.store
    if peek_flag(&c.export.filtered) or store.hand == STORE_AWAY:
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
    """A job for a request, with a parcel for its payload; NULL without memory."""
    cdef Job *job = <Job *>calloc(1, sizeof(Job))
    if c.work == NULL:
        c.work = <Work *>calloc(1, sizeof(Work))
    if job == NULL or c.work == NULL:
        free(job)
        return NULL
    job.connection, job.request, job.cost = c, request[0], cost_of(&c.agreed, request)
    if request.type == CMD_WRITE:
        job.parcel = take_parcel(&c.table.shelf, request.payload)
        if job.parcel == NULL:
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
    """Queue a finished reply; what a READ brings joins the bytes if it is short, and is sent from its parcel if not."""
    cdef Piece *piece
    cdef bint joins = job.parcel != NULL and job.parcel.memory != NULL and job.have <= SMALL_READ
    cdef uint8_t *room = box_room(box, job.length + (job.have if joins else 0))
    if room == NULL:
        return -1
    memcpy(room, job.memory if job.memory != NULL else job.head, job.length)
    free(job.memory)
    job.memory = NULL
    if joins:
        memcpy(room + job.length, job.parcel.memory, job.have)
        job.length += job.have
    if box_add(box, job.length) < 0:
        return -1
    if job.parcel == NULL:
        return 0
    if joins:
        put_back(job.parcel, True)
        job.parcel = NULL
        return 0
    piece = box_piece(box)
    if piece == NULL:
        return -1
    piece.kind, piece.parcel, piece.left = PIECE_PARCEL, job.parcel, job.have
    box.owned += job.have
    job.parcel = NULL
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
    job.memory, job.length = box.bytes, box.have
    put_back(job.parcel, True)              # a payload
    job.parcel = NULL
    if outcome < 0:
        server_shutdown(c.channel.fd, SHUT_RDWR)


cdef bint read_job(Job *job) noexcept nogil:
    """Read what is asked, or its next piece, and make the header of its reply; False: it failed, job.error says how."""
    cdef Served *c = job.connection
    cdef const Request *request = &job.request
    cdef uint64_t offset = request.offset + job.done, length = request.length - job.done
    cdef bint whole = not in_pieces(&c.agreed, request)
    cdef int failure = STORE_NO_PIPE
    if c.channel.tls == NULL and length > SMALL_READ and (length <= PIPED_MOST or not whole):
        job.have = min(length, <uint64_t>PIPED_MOST)
        failure = read_piped(job, offset)
    if failure == STORE_NO_PIPE:
        job.have = length if whole else min(length, <uint64_t>READ_PIECE)
        failure = read_copied(job, offset)
    if failure:
        job.error = nbd_error(failure)
        return False
    job.done += job.have
    job.left = request.length - job.done
    if c.agreed.structured:
        job.length = encode_data_chunk(
            job.head, c.agreed.extended, 0 if job.left else REPLY_DONE, request, offset, <uint32_t>job.have
        )
    else:
        job.length = encode_simple_reply(job.head, 0, request.cookie)
    return True


cdef int read_piped(Job *job, uint64_t offset) noexcept nogil:
    """Read `have` bytes into a pipe; 0, an errno, or STORE_NO_PIPE."""
    cdef int failure
    if job.generation.store.no_pipe:
        return STORE_NO_PIPE
    job.parcel = take_piped(&job.connection.table.shelf)
    if job.parcel == NULL:
        return STORE_NO_PIPE
    failure = store_read_pipe(&job.generation.store, job.parcel.pipe[1], job.have, offset)
    if failure:
        put_back(job.parcel, False)
        job.parcel = NULL
    return failure


cdef int read_copied(Job *job, uint64_t offset) noexcept nogil:
    """Read `have` bytes into memory; 0 or an errno."""
    cdef int failure
    job.parcel = take_parcel(&job.connection.table.shelf, job.have)
    if job.parcel == NULL:
        return ENOMEM
    failure = store_read(&job.generation.store, job.parcel.memory, job.have, offset)
    if failure:
        put_back(job.parcel, True)
        job.parcel = NULL
    return failure


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
        failure = store_write(store, job.parcel.memory, request.length, request.offset)
        if failure == 0:
            server_failpoint(b"serve.write-done")
    else:
        failure = do_simple(job.connection.export.tracking, store, request)
    return failure if failure else sync_if_asked(store, request)
