# Change tracking (NBD.md, D9): which grains of an export changed since each of its points, in memory and in a file.
#
# A *layer* begins at a point and ends at the next one; only the newest is written to, and what changed since a point is
# in its layer or a newer one. Points come and go while the export is held, as for a retarget: no request is in hand, so
# what was answered is before the point and what is answered later is behind it. Requests find the layers as they are.
#
# The file says `open` before the first change that it does not hold, and `closed` again when a FLUSH or the end of the
# export has put the newest layer there. Who finds it open after a crash knows nothing, so everything has changed. A
# change sets its bits first and looks for `closed` behind that; a FLUSH says `closed` first and copies the bits behind
# that: of a change beside a FLUSH either the bits are in the copy, or the change opens the file anew before it is done.

from omavol._store cimport STORE_FILE

cdef extern from "<sys/stat.h>" nogil:
    struct tracked_file "stat":
        server_timespec st_mtim
    int tracked_stat "fstat"(int fd, tracked_file *facts)

cdef extern from "<unistd.h>" nogil:
    int tracked_sync "fdatasync"(int fd)
    ssize_t tracked_write "pwrite"(int fd, const void *data, size_t length, int64_t offset)

cdef extern from * nogil:
    """
    #define oma_marked(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
    #define oma_mark(word, bits) \
        ((oma_marked(word) & (bits)) == (bits) ? (void)0 : (void)__atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST))
    #define oma_closed(flag) __atomic_load_n(flag, __ATOMIC_SEQ_CST)
    #define oma_close(flag, value) __atomic_store_n(flag, value, __ATOMIC_SEQ_CST)
    """
    void oma_mark(uint64_t *word, uint64_t bits)
    uint64_t oma_marked(const uint64_t *word)
    int oma_closed(const int *flag)
    void oma_close(int *flag, int value)

cdef enum:
    GRAIN_SHIFT = 16                # 64 KiB
    STATUS_CHANGED = 1              # as DIRTY of qemu:dirty-bitmap
    POINTS_MOST = 16
    STATE_PLACE = 4096              # where the file says open or closed: a sector of its own
    LAYERS_PLACE = 8192             # where its layers begin, each a multiple of 4096 bytes

cdef struct Layer:
    Layer *newer
    uint32_t id                     # of the meta context of its point; of no other, ever
    uint32_t name_length
    uint8_t *name                   # of that context, in full
    uint64_t *bits                  # little-endian, the lowest bit first

cdef struct Tracking:
    Layer *oldest                   # NULL: no point, nothing is tracked
    Layer *newest
    uint64_t words                  # of 64 bits in a layer, a multiple of 512
    int fd                          # the file; -1: kept in memory
    int closed                      # the file holds everything and says so
    bint broken                     # the file lacks an older layer: it is never to say so again
    pthread_mutex_t lock            # of the file

cdef struct FileState:              # at STATE_PLACE
    char[8] magic
    int64_t is_closed
    int64_t seconds, nanoseconds    # when a regular file was last written: whoever writes behind our back moves it


