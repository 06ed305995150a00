# Workers: threads that wait for an event, then accept a connection or attend to one.

cdef extern from "<sys/timerfd.h>" nogil:
    struct server_itimerspec "itimerspec":
        server_timespec it_interval
        server_timespec it_value
    enum:
        TFD_CLOEXEC
        TFD_NONBLOCK
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const server_itimerspec *value, server_itimerspec *old)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOCK_CLOEXEC
        SOCK_NONBLOCK
    int accept4(int fd, void *address, void *length, int flags)

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_SETPIPE_SZ
        O_CLOEXEC
        O_NONBLOCK
    int server_fcntl "fcntl"(int fd, int command, ...)
    int pipe2(int *pipe, int flags)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_BLOCK
        SIG_SETMASK
    int sigfillset(sigset_t *signals)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *old)

cdef extern from "<unistd.h>" nogil:
    ssize_t server_read "read"(int fd, void *into, size_t length)
    ssize_t server_write "write"(int fd, const void *data, size_t length)
    int server_close "close"(int fd)

cdef extern from * nogil:
    """
    #define oma_add(value, more) __atomic_add_fetch(value, more, __ATOMIC_RELAXED)
    #define oma_take(flag) (__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0)
    #define oma_give(flag) __atomic_store_n(flag, 0, __ATOMIC_RELEASE)
    #define oma_look(count) __atomic_load_n(count, __ATOMIC_ACQUIRE)
    """
    int oma_add(int *value, int more)
    bint oma_take(int *flag)
    void oma_give(int *flag)
    int oma_look(const int *flag)


cdef void open_pipe(int *pipe) noexcept nogil:
    """A pipe as large as anybody may have one; without it (-1) bytes are copied once more, that is all."""
    if pipe2(pipe, O_CLOEXEC | O_NONBLOCK) < 0:
        pipe[0] = pipe[1] = -1
    elif server_fcntl(pipe[0], F_SETPIPE_SZ, <int>PIPE) < 0:
        close_pipe(pipe)


cdef void close_pipe(int *pipe) noexcept nogil:
    if pipe[0] >= 0:
        server_close(pipe[0])
        server_close(pipe[1])
    pipe[0] = pipe[1] = -1


cdef void set_ticking(Table *table) noexcept nogil:
    """Tick once a second while a handshake has a deadline or accept rests; not otherwise. Lock held."""
    cdef server_itimerspec every
    cdef bint wanted = table.opening_count > 0 or table.resting
    if wanted == table.ticking:
        return
    memset(&every, 0, sizeof(every))
    if wanted:
        every.it_interval.tv_sec = every.it_value.tv_sec = 1
    table.ticking = wanted
    timerfd_settime(table.tick.fd, 0, &every, NULL)


cdef void tick(Table *table) noexcept nogil:
    """Hang up on handshakes that take too long (H54), and accept again."""
    cdef int64_t now = milliseconds()
    cdef uint64_t ticks
    cdef Served *c
    cdef Listener *listener = table.listeners
    server_read(table.tick.fd, &ticks, sizeof(ticks))
    lock(table)
    c = table.connections
    while c != NULL:
        if c.opening != NULL and c.opening.deadline <= now:
            server_shutdown(c.channel.fd, SHUT_RDWR)
        c = c.next
    if table.resting and not table.stopping:
        table.resting = False
        while listener != NULL:
            watch(table, EPOLL_CTL_MOD, listener.fd, EPOLLIN | EPOLLONESHOT, listener)
            listener = listener.next
    set_ticking(table)
    unlock(table)


cdef void accept_one(Worker *w, Listener *listener) noexcept nogil:
    """Accept one connection and let any worker have the listener and it."""
    cdef Table *table = w.table
    cdef int fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    cdef int failure = errno if fd < 0 else 0
    lock(table)
    if failure == EMFILE or failure == ENFILE or failure == ENOMEM or failure == ENOBUFS:
        table.resting = True
        set_ticking(table)
    elif not table.stopping:
        watch(table, EPOLL_CTL_MOD, listener.fd, EPOLLIN | EPOLLONESHOT, listener)
    unlock(table)
    if fd >= 0:
        begin_connection(table, fd)


