# File to file: the kernel copies, sharing blocks where the file system can; holes stay holes.

cdef int copy_in_kernel(CopyState *c) noexcept nogil:
    """All work between two files by copy_file_range; 0, 1 where the loop has to go on, -1 failed."""
    cdef off_t at, to
    cdef uint64_t left
    cdef ssize_t n
    while c.work_next < c.work_count:
        if c.rate:
            return 1                # a limit was set meanwhile: the loop keeps it
        if c.cancel:
            return fail_copy(c, NO_SIDE, COPY_CANCELLED, 0, c.done, b"cancelled")
        if c.work[c.work_next].kind == WORK_ZERO:
            if begin_piece(c) < 0:
                return -1
            continue
        at = to = <off_t>(c.work[c.work_next].offset + c.work_done)
        left = c.work[c.work_next].length - c.work_done
        n = copy_file_range(c.source.fd, &at, c.destination.fd, &to, min(left, ZERO_MOST), 0)
        if n == 0:
            return fail_copy(c, SOURCE, COPY_SHORT, 0, <uint64_t>at, b"the file ends before its size")
        if n < 0:
            if errno == EINTR:
                continue
            if errno in (EXDEV, EINVAL, ENOSYS, EOPNOTSUPP, EBADF, ETXTBSY):
                return 1
            return fail_copy(c, DESTINATION, COPY_ERRNO, errno, <uint64_t>at, b"write")
        c.bytes_read += <size_t>n
        c.bytes_sent += <size_t>n
        c.done += <size_t>n
        c.work_done += <size_t>n
        if c.work_done == c.work[c.work_next].length:
            c.work_next += 1
            c.work_done = 0
    return 0
