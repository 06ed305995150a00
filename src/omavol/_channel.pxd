"""A connected socket that never blocks: plain today; TLS takes its seat here, and nowhere else."""
from libc.stdint cimport uint8_t, uint64_t

cdef struct Channel:
    int fd
    int error               # errno of what failed, when a call returned one of the codes below
    # A TLS session gets its pointer here; every call below then asks it first.

# What a call says when it moved nothing. More than 0 is bytes moved.
cdef enum:
    CHANNEL_AGAIN = 0       # wait, for what channel_wait offers
    CHANNEL_CLOSED = -1     # the peer has closed its side
    CHANNEL_BROKEN = -2     # the socket failed
    CHANNEL_SHORT = -3      # sendfile: the file ends here
    CHANNEL_UNREADABLE = -4  # sendfile: the file failed, the socket did not

cdef enum:
    WAIT_READ = 1
    WAIT_WRITE = 4

cdef void channel_begin(Channel *channel, int fd) noexcept nogil
cdef void channel_close(Channel *channel) noexcept nogil
cdef ssize_t channel_receive(Channel *channel, uint8_t *into, size_t room) noexcept nogil
cdef ssize_t channel_send(Channel *channel, const uint8_t *data, size_t length, bint more) noexcept nogil
cdef ssize_t channel_send_file(Channel *channel, int file, uint64_t offset, size_t length) noexcept nogil
cdef ssize_t channel_splice(Channel *channel, int pipe, size_t length) noexcept nogil
cdef int channel_wait(Channel *channel, int directions, int milliseconds) noexcept nogil
