# FLUSH and FUA: one fdatasync at a time, whose error nobody misses.


cdef int store_sync(Store *store) noexcept nogil:
    """Put everything written on stable storage; an error is latched (a second fsync may lie, NBD.md X23).

    One fdatasync at a time: of several on one description the kernel tells its error to a single one. Who comes while
    one runs waits for the next, which serves all who wait.
    """
    cdef int failure
    cdef uint64_t wanted
    if store.fd < 0:
        return store_failed(store)
    pthread_mutex_lock(&store.sync_lock)
    wanted = store.syncs_begun + 1
    while store.syncs_done < wanted and not store_failed(store):
        if store.syncs_begun != store.syncs_done:
            pthread_cond_wait(&store.sync_ended, &store.sync_lock)
            continue
        store.syncs_begun += 1
        pthread_mutex_unlock(&store.sync_lock)
        failure = sync_once(store.fd)
        pthread_mutex_lock(&store.sync_lock)
        if failure:
            store_fail(store, failure)
        store.syncs_done = store.syncs_begun
        pthread_cond_broadcast(&store.sync_ended)
    pthread_mutex_unlock(&store.sync_lock)
    return store_failed(store)


cdef int sync_once(int fd) noexcept nogil:
    while fdatasync(fd) < 0:
        if errno != EINTR:
            return errno
    return 0
