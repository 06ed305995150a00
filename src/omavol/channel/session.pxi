# A TLS session on a channel: OpenSSL between two buffers of ours, so that many records go in one system call.
#
# OpenSSL reads and writes through a BIO of ours. What it reads comes from `in_`, filled by one recv for many records;
# what it writes is gathered in `out`. A record is made only while `out` has room for all of it, so OpenSSL never has
# to be asked again with the same bytes (SSL_write(3ssl), "WANT_WRITE"). Both buffers are there while something moves
# and go when the connection is parked. Where the kernel has TLS (TCP, "tls" among its upper layer protocols) it
# encrypts what is sent: then send and sendfile are those of a plain channel, and only what comes in passes OpenSSL.

cdef enum:
    RECORD = 16384              # bytes of plain text in one record at most (RFC 8446, 5.1)
    RECORD_ROOM = RECORD + 512  # and what it may be on the wire, with an alert or a key update beside it
    TLS_IN = 131072             # bytes received at once
    TLS_OUT = 131072 + 5120     # bytes sent at once: the records of TLS_FILE bytes and what goes with them
    TLS_FILE = 131072           # bytes of a file encrypted at once
    TLS_TEXT = 128

cdef extern from * nogil:
    """
    #define sent_grows(place, more) __atomic_store_n(place, *(place) + (more), __ATOMIC_RELAXED)
    #define sent_so_far(place) __atomic_load_n(place, __ATOMIC_RELAXED)
    """
    void sent_grows(uint64_t *place, uint64_t more)     # by the owner of the session alone
    uint64_t sent_so_far(const uint64_t *place)         # by anybody

cdef struct TlsSession:
    SSL *ssl
    int fd
    int failure                 # errno of the socket
    TlsState state
    bint ended                  # the peer has closed its side of the socket
    bint in_kernel              # the kernel encrypts what is sent
    bint apart                  # OpenSSL writes to the socket itself: the handshake where the kernel may take over
    uint32_t in_at, in_have, out_at, out_have
    uint64_t sent               # bytes that the socket has taken from `out`
    uint8_t *in_                # TLS_IN bytes; NULL: nothing in it
    uint8_t *out                # TLS_OUT bytes; likewise
    uint8_t *plain              # TLS_FILE bytes of a file; likewise
    char text[TLS_TEXT]         # why it failed

cdef BIO_METHOD *tls_method


cdef int tls_bio_read(BIO *bio, char *into, int room) noexcept nogil:
    """OpenSSL wants bytes: those of `in_`, which is filled when it is empty."""
    cdef TlsSession *t = <TlsSession *>BIO_get_data(bio)
    cdef uint32_t take
    BIO_clear_retry_flags(bio)
    if t.in_at == t.in_have and not tls_fill(t):
        if not t.ended and t.failure == 0:
            BIO_set_retry_read(bio)
            return -1
        return 0
    take = t.in_have - t.in_at
    if take > <uint32_t>room:
        take = <uint32_t>room
    memcpy(into, t.in_ + t.in_at, take)
    t.in_at += take
    return <int>take


cdef bint tls_fill(TlsSession *t) noexcept nogil:
    """Receive into the empty `in_`; False: nothing came, or `ended` or `failure` is set."""
    cdef ssize_t n = -1
    if t.in_ == NULL:
        t.in_ = <uint8_t *>malloc(TLS_IN)
        if t.in_ == NULL:
            t.failure = ENOMEM
            return False
    t.in_at = t.in_have = 0
    while n < 0:
        n = recv(t.fd, t.in_, TLS_IN, MSG_DONTWAIT)
        if n < 0 and errno != EINTR:
            if errno != EAGAIN:
                t.failure = errno
            return False
    t.ended = n == 0
    t.in_have = <uint32_t>n
    return n > 0


cdef int tls_bio_write(BIO *bio, const char *data, int length) noexcept nogil:
    """OpenSSL has bytes to send: they are gathered in `out`."""
    cdef TlsSession *t = <TlsSession *>BIO_get_data(bio)
    cdef uint32_t room
    BIO_clear_retry_flags(bio)
    if not tls_has_out(t):
        return 0
    if t.out_have + <uint32_t>length > TLS_OUT:
        tls_flush(t)
    room = TLS_OUT - t.out_have
    if room == 0:
        BIO_set_retry_write(bio)
        return -1
    if room > <uint32_t>length:
        room = <uint32_t>length
    memcpy(t.out + t.out_have, data, room)
    t.out_have += room
    return <int>room


cdef long tls_bio_ctrl(BIO *bio, int command, long number, void *more) noexcept nogil:
    cdef TlsSession *t = <TlsSession *>BIO_get_data(bio)
    if command == BIO_CTRL_EOF:
        return t.ended
    return command == BIO_CTRL_FLUSH        # flushed when the caller has no more


cdef bint tls_has_out(TlsSession *t) noexcept nogil:
    if t.out == NULL:
        t.out = <uint8_t *>malloc(TLS_OUT)
        if t.out == NULL:
            t.failure = ENOMEM
    return t.out != NULL


