# What the owner of the server does to its table: add, retarget, remove, stop. Each may wait, without the GIL.

from libc.string cimport strdup

from omavol._store cimport STORE_SHORT, STORE_UNEVEN, store_close, store_fail, store_failed, store_open
from omavol._wire cimport (
    TX_BLOCK_STATUS_PAYLOAD,
    TX_CAN_MULTI_CONN,
    TX_HAS_FLAGS,
    TX_READ_ONLY,
    TX_SEND_CACHE,
    TX_SEND_DF,
    TX_SEND_FAST_ZERO,
    TX_SEND_FLUSH,
    TX_SEND_FUA,
    TX_SEND_TRIM,
    TX_SEND_WRITE_ZEROES,
)

cdef enum Refusal:
    DONE
    NO_SUCH_EXPORT
    EXPORT_EXISTS
    EXPORT_BUSY
    SIZE_DIFFERS
    BLOCK_DIFFERS
    SERVER_STOPS
    NO_MEMORY
    POINT_EXISTS
    NO_SUCH_POINT
    TOO_MANY_POINTS
    TRACKING_FAILED

cdef enum:
    READING = TX_HAS_FLAGS | TX_SEND_FLUSH | TX_SEND_FUA | TX_SEND_DF | TX_CAN_MULTI_CONN | TX_SEND_CACHE \
        | TX_BLOCK_STATUS_PAYLOAD
    PREFERRED_BLOCK = 4096

cdef struct Row:                    # an export as it stands, copied out of the table
    uint64_t size, generation
    Counts counts
    uint32_t connections, stalled
    bint read_only
    int failed


cdef void export_row(const Export *export, Row *row) noexcept nogil:
    row.size, row.generation = export.facts.size, export.current.number
    row.counts, row.connections, row.stalled = export.counts, export.connections, export.stalled
    row.read_only, row.failed = export.facts.flags & TX_READ_ONLY != 0, store_failed(&export.current.store)


cdef void export_free(Export *export) noexcept nogil:
    if export != NULL:
        free(export.name)
        free(<void *>export.facts.description)
        free(export.filters)
        free(export.current)
        tracking_free(export.tracking)
        free(export)


cdef Export *export_new(
    const uint8_t *name, uint32_t length, const char *description, const Store *store, bint read_only
) noexcept nogil:
    """A new export over an opened store; NULL without memory, then the store is the caller's as before."""
    cdef Export *export = <Export *>calloc(1, sizeof(Export))
    if export == NULL:
        return NULL
    export.name = <uint8_t *>malloc(length + 1)
    export.facts.description = strdup(description) if description != NULL else NULL
    export.current = <Generation *>calloc(1, sizeof(Generation))
    if export.name == NULL or export.current == NULL or (description != NULL and export.facts.description == NULL):
        export_free(export)
        return NULL
    memcpy(export.name, name, length)
    export.name_length = length
    export.current.store = store[0]
    export.facts.size = store.size
    export.facts.minimum, export.facts.maximum = store.block, DEFAULT_MAXIMUM
    export.facts.preferred = store.block if store.block > PREFERRED_BLOCK else PREFERRED_BLOCK
    export.facts.flags = READING | (TX_READ_ONLY if read_only else TX_SEND_TRIM | TX_SEND_WRITE_ZEROES)
    if store.fast_zero and not read_only:
        export.facts.flags |= TX_SEND_FAST_ZERO
    return export


cdef Refusal table_add(Table *table, Export *export, Row *row) noexcept nogil:
    """Serve `export` from now on; refused, it stays the caller's."""
    cdef Export **last = &table.exports
    cdef Refusal refusal = DONE
    lock(table)
    if table.stopping:
        refusal = SERVER_STOPS
    elif export_named(table, export.name, export.name_length) != NULL:
        refusal = EXPORT_EXISTS
    else:
        table.generations += 1
        export.current.number = export.facts.generation = table.generations
        while last[0] != NULL:
            last = &last[0].next
        last[0] = export
        export_row(export, row)
    unlock(table)
    return refusal


cdef Refusal seize(Table *table, const uint8_t *name, uint32_t length, ExportState state, Export **out) noexcept nogil:
    """Find an open export and bring it into `state`: from here on it is the caller's alone to change. Lock held."""
    cdef Export *export = export_named(table, name, length)
    if table.stopping:
        return SERVER_STOPS
    if export == NULL:
        return NO_SUCH_EXPORT
    if export.state != EXPORT_OPEN:
        return EXPORT_BUSY
    post_state(&export.state, state)
    table.operating += 1
    out[0] = export
    return DONE


