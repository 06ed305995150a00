# A connection in the hands of a worker: handshake, requests, replies, waiting, parking, the end.

from libc.stdlib cimport calloc
from libc.string cimport memmove

from omavol._channel cimport (
    CHANNEL_BROKEN,
    CHANNEL_CLOSED,
    WAIT_READ,
    WAIT_WRITE,
    channel_begin,
    channel_close,
    channel_receive,
    channel_wait,
)
from omavol._wire cimport (
    HANDSHAKE_ROOM,
    NEXT_MORE,
    NEXT_SEND,
    NEXT_TRANSMIT,
    Next,
    server_handshake_begin,
    server_handshake_step,
)


cdef void begin_connection(Table *table, int fd) noexcept nogil:
    """Make the table know a connection in its handshake, for whichever worker epoll gives it to; refused: `fd` closed.

    The caller does not keep it: epoll tells of a hang-up even when no event is asked for, so a worker that held a
    connection from before its first event could share it with another.
    """
    cdef Served *c = new_connection(table)
    cdef Opening *opening = <Opening *>calloc(1, sizeof(Opening))
    cdef bint welcome = False
    if c != NULL and opening != NULL:
        c.table, c.opening = table, opening
        channel_begin(&c.channel, fd)
        c.peer = peer_of(fd) if table.client_limit else 0
        opening.deadline = milliseconds() + table.handshake_limit
        server_handshake_begin(&opening.shake, c, find_export, name_export)
        opening.shake.name_context = name_tracked
        opening.shake.tls = table.tls_mode
        lock(table)
        welcome = may_connect(table, c)
        if welcome:
            link_connection(table, c)
            oma_give(&c.taken)
            welcome = watch(table, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLONESHOT, c) == 0
            if not welcome and oma_take(&c.taken):
                unlink_connection(table, c)
            elif not welcome:
                server_shutdown(fd, SHUT_RDWR)  # a late event has given it to a worker, who ends it now
                welcome = True
        if not welcome:
            post_32(&table.refused, table.refused + 1)
        unlock(table)
    if not welcome:
        close(fd)
        free(opening)
        retire(table, c)


cdef Served *new_connection(Table *table) noexcept nogil:
    """A zeroed connection that is taken, in the memory of one that has ended if there is any; NULL without memory."""
    cdef Served *c
    lock(table)
    c = table.retired
    if c != NULL:
        table.retired = c.next
    unlock(table)
    if c == NULL:
        c = <Served *>calloc(1, sizeof(Served))
        if c != NULL:
            c.kind, c.taken = WATCH_CONNECTION, 1
    else:
        memset(&c.channel, 0, <size_t>(<uint8_t *>(c + 1) - <uint8_t *>&c.channel))
    return c


cdef void retire(Table *table, Served *c) noexcept nogil:
    """Keep the memory of a connection that is no more: a late event may name it and must find it taken (finish_job)."""
    if c == NULL:
        return
    lock(table)
    c.next, table.retired = table.retired, c
    unlock(table)


cdef void link_connection(Table *table, Served *c) noexcept nogil:
    c.next = table.connections
    if c.next != NULL:
        c.next.previous = c
    table.connections = c
    post_32(&table.connection_count, table.connection_count + 1)
    table.opening_count += 1
    set_ticking(table)


cdef void unlink_connection(Table *table, Served *c) noexcept nogil:
    if c.previous != NULL:
        c.previous.next = c.next
    else:
        table.connections = c.next
    if c.next != NULL:
        c.next.previous = c.previous
    post_32(&table.connection_count, table.connection_count - 1)
    if c.opening != NULL:
        table.opening_count -= 1


cdef void attend(Worker *w, Served *c) noexcept nogil:
    """Serve a connection that this worker has just taken, until it is parked or ended."""
    cdef Verdict verdict = unpack(w, c)
    while verdict == GO_ON:
        if c.in_flight:
            verdict = collect(w, c)
            if verdict != GO_ON:
                break
        verdict = take_options(w, c) if c.opening != NULL else take_requests(w, c)
        if verdict == GO_ON:
            verdict = give_replies(w, c)
        if verdict == GO_ON:
            verdict = await_more(w, c)
    if verdict == PARK:
        verdict = park(w, c)
    if verdict == END:
        end_connection(w, c)