cdef void *worker_main(void *of) noexcept nogil:
    """A worker's life: one event at a time, until the table says stop."""
    cdef Worker *w = <Worker *>of
    cdef Table *table = w.table
    cdef epoll_event event
    cdef Watched *what
    cdef int n
    while True:
        oma_add(&table.idle, 1)
        n = epoll_wait(table.epoll, &event, 1, -1)
        oma_add(&table.idle, -1)
        if n <= 0:
            continue
        what = <Watched *>event.data.ptr
        if what.kind == WATCH_END:
            break
        if what.kind == WATCH_TICK:
            tick(table)
        elif what.kind == WATCH_LISTENER:
            accept_one(w, <Listener *>what)
        elif oma_take(&(<Served *>what).taken):
            w.hung_up = event.events & <uint32_t>(EPOLLHUP | EPOLLERR) != 0
            w.ready = (WAIT_READ if event.events & ~<uint32_t>EPOLLOUT else 0)
            w.ready |= (WAIT_WRITE if event.events & ~<uint32_t>EPOLLIN else 0)
            attend(w, <Served *>what)
    return NULL


cdef int start_workers(Table *table) noexcept nogil:
    """Start every worker with all signals blocked (they are Python's to take); 0 or an errno."""
    cdef pthread_attr_t attributes
    cdef sigset_t everything, before
    cdef Worker *w
    cdef int failure = 0, index
    sigfillset(&everything)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, WORKER_STACK)
    for index in range(table.worker_count):
        w = &table.workers[index]
        w.table = table
        open_pipe(w.pipe)
        w.buffer = <uint8_t *>malloc(RECEIVE_BUFFER)
        w.text = <uint8_t *>malloc(MAXIMUM_STRING + 1)
        failure = ENOMEM
        if w.buffer != NULL and w.text != NULL:
            failure = pthread_create(&w.thread, &attributes, worker_main, w)
        if failure:
            break
        w.started = True
    pthread_attr_destroy(&attributes)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return failure


cdef void stop_workers(Table *table) noexcept nogil:
    """Let the workers leave their loops and wait for each."""
    cdef uint64_t one = 1
    cdef Worker *w
    cdef int index
    server_write(table.stop.fd, &one, sizeof(one))
    for index in range(table.worker_count):
        w = &table.workers[index]
        if w.started:
            pthread_join(w.thread, NULL)
        if w.table != NULL:
            close_pipe(w.pipe)
        free(w.buffer)
        free(w.text)
        box_free(&w.box)
        w.started, w.buffer, w.text = False, NULL, NULL


cdef int table_begin(Table *table) noexcept nogil:
    """Set up lock, epoll set, timer and stop signal of a zeroed table; 0 or an errno."""
    cdef pthread_condattr_t attributes
    cdef pthread_mutexattr_t short_holds
    pthread_mutexattr_init(&short_holds)
    pthread_mutexattr_settype(&short_holds, PTHREAD_MUTEX_ADAPTIVE_NP)
    pthread_mutex_init(&table.lock, &short_holds)
    begin_shelf(&table.shelf)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, SERVER_MONOTONIC)
    pthread_cond_init(&table.changed, &attributes)
    pthread_cond_init(&table.pool.work, &attributes)
    pthread_cond_init(&table.pool.time, &attributes)
    table.epoll = epoll_create1(EPOLL_CLOEXEC)
    table.tick.kind, table.tick.fd = WATCH_TICK, timerfd_create(SERVER_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
    table.stop.kind, table.stop.fd = WATCH_END, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if table.epoll < 0 or table.tick.fd < 0 or table.stop.fd < 0:
        return errno
    watch(table, EPOLL_CTL_ADD, table.tick.fd, EPOLLIN, &table.tick)
    watch(table, EPOLL_CTL_ADD, table.stop.fd, EPOLLIN, &table.stop)
    return 0


cdef void table_end(Table *table) noexcept nogil:
    """Close what table_begin opened and the listeners, once the workers are gone."""
    cdef Listener *listener = table.listeners
    cdef Served *c = table.retired
    while c != NULL:
        table.retired = c.next
        free(c)
        c = table.retired
    while listener != NULL:
        table.listeners = listener.next
        server_close(listener.fd)
        free(listener)
        listener = table.listeners
    server_close(table.epoll)
    server_close(table.tick.fd)
    server_close(table.stop.fd)