cdef void let_operate(Table *table) noexcept nogil:
    table.operating -= 1
    pthread_cond_broadcast(&table.changed)


cdef Refusal table_retarget(
    Table *table, const uint8_t *name, uint32_t length, const Store *store, bint same, Row *row
) noexcept nogil:
    """Hold, drain, sync the old descriptor, swap, resume, close the old one. Refused, `store` stays the caller's.

    Unless the caller knows that the content is the `same`, everything has changed since each point. A sync that fails
    is latched on the new generation: writes that were answered are lost, and a FLUSH says so.
    """
    cdef Generation *fresh = <Generation *>calloc(1, sizeof(Generation))
    cdef Generation *old
    cdef Export *export = NULL
    cdef Refusal refusal
    cdef int failure
    if fresh == NULL:
        return NO_MEMORY
    lock(table)
    refusal = seize(table, name, length, EXPORT_HELD, &export)
    if refusal == DONE and (export.facts.size != store.size or export.facts.minimum % store.block):
        post_state(&export.state, EXPORT_OPEN)
        let_operate(table)
        refusal = SIZE_DIFFERS if export.facts.size != store.size else BLOCK_DIFFERS
    if refusal != DONE:
        unlock(table)
        free(fresh)
        return refusal
    old = export.current
    drain(table, export, &old.holders, DRAIN_MOST)
    unlock(table)
    fresh.store = store[0]
    failure = store_sync(&old.store)
    if export.tracking != NULL and not same and failure == 0:
        failure = all_changed(export.tracking)
    store_fail(&fresh.store, failure)
    lock(table)
    table.generations += 1
    fresh.number = export.facts.generation = table.generations
    export.current = fresh
    if export.state == EXPORT_HELD:
        post_state(&export.state, EXPORT_OPEN)
    release_the_held(table, export)
    export_row(export, row)
    unlock(table)
    store_close(&old.store)
    free(old)
    lock(table)
    let_operate(table)
    unlock(table)
    return DONE


cdef Refusal table_remove(Table *table, const uint8_t *name, uint32_t length, Row *row) noexcept nogil:
    """Refuse new clients, end the present ones, sync, close. `row.failed` tells a sync or close that failed."""
    cdef Export *export = NULL
    cdef Refusal refusal
    lock(table)
    refusal = seize(table, name, length, EXPORT_ENDING, &export)
    if refusal == DONE:
        refuse_the_filtered(table, export)
        end_the_idle(table, export)
        drain(table, export, &export.connections, DRAIN_MOST)
        unlock(table)
        finish_export(export)
        lock(table)
        export_row(export, row)
        unlink_export(table, export)
        export_free(export)
        let_operate(table)
    unlock(table)
    return refusal


cdef void finish_export(Export *export) noexcept nogil:
    """Sync and close an export that nobody uses any more."""
    cdef Store *store = &export.current.store
    cdef int failure = 0
    if not export.facts.flags & TX_READ_ONLY:
        store_sync(store)
    if not store_failed(store):
        close_for_good(export.tracking, store)
    failure = store_close(store)
    if not store_failed(store):
        store_fail(store, failure)


cdef void unlink_export(Table *table, Export *export) noexcept nogil:
    cdef Export **link = &table.exports
    while link[0] != NULL and link[0] != export:
        link = &link[0].next
    if link[0] == export:
        link[0] = export.next


cdef int table_stop(Table *table) noexcept nogil:
    """End every connection within STOP_MOST, sync and close every export; 0, or the errno of a sync that failed."""
    cdef Export *export
    cdef Listener *listener = table.listeners
    cdef int failed = 0
    lock(table)
    post_flag(&table.stopping, True)
    while listener != NULL:
        server_shutdown(listener.fd, SHUT_RDWR)     # who connects now is refused at once
        listener = listener.next
    export = table.exports
    while export != NULL:
        if export.state == EXPORT_OPEN:
            post_state(&export.state, EXPORT_ENDING)
        export = export.next
    refuse_the_filtered(table, NULL)
    end_the_idle(table, NULL)
    drain(table, NULL, &table.connection_count, STOP_MOST)
    while table.operating:
        wait_changed(table, QUIET_STEP)
    unlock(table)
    while table.exports != NULL:
        export = table.exports
        finish_export(export)
        if store_failed(&export.current.store):
            failed = store_failed(&export.current.store)
        unlink_export(table, export)
        export_free(export)
    return failed
