# The server's owner in Python: hands in descriptors, reads counters; bytes and sockets of clients stay out of it.

from libc.errno cimport EMFILE, ENFILE, ENOBUFS, ENOMEM, errno

include "server_types.pxi"
include "server_outbox.pxi"
include "server_table.pxi"
include "server_tracking.pxi"
include "server_points.pxi"
include "server_requests.pxi"
include "server_reads.pxi"
include "server_writes.pxi"
include "server_status.pxi"
include "server_peers.pxi"
include "server_tls.pxi"
include "server_connection.pxi"
include "server_filters.pxi"
include "server_filter_rows.pxi"
include "server_pool.pxi"
include "server_pool_threads.pxi"
include "server_parcels.pxi"
include "server_jobs.pxi"
include "server_worker.pxi"
include "server_exports.pxi"

CONNECTION_SIZE = sizeof(Served)
"""Bytes of memory that a parked connection has of its own, outside the kernel."""

_REFUSALS = {
    NO_SUCH_EXPORT: ("unknown_export", "no export has that name"),
    EXPORT_EXISTS: ("export_exists", "an export of that name is served already"),
    EXPORT_BUSY: ("export_busy", "the export is being retargeted or removed"),
    SIZE_DIFFERS: ("size_differs", "the new descriptor is not of the size that clients were told"),
    BLOCK_DIFFERS: ("block_differs", "the new descriptor asks for larger blocks than clients were told (O_DIRECT)"),
    SERVER_STOPS: ("stopping", "the server is stopping"),
    NO_MEMORY: ("no_memory", "out of memory"),
    POINT_EXISTS: ("point_exists", "the export has that point already"),
    NO_SUCH_POINT: ("unknown_point", "the export has no such point"),
    TOO_MANY_POINTS: ("too_many_points", f"an export has at most {POINTS_MOST} points"),
    TRACKING_FAILED: ("tracking_failed", "the file of the changes cannot be written"),
}


class TableError(Exception):
    """The live table refused: `code` is stable, `detail` says why."""

    def __init__(self, code, detail):
        super().__init__(detail)
        self.code = code
        self.detail = detail


cdef object _refuse(Refusal refusal):
    code, detail = _REFUSALS[<int>refusal]
    raise TableError(code, detail)


cdef object _open(Store *store, int fd, uint64_t size):
    """Open a store over `fd`, which stays the caller's if this raises."""
    cdef int failure
    with nogil:
        failure = store_open(store, fd, size)
    if failure == STORE_SHORT:
        raise TableError("too_small", f"the file has fewer than {size} bytes")
    if failure == STORE_UNEVEN:
        raise TableError("uneven_size", f"direct I/O here needs a size in blocks of {store.block} bytes")
    if failure:
        raise TableError("not_a_disk", "the descriptor is neither a regular file nor a block device")


cdef object _facts_of(object name, const Row *row):
    return {
        "name": name,
        "size": row.size,
        "read_only": bool(row.read_only),
        "generation": row.generation,
        "connections": row.connections,
        "requests": row.counts.requests,
        "changes": row.counts.changes,
        "bytes_read": row.counts.bytes_read,
        "bytes_written": row.counts.bytes_written,
        "flushes": row.counts.flushes,
        "stalled_clients": row.stalled,
        "failed": row.failed,
    }


