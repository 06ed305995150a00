# The points of an export: what the handshake tells of them, and how they come and go with no request in hand.


cdef int name_tracked(
    void *owner, const uint8_t *name, uint32_t name_length, uint32_t index, uint8_t *out, uint32_t *length, uint32_t *id
) noexcept nogil:
    """The handshake asks for the contexts of an export beside base:allocation."""
    cdef Served *c = <Served *>owner
    cdef Export *export
    cdef Layer *layer = NULL
    lock(c.table)
    export = export_named(c.table, name, name_length)
    if export != NULL and export.tracking != NULL and export.state != EXPORT_ENDING:
        layer = export.tracking.oldest
    while layer != NULL and index:
        layer = layer.newer
        index -= 1
    if layer != NULL:
        memcpy(out, layer.name, layer.name_length)
        length[0], id[0] = layer.name_length, layer.id
    unlock(c.table)
    return 0 if layer != NULL else -1


cdef Refusal table_points(
    Table *table, const uint8_t *name, uint32_t length, Tracking *whole, Layer *added, const uint8_t *dropped,
    uint32_t dropped_length, int fd
) noexcept nogil:
    """With no request in hand: begin to track (`whole`), add a point, drop one, or just go on in another file.

    `fd` (-1: none) is a file of the right names that says open; every layer is written there. Done, the table owns all
    that was given; refused, it is the caller's as before.
    """
    cdef Export *export = NULL
    cdef Refusal refusal
    lock(table)
    refusal = seize(table, name, length, EXPORT_HELD, &export)
    if refusal != DONE:
        unlock(table)
        return refusal
    drain(table, export, &export.current.holders, DRAIN_MOST)
    unlock(table)
    refusal = change_points(table, export, whole, added, dropped, dropped_length, fd)
    lock(table)
    if export.state == EXPORT_HELD:
        post_state(&export.state, EXPORT_OPEN)
    release_the_held(table, export)
    let_operate(table)
    unlock(table)
    return refusal


cdef Refusal change_points(
    Table *table, Export *export, Tracking *whole, Layer *added, const uint8_t *dropped, uint32_t dropped_length, int fd
) noexcept nogil:
    """The change itself: the export is held, and its layers are the caller's alone but for who asks for their names."""
    cdef Tracking *tracking = export.tracking if export.tracking != NULL else whole
    cdef Layer *layer
    cdef uint32_t count = 0
    if export.tracking != NULL and whole != NULL:
        return POINT_EXISTS
    if tracking == NULL or dropped != NULL and layer_called(tracking, dropped, dropped_length) == NULL:
        return NO_SUCH_POINT
    layer = tracking.oldest
    while layer != NULL:
        count += 1
        layer = layer.newer
    if added != NULL and layer_called(tracking, added.name, added.name_length) != NULL:
        return POINT_EXISTS
    if added != NULL and count == POINTS_MOST:
        return TOO_MANY_POINTS
    if whole == NULL and tracking.fd >= 0 and say_open(tracking):
        return TRACKING_FAILED
    lock(table)
    export.tracking = tracking
    layer = whole.oldest if whole != NULL else added
    while layer != NULL:
        table.contexts += 1
        layer.id = ALLOCATION_CONTEXT + table.contexts
        layer = layer.newer
    if added != NULL:
        append_layer(tracking, added)
    if dropped != NULL:
        drop_layer(tracking, layer_called(tracking, dropped, dropped_length))
    unlock(table)
    if whole == NULL and fd >= 0:
        if tracking.fd >= 0:
            server_close(tracking.fd)
        tracking.fd, tracking.closed = fd, 0
        tracking.broken = write_layers(tracking) != 0
    return DONE


cdef object _size_of(object rows, object name):
    for row in rows:
        if row["name"] == name:
            return row["size"]
    raise TableError(*_REFUSALS[NO_SUCH_EXPORT])


cdef bint _take_layers(Tracking *tracking, list layers) except -1:
    """Copy the layers; False without memory, ValueError where the bits are not of the export's size."""
    cdef bytes name, bits
    cdef const uint8_t *name_bytes
    cdef const uint8_t *data
    cdef Layer *layer
    for context, bits in layers:
        if <uint64_t>len(bits) != tracking.words * 8:
            raise ValueError(f"a layer of {len(bits)} bytes where {tracking.words * 8} are right")
        name = _key(context)
        name_bytes, data = name, bits
        layer = layer_new(name_bytes, <uint32_t>len(name), tracking.words)
        if layer == NULL:
            return False
        memcpy(layer.bits, data, len(bits))
        append_layer(tracking, layer)
    return True


cdef object _begin_tracking(Table *table, bytes key, uint64_t size, list layers, int fd, bint closed):
    """Server.track; refused, `fd` stays the caller's."""
    cdef Tracking *whole = tracking_new(size)
    cdef const uint8_t *key_bytes = key
    cdef uint32_t length = <uint32_t>len(key)
    cdef Refusal refusal = NO_MEMORY
    try:
        if whole != NULL and _take_layers(whole, layers):
            whole.fd, whole.closed = fd, closed
            with nogil:
                refusal = table_points(table, key_bytes, length, whole, NULL, NULL, 0, -1)
        if refusal != DONE:
            _refuse(refusal)
    finally:
        if refusal != DONE and whole != NULL:
            whole.fd = -1
            tracking_free(whole)


cdef object _change_points(Table *table, bytes key, uint64_t size, bytes added, bytes dropped, int fd):
    """Server.point; refused, `fd` stays the caller's."""
    cdef const uint8_t *key_bytes = key
    cdef const uint8_t *added_bytes = added
    cdef const uint8_t *dropped_bytes = dropped
    cdef uint32_t length = <uint32_t>len(key), dropped_length = <uint32_t>len(dropped)
    cdef Layer *layer = NULL
    cdef Refusal refusal
    if added:
        layer = layer_new(added_bytes, <uint32_t>len(added), layer_words(size))
        if layer == NULL:
            raise MemoryError
    if not dropped:
        dropped_bytes = NULL
    with nogil:
        refusal = table_points(table, key_bytes, length, NULL, layer, dropped_bytes, dropped_length, fd)
    if refusal != DONE:
        layer_free(layer)
        _refuse(refusal)