cdef Verdict take_options(Worker *w, Served *c) noexcept nogil:
    """Give the handshake what came; when it is over, what stands behind it are requests."""
    cdef size_t used, wrote
    cdef Next todo = NEXT_SEND
    cdef uint8_t *room
    while todo == NEXT_SEND and not box_full(&w.box):
        room = box_room(&w.box, HANDSHAKE_ROOM)
        if room == NULL:
            return END
        c.opening.text = w.text
        c.opening.shake.shutting_down = peek_flag(&c.table.stopping)
        todo = server_handshake_step(
            &c.opening.shake, w.buffer + w.used, w.have - w.used, &used, room, HANDSHAKE_ROOM, &wrote
        )
        w.used += used
        if box_add(&w.box, wrote) < 0:
            return END
    if todo == NEXT_TLS:
        c.opening.securing = True
        return GO_ON if w.have == w.used else END       # T12
    if todo == NEXT_TRANSMIT:
        c.agreed = c.opening.shake.agreed
        end_opening(c)
        if peek_flag(&c.export.filtered) and entering_takes_time(c):
            return enter_slowly(c)
        return take_requests(w, c)
    if todo != NEXT_MORE and todo != NEXT_SEND:
        c.leaving = True
    return GO_ON


cdef void end_opening(Served *c) noexcept nogil:
    if c.opening == NULL:
        return
    lock(c.table)
    count_tls(c)
    c.table.opening_count -= 1
    free(c.opening)
    c.opening = NULL
    unlock(c.table)


cdef Verdict give_replies(Worker *w, Served *c) noexcept nogil:
    """Send the outbox as far as it goes; END when that was all there is to do."""
    if c.withheld:
        return GO_ON
    if not all_sent(w, c):
        if box_send(&w.box, c) < 0:
            return END
    if all_sent(w, c) and c.in_flight == 0:
        if c.leaving:
            return END
        if c.opening != NULL and c.opening.securing:
            return begin_tls(w, c)
        if not c.writing and c.export != NULL and c.opening == NULL and peek_state(&c.export.state) == EXPORT_ENDING:
            return END
    return GO_ON


cdef Verdict await_more(Worker *w, Served *c) noexcept nogil:
    """Wait a little for either direction, and receive; PARK when nothing comes or others want the worker."""
    cdef int wanted = 0, ready
    cdef Table *table = c.table
    cdef bint patient = oma_look(&table.idle) > 0 or peek_32(&table.connection_count) < <uint32_t>table.worker_count
    if not all_sent(w, c):
        wanted = WAIT_WRITE
    elif not c.writing:
        let_go(w, c)
        if c.held:
            return PARK
    if not c.leaving and not box_full(&w.box) and not c.sated and (c.writing or not c.held):
        wanted |= WAIT_READ
    if c.in_flight and w.hung_up and (c.leaving or c.withheld):
        return END                      # nobody is left to take what is under way (X54)
    if c.withheld:
        return PARK
    ready, w.ready = w.ready & wanted, 0
    if c.channel.tls != NULL and wanted & WAIT_READ and channel_buffered(&c.channel):
        ready |= WAIT_READ
    if not ready:
        if c.in_flight:
            return PARK                 # what is under way calls; nobody lingers meanwhile
        w.turns += 1
        if w.turns > TURNS and not patient:
            return PARK
        post_8(&c.waiting, True)
        ready = linger(w, c, wanted) if patient else channel_wait(&c.channel, wanted, 0)
        post_8(&c.waiting, False)
    if not ready:
        return PARK
    return receive_more(w, c) if ready & WAIT_READ else GO_ON


cdef int linger(Worker *w, Served *c, int wanted) noexcept nogil:
    """Wait for a silent connection that nobody else needs the worker for: awake if it is the only one at work."""
    cdef int64_t began = nanoseconds()
    cdef bint alone = wanted == WAIT_READ and oma_look(&c.table.idle) + 1 >= c.table.worker_count
    cdef bint awake = alone and stays_awake(&w.brisk)
    cdef int ready = 0
    while awake and ready == 0 and nanoseconds() - began < BRISK:
        sched_yield()
        ready = channel_wait(&c.channel, wanted, 0)
    if ready == 0:
        ready = channel_wait(&c.channel, wanted, LINGER)
    if alone:
        waited(&w.brisk, nanoseconds() - began, awake)
    return ready


