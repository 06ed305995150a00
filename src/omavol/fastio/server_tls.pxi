# TLS of a connection: begun behind STARTTLS's ACK, counted, and said in one line where it fails.

from omavol._channel cimport (
    TLS_STANDS,
    TlsCredentials,
    channel_buffered,
    channel_flush,
    channel_rest,
    channel_secure,
    channel_unsent,
    tls_complaint,
    tls_in_kernel,
    tls_state,
    tls_text,
)
from omavol._wire cimport NEXT_TLS, TLS_FORCED, TLS_SELECTIVE, server_handshake_secured

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, unsigned int room)

cdef extern from "<netinet/in.h>" nogil:
    struct server_in "sockaddr_in":
        int sin_addr
    struct server_in6 "sockaddr_in6":
        int sin6_addr
    enum:
        INET6_ADDRSTRLEN

cdef extern from "<sys/socket.h>" nogil:
    struct server_sockaddr "sockaddr":
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    enum:
        AF_INET
        AF_INET6
    int getpeername(int fd, server_sockaddr *address, unsigned int *length)

cdef extern from "<poll.h>" nogil:
    struct server_pollfd "pollfd":
        int fd
        short events
        short revents
    enum:
        SERVER_POLLOUT "POLLOUT"
    int server_poll "poll"(server_pollfd *polled, unsigned long count, int milliseconds)

cdef extern from "<stdio.h>" nogil:
    int dprintf(int fd, const char *format, ...)

cdef enum:
    COMPLAINT = 256


cdef inline bint all_sent(const Worker *w, const Served *c) noexcept nogil:
    """Whether nothing is left for the client, in the outbox or in TLS's buffer."""
    return box_empty(&w.box) and (c.channel.tls == NULL or not channel_unsent(&c.channel))


cdef Verdict begin_tls(Worker *w, Served *c) noexcept nogil:
    """The ACK is sent: what comes next is the client's TLS. What came before it is an attack (T12, CVE-2021-3716)."""
    cdef char complaint[COMPLAINT]
    cdef int failed
    if w.have > w.used:
        return END
    c.opening.securing = False
    failed = channel_secure(&c.channel, c.table.tls, NULL)
    if tls_complaint(c.table.tls, complaint, COMPLAINT):
        say_line("omavol serve: TLS files are not taken, the older ones stay: ", complaint, "", "")
    if failed:
        return END
    server_handshake_secured(&c.opening.shake)
    return GO_ON


cdef void count_tls(Served *c) noexcept nogil:
    """A connection has entered an export. Lock held."""
    if c.channel.tls != NULL:
        c.table.tls_sessions += 1
        c.table.tls_in_kernel += tls_in_kernel(&c.channel)


cdef void judge_tls_end(Served *c) noexcept nogil:
    """A connection ends: where its TLS never stood, or broke, that is counted and said (T14, T15)."""
    cdef char peer[INET6_ADDRSTRLEN]
    cdef const char *why = tls_text(&c.channel)
    if tls_state(&c.channel) == TLS_STANDS or peek_flag(&c.table.stopping):
        return
    if c.opening != NULL and c.opening.deadline <= milliseconds():
        why = "not done in the time for a handshake"
    elif why[0] == 0:
        why = "the client left"
    lock(c.table)
    c.table.tls_failures += 1
    unlock(c.table)
    name_peer(c.channel.fd, peer)
    say_line("omavol serve: TLS with ", peer, " failed: ", why)


cdef void name_peer(int fd, char *text) noexcept nogil:
    """The address of a client, INET6_ADDRSTRLEN bytes."""
    cdef sockaddr_storage address
    cdef unsigned int length = sizeof(address)
    memcpy(text, b"a local client", 15)
    if getpeername(fd, <server_sockaddr *>&address, &length) < 0:
        memcpy(text, b"a client", 9)
    elif address.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<server_in *>&address).sin_addr, text, INET6_ADDRSTRLEN)
    elif address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<server_in6 *>&address).sin6_addr, text, INET6_ADDRSTRLEN)


cdef void say_line(const char *one, const char *two, const char *three, const char *four) noexcept nogil:
    """A line on standard error, unless nobody takes it there: a worker never waits for that."""
    cdef server_pollfd standard_error
    standard_error.fd, standard_error.events, standard_error.revents = 2, SERVER_POLLOUT, 0
    if server_poll(&standard_error, 1, 0) == 1 and standard_error.revents == SERVER_POLLOUT:
        dprintf(2, "%s%s%s%s\n", one, two, three, four)
