"""A connected socket that never blocks, plain or TLS: the one place that knows which."""
from libc.stdint cimport int16_t, int64_t, uint8_t, uint64_t

cdef struct TlsSession          # channel/session.pxi
cdef struct TlsKeeper           # channel/context.pxi

cdef struct Channel:
    int fd
    int16_t error           # errno of what failed, when a call returned one of the codes below
    uint8_t near            # TCP to this machine itself
    TlsSession *tls         # NULL: plain

# What a call says when it moved nothing. More than 0 is bytes moved.
cdef enum:
    CHANNEL_AGAIN = 0       # wait, for what channel_wait offers
    CHANNEL_CLOSED = -1     # the peer has closed its side
    CHANNEL_BROKEN = -2     # the socket, or TLS, failed
    CHANNEL_SHORT = -3      # channel_send_file: the file ends here
    CHANNEL_UNREADABLE = -4  # channel_send_file: the file failed, the socket did not

cdef enum:
    WAIT_READ = 1
    WAIT_WRITE = 4

cdef void channel_begin(Channel *channel, int fd) noexcept nogil
cdef void channel_close(Channel *channel) noexcept nogil
cdef ssize_t channel_receive(Channel *channel, uint8_t *into, size_t room) noexcept nogil
cdef ssize_t channel_send(Channel *channel, const uint8_t *data, size_t length, bint more) noexcept nogil
cdef ssize_t channel_send_file(Channel *channel, int file, uint64_t offset, size_t length) noexcept nogil
cdef ssize_t channel_send_pipe(Channel *channel, int pipe, size_t length, bint more) noexcept nogil
cdef ssize_t channel_splice(Channel *channel, int pipe, size_t length) noexcept nogil
cdef int channel_wait(Channel *channel, int directions, int milliseconds) noexcept nogil

# Only a channel with TLS has these; ask for `channel.tls` first.
cdef enum TlsState:
    TLS_SHAKES              # the handshake is under way; channel_receive drives it
    TLS_STANDS
    TLS_FAILED              # tls_text says why

cdef int channel_secure(Channel *channel, TlsKeeper *keeper, const char *host) noexcept nogil
cdef int channel_flush(Channel *channel) noexcept nogil
cdef bint channel_buffered(const Channel *channel) noexcept nogil
cdef bint channel_unsent(const Channel *channel) noexcept nogil
cdef uint64_t channel_sent(const Channel *channel) noexcept nogil
cdef void channel_rest(Channel *channel) noexcept nogil
cdef TlsState tls_state(const Channel *channel) noexcept nogil
cdef bint tls_in_kernel(const Channel *channel) noexcept nogil
cdef bint tls_complaint(TlsKeeper *keeper, char *text, size_t room) noexcept nogil
cdef const char *tls_text(const Channel *channel) noexcept nogil

cdef class TlsCredentials:
    cdef TlsKeeper *keeper

cdef class SecureChannel:
    cdef Channel channel
    cdef TlsCredentials credentials     # outlive the session
    cdef ssize_t owed                   # bytes that send took and could not flush yet
    cdef bint wait(self, int direction, int64_t until, double timeout) except -1
    cdef int failed(self, ssize_t outcome) except -1
