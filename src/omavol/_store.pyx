"""Reads and writes what is served: a regular file, a block device, or null.

Holes are told by SEEK_DATA and SEEK_HOLE when asked, never by FIEMAP, and never kept. Of data the last extent is kept
until something changes through the same store (NBD.md D3): calling it data stays true whoever punches it. Nothing is
mapped (a file that is cut short would be SIGBUS, D4). TRIM and WRITE_ZEROES punch holes; a WRITE_ZEROES that must
provision keeps or allocates the blocks. What fallocate(2) cannot do here is written out as zeroes.

Whether data is at hand is probed when a store is opened: a byte is read with RWF_NOWAIT (preadv2(2)). Where that works
(ext4, xfs, block devices) it tells for each read; where it is not supported, files on tmpfs, ramfs and hugetlbfs are
memory and always at hand, and everything else (FUSE, NFS, overlays of those) never is. A descriptor opened with
O_DIRECT goes past the page cache: never at hand, and in whole blocks alone. Edges of blocks are not read, changed and
written back for clients who want less: two clients, or two requests of one, would undo each other's writes. The
block is told to clients as the minimum instead, and who ignores it gets EINVAL (NBD.md X17, X18).
"""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, ENODEV, ENOSYS, ENXIO, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset
from posix.types cimport off_t

from omavol._wire cimport STATE_HOLE, STATE_ZERO

include "store/system.pxi"

cdef enum:
    ZEROES_AT_ONCE = 65536
    LOOK_EVERY = 131072     # bytes between two looks into the page cache: it reads ahead in pieces of that,
    LOOKS = 8               # but so many looks at most
    DIRECT_BLOCK = 4096     # where the kernel does not tell what direct I/O asks for: enough for every disk there is


cdef int store_open(Store *store, int fd, uint64_t size) noexcept nogil:
    """Take over `fd` (-1: null) to serve its first `size` bytes; the descriptor is the store's only on success.

    EINVAL: neither a regular file nor a block device. STORE_SHORT: it has less than `size` bytes. STORE_UNEVEN: `size`
    is no multiple of the blocks that O_DIRECT asks for.
    """
    cdef stat_result facts
    cdef off_t end
    memset(store, 0, sizeof(Store))
    store.fd, store.size, store.block = fd, size, 1
    if fd < 0:
        store.kind, store.fast_zero = STORE_NULL, True
        return 0
    if fstat(fd, &facts) < 0:
        return errno
    if S_ISREG(facts.st_mode):
        store.kind, end = STORE_FILE, facts.st_size
    elif S_ISBLK(facts.st_mode):
        store.kind, end = STORE_BLOCK, lseek(fd, 0, SEEK_END)
    else:
        return EINVAL
    if end < 0:
        return errno
    store.fast_zero = file_zeroes_fast(fd, end) if store.kind == STORE_FILE else device_zeroes_fast(facts.st_rdev)
    if <uint64_t>end < size:
        return STORE_SHORT
    if fcntl(fd, F_GETFL) & O_DIRECT:
        store.hand, store.block = STORE_AWAY, direct_block(store)
        return STORE_UNEVEN if size % store.block else 0
    store.hand = probe(fd)
    return 0


cdef uint32_t direct_block(const Store *store) noexcept nogil:
    """What offsets and lengths of direct I/O must be multiples of here."""
    cdef unsigned int block = 0
    if store.kind == STORE_FILE:
        block = oma_direct_block(store.fd)
    elif ioctl(store.fd, BLKSSZGET, &block) < 0:
        block = 0
    return block if 0 < block <= 65536 and block & (block - 1) == 0 else DIRECT_BLOCK


