# A load that connects: each of its connections is made, negotiated, asked one READ and closed, again and again.

cdef extern from "<sys/socket.h>" nogil:
    enum:
        LOAD_UNIX "AF_UNIX"
        LOAD_STREAM "SOCK_STREAM | SOCK_CLOEXEC"
        LOAD_NONBLOCK "SOCK_NONBLOCK"
        LOAD_SOCKET "SOL_SOCKET"
        SO_ERROR
        SO_SNDTIMEO
    int load_socket "socket"(int family, int type, int protocol)
    int load_connect "connect"(int fd, const load_sockaddr *address, unsigned int length)
    int load_set_option "setsockopt"(int fd, int level, int option, const void *value, unsigned int length)
    int load_get_option "getsockopt"(int fd, int level, int option, void *value, unsigned int *length)

cdef extern from "<errno.h>" nogil:
    enum:
        EINPROGRESS


cdef int load_dial(LoadState *load, LoadConnection *c) noexcept nogil:
    """Begin a connection; 0, or -1 with load.fault set.

    A unix socket is connected at once or, when the server's queue is full, waits here for it: nothing tells when there
    is room again (unix(7): EAGAIN, not EINPROGRESS).
    """
    cdef load_timeval limit
    cdef int family = load.address.sa_family
    cdef bint waits = family == LOAD_UNIX
    cdef int fd = load_socket(family, LOAD_STREAM if waits else LOAD_STREAM | LOAD_NONBLOCK, 0)
    if fd < 0:
        return load_fault(load, COPY_ERRNO, errno, 0, b"socket")
    limit.tv_sec, limit.tv_usec = load.timeout // 1000000000, (load.timeout % 1000000000) // 1000
    if waits:
        load_set_option(fd, LOAD_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit))
    c.dial.begun = c.moved_at = load.now
    c.dialling = DIAL_HANDSHAKE
    while load_connect(fd, load.address, load.address_length) < 0:
        if waits and errno == EINTR:
            continue
        if waits and errno == EAGAIN:
            close(fd)
            return load_fault(load, COPY_SILENT, 0, 0, b"")
        if errno != EINPROGRESS:
            load_fault(load, COPY_ERRNO, errno, 0, b"connect")
            close(fd)
            return -1
        c.dialling = DIAL_CONNECTING
        break
    channel_begin(&c.channel, fd)
    c.structured = c.blocked = c.last = False
    c.out_have = c.out_sent = c.kept_length = c.skip_left = 0
    c.dial.have = 0
    client_handshake_begin(&c.dial.shake, WISH_OFFERED)
    client_handshake_ask(&c.dial.shake, GOAL_GO, load.name, load.name_length)
    return 0


cdef int load_dialled(LoadState *load, LoadConnection *c) noexcept nogil:
    """The socket is ready while the connection is in the making: go on with it; 0, or -1 with load.fault set."""
    cdef int failure = 0
    cdef unsigned int length = sizeof(failure)
    cdef ssize_t n
    if c.dialling == DIAL_CONNECTING:
        load_get_option(c.channel.fd, LOAD_SOCKET, SO_ERROR, &failure, &length)
        if failure:
            return load_fault(load, COPY_ERRNO, failure, 0, b"connect")
        c.dialling = DIAL_HANDSHAKE
        return 0
    n = channel_receive(&c.channel, c.dial.data + c.dial.have, HANDSHAKE_BUFFER - c.dial.have)
    if n == CHANNEL_AGAIN:
        return 0
    if n < 0:
        return load_channel_failed(load, c, n)
    load.now = c.moved_at = copy_clock()
    c.dial.have += <uint32_t>n
    return load_handshake(load, c)


cdef int load_handshake(LoadState *load, LoadConnection *c) noexcept nogil:
    """Give the handshake what came, and what it says to the server; once it is over, ask the READ."""
    cdef ClientHandshake *shake = &c.dial.shake
    cdef size_t used, wrote
    cdef Next todo = NEXT_SEND
    while todo == NEXT_SEND or todo == NEXT_SEEN:
        todo = client_handshake_step(shake, c.dial.data, c.dial.have, &used, c.out, HANDSHAKE_ROOM, &wrote)
        c.dial.have -= <uint32_t>used
        memmove(c.dial.data, c.dial.data + used, c.dial.have)
        c.out_sent, c.out_have = 0, <uint32_t>wrote
        if wrote and load_say(load, c) < 0:
            return -1
    if todo == NEXT_CLOSE:
        return load_breach(load, NULL, b"the handshake failed")
    if todo == NEXT_TRANSMIT:
        if c.dial.have:
            return load_breach(load, NULL, b"more than was asked for")
        c.structured = shake.agreed.structured
        c.dialling = DIAL_REQUEST
        c.free[0], c.free_count = 0, 1
        return load_transmit(load, c)
    if shake.refused:
        return load_fault(load, COPY_ANSWERED, <int>shake.refused, 0, b"handshake")
    return 0


cdef int load_say(LoadState *load, LoadConnection *c) noexcept nogil:
    """Send a few bytes to a socket that has nothing unsent: they fit, or the peer is no server."""
    cdef ssize_t n = channel_send(&c.channel, c.out, c.out_have, False)
    if n == CHANNEL_AGAIN or 0 < n < c.out_have:
        return load_fault(load, COPY_SILENT, 0, 0, b"")
    c.out_have = 0
    return 0 if n > 0 else load_channel_failed(load, c, n)


cdef int load_redial(LoadState *load, LoadConnection *c) noexcept nogil:
    """The READ is answered: leave by DISC (C7), count, and begin again."""
    c.out_have = <uint32_t>encode_disc(c.out, False)
    if load_say(load, c) < 0:
        return -1
    channel_close(&c.channel)
    load.now = copy_clock()
    if not c.slots[0].error:
        load_count(&load.read, <uint64_t>(load.now - c.dial.begun), c.slots[0].length)
    if load.over:
        load.live -= 1
        return 0
    return load_dial(load, c)
