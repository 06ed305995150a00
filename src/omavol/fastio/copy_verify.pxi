# A file or block device against digest records: read past the page cache, hash, say where they differ.

cdef enum:
    DIRECT_BLOCK = 4096         # alignment that every block device takes for O_DIRECT
    TMPFS_MAGIC = 0x01021994

cdef struct Verify:
    int fd
    bint direct, in_memory
    uint64_t size               # of the disk, as the digests say
    uint8_t *window
    uint64_t bytes_read
    CopyExtents differing
    CopyFault fault


cdef int verify_failed(Verify *v, int code, uint64_t offset, const char *text) noexcept nogil:
    v.fault.side, v.fault.kind, v.fault.code, v.fault.offset = DESTINATION, COPY_ERRNO, code, offset
    snprintf(v.fault.text, sizeof(v.fault.text), "%s", text)
    return -1


cdef ssize_t look_at(Verify *v, uint64_t offset, uint32_t length, uint8_t **data) noexcept nogil:
    """Read [offset, offset + length) into the window; bytes there (fewer at the file's end), or -1 with the fault."""
    cdef uint64_t start = offset & ~<uint64_t>(DIRECT_BLOCK - 1)
    cdef size_t lead = <size_t>(offset - start)
    cdef size_t want = (lead + length + DIRECT_BLOCK - 1) & ~<size_t>(DIRECT_BLOCK - 1)
    cdef size_t have = 0
    cdef ssize_t n
    data[0] = v.window + lead
    while have < lead + length:
        n = pread(v.fd, v.window + have, want - have, <off_t>(start + have))
        if n < 0 and errno == EINTR:
            continue
        if n < 0:
            return verify_failed(v, errno, offset, b"read")
        if n == 0:
            break
        have += <size_t>n
        if v.direct and have & (DIRECT_BLOCK - 1):
            break               # the end of the file: O_DIRECT cannot go on from an unaligned place
    v.bytes_read += have
    if have <= lead:
        return 0
    have -= lead
    return <ssize_t>(have if have < length else length)


cdef int verify_data(Verify *v, const DigestRecord *record) noexcept nogil:
    cdef uint8_t seen[16]
    cdef uint8_t *data
    cdef ssize_t n = look_at(v, record.offset, <uint32_t>record.length, &data)
    if n < 0:
        return -1
    if <uint64_t>n == record.length:
        digest_of(data, record.length, seen)
        if memcmp(seen, record.digest, 16) == 0:
            return 0
    return add_copy_extent(&v.differing, record.offset, record.length, 0)


cdef int verify_zero(Verify *v, const DigestRecord *record) noexcept nogil:
    """A zero run: holes are skipped (they read as zero), data is read and looked at."""
    cdef uint64_t at = record.offset, end = record.offset + record.length
    cdef uint8_t *data
    cdef uint32_t length
    cdef ssize_t n
    cdef off_t found
    while at < end:
        found = lseek(v.fd, <off_t>at, SEEK_DATA)
        if found < 0 and errno == ENXIO:
            found = <off_t>end
        if found > <off_t>at:
            at = <uint64_t>found
            continue
        length = <uint32_t>min(end - at, DIGEST_PIECE - (at & (DIGEST_PIECE - 1)))
        n = look_at(v, at, length, &data)
        if n < 0:
            return -1
        if <uint32_t>n < length or not reads_as_zero(data, length):
            if add_copy_extent(&v.differing, at, length, 0) < 0:
                return -1
        at += length
    return 0


cdef int verify_all(Verify *v, const DigestRecord *records, size_t count) noexcept nogil:
    """Compare every record; 0 (the differing ranges may be many), or -1 with the fault set."""
    cdef size_t i
    cdef off_t end = lseek(v.fd, 0, SEEK_END)
    if end >= 0 and <uint64_t>end < v.size:
        if add_copy_extent(&v.differing, <uint64_t>end, v.size - <uint64_t>end, 0) < 0:
            return verify_failed(v, ENOMEM, 0, b"no memory for differences")
    for i in range(count):
        if (verify_zero(v, &records[i]) if records[i].flags & RECORD_ZERO else verify_data(v, &records[i])) < 0:
            if v.fault.kind == COPY_WELL:
                verify_failed(v, ENOMEM, records[i].offset, b"no memory for differences")
            return -1
    return 0


