# The pool: requests that cannot be answered at once wait here, for a filter or for the store, in any order.
#
# A job is a request on its way. A worker submits it; it passes the filters, takes hold of the generation when it may
# begin, is done by a thread of the pool (server_jobs.pxi), and ends in its connection's list of finished ones, from
# where the connection's worker takes its reply. Who waits in a filter or for the end of a retarget holds nothing.
# Threads start when there is more to do than idle ones, and end when idle for POOL_IDLE. Everything is under
# Table.lock, but doing the job.

from libc.errno cimport ETIMEDOUT


cdef int heap_push(Pool *pool, Job *job) noexcept nogil:
    """Put a job among those that wait for their time; -1 without memory."""
    cdef uint32_t at, above, room = pool.waiting_room * 2 if pool.waiting_room else 64
    cdef Job **jobs
    if pool.waiting_count == pool.waiting_room:
        jobs = <Job **>realloc(pool.waiting, room * sizeof(Job *))
        if jobs == NULL:
            return -1
        pool.waiting, pool.waiting_room = jobs, room
    at = pool.waiting_count
    pool.waiting_count += 1
    while at:
        above = (at - 1) // 2
        if pool.waiting[above].due <= job.due:
            break
        pool.waiting[at] = pool.waiting[above]
        at = above
    pool.waiting[at] = job
    return 0


cdef Job *heap_take(Pool *pool) noexcept nogil:
    """Take the job that is due first."""
    cdef Job *taken = pool.waiting[0]
    cdef Job *last
    cdef uint32_t at = 0, below
    pool.waiting_count -= 1
    last = pool.waiting[pool.waiting_count]
    while True:
        below = 2 * at + 1
        if below >= pool.waiting_count:
            break
        if below + 1 < pool.waiting_count and pool.waiting[below + 1].due < pool.waiting[below].due:
            below += 1
        if last.due <= pool.waiting[below].due:
            break
        pool.waiting[at] = pool.waiting[below]
        at = below
    pool.waiting[at] = last
    return taken


cdef void admit(Table *table, Job *job, int64_t now) noexcept nogil:
    """Let a job begin, or wait for its time, or for a change; one that comes when the export ends is refused (X55)."""
    cdef Export *export = job.connection.export
    job.due, job.paused = now, False
    if not job.admitted and export.filter_count:
        if table.stopping or export.state == EXPORT_ENDING:
            job.error = NBD_ESHUTDOWN
        elif not pass_filters(export, job):
            job.paused = True
            job.next, table.pool.held = table.pool.held, job
            return
        elif job.due > now and heap_push(&table.pool, job) == 0:
            if table.pool.waiting[0] == job:
                call_timekeeper(table)
            return
    make_ready(table, job)


cdef void make_ready(Table *table, Job *job) noexcept nogil:
    """The filters are behind it: it takes hold of the generation and queues, or waits for the end of a retarget."""
    cdef Pool *pool = &table.pool
    cdef Export *export = job.connection.export
    job.admitted = True
    if job.generation == NULL and not job.error:
        if export.state == EXPORT_HELD:
            job.next, pool.held = pool.held, job
            return
        job.generation = export.current
        job.generation.holders += 1
    job.next = NULL
    if pool.first == NULL:
        pool.first = job
    else:
        pool.last.next = job
    pool.last = job
    pool.ready += 1
    call_thread(table, job.error or job.generation.store.hand == STORE_AT_HAND)


cdef inline bint forgettable(const Job *job, const Served *c) noexcept nogil:
    """Whether a job is of no use without its client; after a DISC what changes the store is done all the same (X52)."""
    return job.connection == c and not (
        c.parted and job.request.type != CMD_READ and job.request.type != CMD_BLOCK_STATUS
    )