cdef int tls_flush(TlsSession *t) noexcept nogil:
    """Send what is gathered: 1 all of it, 0 the socket takes no more (what is left moves to the front), -1 broken."""
    cdef ssize_t n
    while t.out_at < t.out_have:
        n = send(t.fd, t.out + t.out_at, t.out_have - t.out_at, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n >= 0:
            t.out_at += <uint32_t>n
            sent_grows(&t.sent, <uint64_t>n)
        elif errno == EAGAIN:
            if t.out_at:
                t.out_have -= t.out_at
                memmove(t.out, t.out + t.out_at, t.out_have)
                t.out_at = 0
            return 0
        elif errno != EINTR:
            t.failure = errno
            t.out_at = t.out_have = 0
            return -1
    t.out_at = t.out_have = 0
    return 1


cdef TlsSession *tls_begin(int fd, SSL_CTX *context, bint serving, bint kernel) noexcept nogil:
    """A session at its start, or NULL without memory; `kernel`: it may encrypt what is sent."""
    cdef TlsSession *t = <TlsSession *>calloc(1, sizeof(TlsSession))
    cdef BIO *reads = BIO_new(tls_method)
    cdef BIO *writes = NULL
    if t != NULL and reads != NULL:
        t.ssl = SSL_new(context)
    if t == NULL or reads == NULL or t.ssl == NULL:
        BIO_free(reads)
        free(t)
        return NULL
    t.fd = fd
    BIO_set_data(reads, t)
    BIO_set_init(reads, 1)
    if kernel:
        writes = BIO_new_socket(fd, BIO_NOCLOSE)
    if writes != NULL:
        SSL_set_options(t.ssl, SSL_OP_ENABLE_KTLS)
        t.apart = True
    else:
        BIO_up_ref(reads)
        writes = reads
    SSL_set0_rbio(t.ssl, reads)
    SSL_set0_wbio(t.ssl, writes)
    if serving:
        SSL_set_accept_state(t.ssl)
    else:
        SSL_set_connect_state(t.ssl)
    return t


cdef void tls_stand(TlsSession *t) noexcept nogil:
    """The handshake is over: who encrypts from here on?"""
    cdef BIO *own
    t.state = TLS_STANDS
    if not t.apart:
        return
    t.in_kernel = BIO_get_ktls_send(SSL_get_wbio(t.ssl)) > 0
    if t.in_kernel:
        return
    own = SSL_get_rbio(t.ssl)
    BIO_up_ref(own)
    SSL_set0_wbio(t.ssl, own)
    t.apart = False


cdef void tls_fail(TlsSession *t, const char *otherwise) noexcept nogil:
    """Note the first reason why the session ended, in OpenSSL's words where it has some."""
    cdef unsigned long error = ERR_peek_error()
    cdef const char *reason = ERR_reason_error_string(error) if error else NULL
    cdef long verified = SSL_get_verify_result(t.ssl)
    if t.state == TLS_FAILED:
        return
    t.state = TLS_FAILED
    if error and ERR_GET_REASON(error) == SSL_R_CERTIFICATE_VERIFY_FAILED and verified != X509_V_OK:
        snprintf(t.text, TLS_TEXT, "%s: %s", reason, X509_verify_cert_error_string(verified))
    elif t.ended:
        snprintf(t.text, TLS_TEXT, "the peer closed the connection")
    elif t.failure:
        snprintf(t.text, TLS_TEXT, "the connection failed (errno %d)", t.failure)
    else:
        if reason == NULL:
            reason = otherwise
        snprintf(t.text, TLS_TEXT, "%s", reason)


cdef ssize_t tls_stopped(Channel *channel, int outcome) noexcept nogil:
    """What a call of OpenSSL that moved nothing means to the caller. An alert that it made is sent."""
    cdef TlsSession *t = channel.tls
    cdef int error = SSL_get_error(t.ssl, outcome)
    if not t.apart:
        tls_flush(t)
    if (error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE) and t.failure == 0:
        return CHANNEL_AGAIN
    if t.state == TLS_STANDS and t.failure == 0 and (error == SSL_ERROR_ZERO_RETURN or t.ended):
        return CHANNEL_CLOSED
    tls_fail(t, b"TLS failed")
    channel.error = t.failure if t.failure else EPROTO
    return CHANNEL_BROKEN


cdef ssize_t tls_receive(Channel *channel, uint8_t *into, size_t room) noexcept nogil:
    """Take plain text, of every record that is here; drives the handshake before there is any."""
    cdef TlsSession *t = channel.tls
    cdef size_t got = 0, n = 0
    cdef int outcome
    if t.state == TLS_FAILED:
        channel.error = EPROTO
        return CHANNEL_BROKEN
    while got < room:
        ERR_clear_error()
        outcome = SSL_read_ex(t.ssl, into + got, room - got, &n)
        if t.state == TLS_SHAKES and SSL_is_init_finished(t.ssl):
            tls_stand(t)
        if not outcome:
            if got:
                break           # whatever it is, the next call meets it again
            return tls_stopped(channel, outcome)
        got += n
        if t.in_at == t.in_have and SSL_pending(t.ssl) == 0:
            break               # the next record is not here: no recv to hear that
    if t.out_have:
        tls_flush(t)
    return <ssize_t>got


cdef ssize_t tls_send(Channel *channel, const uint8_t *data, size_t length, bint more) noexcept nogil:
    """Make records of what `out` has room for, and send when nothing follows at once."""
    cdef TlsSession *t = channel.tls
    cdef size_t done = 0, piece, n = 0
    cdef int outcome
    if t.state != TLS_STANDS or not tls_has_out(t):
        channel.error = ENOMEM if t.state == TLS_STANDS else EPROTO
        return CHANNEL_BROKEN
    while done < length:
        piece = (TLS_OUT - t.out_have) // RECORD_ROOM * RECORD
        if piece == 0:
            if tls_flush(t) < 0:
                channel.error = t.failure
                return CHANNEL_BROKEN
            if TLS_OUT - t.out_have < RECORD_ROOM:
                break
            continue
        if piece > length - done:
            piece = length - done
        ERR_clear_error()
        outcome = SSL_write_ex(t.ssl, data + done, piece, &n)
        if not outcome:
            return tls_stopped(channel, outcome)
        done += n
    if not more and tls_flush(t) < 0:
        channel.error = t.failure
        return CHANNEL_BROKEN
    return <ssize_t>done


cdef ssize_t tls_send_file(Channel *channel, int file, uint64_t offset, size_t length) noexcept nogil:
    """Read some of the file and send it; the answers are channel_send_file's."""
    cdef TlsSession *t = channel.tls
    cdef ssize_t n, sent
    if t.plain == NULL:
        t.plain = <uint8_t *>malloc(TLS_FILE)
    if t.plain == NULL:
        channel.error = ENOMEM
        return CHANNEL_BROKEN
    if TLS_OUT - t.out_have < RECORD_ROOM and tls_flush(t) == 0 and TLS_OUT - t.out_have < RECORD_ROOM:
        return CHANNEL_AGAIN        # before the file is read in vain
    n = -1
    while n < 0:
        n = pread(file, t.plain, length if length < TLS_FILE else TLS_FILE, <off_t>offset)
        if n == 0:
            return CHANNEL_SHORT
        if n < 0 and errno != EINTR:
            channel.error = errno
            return CHANNEL_UNREADABLE
    sent = tls_send(channel, t.plain, <size_t>n, <size_t>n < length)
    return sent


cdef int tls_shake(Channel *channel) noexcept nogil:
    """Go on with the handshake: 1 it stands, 0 it waits, or CHANNEL_BROKEN."""
    cdef TlsSession *t = channel.tls
    cdef int outcome
    if t.state != TLS_SHAKES:
        return 1 if t.state == TLS_STANDS else CHANNEL_BROKEN
    ERR_clear_error()
    outcome = SSL_do_handshake(t.ssl)
    if outcome != 1:
        return <int>tls_stopped(channel, outcome)
    tls_stand(t)
    if tls_flush(t) < 0:
        tls_fail(t, b"")
        channel.error = t.failure
        return CHANNEL_BROKEN
    return 1


cdef int tls_wait(Channel *channel, int directions, int milliseconds) noexcept nogil:
    """channel_wait's answers; what is unsent goes out meanwhile, and what is here already is ready at once."""
    cdef TlsSession *t = channel.tls
    cdef pollfd wanted
    cdef bint unsent = channel_unsent(channel)
    cdef int ready
    if directions & WAIT_READ and (t.state == TLS_FAILED or channel_buffered(channel)):
        return WAIT_READ
    wanted.fd, wanted.events, wanted.revents = t.fd, 0, 0
    if directions & WAIT_READ:
        wanted.events |= POLLIN
    if directions & WAIT_WRITE or unsent:
        wanted.events |= POLLOUT
    if poll(&wanted, 1, milliseconds) <= 0:
        return 0
    if wanted.revents & ~(POLLIN | POLLOUT):
        return directions
    if wanted.revents & POLLOUT and t.out_have and tls_flush(t) == 0:
        wanted.revents &= ~POLLOUT
    if t.state == TLS_SHAKES and wanted.revents:
        return directions           # whatever OpenSSL waited for, channel_receive goes on
    ready = (WAIT_READ if wanted.revents & POLLIN else 0) | (WAIT_WRITE if wanted.revents & POLLOUT else 0)
    return ready & directions


cdef void tls_end(TlsSession *t) noexcept nogil:
    """Say close_notify (T18) as far as the socket takes it, and free everything; the socket stays."""
    cdef int turn
    if t.state == TLS_STANDS and t.failure == 0:
        ERR_clear_error()
        SSL_shutdown(t.ssl)
        if t.out_have:
            tls_flush(t)
    shutdown(t.fd, SHUT_WR)
    for turn in range(8):           # unread bytes would make close(2) reset what the peer has not read yet (tcp(7))
        if t.in_ == NULL or recv(t.fd, t.in_, TLS_IN, MSG_DONTWAIT) <= 0:
            break
    ERR_clear_error()
    SSL_free(t.ssl)
    free(t.in_)
    free(t.out)
    free(t.plain)
    free(t)
