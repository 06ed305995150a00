"""What is served: a regular file, a block device, or nothing at all. All calls may block on the disk beneath."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

cdef extern from * nogil:
    """
    #define oma_failed(store) __atomic_load_n(&(store)->failed, __ATOMIC_ACQUIRE)
    #define oma_fail(store, error) __atomic_store_n(&(store)->failed, error, __ATOMIC_RELEASE)
    """
    int store_failed "oma_failed"(const Store *store)
    void store_fail "oma_fail"(Store *store, int error)

cdef enum StoreKind:
    STORE_FILE
    STORE_BLOCK
    STORE_NULL              # reads as zeroes, drops what is written; no descriptor

cdef enum StoreHand:        # whether what is asked for is at hand; probed when the store is opened
    STORE_AT_HAND           # always: it is memory (tmpfs, null)
    STORE_PROBED            # if the page cache has it, and preadv2 with RWF_NOWAIT tells (ext4, xfs, block devices)
    STORE_AWAY              # never: O_DIRECT, or a file system that cannot tell (FUSE, NFS)

cdef struct Store:
    int fd                  # -1 for STORE_NULL
    StoreKind kind
    StoreHand hand
    uint32_t block          # bytes: offsets and lengths must be multiples of it; 1, or what O_DIRECT asks for here
    uint64_t size           # bytes served; never more than the file has when it is opened
    int failed              # by store_failed and store_fail: errno of the fsync that failed; later ones would lie
    pthread_mutex_t sync_lock           # zeroed, as PTHREAD_MUTEX_INITIALIZER and its sister are
    pthread_cond_t sync_ended
    uint64_t syncs_begun, syncs_done    # by sync_lock: they differ while one runs
    bint no_punch           # the disk beneath has said once that it cannot punch holes,
    bint no_zero_range      # or zero a range,
    bint no_pipe            # or fill a pipe
    bint fast_zero          # zeroing without writing zeroes is to be expected: FAST_ZERO is worth advertising (X40)
    int changes             # grows with every change through this store
    int data_busy           # a try-lock over the three below
    int data_changes        # `changes` when they were found
    uint64_t data_start, data_end   # an extent of data: SEEK_HOLE walks to its end page by page, on every question

# All return 0 or an errno. STORE_SHORT: the file ends before what was asked (it was cut after it was opened).
# STORE_SLOW: zeroing could only be done by writing zeroes, so nothing was done (X40, X43).
# STORE_WAITS: what was asked is not at hand. STORE_UNEVEN: the size is no multiple of the block.
# STORE_NO_PIPE: it has to be read into memory.
cdef enum:
    STORE_SHORT = 100000
    STORE_SLOW = 100001
    STORE_WAITS = 100002
    STORE_UNEVEN = 100003
    STORE_NO_PIPE = 100004

cdef int store_open(Store *store, int fd, uint64_t size) noexcept nogil
cdef int store_close(Store *store) noexcept nogil
cdef int store_read(Store *store, uint8_t *into, size_t length, uint64_t offset) noexcept nogil
cdef int store_read_now(Store *store, uint8_t *into, size_t length, uint64_t offset) noexcept nogil
cdef int store_read_pipe(Store *store, int pipe, size_t length, uint64_t offset) noexcept nogil
cdef bint store_cached(const Store *store, uint64_t offset, uint64_t length) noexcept nogil
cdef int store_write(Store *store, const uint8_t *data, size_t length, uint64_t offset) noexcept nogil
cdef int store_write_pipe(Store *store, int pipe, size_t *length, uint64_t offset) noexcept nogil
cdef int store_sync(Store *store) noexcept nogil
cdef int store_trim(Store *store, uint64_t offset, uint64_t length) noexcept nogil
cdef int store_zero(Store *store, uint64_t offset, uint64_t length, bint provision) noexcept nogil
cdef int store_zero_fast(Store *store, uint64_t offset, uint64_t length, bint provision) noexcept nogil
cdef int store_cache(Store *store, uint64_t offset, uint64_t length) noexcept nogil
cdef uint32_t store_extent(Store *store, uint64_t offset, uint64_t limit, uint64_t *length) noexcept nogil