cdef StoreHand probe(int fd) noexcept nogil:
    """Whether a file's data is at hand always, sometimes or never."""
    cdef uint8_t byte
    cdef iovec into
    cdef statfs_result facts
    into.iov_base, into.iov_len = &byte, 1
    if preadv2(fd, &into, 1, 0, RWF_NOWAIT) >= 0 or errno == EAGAIN:
        return STORE_PROBED
    if fstatfs(fd, &facts) < 0:
        return STORE_AWAY
    return STORE_AT_HAND if facts.f_type in (TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC) else STORE_AWAY


cdef bint file_zeroes_fast(int fd, off_t end) noexcept nogil:
    """Whether the file system punches holes: asked by a hole behind the end of the file, which changes nothing."""
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, ZEROES_AT_ONCE) == 0


cdef bint device_zeroes_fast(unsigned long device) noexcept nogil:
    """Whether a block device (or the disk it is a partition of) has a command that zeroes, as the kernel says.

    It is not tried: fallocate(2) on a device drops what the page cache holds of the range before it finds out.
    """
    cdef char[128] path
    cdef char[32] most
    cdef const char *form
    cdef ssize_t n = -1
    cdef int fd, attempt
    for attempt in range(2):
        form = b"/sys/dev/block/%u:%u/%squeue/write_zeroes_max_bytes"
        snprintf(path, sizeof(path), form, major(device), minor(device), b"../" if attempt else b"")
        fd = open(path, O_RDONLY | O_CLOEXEC)
        if fd >= 0:
            n = pread(fd, most, sizeof(most), 0)
            close(fd)
            break
    return n > 0 and most[0] != c'0'


cdef int store_close(Store *store) noexcept nogil:
    """Close the descriptor; an error that close tells late (NFS) counts as a failed sync."""
    cdef int fd = store.fd
    store.fd = -1
    if fd >= 0 and close(fd) < 0 and errno != EINTR:
        return errno
    return 0


cdef int store_read(Store *store, uint8_t *into, size_t length, uint64_t offset) noexcept nogil:
    """Fill `into`; on an error its content is unspecified."""
    cdef ssize_t n
    if store.kind == STORE_NULL:
        memset(into, 0, length)
        return 0
    while length:
        n = pread(store.fd, into, length, <off_t>offset)
        if n > 0:
            into += n
            length -= <size_t>n
            offset += <uint64_t>n
        elif n == 0:
            return STORE_SHORT
        elif errno != EINTR:
            return errno
    return 0


cdef int store_read_pipe(Store *store, int pipe, size_t length, uint64_t offset) noexcept nogil:
    """Fill an empty pipe with `length` bytes, none of which is copied (splice(2)); on an error some may stand in it."""
    cdef off_t at = <off_t>offset
    cdef ssize_t n
    if store.kind == STORE_NULL:
        return STORE_NO_PIPE
    while length:
        n = splice(store.fd, &at, pipe, NULL, length, SPLICE_F_NONBLOCK)
        if n > 0:
            length -= <size_t>n
        elif n == 0:
            return STORE_SHORT
        elif errno == EINVAL:
            store.no_pipe = True        # or only this range is no good: reading it tells
            return STORE_NO_PIPE
        elif errno == EAGAIN:
            return STORE_NO_PIPE        # more pages than the pipe has places for
        elif errno != EINTR:
            return errno
    return 0


cdef int store_read_now(Store *store, uint8_t *into, size_t length, uint64_t offset) noexcept nogil:
    """Fill `into` if that needs no disk; STORE_WAITS if it does, of a part too."""
    cdef iovec wanted
    cdef ssize_t n
    if store.hand != STORE_PROBED:
        return store_read(store, into, length, offset)
    wanted.iov_base, wanted.iov_len = into, length
    n = preadv2(store.fd, &wanted, 1, <off_t>offset, RWF_NOWAIT)
    return 0 if n == <ssize_t>length else STORE_WAITS      # what is wrong with it, a read that may wait will tell