cdef Job *take_waiting(Pool *pool, const Export *export, const Served *c) noexcept nogil:
    """Take what waits out of the pool: jobs of a connection that ends, or of an export (NULL: all) in its filters."""
    cdef Job **link = &pool.held
    cdef Job *taken = NULL
    cdef Job *job
    cdef uint32_t index, count = pool.waiting_count
    while link[0] != NULL:
        job = link[0]
        if forgettable(job, c) if c != NULL else job.paused and (export == NULL or job.connection.export == export):
            link[0] = job.next
            job.next, taken = taken, job
        else:
            link = &job.next
    pool.waiting_count = 0
    for index in range(count):          # who stays is pushed anew: never past its old place, so nothing is overwritten
        job = pool.waiting[index]
        if forgettable(job, c) if c != NULL else export == NULL or job.connection.export == export:
            job.next, taken = taken, job
        else:
            heap_push(pool, job)
    return taken


cdef void refuse_the_filtered(Table *table, Export *export) noexcept nogil:
    """The export (NULL: every one) ends: it does not wait for filters, as nbdkit's delays end early with ESHUTDOWN."""
    cdef Job *job
    cdef Job *jobs = take_waiting(&table.pool, export, NULL)
    while jobs != NULL:
        job, jobs = jobs, jobs.next
        job.error = NBD_ESHUTDOWN
        make_ready(table, job)


cdef void release_jobs(Table *table, Export *export) noexcept nogil:
    """A retarget is over: what came meanwhile begins, on the new generation."""
    cdef Job *held = table.pool.held
    cdef Job *job
    table.pool.held = NULL
    while held != NULL:
        job, held = held, held.next
        if job.connection.export == export and not job.paused:
            make_ready(table, job)
        else:
            job.next, table.pool.held = table.pool.held, job


cdef uint32_t drop_jobs(Table *table, Served *c) noexcept nogil:
    """The client is gone (X54): forget what of it waits and what is finished; how many jobs go on."""
    cdef Job *jobs = take_waiting(&table.pool, NULL, c)
    cdef Job *job
    while jobs != NULL:
        job, jobs = jobs, jobs.next
        c.work.jobs -= 1
        free_job(job)
    while c.work.finished != NULL:
        job = c.work.finished
        c.work.finished = job.next
        give_back(table, job)
        free_job(job)
    if c.work.write != NULL:
        free_job(c.work.write)
    c.work.write = NULL
    return c.work.jobs


cdef void free_job(Job *job) noexcept nogil:
    put_back(job.parcel, False)
    free(job.memory)
    free(job)


cdef void give_back(Table *table, Job *job) noexcept nogil:
    """A job needs its generation no longer."""
    if job.generation != NULL:
        job.generation.holders -= 1
        job.generation = NULL
        if job.connection.export.state != EXPORT_OPEN:
            pthread_cond_broadcast(&table.changed)


cdef Served *finish_job(Table *table, Job *job) noexcept nogil:
    """A job is done: its generation goes back, its reply waits for the connection's worker.

    A connection that has ended and whose last job this was is returned, to be discarded.
    """
    cdef Served *c = job.connection
    cdef uint32_t events
    c.work.jobs -= 1
    if job.left and not c.work.gone:
        c.work.held += 1                # a READ in pieces: the rest is of the same generation (D6)
    else:
        give_back(table, job)
    if c.work.gone:
        free_job(job)
        if c.work.jobs:
            return NULL
        leave_table(table, c)
        return c
    job.next = NULL
    if c.work.finished == NULL:
        c.work.finished = job
    else:
        c.work.finished_last.next = job
    c.work.finished_last = job
    if not c.work.called and oma_take(&c.taken):    # parked: a worker that an event calls meanwhile does not get it,
        c.work.called = True
        events = inward(c) | <uint32_t>EPOLLOUT | <uint32_t>EPOLLONESHOT
        oma_give(&c.taken)
        watch(table, EPOLL_CTL_MOD, c.channel.fd, events, c)    # and is called anew by this
    return NULL
