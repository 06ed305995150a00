"""Moves bytes over a connected socket without ever blocking: receive, send, sendfile, and the wait for both ways.

Who sends also reads, or two peers that both send wait for each other for ever (NBD.md D5): so nothing here waits but
channel_wait, and that takes both directions. Small things are gathered by the caller into one buffer, and a header
that a file range follows is sent with `more`, so that it does not leave in a packet of its own.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, ENOTCONN, EPIPE, ETIMEDOUT, errno
from libc.stdint cimport uint8_t, uint64_t
from posix.types cimport off_t

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN
        POLLOUT
    int poll(pollfd *fds, unsigned long count, int milliseconds)

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_GETFL
        F_SETFL
        O_NONBLOCK
        SPLICE_F_MOVE
        SPLICE_F_NONBLOCK
    int fcntl(int fd, int command, ...)
    ssize_t splice(int source, off_t *source_at, int into, off_t *into_at, size_t length, unsigned int flags)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_KEEPIDLE
        TCP_KEEPINTVL
        TCP_NODELAY
        TCP_USER_TIMEOUT

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int out, int file, off_t *offset, size_t length)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
        AF_UNIX
        SOL_SOCKET
        SO_DOMAIN
        SO_KEEPALIVE
        SO_SNDBUF
    ctypedef unsigned int socklen_t
    ssize_t recv(int fd, void *into, size_t room, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t length)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    STALLED = 300000        # milliseconds that TCP keeps what nobody acknowledges (X59)
    SILENT = 60             # seconds until TCP asks a silent peer whether it lives,
    ASK_AGAIN = 15          # and between two questions
    IN_UNIX_SOCKET = 1048576    # bytes a unix socket may hold for us; the kernel caps it at net.core.wmem_max


cdef inline void set_option(int fd, int level, int option, int value) noexcept nogil:
    """A socket that refuses is served all the same."""
    setsockopt(fd, level, option, &value, sizeof(value))


cdef void channel_begin(Channel *channel, int fd) noexcept nogil:
    """Take over a connected socket. TCP sizes its buffers better than a fixed number would."""
    cdef int family = 0
    cdef socklen_t length = sizeof(family)
    channel.fd, channel.error = fd, 0
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length)
    if family == AF_UNIX:
        set_option(fd, SOL_SOCKET, SO_SNDBUF, IN_UNIX_SOCKET)
        return
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, STALLED)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, SILENT)
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, ASK_AGAIN)
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)


cdef void channel_close(Channel *channel) noexcept nogil:
    if channel.fd >= 0:
        close(channel.fd)
    channel.fd = -1


cdef ssize_t channel_receive(Channel *channel, uint8_t *into, size_t room) noexcept nogil:
    """Take what is there, at most `room` bytes."""
    cdef ssize_t n
    while True:
        n = recv(channel.fd, into, room, MSG_DONTWAIT)
        if n > 0:
            return n
        if n == 0:
            return CHANNEL_CLOSED
        if errno == EAGAIN:
            return CHANNEL_AGAIN
        if errno != EINTR:
            channel.error = errno
            return CHANNEL_BROKEN


cdef ssize_t channel_send(Channel *channel, const uint8_t *data, size_t length, bint more) noexcept nogil:
    """Send what the socket takes; `more` says that something follows at once."""
    cdef ssize_t n
    while True:
        n = send(channel.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if more else 0))
        if n >= 0:
            return n
        if errno == EAGAIN:
            return CHANNEL_AGAIN
        if errno != EINTR:
            channel.error = errno
            return CHANNEL_BROKEN


cdef ssize_t channel_send_file(Channel *channel, int file, uint64_t offset, size_t length) noexcept nogil:
    """Send a range of a file by reference (sendfile(2)); the bytes may change until the peer has them (D1).

    Which of the two ends failed is told by errno: what a socket can say is short, everything else is the file's.
    """
    cdef off_t at = <off_t>offset
    cdef ssize_t n
    while True:
        n = sendfile(channel.fd, file, &at, length)
        if n > 0:
            return n
        if n == 0:
            return CHANNEL_SHORT
        if errno == EAGAIN:
            return CHANNEL_AGAIN
        if errno != EINTR:
            channel.error = errno
            if errno == EPIPE or errno == ECONNRESET or errno == ENOTCONN or errno == ETIMEDOUT:
                return CHANNEL_BROKEN
            return CHANNEL_UNREADABLE


cdef ssize_t channel_splice(Channel *channel, int pipe, size_t length) noexcept nogil:
    """Take what is there, at most `length` bytes, into an empty pipe by reference (splice(2)): nothing is copied."""
    cdef ssize_t n
    while True:
        n = splice(channel.fd, NULL, pipe, NULL, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n > 0:
            return n
        if n == 0:
            return CHANNEL_CLOSED
        if errno == EAGAIN:
            return CHANNEL_AGAIN
        if errno != EINTR:
            channel.error = errno
            return CHANNEL_BROKEN


cdef int channel_wait(Channel *channel, int directions, int milliseconds) noexcept nogil:
    """Wait for any of `directions`; those that are ready (errors make all ready), or 0 when the time is over."""
    cdef pollfd wanted
    wanted.fd, wanted.events, wanted.revents = channel.fd, 0, 0
    if directions & WAIT_READ:
        wanted.events |= POLLIN
    if directions & WAIT_WRITE:
        wanted.events |= POLLOUT
    if poll(&wanted, 1, milliseconds) <= 0:     # EINTR too: the caller's loop comes back
        return 0
    if wanted.revents & ~(POLLIN | POLLOUT):
        return directions
    return (WAIT_READ if wanted.revents & POLLIN else 0) | (WAIT_WRITE if wanted.revents & POLLOUT else 0)
