# WRITE: its payload taken from the receive buffer or, when large, by reference through the worker's pipe.
#
# A payload that another request brings against the rules is taken in the same way, and dropped (X65, X66).


cdef int begin_write(Worker *w, Served *c, Request *request, uint32_t error, bint elsewhere) noexcept nogil:
    """Await the payload, of a refused request too (X14), unless it is so long that it can only be an attack (X15)."""
    cdef Job *job
    if error and request.payload > SURELY_NO_ATTACK:
        return -1
    w.counts.changes += error == 0
    if error == 0 and elsewhere:
        job = new_job(c, request)
        if job == NULL:
            return -1
        c.work.write = job
    c.write, c.write_begin, c.write_error, c.writing = request[0], request.offset, error, True
    return 0


cdef inline bint for_job(const Served *c) noexcept nogil:
    """Whether the payload under way is kept for a job that writes it all at once."""
    return c.work != NULL and c.work.write != NULL


cdef Verdict receive_for_job(Worker *w, Served *c) noexcept nogil:
    """Receive payload to where a job writes it from, when none of it is in the receive buffer."""
    cdef Job *job = c.work.write
    cdef ssize_t n = channel_receive(&c.channel, job.parcel.memory + job.have, c.write.payload)
    if n == CHANNEL_BROKEN:
        return END
    if n == CHANNEL_CLOSED:
        c.leaving = True
    if n <= 0:
        return GO_ON
    job.have += <size_t>n
    w.counts.bytes_written += <uint64_t>n
    add_moved(c, n)
    c.write.payload -= <uint64_t>n
    c.writing = c.write.payload != 0
    if c.writing:
        return GO_ON
    return GO_ON if end_write(w, c) == 0 else END


cdef bint take_payload(Worker *w, Served *c) noexcept nogil:
    """Write what is here of the payload; False if more has to come first: whole payloads are written at once."""
    cdef size_t have = w.have - w.used
    if for_job(c):
        write_some(w, c, c.write.payload if have > c.write.payload else have)
        return not c.writing
    if have < c.write.payload and (
        have < RECEIVE_BUFFER // 2 or c.write.payload <= RECEIVE_BUFFER - request_size(c.agreed.extended)
    ):
        return False
    write_some(w, c, c.write.payload if have > c.write.payload else have)
    return True


cdef void write_some(Worker *w, Served *c, size_t length) noexcept nogil:
    """Write (or drop, after an error, or keep for a job) `length` bytes of payload from the receive buffer."""
    cdef int failure
    if for_job(c):
        memcpy(c.work.write.parcel.memory + c.work.write.have, w.buffer + w.used, length)
        c.work.write.have += length
        w.counts.bytes_written += length
    elif c.write_error == 0 and length:
        if length == c.write.payload:
            server_failpoint(b"serve.write-received")
        failure = store_write(&c.holding.store, w.buffer + w.used, length, c.write.offset)
        c.write_error = nbd_error(failure)
        w.counts.bytes_written += length
    w.used += length
    c.write.offset += length
    c.write.payload -= length
    c.writing = c.write.payload != 0


cdef Verdict write_spliced(Worker *w, Served *c) noexcept nogil:
    """Move payload from the socket to the store by reference, when none of it is in the receive buffer."""
    cdef ssize_t n = channel_splice(&c.channel, w.pipe[1], c.write.payload if c.write.payload < PIPE else PIPE)
    cdef size_t left
    cdef int failure
    if n == CHANNEL_BROKEN:
        return END
    if n == CHANNEL_CLOSED:
        c.leaving = True
    if n <= 0:
        return GO_ON
    add_moved(c, n)
    left = <size_t>n
    if left == c.write.payload:
        server_failpoint(b"serve.write-received")
    failure = store_write_pipe(&c.holding.store, w.pipe[0], &left, c.write.offset)
    if left and not empty_pipe(w, c, left, failure):
        return END
    c.write_error = c.write_error if c.write_error else nbd_error(failure if failure != EINVAL else 0)
    w.counts.bytes_written += <uint64_t>n
    c.write.offset += <uint64_t>n
    c.write.payload -= <uint64_t>n
    c.writing = c.write.payload != 0
    return GO_ON if c.writing or end_write(w, c) == 0 else END


cdef bint empty_pipe(Worker *w, Served *c, size_t left, int failure) noexcept nogil:
    """Take what a failed write left in the pipe, and write it the plain way where the file takes from no pipe."""
    cdef uint64_t offset = c.write.offset
    cdef ssize_t n
    while left:
        n = server_read(w.pipe[0], w.buffer, left if left < RECEIVE_BUFFER else RECEIVE_BUFFER)
        if n <= 0:
            return False
        if failure == EINVAL and not c.write_error:
            c.write_error = nbd_error(store_write(&c.holding.store, w.buffer, <size_t>n, offset))
        offset += <uint64_t>n
        left -= <size_t>n
    if failure == EINVAL:
        close_pipe(w.pipe)
    return True


cdef int end_write(Worker *w, Served *c) noexcept nogil:
    """Answer the WRITE whose last byte was just taken, or send it on its way."""
    cdef Job *job
    if for_job(c):
        job, c.work.write = c.work.write, NULL
        return submit(c, job)
    c.write.offset = c.write_begin
    if c.write_error:
        return say_error(&w.box, c, &c.write, c.write_error)
    server_failpoint(b"serve.write-done")
    if wants_sync(&c.write) and c.holding.store.hand != STORE_AT_HAND:
        return sync_elsewhere(c, &c.write)
    return say_outcome(&w.box, c, &c.write, sync_if_asked(&c.holding.store, &c.write))