cdef int open_past_cache(Verify *v, int fd) noexcept nogil:
    """Open the file anew for reading what its storage holds: fsync, then O_DIRECT, or the page cache dropped."""
    cdef char name[64]
    cdef file_system_facts file_system
    cdef uint8_t *probe = NULL
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd)
    if fsync(fd) < 0 and errno != EROFS and errno != EINVAL:
        return verify_failed(v, errno, 0, b"flush")
    v.in_memory = fstatfs(fd, &file_system) == 0 and file_system.f_type == TMPFS_MAGIC
    v.fd = open(name, O_RDONLY | O_CLOEXEC | O_DIRECT)
    v.direct = v.fd >= 0
    if v.direct and pread(v.fd, v.window, DIRECT_BLOCK, 0) < 0 and errno == EINVAL:
        close(v.fd)             # the file system takes the flag, its device wants larger blocks
        v.direct = False
    if v.direct:
        return 0
    v.fd = open(name, O_RDONLY | O_CLOEXEC)
    if v.fd < 0:
        return verify_failed(v, errno, 0, b"open")
    posix_fadvise(v.fd, 0, 0, POSIX_FADV_DONTNEED)
    posix_fadvise(v.fd, 0, 0, POSIX_FADV_SEQUENTIAL)
    return 0


def verify_records(int fd, const unsigned char[::1] records, uint64_t size):
    """Compare a file with packed digest records: ([(offset, length)], way, bytes read, None) or (…, fault).

    `way` is how it was read: "direct" past the page cache, "dropped" after the page cache was told to let go, "memory"
    on a file system that has nothing but memory. `size` is the disk's: a shorter file differs from its end on.
    """
    cdef Verify v
    cdef int outcome
    cdef void *window = NULL
    cdef size_t count = <size_t>records.shape[0] // sizeof(DigestRecord), i
    cdef const DigestRecord *first = <const DigestRecord *>&records[0] if count else NULL
    memset(&v, 0, sizeof(v))
    v.fd, v.size = -1, size
    if posix_memalign(&window, DIRECT_BLOCK, DIGEST_PIECE + 2 * DIRECT_BLOCK):
        raise MemoryError
    v.window = <uint8_t *>window
    with nogil:
        outcome = open_past_cache(&v, fd)
        if outcome == 0:
            outcome = verify_all(&v, first, count)
        if v.fd >= 0:
            close(v.fd)
        free(window)
    way = "memory" if v.in_memory else "direct" if v.direct else "dropped"
    differing = [(v.differing.items[i].offset, v.differing.items[i].length) for i in range(v.differing.count)]
    free(v.differing.items)
    return differing, way, v.bytes_read, fault_as_tuple(&v.fault)


def check_records(const unsigned char[::1] records, uint64_t size):
    """The number of the first record that is not possible for a disk of `size` bytes, or -1 if all are."""
    cdef size_t count = <size_t>records.shape[0] // sizeof(DigestRecord), i
    cdef const DigestRecord *first = <const DigestRecord *>&records[0] if count else NULL
    cdef const DigestRecord *record
    cdef uint64_t end = 0
    for i in range(count):
        record = &first[i]
        if record.offset < end or record.length == 0 or record.length > size or record.offset > size - record.length:
            return i
        if record.flags > RECORD_ZERO or record.unused:
            return i
        if not record.flags and record.offset // DIGEST_PIECE != (record.offset + record.length - 1) // DIGEST_PIECE:
            return i
        end = record.offset + record.length
    return -1


def digest(const unsigned char[::1] data, bint plain=False):
    """The digest of `data` as a record has it; `plain`: by what every x86-64 has, which gives the same."""
    cdef uint8_t out[16]
    cdef size_t length = <size_t>data.shape[0]
    cdef const uint8_t *first = <const uint8_t *>&data[0] if length else NULL
    with nogil:
        if plain:
            digest_by_sse2(first, length, out)
        else:
            digest_of(first, length, out)
    return PyBytes_FromStringAndSize(<const char *>out, sizeof(out))
