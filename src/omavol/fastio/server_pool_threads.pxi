# The threads of the pool: started when there is more to do than idle ones, ended when idle for long, joined at the end.


cdef void call_thread(Table *table, bint quick) noexcept nogil:
    """Something may begin: wake an idle thread, or start one; for what no disk delays one thread is enough."""
    cdef Pool *pool = &table.pool
    if pool.idle > <uint32_t>pool.watched:
        pthread_cond_signal(&pool.work)
    elif pool.watched:
        pthread_cond_signal(&pool.time)
    if pool.ready > pool.idle and (not quick or pool.threads == 0):
        start_thread(table)


cdef void call_timekeeper(Table *table) noexcept nogil:
    """The earliest due time is another: whoever waits for it looks again, or somebody begins to."""
    cdef Pool *pool = &table.pool
    if pool.watched:
        pthread_cond_signal(&pool.time)
    elif pool.idle:
        pthread_cond_signal(&pool.work)
    elif pool.threads == 0:
        start_thread(table)             # were there any at work, one would come by


cdef void start_thread(Table *table) noexcept nogil:
    """Start one more thread if there may be; without, what waits waits for those there are. Lock held."""
    cdef Pool *pool = &table.pool
    cdef PoolThread *thread = NULL
    cdef pthread_attr_t attributes
    cdef sigset_t everything, before
    cdef uint32_t index
    for index in range(POOL_MOST):
        if not pool.thread[index].started:
            thread = &pool.thread[index]
            break
        if pool.thread[index].ended:
            thread = &pool.thread[index]
            pthread_join(thread.thread, NULL)   # it gives up the lock and returns, no more
            break
    if thread == NULL:
        return
    sigfillset(&everything)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, WORKER_STACK)
    thread.ended = False
    thread.table = table
    thread.started = pthread_create(&thread.thread, &attributes, pool_main, thread) == 0
    if thread.started:
        pool.threads += 1
        pool.idle += 1
    pthread_attr_destroy(&attributes)
    pthread_sigmask(SIG_SETMASK, &before, NULL)


cdef void *pool_main(void *of) noexcept nogil:
    """A pool thread's life: one job at a time, until there is none for long."""
    cdef PoolThread *me = <PoolThread *>of
    cdef Table *table = me.table
    cdef Job *job
    cdef Served *gone
    cdef bint last
    lock(table)
    while True:
        job = next_job(table)
        if job == NULL:
            break
        unlock(table)
        do_job(job)
        lock(table)
        gone = finish_job(table, job)
        if gone != NULL:
            unlock(table)
            discard(table, gone)
            lock(table)
        table.pool.idle += 1
    table.pool.idle -= 1
    table.pool.threads -= 1
    last = table.pool.threads == 0
    me.ended = True
    unlock(table)
    if last:
        clear_shelf(&table.shelf)
    return NULL


cdef Job *next_job(Table *table) noexcept nogil:
    """Wait for a job that may begin; NULL: idle for POOL_IDLE, or the server ends. Lock held, given up to wait."""
    cdef Pool *pool = &table.pool
    cdef Job *job
    cdef bint waited_enough = False
    while True:
        make_the_due_ready(table)
        if pool.first != NULL:
            job = pool.first
            pool.first = job.next
            pool.ready -= 1
            pool.idle -= 1
            if pool.idle and (pool.ready or pool.waiting_count and not pool.watched):
                call_another(pool)
            return job
        if pool.stopping:
            return NULL
        if pool.waiting_count and not pool.watched:
            pool.watched = True
            wait_until(&pool.time, &table.lock, pool.waiting[0].due)
            pool.watched = False
            waited_enough = False
        elif waited_enough:
            return NULL
        else:
            waited_enough = not wait_until(&pool.work, &table.lock, nanoseconds() + POOL_IDLE * <int64_t>1000000)


cdef inline void call_another(Pool *pool) noexcept nogil:
    """One signal may have met a thread that was awake already: who takes a job passes the word on."""
    if pool.idle > <uint32_t>pool.watched:
        pthread_cond_signal(&pool.work)
    else:
        pthread_cond_signal(&pool.time)


cdef void make_the_due_ready(Table *table) noexcept nogil:
    cdef Pool *pool = &table.pool
    cdef int64_t now
    if pool.waiting_count == 0:
        return
    now = nanoseconds()
    while pool.waiting_count and pool.waiting[0].due <= now:
        make_ready(table, heap_take(pool))


cdef bint wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t time) noexcept nogil:
    """False when the time, in nanoseconds of the monotonic clock, had come."""
    cdef server_timespec until
    until.tv_sec, until.tv_nsec = <long>(time // 1000000000), <long>(time % 1000000000)
    return pthread_cond_timedwait(condition, mutex, &until) != ETIMEDOUT


cdef void stop_pool(Table *table) noexcept nogil:
    """Let every thread end and wait for it; no connection is left, so no job is."""
    cdef Pool *pool = &table.pool
    cdef uint32_t index
    lock(table)
    pool.stopping = True
    pthread_cond_broadcast(&pool.work)
    pthread_cond_broadcast(&pool.time)
    unlock(table)
    for index in range(POOL_MOST):
        if pool.thread[index].started:
            pthread_join(pool.thread[index].thread, NULL)
            pool.thread[index].started = False
    clear_shelf(&table.shelf)
    free(pool.waiting)
    pool.waiting = NULL