cdef Verdict receive_more(Worker *w, Served *c) noexcept nogil:
    """Take input behind what is left over; of a payload under way just as much as it and a next header need."""
    cdef size_t left = w.have - w.used, room, header = request_size(c.agreed.extended)
    cdef ssize_t n
    if left == 0 and c.writing and for_job(c):
        return receive_for_job(w, c)
    if left == 0 and c.writing and c.large and not c.write_error and w.pipe[0] >= 0:
        return write_spliced(w, c)
    if w.used:
        memmove(w.buffer, w.buffer + w.used, left)
        w.used, w.have = 0, left
    room = RECEIVE_BUFFER - left
    if c.writing and left < c.write.payload and c.write.payload - left + header < room:
        room = c.write.payload - left + header
    elif c.large and not c.writing and left < header and w.pipe[0] >= 0:
        room = header - left            # the payload behind it is not for this buffer
    n = channel_receive(&c.channel, w.buffer + left, room)
    if n == CHANNEL_BROKEN:
        return END
    if n == CHANNEL_CLOSED:
        c.leaving = True            # what is queued is still sent: the peer may have closed one way
    elif n > 0:
        w.have += <size_t>n
        add_moved(c, n)
    return GO_ON


cdef Verdict unpack(Worker *w, Served *c) noexcept nogil:
    """Take over what the connection kept while nobody had it."""
    w.used = w.have = 0
    w.turns = 0
    box_clear(&w.box)
    if c.kept != NULL:
        memcpy(w.buffer, c.kept, c.kept_length)
        w.have = c.kept_length
        free(c.kept)
        c.kept, c.kept_length = NULL, 0
    if c.backlog != NULL:
        if box_unpack(&w.box, c.backlog) < 0:
            return END
        box_free(c.backlog)
        free(c.backlog)
        c.backlog = NULL
        return give_replies(w, c)
    return GO_ON


cdef Verdict park(Worker *w, Served *c) noexcept nogil:
    """Leave the connection to epoll, with what it has in hand; nobody's buffer stays with it but exact copies."""
    if c.writing:
        write_some(w, c, w.have - w.used)
    c.kept_length = <uint32_t>(w.have - w.used)
    if c.kept_length:
        c.kept = <uint8_t *>malloc(c.kept_length)
        if c.kept == NULL:
            return END
        memcpy(c.kept, w.buffer + w.used, c.kept_length)
    if not box_empty(&w.box):
        c.backlog = <Outbox *>malloc(sizeof(Outbox))
        if c.backlog == NULL or box_pack(&w.box, c.backlog) < 0:
            free(c.backlog)
            c.backlog = NULL
            return END
    if c.channel.tls != NULL:
        channel_rest(&c.channel)
    lock(c.table)
    if c.export != NULL:
        add_counts(w, c)
    if c.holding == NULL and c.in_flight == 0 and (
        c.table.stopping or c.export != NULL and c.export.state == EXPORT_ENDING
    ):
        unlock(c.table)
        return END
    if c.held and c.holding == NULL and c.in_flight == 0 and c.export.state == EXPORT_HELD:
        oma_give(&c.taken)          # the end of the retarget arms it
    else:
        arm(c)
    unlock(c.table)
    return PARK


cdef void end_connection(Worker *w, Served *c) noexcept nogil:
    """Forget the connection: references go back under the lock, then the socket is closed.

    With jobs under way its end is the last one's: until then it is counted, and its socket hears nothing more.
    """
    cdef bint done = True
    box_clear(&w.box)
    lock(c.table)
    if c.export != NULL:
        add_counts(w, c)
    if c.work != NULL and drop_jobs(c.table, c):
        done, c.work.gone = False, True
        epoll_ctl(c.table.epoll, EPOLL_CTL_DEL, c.channel.fd, NULL)
        server_shutdown(c.channel.fd, SHUT_RDWR)
        release_holding(c)
    else:
        leave_table(c.table, c)
    unlock(c.table)
    if done:
        discard(c.table, c)


cdef void release_holding(Served *c) noexcept nogil:
    if c.holding != NULL:
        c.holding.holders -= 1
        c.holding = NULL
    pthread_cond_broadcast(&c.table.changed)


cdef void leave_table(Table *table, Served *c) noexcept nogil:
    """The table knows the connection no longer. Lock held."""
    unlink_connection(table, c)
    release_holding(c)
    if c.export != NULL:
        c.export.connections -= 1
    see_off(table, c)


cdef void discard(Table *table, Served *c) noexcept nogil:
    """Close the socket of a connection that the table knows no longer, and free what it has."""
    if c.channel.tls != NULL:
        judge_tls_end(c)
    channel_close(&c.channel)
    if c.backlog != NULL:
        box_free(c.backlog)
    free(c.backlog)
    free(c.kept)
    free(c.opening)
    free(c.work)
    retire(table, c)