cdef class Server:
    """An NBD server over a live table of exports.

    Any thread may call any method; add, retarget, remove and list may run at once, stop once and last. Descriptors
    given to `add`, `retarget` and `listen` belong to the server when the call returns, and to the caller if it raises.
    """
    cdef Table *table
    cdef bint stopped
    cdef TlsCredentials tls         # of the table: they outlive every session

    def __cinit__(self, *, int workers=8, uint32_t connections=1024, uint32_t client_connections=0,
                  double handshake=10.0, bint hide_exports=False, TlsCredentials tls=None, bint tls_required=False):
        cdef int failure
        if workers < 1:
            raise ValueError("at least one worker")
        self.table = <Table *>calloc(1, sizeof(Table))
        if self.table == NULL:
            raise MemoryError
        self.table.workers = <Worker *>calloc(workers, sizeof(Worker))
        if self.table.workers == NULL:
            raise MemoryError
        self.table.worker_count, self.table.connection_limit = workers, connections
        self.table.client_limit, self.table.vacant = client_connections, -1
        self.table.handshake_limit, self.table.hidden = <int64_t>(handshake * 1000), hide_exports
        self.tls = tls
        if tls is not None:
            self.table.tls, self.table.tls_mode = tls.keeper, TLS_FORCED if tls_required else TLS_SELECTIVE
        failure = table_begin(self.table)
        if failure:
            raise OSError(failure, "the server cannot have an epoll set")

    def start(self):
        """Start the workers. OSError if a thread cannot be had; `stop` ends those that were."""
        cdef int failure
        with nogil:
            failure = start_workers(self.table)
        if failure:
            raise OSError(failure, "the server cannot start its workers")

    def listen(self, int fd):
        """Accept from a listening socket that does not block."""
        cdef Listener *listener = <Listener *>calloc(1, sizeof(Listener))
        if listener == NULL:
            raise MemoryError
        listener.kind, listener.fd = WATCH_LISTENER, fd
        lock(self.table)
        listener.next, self.table.listeners = self.table.listeners, listener
        watch(self.table, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT, listener)
        unlock(self.table)

    def adopt(self, int fd):
        """Serve whoever is at the other end of a connected socket; it is closed at once where there is no room."""
        with nogil:
            begin_connection(self.table, fd)

    def tell_vacant(self, int fd, bint after_any):
        """Add 1 to an eventfd, which stays the caller's, whenever the last connection has ended.

        Only once a client got past its handshake, unless `after_any`: who just looks does not count.
        """
        lock(self.table)
        self.table.vacant, self.table.visited = fd, after_any
        unlock(self.table)

    def add(self, str name, int fd, uint64_t size, bint read_only=False, str description="", filters=()):
        """Serve the first `size` bytes of `fd` (-1: as many zeroes) as `name`, behind `filters`; the export's facts.

        TableError: export_exists, too_small, uneven_size, not_a_disk, bad_name, stopping.
        """
        cdef bytes key = _key(name), text = _key(description)
        cdef const char *told = text
        cdef const uint8_t *key_bytes = key
        cdef Store store
        cdef Row row
        cdef Refusal refusal
        _open(&store, fd, size)
        cdef Export *export = export_new(key_bytes, <uint32_t>len(key), told if text else NULL, &store, read_only)
        if export == NULL:
            raise MemoryError
        try:
            export.filters = _filters_of(filters)
        except BaseException:
            export_free(export)
            raise
        export.filter_count, export.filtered = <uint32_t>len(filters), export.filters != NULL
        with nogil:
            refusal = table_add(self.table, export, &row)
        if refusal != DONE:
            export_free(export)
            _refuse(refusal)
        return _facts_of(name, &row)

    def retarget(self, str name, int fd, uint64_t size, bint same_content=False):
        """Send new requests to `fd`; the facts after it. Returns when the old descriptor is synced and closed.

        Unless it is the `same_content`, everything has changed since each of the export's points.

        TableError: unknown_export, size_differs, block_differs, export_busy, too_small, uneven_size, not_a_disk,
        stopping.
        """
        cdef bytes key = _key(name)
        cdef const uint8_t *key_bytes = key
        cdef uint32_t length = <uint32_t>len(key)
        cdef Store store
        cdef Row row
        cdef Refusal refusal
        _open(&store, fd, size)
        with nogil:
            refusal = table_retarget(self.table, key_bytes, length, &store, same_content, &row)
        if refusal != DONE:
            _refuse(refusal)
        return _facts_of(name, &row)

    def remove(self, str name):
        """End an export and its clients; its last facts. Returns when its descriptor is synced and closed.

        TableError: unknown_export, export_busy, stopping.
        """
        cdef bytes key = _key(name)
        cdef const uint8_t *key_bytes = key
        cdef uint32_t length = <uint32_t>len(key)
        cdef Row row
        cdef Refusal refusal
        with nogil:
            refusal = table_remove(self.table, key_bytes, length, &row)
        if refusal != DONE:
            _refuse(refusal)
        return _facts_of(name, &row)

    def set_filters(self, str name, filters):
        """Put other filters before an export, at once; its facts. TableError: unknown_export, export_busy, stopping."""
        cdef bytes key = _key(name)
        cdef const uint8_t *key_bytes = key
        cdef uint32_t length = <uint32_t>len(key), count = <uint32_t>len(filters)
        cdef Filter *rows = _filters_of(filters)
        cdef Row row
        cdef Refusal refusal
        with nogil:
            refusal = table_set_filters(self.table, key_bytes, length, rows, count, &row)
        if refusal != DONE:
            free(rows)
            _refuse(refusal)
        return _facts_of(name, &row)

    def track(self, str name, list layers, int fd, bint closed):
        """Track the changes of an export from now on; `layers` are pairs of a context's name and the bits behind it.

        `fd` (-1: none) is the file they were read from; `closed`: as it says. TableError: unknown_export, export_busy,
        point_exists, stopping.
        """
        _begin_tracking(self.table, _key(name), _size_of(self.list(), name), layers, fd, closed)

    def point(self, str name, str added=None, str dropped=None, int fd=-1):
        """Add a point (its context's name in full), drop one, or do neither, with no request in hand.

        `fd` is a new file for the layers that says open. TableError: unknown_export, export_busy, point_exists,
        unknown_point, too_many_points, tracking_failed, stopping.
        """
        _change_points(self.table, _key(name), _size_of(self.list(), name), _key(added or ""), _key(dropped or ""), fd)

    def list(self):
        """The facts of every export, in the order they were added."""
        cdef Export *export
        cdef Row row
        cdef list rows = []
        lock(self.table)
        export = self.table.exports
        while export != NULL:
            export_row(export, &row)
            rows.append(_facts_of((<const char *>export.name)[:export.name_length].decode(), &row))
            export = export.next
        unlock(self.table)
        return rows

    @property
    def connections(self):
        """Connections at present, in the handshake or past it."""
        return peek_32(&self.table.connection_count)

    @property
    def refused(self):
        """Connections turned away because there were too many, in all or of one client."""
        return peek_32(&self.table.refused)

    @property
    def tls_counts(self):
        """Since the start: sessions of TLS that entered an export, those that the kernel encrypts, failures."""
        return self.table.tls_sessions, self.table.tls_in_kernel, self.table.tls_failures

    def stop(self):
        """End every connection (a client that does not read for 2 s is hung up on), sync and close every export.

        Returns 0, or the errno of a sync that failed. The listening sockets are closed. Later calls are refused.
        """
        cdef int failed
        if self.stopped:
            return 0
        self.stopped = True
        with nogil:
            failed = table_stop(self.table)
            stop_workers(self.table)
            stop_pool(self.table)
            table_end(self.table)
        return failed

    def __dealloc__(self):
        if self.table == NULL:
            return
        if not self.stopped:
            with nogil:
                table_stop(self.table)
                stop_workers(self.table)
                stop_pool(self.table)
                table_end(self.table)
        free(self.table.workers)
        free(self.table)


cdef bytes _key(str text):
    """An export's name or description as UTF-8; TableError bad_name where the protocol has no way to say it."""
    cdef bytes key
    try:
        key = text.encode()
    except UnicodeEncodeError:
        raise TableError("bad_name", "the name is not valid UTF-8") from None
    if len(key) > MAXIMUM_STRING or b"\0" in key:
        raise TableError("bad_name", "a name has at most 4096 bytes and no NUL")
    return key
