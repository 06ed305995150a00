# Who is at the other end of a connection, how many each may have, and that the last one has left.

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SERVER_UNIX "AF_UNIX"
        SERVER_INET "AF_INET"
        SERVER_INET6 "AF_INET6"
        SERVER_SOCKET_LEVEL "SOL_SOCKET"
        SO_PEERCRED
    struct server_address "sockaddr":
        pass
    int server_peer "getpeername"(int fd, server_address *address, uint32_t *length)
    int server_option "getsockopt"(int fd, int level, int option, void *value, uint32_t *length)

cdef extern from "<linux/vm_sockets.h>" nogil:
    enum:
        SERVER_VSOCK "AF_VSOCK"
    struct sockaddr_vm:
        unsigned int svm_cid

cdef extern from "<netinet/in.h>" nogil:
    struct in_address "in_addr":
        uint32_t s_addr
    struct in6_address "in6_addr":
        uint8_t[16] s6_addr
    struct address4 "sockaddr_in":
        in_address sin_addr
    struct address6 "sockaddr_in6":
        in6_address sin6_addr

cdef union PeerAddress:
    uint16_t family
    address4 v4
    address6 v6
    sockaddr_vm vm


cdef uint64_t peer_of(int fd) noexcept nogil:
    """One client's number: its user (unix), address (IPv4), /64 (IPv6: one address comes with that many) or context id.

    0: nobody can tell. The family stands above 32 bits; no /64 that is routed begins with numbers so small.
    """
    cdef PeerAddress address
    cdef uint32_t[3] credentials                    # struct ucred: pid, uid, gid (unix(7))
    cdef uint32_t length = sizeof(address)
    cdef const uint8_t *bytes
    memset(&address, 0, sizeof(address))
    if server_peer(fd, <server_address *>&address, &length) < 0:
        return 0
    if address.family == SERVER_INET:
        return <uint64_t>SERVER_INET << 32 | address.v4.sin_addr.s_addr
    if address.family == SERVER_VSOCK:
        return <uint64_t>SERVER_VSOCK << 32 | address.vm.svm_cid
    if address.family == SERVER_INET6:
        bytes = address.v6.sin6_addr.s6_addr
        if be64(bytes):
            return be64(bytes)
        # ::1, and IPv4 through a socket of both families (::ffff:a.b.c.d): the last four bytes tell them apart.
        return <uint64_t>(SERVER_INET if be32(bytes + 8) else SERVER_INET6) << 32 | (<uint32_t *>(bytes + 12))[0]
    length = sizeof(credentials)
    if address.family == SERVER_UNIX and server_option(fd, SERVER_SOCKET_LEVEL, SO_PEERCRED, credentials, &length) == 0:
        return <uint64_t>SERVER_UNIX << 32 | credentials[1]
    return 0


cdef bint may_connect(Table *table, Served *c) noexcept nogil:
    """Whether there is room for one more connection, and for one more of this client. Lock held."""
    cdef Served *other = table.connections
    cdef uint32_t count = 0
    if table.stopping or table.connection_count >= table.connection_limit:
        return False
    if not table.client_limit or not c.peer:
        return True
    while other != NULL:
        count += other.peer == c.peer
        other = other.next
    return count < table.client_limit


cdef void see_off(Table *table, Served *c) noexcept nogil:
    """A connection has ended: tell who waits for it when it was the last, and one got past its handshake. Lock held."""
    cdef uint64_t one = 1
    if table.vacant < 0:
        return
    if c.opening == NULL:
        table.visited = True
    if table.visited and table.connection_count == 0:
        server_write(table.vacant, &one, sizeof(one))
