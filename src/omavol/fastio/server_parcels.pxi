# Parcels: the bytes of a request that is done elsewhere, in memory or in a pipe, between the store and the socket.
#
# Both are kept for the next request: of fresh memory the kernel zeroes every page, which costs more than all else that
# a large request costs. Through a pipe the pages that the disk filled go to the socket as they are, nothing is copied.

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)


cdef void begin_shelf(Shelf *shelf) noexcept nogil:
    pthread_mutex_init(&shelf.lock, NULL)


cdef Parcel *take_parcel(Shelf *shelf, size_t length) noexcept nogil:
    """Memory for `length` bytes, aligned as O_DIRECT wants it; NULL without."""
    cdef size_t room = ROOM_LEAST
    cdef uint32_t size = 0
    cdef Parcel *parcel = NULL
    while room < length:
        room *= 2
        size += 1
    pthread_mutex_lock(&shelf.lock)
    if size < SHELF_SIZES and shelf.roomy[size] != NULL:
        parcel = shelf.roomy[size]
        shelf.roomy[size] = parcel.next
        shelf.kept -= room
    pthread_mutex_unlock(&shelf.lock)
    if parcel != NULL:
        return parcel
    parcel = <Parcel *>calloc(1, sizeof(Parcel))
    if parcel != NULL and posix_memalign(<void **>&parcel.memory, PAGE, room):
        free(parcel)
        return NULL
    if parcel != NULL:
        parcel.shelf, parcel.size, parcel.room = shelf, size, room
    return parcel


cdef Parcel *take_piped(Shelf *shelf) noexcept nogil:
    """An empty pipe that holds PIPE bytes; NULL when there are PIPES_MOST, or the system gives no more (pipe(7))."""
    cdef Parcel *parcel
    pthread_mutex_lock(&shelf.lock)
    parcel = shelf.piped
    if parcel != NULL:
        shelf.piped = parcel.next
    elif shelf.pipes < PIPES_MOST:
        parcel = <Parcel *>calloc(1, sizeof(Parcel))
        if parcel != NULL:
            open_pipe(parcel.pipe)
        if parcel != NULL and parcel.pipe[0] < 0:
            free(parcel)
            parcel = NULL
        elif parcel != NULL:
            parcel.shelf = shelf
            shelf.pipes += 1
    pthread_mutex_unlock(&shelf.lock)
    return parcel


cdef void put_back(Parcel *parcel, bint emptied) noexcept nogil:
    """A parcel is of no more use to who had it. A pipe must have been emptied to be kept."""
    cdef Shelf *shelf
    cdef bint keep
    if parcel == NULL:
        return
    shelf = parcel.shelf
    pthread_mutex_lock(&shelf.lock)
    if parcel.memory == NULL:
        keep = emptied
        if keep:
            parcel.next, shelf.piped = shelf.piped, parcel
        else:
            shelf.pipes -= 1
    else:
        keep = parcel.size < SHELF_SIZES and shelf.kept + parcel.room <= SHELF_MOST
        if keep:
            parcel.next, shelf.roomy[parcel.size] = shelf.roomy[parcel.size], parcel
            shelf.kept += parcel.room
    pthread_mutex_unlock(&shelf.lock)
    if not keep:
        destroy_parcel(parcel)


cdef void destroy_parcel(Parcel *parcel) noexcept nogil:
    if parcel.memory == NULL:
        close_pipe(parcel.pipe)
    free(parcel.memory)
    free(parcel)


cdef void clear_shelf(Shelf *shelf) noexcept nogil:
    """Give back to the system what nobody uses."""
    cdef Parcel *parcels
    cdef Parcel *parcel
    cdef uint32_t size
    pthread_mutex_lock(&shelf.lock)
    parcels, shelf.piped = shelf.piped, NULL
    parcel = parcels
    while parcel != NULL:
        shelf.pipes -= 1
        parcel = parcel.next
    for size in range(SHELF_SIZES):
        while shelf.roomy[size] != NULL:
            parcel = shelf.roomy[size]
            shelf.roomy[size] = parcel.next
            parcel.next, parcels = parcels, parcel
    shelf.kept = 0
    pthread_mutex_unlock(&shelf.lock)
    while parcels != NULL:
        parcel, parcels = parcels, parcels.next
        destroy_parcel(parcel)
