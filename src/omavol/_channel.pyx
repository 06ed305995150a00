"""Moves bytes over a connected socket without ever blocking: receive, send, sendfile, and the wait for both ways.

Who sends also reads, or two peers that both send wait for each other for ever (NBD.md D5): so nothing here waits but
channel_wait, and that takes both directions. Small things are gathered by the caller into one buffer, and a header
that a file range follows is sent with `more`, so that it does not leave in a packet of its own.

A channel with a TLS session (channel/session.pxi) gives the same answers to the same calls; what differs is that sent
bytes may still be in its buffer (channel_flush, channel_unsent), that bytes may be here which the socket does not tell
of (channel_buffered, channel_wait), and that nothing can be taken by reference: channel_splice is a caller's mistake.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EINVAL, ENOMEM, ENOTCONN, EPIPE, EPROTO, ETIMEDOUT, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport FILE, fclose, fgets, fopen, snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset, strcpy, strdup, strlen, strncmp
from posix.types cimport off_t

import os

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
        SPLICE_F_MORE
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
        TCP_ULP
        TCP_USER_TIMEOUT

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int out, int file, off_t *offset, size_t length)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
        AF_UNIX
        SHUT_WR
        SOL_SOCKET
        SO_DOMAIN
        SO_KEEPALIVE
        SO_SNDBUF
    ctypedef unsigned int socklen_t
    ssize_t recv(int fd, void *into, size_t room, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
    int shutdown(int fd, int how)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t pread(int fd, void *into, size_t length, off_t offset)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)

cdef extern from "<sys/stat.h>" nogil:
    struct file_stat "stat":
        uint64_t st_ino
        off_t st_size
        timespec st_mtim
    int file_status "stat"(const char *path, file_stat *facts)

cdef enum:
    STALLED = 300000        # milliseconds that TCP keeps what nobody acknowledges (X59)
    SILENT = 60             # seconds until TCP asks a silent peer whether it lives,
    ASK_AGAIN = 15          # and between two questions
    IN_UNIX_SOCKET = 1048576    # bytes a unix socket may hold for us; the kernel caps it at net.core.wmem_max

include "channel/openssl.pxi"
include "channel/session.pxi"
include "channel/context.pxi"
include "channel/near.pxi"


cdef inline void set_option(int fd, int level, int option, int value) noexcept nogil:
    """A socket that refuses is served all the same."""
    setsockopt(fd, level, option, &value, sizeof(value))


cdef void channel_begin(Channel *channel, int fd) noexcept nogil:
    """Take over a connected socket. TCP sizes its buffers better than a fixed number would."""
    cdef int family = 0
    cdef socklen_t length = sizeof(family)
    channel.fd, channel.error, channel.tls, channel.near = fd, 0, NULL, False
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length)
    if family == AF_UNIX:
        set_option(fd, SOL_SOCKET, SO_SNDBUF, IN_UNIX_SOCKET)
        return
    channel.near = channel_near(fd)
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, STALLED)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, SILENT)
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, ASK_AGAIN)
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)


cdef void channel_close(Channel *channel) noexcept nogil:
    if channel.tls != NULL:
        tls_end(channel.tls)
        channel.tls = NULL
    if channel.fd >= 0:
        close(channel.fd)
    channel.fd = -1


cdef inline ssize_t nothing_moved(Channel *channel) noexcept nogil:
    """What a system call on the socket came to that moved nothing and was not interrupted; errno stays as it is."""
    if errno == EAGAIN:
        return CHANNEL_AGAIN
    channel.error = errno
    return CHANNEL_BROKEN


cdef ssize_t channel_receive(Channel *channel, uint8_t *into, size_t room) noexcept nogil:
    """Take what is there, at most `room` bytes."""
    cdef ssize_t n
    if channel.tls != NULL:
        return tls_receive(channel, into, room)
    while True:
        n = recv(channel.fd, into, room, MSG_DONTWAIT)
        if n > 0:
            return n
        if n == 0:
            return CHANNEL_CLOSED
        if errno != EINTR:
            return nothing_moved(channel)


cdef ssize_t channel_send(Channel *channel, const uint8_t *data, size_t length, bint more) noexcept nogil:
    """Send what the socket takes; `more` says that something follows at once."""
    cdef ssize_t n
    if channel.tls != NULL and not channel.tls.in_kernel:
        return tls_send(channel, data, length, more)
    while True:
        n = send(channel.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if more else 0))
        if n >= 0:
            return n
        if errno != EINTR:
            return nothing_moved(channel)


cdef ssize_t channel_send_file(Channel *channel, int file, uint64_t offset, size_t length) noexcept nogil:
    """Send a range of a file by reference (sendfile(2)); the bytes may change until the peer has them (D1).

    Which of the two ends failed is told by errno: what a socket can say is short, everything else is the file's.
    To this machine itself over TCP it is copied instead: references cost the receiver more than that.
    """
    cdef off_t at = <off_t>offset
    cdef ssize_t n
    if channel.tls != NULL and not channel.tls.in_kernel:
        return tls_send_file(channel, file, offset, length)
    if channel.near:
        return send_file_near(channel, file, offset, length)
    while True:
        n = sendfile(channel.fd, file, &at, length)
        if n > 0:
            return n
        if n == 0:
            return CHANNEL_SHORT
        if errno != EINTR:
            n = nothing_moved(channel)
            if n == CHANNEL_AGAIN or errno == EPIPE or errno == ECONNRESET or errno == ENOTCONN or errno == ETIMEDOUT:
                return n
            return CHANNEL_UNREADABLE


cdef ssize_t channel_send_pipe(Channel *channel, int pipe, size_t length, bint more) noexcept nogil:
    """Send `length` bytes that stand in a pipe, as far as the socket takes them, uncopied (splice(2)). Plain only."""
    cdef ssize_t n
    if channel.tls != NULL:
        channel.error = EINVAL
        return CHANNEL_BROKEN
    while True:
        n = splice(pipe, NULL, channel.fd, NULL, length, SPLICE_F_NONBLOCK | (SPLICE_F_MORE if more else 0))
        if n >= 0:
            return n
        if errno != EINTR:
            return nothing_moved(channel)


cdef ssize_t channel_splice(Channel *channel, int pipe, size_t length) noexcept nogil:
    """Take what is there, at most `length` bytes, into an empty pipe by reference (splice(2)): nothing is copied."""
    cdef ssize_t n
    if channel.tls != NULL:
        channel.error = EINVAL
        return CHANNEL_BROKEN
    while True:
        n = splice(channel.fd, NULL, pipe, NULL, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n > 0:
            return n
        if n == 0:
            return CHANNEL_CLOSED
        if errno != EINTR:
            return nothing_moved(channel)


cdef int channel_wait(Channel *channel, int directions, int milliseconds) noexcept nogil:
    """Wait for any of `directions`; those that are ready (errors make all ready), or 0 when the time is over."""
    cdef pollfd wanted
    if channel.tls != NULL:
        return tls_wait(channel, directions, milliseconds)
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


cdef int channel_secure(Channel *channel, TlsKeeper *keeper, const char *host) noexcept nogil:
    """Begin TLS on a plain channel: the next bytes of both sides are its handshake. 0, or -1 if it cannot be.

    `host` is what a client expects the server's certificate to be for; empty or NULL: only its chain is checked.
    """
    cdef SSL_CTX *context = keeper_context(keeper)
    if context == NULL:
        return -1
    # Of a unix socket, and of a kernel without TLS, the kernel has no upper layer protocol of that name (tcp(7)).
    channel.tls = tls_begin(
        channel.fd, context, keeper.serving, setsockopt(channel.fd, IPPROTO_TCP, TCP_ULP, b"tls", 3) == 0
    )
    SSL_CTX_free(context)
    if channel.tls == NULL:
        return -1
    if host != NULL and host[0] != 0 and not keeper.serving and keeper.psk == NULL and keeper.verify:
        SSL_set_hostflags(channel.tls.ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
        if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(channel.tls.ssl), host) == 0:
            if SSL_set1_host(channel.tls.ssl, host) == 0:
                return -1
            SSL_set_tlsext_host_name(channel.tls.ssl, host)
    return 0


cdef int channel_flush(Channel *channel) noexcept nogil:
    """Send what is in TLS's buffer: 1 nothing is left, 0 the socket takes no more, or CHANNEL_BROKEN."""
    cdef int outcome
    if channel.tls == NULL:
        return 1
    outcome = tls_flush(channel.tls)
    if outcome < 0:
        channel.error = channel.tls.failure
        return CHANNEL_BROKEN
    return outcome