cdef bint store_cached(const Store *store, uint64_t offset, uint64_t length) noexcept nogil:
    """Whether a range seems to be in the page cache, asked at its ends and at some places between (one byte each)."""
    cdef uint8_t byte
    cdef iovec into
    cdef uint64_t step = length // LOOKS if length > LOOKS * LOOK_EVERY else LOOK_EVERY
    cdef uint64_t at = offset, last = offset + length - 1
    into.iov_base, into.iov_len = &byte, 1
    while at < last:
        if preadv2(store.fd, &into, 1, <off_t>at, RWF_NOWAIT) < 0:
            return False
        at += step
    return preadv2(store.fd, &into, 1, <off_t>last, RWF_NOWAIT) >= 0    # 0: a file cut short, which needs no disk


cdef int store_write(Store *store, const uint8_t *data, size_t length, uint64_t offset) noexcept nogil:
    """Write all of `data`; on an error some of it may have been written."""
    cdef ssize_t n
    cdef int error = 0
    if store.kind == STORE_NULL:
        return 0
    while length and not error:
        n = pwrite(store.fd, data, length, <off_t>offset)
        if n > 0:
            data += n
            length -= <size_t>n
            offset += <uint64_t>n
        elif n == 0:
            error = EIO
        elif errno != EINTR:
            error = errno
    oma_grow(&store.changes)
    return error


cdef int store_write_pipe(Store *store, int pipe, size_t *length, uint64_t offset) noexcept nogil:
    """Write `length` bytes that stand in a pipe: one copy, none into memory of ours; `length` is what is left there.

    EINVAL: this file system does not take from a pipe.
    """
    cdef off_t at = <off_t>offset
    cdef ssize_t n
    cdef int error = 0
    while length[0] and not error:
        n = splice(pipe, NULL, store.fd, &at, length[0], SPLICE_F_MOVE)
        if n > 0:
            length[0] -= <size_t>n
        elif n == 0:
            error = EIO
        elif errno != EINTR:
            error = errno
    oma_grow(&store.changes)
    return error


cdef inline bint unsupported(int error, bint *for_good) noexcept nogil:
    """Whether fallocate cannot do it; EINVAL is about this range alone (a block device wants whole sectors)."""
    if error == EOPNOTSUPP or error == ENOSYS or error == ENODEV:
        for_good[0] = True
        return True
    return error == EINVAL


cdef int allocate(Store *store, int mode, uint64_t offset, uint64_t length) noexcept nogil:
    cdef int error = 0
    while fallocate(store.fd, mode, <off_t>offset, <off_t>length) < 0:
        if errno != EINTR:
            error = errno
            break
    oma_grow(&store.changes)
    return error


