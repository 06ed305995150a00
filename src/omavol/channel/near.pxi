# TCP to this machine itself: a range of a file is copied to the socket there.

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t[16] s6_addr
    struct sockaddr_in:
        in_addr sin_addr
    struct sockaddr_in6:
        in6_addr sin6_addr

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    struct sockaddr:
        pass
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    int getpeername(int fd, sockaddr *address, socklen_t *length)

cdef extern from * nogil:
    """
    #define NEAR_PIECE 524288   /* read and sent at once: what a second-level cache holds */
    static __thread unsigned char oma_near_piece[NEAR_PIECE];
    static unsigned char *near_piece(void) { return oma_near_piece; }
    """
    enum:
        NEAR_PIECE
    uint8_t *near_piece()       # of this thread

cdef union SocketAddress:
    unsigned short family
    sockaddr_in v4
    sockaddr_in6 v6


cdef bint channel_near(int fd) noexcept nogil:
    """Whether a socket is TCP to this machine itself: both of its ends have one address."""
    cdef SocketAddress ours, theirs
    cdef socklen_t length = sizeof(ours)
    memset(&ours, 0, sizeof(ours))
    memset(&theirs, 0, sizeof(theirs))
    if getsockname(fd, <sockaddr *>&ours, &length) < 0:
        return False
    length = sizeof(theirs)
    if getpeername(fd, <sockaddr *>&theirs, &length) < 0 or ours.family != theirs.family:
        return False
    if ours.family == AF_INET:
        return ours.v4.sin_addr.s_addr == theirs.v4.sin_addr.s_addr
    return ours.family == AF_INET6 and memcmp(ours.v6.sin6_addr.s6_addr, theirs.v6.sin6_addr.s6_addr, 16) == 0


cdef ssize_t send_file_near(Channel *channel, int file, uint64_t offset, size_t length) noexcept nogil:
    """Read some of the file and send it; the answers are channel_send_file's."""
    cdef ssize_t n = -1
    while n < 0:
        n = pread(file, near_piece(), min(length, <size_t>NEAR_PIECE), <off_t>offset)
        if n == 0:
            return CHANNEL_SHORT
        if n < 0 and errno != EINTR:
            channel.error = errno
            return CHANNEL_UNREADABLE
    return channel_send(channel, near_piece(), <size_t>n, <size_t>n < length)