cdef bint channel_buffered(const Channel *channel) noexcept nogil:
    """Whether there may be input that the socket does not tell of: a worker asks before it parks a connection."""
    cdef const TlsSession *t = channel.tls
    return t != NULL and (t.in_at < t.in_have or SSL_pending(t.ssl) > 0)


cdef bint channel_unsent(const Channel *channel) noexcept nogil:
    """Whether something waits for the socket to take it, whoever holds it."""
    cdef const TlsSession *t = channel.tls
    return t != NULL and (t.out_have > 0 or (t.state == TLS_SHAKES and SSL_want_write(t.ssl)))


cdef uint64_t channel_sent(const Channel *channel) noexcept nogil:
    """Bytes that the socket has taken from TLS's buffer; 0 of a plain channel. Any thread."""
    return sent_so_far(&channel.tls.sent) if channel.tls != NULL else 0


cdef void channel_rest(Channel *channel) noexcept nogil:
    """Give back the buffers that have nothing in them."""
    cdef TlsSession *t = channel.tls
    if t == NULL:
        return
    if t.in_at == t.in_have:
        free(t.in_)
        t.in_ = NULL
        t.in_at = t.in_have = 0
    if t.out_have == 0:
        free(t.out)
        t.out = NULL
    free(t.plain)
    t.plain = NULL


cdef TlsState tls_state(const Channel *channel) noexcept nogil:
    return channel.tls.state


cdef bint tls_in_kernel(const Channel *channel) noexcept nogil:
    """Whether the kernel encrypts what is sent."""
    return channel.tls.in_kernel


cdef const char *tls_text(const Channel *channel) noexcept nogil:
    """Why TLS failed; empty while it has not."""
    return channel.tls.text


include "channel/faces.pxi"

tls_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"omavol")
if tls_method == NULL:
    raise MemoryError
BIO_meth_set_read(tls_method, tls_bio_read)
BIO_meth_set_write(tls_method, tls_bio_write)
BIO_meth_set_ctrl(tls_method, tls_bio_ctrl)