cdef int store_trim(Store *store, uint64_t offset, uint64_t length) noexcept nogil:
    """Give the blocks back if that is possible: TRIM is a hint, so "cannot" is success."""
    cdef int error
    if store.kind == STORE_NULL:
        return 0
    if not store.no_punch:
        error = allocate(store, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
        if not unsupported(error, &store.no_punch):
            return error
    if store.kind == STORE_BLOCK:
        discard_blocks(store, offset, length)
    return 0


cdef void discard_blocks(Store *store, uint64_t offset, uint64_t length) noexcept nogil:
    """Tell a disk that cannot zero what it gives up (BLKDISCARD): what of the range are whole sectors of any size."""
    cdef uint64_t end = (offset + length) & ~<uint64_t>(DIRECT_BLOCK - 1)
    cdef uint64_t[2] range
    range[0] = (offset + DIRECT_BLOCK - 1) & ~<uint64_t>(DIRECT_BLOCK - 1)
    if range[0] < end:
        range[1] = end - range[0]
        ioctl(store.fd, BLKDISCARD, range)
        oma_grow(&store.changes)


cdef int store_zero(Store *store, uint64_t offset, uint64_t length, bint provision) noexcept nogil:
    """Make the range read as zeroes; with `provision` (NO_HOLE) its blocks stay or become allocated."""
    cdef int error
    if store.kind == STORE_NULL:
        return 0
    if not provision and not store.no_punch:
        error = allocate(store, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
        if not unsupported(error, &store.no_punch):
            return error
    if not store.no_zero_range:
        error = allocate(store, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)
        if not unsupported(error, &store.no_zero_range):
            return error
    return write_zeroes(store, offset, length)


cdef int store_zero_fast(Store *store, uint64_t offset, uint64_t length, bint provision) noexcept nogil:
    """store_zero where it takes no writing of zeroes; STORE_SLOW, and the data as it was, where it does (X40, X43).

    A device's ZERO_RANGE writes where it has no better way, and its punched blocks are not provisioned: with
    `provision` it is never called fast.
    """
    cdef int error
    if store.kind == STORE_NULL:
        return 0
    if not store.fast_zero or provision and store.kind == STORE_BLOCK:
        return STORE_SLOW
    if not provision and not store.no_punch:
        error = allocate(store, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
        if not unsupported(error, &store.no_punch):
            return error
    if store.kind == STORE_FILE and not store.no_zero_range:
        error = allocate(store, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)
        if not unsupported(error, &store.no_zero_range):
            return error
    return STORE_SLOW


cdef int write_zeroes(Store *store, uint64_t offset, uint64_t length) noexcept nogil:
    cdef size_t piece
    cdef int error
    while length:
        piece = ZEROES_AT_ONCE if length > ZEROES_AT_ONCE else <size_t>length
        error = store_write(store, zeroes, piece, offset)
        if error:
            return error
        offset += piece
        length -= piece
    return 0


cdef int store_cache(Store *store, uint64_t offset, uint64_t length) noexcept nogil:
    """Begin to read the range into the page cache (posix_fadvise(2)); the answer does not wait for the disk."""
    if store.fd < 0:
        return 0
    return posix_fadvise(store.fd, <off_t>offset, <off_t>length, POSIX_FADV_WILLNEED)


cdef uint32_t store_extent(Store *store, uint64_t offset, uint64_t limit, uint64_t *length) noexcept nogil:
    """The base:allocation state of the extent that begins at `offset`, and its length, cut at `limit`.

    Where the file system cannot tell, everything is data: that is always true.
    """
    cdef off_t end
    cdef int changes = oma_look(&store.changes)
    length[0] = limit - offset
    if store.kind == STORE_NULL:
        return STATE_HOLE | STATE_ZERO
    if store.kind == STORE_BLOCK or known_data(store, offset, limit, length):
        return 0
    end = lseek(store.fd, <off_t>offset, SEEK_DATA)
    if end < 0:
        return STATE_HOLE | STATE_ZERO if errno == ENXIO else 0
    if <uint64_t>end > offset:
        if <uint64_t>end < limit:
            length[0] = <uint64_t>end - offset
        return STATE_HOLE | STATE_ZERO
    end = lseek(store.fd, <off_t>offset, SEEK_HOLE)
    if end > 0 and <uint64_t>end > offset:
        keep_data(store, changes, offset, <uint64_t>end)
        if <uint64_t>end < limit:
            length[0] = <uint64_t>end - offset
    return 0


cdef bint known_data(Store *store, uint64_t offset, uint64_t limit, uint64_t *length) noexcept nogil:
    """Whether `offset` lies in the data extent found last and nothing has changed since; who cannot look asks anew."""
    cdef bint known = False
    if oma_take(&store.data_busy):
        known = store.data_start <= offset < store.data_end and store.data_changes == oma_look(&store.changes)
        if known and store.data_end < limit:
            length[0] = store.data_end - offset
        oma_give(&store.data_busy)
    return known


cdef void keep_data(Store *store, int changes, uint64_t start, uint64_t end) noexcept nogil:
    if oma_take(&store.data_busy):
        store.data_start, store.data_end, store.data_changes = start, end, changes
        oma_give(&store.data_busy)


include "store/sync.pxi"