cdef inline uint64_t layer_words(uint64_t size) noexcept nogil:
    """Words of a layer: a bit a grain, in whole pages of the file."""
    return ((size >> (GRAIN_SHIFT + 6)) // 512 + 1) * 512


cdef Tracking *tracking_new(uint64_t size) noexcept nogil:
    cdef Tracking *tracking = <Tracking *>calloc(1, sizeof(Tracking))
    if tracking != NULL:
        tracking.words = layer_words(size)
        tracking.fd = -1
        pthread_mutex_init(&tracking.lock, NULL)
    return tracking


cdef void tracking_free(Tracking *tracking) noexcept nogil:
    cdef Layer *layer
    if tracking == NULL:
        return
    while tracking.oldest != NULL:
        layer = tracking.oldest
        tracking.oldest = layer.newer
        layer_free(layer)
    if tracking.fd >= 0:
        server_close(tracking.fd)
    free(tracking)


cdef Layer *layer_new(const uint8_t *name, uint32_t length, uint64_t words) noexcept nogil:
    cdef Layer *layer = <Layer *>calloc(1, sizeof(Layer))
    if layer == NULL:
        return NULL
    layer.name, layer.name_length = <uint8_t *>malloc(length + 1), length
    layer.bits = <uint64_t *>calloc(words, 8)
    if layer.name == NULL or layer.bits == NULL:
        layer_free(layer)
        return NULL
    memcpy(layer.name, name, length)
    return layer


cdef void layer_free(Layer *layer) noexcept nogil:
    if layer != NULL:
        free(layer.name)
        free(layer.bits)
        free(layer)


cdef void append_layer(Tracking *tracking, Layer *layer) noexcept nogil:
    if tracking.newest != NULL:
        tracking.newest.newer = layer
    else:
        tracking.oldest = layer
    tracking.newest = layer


cdef Layer *layer_called(Tracking *tracking, const uint8_t *name, uint32_t length) noexcept nogil:
    cdef Layer *layer = tracking.oldest if tracking != NULL else NULL
    while layer != NULL and (layer.name_length != length or memcmp(layer.name, name, length) != 0):
        layer = layer.newer
    return layer


cdef void drop_layer(Tracking *tracking, Layer *dropped) noexcept nogil:
    """Forget a point: what changed behind it counts for the older ones as before."""
    cdef Layer *older = NULL
    cdef Layer *layer = tracking.oldest
    cdef uint64_t i
    while layer != dropped:
        older, layer = layer, layer.newer
    if older == NULL:
        tracking.oldest = dropped.newer
    else:
        for i in range(tracking.words):
            older.bits[i] |= dropped.bits[i]
        older.newer = dropped.newer
    if tracking.newest == dropped:
        tracking.newest = older
    layer_free(dropped)


cdef int track_change(Tracking *tracking, uint64_t offset, uint64_t length) noexcept nogil:
    """Mark a range before it is changed; 0, or the errno of a file that could not be told to be open: do not change."""
    cdef uint64_t first = offset >> GRAIN_SHIFT, last = (offset + length - 1) >> GRAIN_SHIFT, word, bits
    if tracking.newest == NULL or length == 0:
        return 0
    for word in range(first >> 6, (last >> 6) + 1):
        bits = <uint64_t>-1
        if word == first >> 6:
            bits &= <uint64_t>-1 << (first & 63)
        if word == last >> 6:
            bits &= <uint64_t>-1 >> (63 - (last & 63))
        oma_mark(&tracking.newest.bits[word], bits)
    return say_open(tracking) if oma_closed(&tracking.closed) else 0


cdef int say_open(Tracking *tracking) noexcept nogil:
    """Have the file say `open` on stable storage; 0 or an errno."""
    cdef int failure = 0
    pthread_mutex_lock(&tracking.lock)
    if oma_closed(&tracking.closed):
        failure = write_state(tracking, 0, NULL)
        if failure == 0:
            oma_close(&tracking.closed, 0)
    pthread_mutex_unlock(&tracking.lock)
    server_failpoint(b"serve.tracking-opened")
    return failure


cdef void say_closed(Tracking *tracking, const Store *disk) noexcept nogil:
    """After a sync of the disk: the newest layer goes into the file, then `closed`. If that fails: open, no harm."""
    cdef tracked_file facts
    if tracking.fd < 0 or tracking.broken or oma_closed(&tracking.closed):
        return
    pthread_mutex_lock(&tracking.lock)
    if not oma_closed(&tracking.closed):
        memset(&facts, 0, sizeof(facts))
        if disk.kind == STORE_FILE:         # the node of a block device tells no such time
            tracked_stat(disk.fd, &facts)   # before the flag: a change behind it is one the file does not hold
        oma_close(&tracking.closed, 1)
        server_failpoint(b"serve.tracking-closing")
        if write_newest(tracking) or tracked_sync(tracking.fd) or write_state(tracking, 1, &facts.st_mtim):
            write_state(tracking, 0, NULL)
            oma_close(&tracking.closed, 0)
    pthread_mutex_unlock(&tracking.lock)
    server_failpoint(b"serve.tracking-closed")


cdef int write_state(Tracking *tracking, int64_t closed, const server_timespec *written) noexcept nogil:
    cdef FileState state
    memset(&state, 0, sizeof(state))
    memcpy(state.magic, b"OMASTATE", 8)
    state.is_closed = closed
    if written != NULL:
        state.seconds, state.nanoseconds = written.tv_sec, written.tv_nsec
    return write_at(tracking.fd, <uint8_t *>&state, sizeof(state), STATE_PLACE) or sync_of(tracking.fd)


cdef int sync_of(int fd) noexcept nogil:
    return errno if tracked_sync(fd) < 0 else 0


cdef int write_newest(Tracking *tracking) noexcept nogil:
    cdef Layer *layer = tracking.oldest
    cdef int64_t place = LAYERS_PLACE
    while layer != NULL and layer != tracking.newest:
        place += <int64_t>tracking.words * 8
        layer = layer.newer
    return write_layer(tracking, layer, place) if layer != NULL else 0


cdef int write_layers(Tracking *tracking) noexcept nogil:
    cdef Layer *layer = tracking.oldest
    cdef int64_t place = LAYERS_PLACE
    cdef int failure = 0
    while layer != NULL and failure == 0:
        failure = write_layer(tracking, layer, place)
        place += <int64_t>tracking.words * 8
        layer = layer.newer
    return failure


cdef int write_layer(Tracking *tracking, const Layer *layer, int64_t place) noexcept nogil:
    """By words that are read as a change may be setting bits in them."""
    cdef uint64_t[512] page
    cdef uint64_t at, i
    cdef int failure
    for at in range(0, tracking.words, 512):
        for i in range(512):
            page[i] = oma_marked(&layer.bits[at + i])
        failure = write_at(tracking.fd, <uint8_t *>page, sizeof(page), place + <int64_t>at * 8)
        if failure:
            return failure
    return 0


cdef int write_at(int fd, const uint8_t *data, size_t length, int64_t offset) noexcept nogil:
    cdef ssize_t n
    while length:
        n = tracked_write(fd, data, length, offset)
        if n <= 0 and errno != EINTR:
            return errno if n < 0 else EIO
        if n > 0:
            data += n
            length -= <size_t>n
            offset += n
    return 0


cdef inline int note_change(Served *c, const Request *request) noexcept nogil:
    """Mark what a request is about to change, where that is tracked, and its generation is held; 0 or an errno."""
    if c.export.tracking == NULL:
        return 0
    if request.type != CMD_WRITE and request.type != CMD_TRIM and request.type != CMD_WRITE_ZEROES:
        return 0
    return track_change(c.export.tracking, request.offset, request.length)


cdef inline int closed_record(Tracking *tracking, const Store *store) noexcept nogil:
    """What a FLUSH does besides: where changes are tracked, what is known of them goes to stable storage too. 0."""
    if tracking != NULL:
        say_closed(tracking, store)
    return 0


cdef void close_for_good(Tracking *tracking, const Store *disk) noexcept nogil:
    """The end of an export: all have left, the disk is synced. Says it anew, for a write may have been under way."""
    if tracking != NULL:
        oma_close(&tracking.closed, 0)
        say_closed(tracking, disk)


cdef int all_changed(Tracking *tracking) noexcept nogil:
    """Other content stands under the name: every point answers that everything has changed. 0 or an errno."""
    if tracking == NULL or tracking.newest == NULL:
        return 0
    memset(tracking.newest.bits, 0xff, tracking.words * 8)
    return say_open(tracking)


cdef uint64_t tracked_extent(
    const Tracking *tracking, uint32_t id, uint64_t offset, uint64_t limit, uint64_t *length
) noexcept nogil:
    """Whether what is at `offset` has changed since a point, and how far that goes; since one that has gone: yes."""
    cdef const Layer *layer = tracking.oldest if tracking != NULL else NULL
    cdef uint64_t grain = offset >> GRAIN_SHIFT, last = (limit - 1) >> GRAIN_SHIFT
    cdef uint64_t state, same
    length[0] = limit - offset
    while layer != NULL and layer.id != id:
        layer = layer.newer
    if layer == NULL:
        return STATUS_CHANGED
    state = word_since(layer, grain >> 6) >> (grain & 63) & 1
    same = <uint64_t>-1 if state else 0
    while grain <= last:
        if (grain & 63) == 0 and word_since(layer, grain >> 6) == same:
            grain += 64
            continue
        if word_since(layer, grain >> 6) >> (grain & 63) & 1 != state:
            length[0] = (grain << GRAIN_SHIFT) - offset
            break
        grain += 1
    return STATUS_CHANGED if state else 0


cdef inline uint64_t word_since(const Layer *layer, uint64_t word) noexcept nogil:
    cdef uint64_t bits = 0
    while layer != NULL:
        bits |= oma_marked(&layer.bits[word])
        layer = layer.newer
    return bits
