# Filters: what a request meets on its way to the store. They decide when it goes on and whether it fails; they do not
# wait themselves, so a request that waits costs its Job and no thread. Everything here is under Table.lock.

from omavol._wire cimport NBD_ENOTSUP

cdef enum:
    BURST = 100000000               # nanoseconds' worth of its rate that a rate filter lets through at once

cdef int64_t FAR = 100000000000000000   # nanoseconds, three years: further off nothing is put, so no sum overflows

cdef uint64_t chance_state


cdef uint64_t draw() noexcept nogil:
    """A number below 2^32 (xorshift64*): good enough to fail one request in so many."""
    global chance_state
    if chance_state == 0:
        chance_state = <uint64_t>nanoseconds() | 1
    chance_state ^= chance_state >> 12
    chance_state ^= chance_state << 25
    chance_state ^= chance_state >> 27
    return (chance_state * <uint64_t>0x2545F4914F6CDD1D) >> 32


cdef bint pass_filters(Export *export, Job *job) noexcept nogil:
    """Take a request that came at `job.due` through the filters: when it goes on, and with what error.

    False: it is held until the filters are changed. What has failed goes no further, as where filters are stacked.
    """
    cdef uint32_t index
    cdef Filter *filter
    job.error = 0
    for index in range(export.filter_count):
        filter = &export.filters[index]
        if filter.kind == FILTER_PAUSE and job.request.type != FILTER_OPEN:
            return False
        if filter.kind == FILTER_DELAY:
            delay(filter, job)
        elif filter.kind == FILTER_RATE:
            pay(filter, job)
        elif fails(filter, &job.request):
            job.error = filter.error
        if job.error:
            break
    return True


cdef void delay(const Filter *filter, Job *job) noexcept nogil:
    """A zero request that is to be fast may be refused instead: so slow, zeroing is no faster than writing (X40)."""
    if filter.refuse_fast_zero and job.request.type == CMD_WRITE_ZEROES and job.request.flags & CMD_FLAG_FAST_ZERO:
        job.error = NBD_ENOTSUP
    else:
        job.due += filter.delay[job.request.type]


cdef void pay(Filter *filter, Job *job) noexcept nogil:
    """A bucket that holds BURST's worth: a request goes on when all its bytes are in it, and takes them out."""
    cdef int way = 0 if job.request.type == CMD_READ else 1
    cdef int64_t from_
    if filter.rate[way] == 0 or job.request.type != CMD_READ and job.request.type != CMD_WRITE:
        return
    from_ = job.due - BURST
    if filter.paid[way] > from_:
        from_ = filter.paid[way]
    filter.paid[way] = from_ + time_for(job.request.length, filter.rate[way])
    if filter.paid[way] > job.due + FAR:
        filter.paid[way] = job.due + FAR
    if filter.paid[way] > job.due:
        job.due = filter.paid[way]


cdef int64_t time_for(uint64_t length, uint64_t rate) noexcept nogil:
    """Nanoseconds that `length` bytes take, FAR at most."""
    cdef double time = <double>length / <double>rate * 1e9
    return <int64_t>time if time < <double>FAR else FAR


cdef bint fails(Filter *filter, const Request *request) noexcept nogil:
    """Whether an error filter fails this request; those that are not its concern are not counted."""
    if not filter.commands & (<uint32_t>1 << request.type):
        return False
    if filter.end and (request.offset >= filter.end or request.offset + request.length <= filter.start):
        return False                        # judged before: nothing overflows
    filter.met += 1
    if filter.every:
        return filter.met % filter.every == 0
    if filter.next:
        return filter.met <= filter.next
    return draw() < filter.chance


cdef bint entering_takes_time(Served *c) noexcept nogil:
    """Whether a filter delays the clients that enter."""
    cdef uint32_t index
    cdef bint found = False
    lock(c.table)
    for index in range(c.export.filter_count):
        found |= c.export.filters[index].kind == FILTER_DELAY and c.export.filters[index].delay[FILTER_OPEN] != 0
    unlock(c.table)
    return found


cdef Verdict enter_slowly(Served *c) noexcept nogil:
    """Send the entering itself through the filters; the answer to GO, queued already, is withheld until it is back."""
    cdef Request entering
    cdef Job *job
    memset(&entering, 0, sizeof(entering))
    entering.type = FILTER_OPEN
    job = new_job(c, &entering)
    if job == NULL:
        return END
    c.withheld = True
    return GO_ON if submit(c, job) == 0 else END


cdef void set_filters(Table *table, Export *export, Filter *filters, uint32_t count) noexcept nogil:
    """Take over new filters; who waits in the old ones passes the new ones as if it had just come."""
    cdef Job *job
    cdef Job *jobs
    free(export.filters)
    export.filters, export.filter_count = filters, count
    post_flag(&export.filtered, count != 0)
    jobs = take_waiting(&table.pool, export, NULL)
    while jobs != NULL:
        job, jobs = jobs, jobs.next
        admit(table, job, nanoseconds())


cdef Refusal table_set_filters(
    Table *table, const uint8_t *name, uint32_t length, Filter *filters, uint32_t count, Row *row
) noexcept nogil:
    """Put `filters` before the store of an export; refused, they stay the caller's."""
    cdef Export *export
    cdef Refusal refusal = DONE
    lock(table)
    export = export_named(table, name, length)
    if table.stopping:
        refusal = SERVER_STOPS
    elif export == NULL:
        refusal = NO_SUCH_EXPORT
    elif export.state == EXPORT_ENDING:
        refusal = EXPORT_BUSY
    else:
        set_filters(table, export, filters, count)
        export_row(export, row)
    unlock(table)
    return refusal
