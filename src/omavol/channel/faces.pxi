# TLS for Python: credentials, and the client's end of a secured connection.

class TlsFailed(Exception):
    """The TLS handshake failed, or a session ended that may not; `str()` is OpenSSL's reason."""


cdef char *_kept_path(object path) except? NULL:
    """A copy of a path for C; NULL for None."""
    cdef bytes text
    cdef char *copy
    if path is None:
        return NULL
    text = os.fsencode(path)
    copy = strdup(text)
    if copy == NULL:
        raise MemoryError
    return copy


cdef class TlsCredentials:
    """The files of one end of TLS, and the OpenSSL context made of them (channel/context.pxi). Any thread.

    `ca`, `certificate`, `key` and `psk` are paths or None; `user` is the name a client gives with its pre-shared key.
    `verify`: the peer has to have a certificate of `ca` (with `usual_trust`: of an authority the system knows).
    `newest` is "1.2" where TLS 1.3 is not to be used.
    """

    def __cinit__(
        self, *, bint serving, ca=None, certificate=None, key=None, psk=None, str user="", bint verify=False,
        bint usual_trust=False, str newest=""
    ):
        cdef bytes name = user.encode()
        self.keeper = <TlsKeeper *>calloc(1, sizeof(TlsKeeper))
        if self.keeper == NULL:
            raise MemoryError
        pthread_mutex_init(&self.keeper.lock, NULL)
        self.keeper.serving, self.keeper.verify, self.keeper.usual_trust = serving, verify, usual_trust
        self.keeper.newest = TLS1_2_VERSION if newest == "1.2" else 0
        self.keeper.files[<int>KEPT_CA] = _kept_path(ca)
        self.keeper.files[<int>KEPT_CERTIFICATE] = _kept_path(certificate)
        self.keeper.files[<int>KEPT_KEY] = _kept_path(key)
        self.keeper.psk = _kept_path(psk)
        self.keeper.user = strdup(name)
        if self.keeper.user == NULL:
            raise MemoryError

    def load(self):
        """Load the files if they are new; None, or what is wrong with them in one line."""
        cdef SSL_CTX *context
        with nogil:
            context = keeper_context(self.keeper)
            SSL_CTX_free(context)
        pthread_mutex_lock(&self.keeper.lock)
        text = self.keeper.text.decode("utf-8", "replace")
        pthread_mutex_unlock(&self.keeper.lock)
        return text or None

    def lifetime(self):
        """Seconds since the certificate began to be valid, and until it ends; None where there is none."""
        cdef SSL_CTX *context = keeper_context(self.keeper)
        cdef X509 *certificate = SSL_CTX_get0_certificate(context) if context != NULL else NULL
        cdef int[4] found       # days and seconds, twice
        cdef bint told = False
        if certificate != NULL:
            told = ASN1_TIME_diff(&found[0], &found[1], X509_get0_notBefore(certificate), NULL) \
                and ASN1_TIME_diff(&found[2], &found[3], NULL, X509_get0_notAfter(certificate))
        SSL_CTX_free(context)
        return (found[0] * 86400 + found[1], found[2] * 86400 + found[3]) if told else None

    def __dealloc__(self):
        cdef int index
        if self.keeper == NULL:
            return
        SSL_CTX_free(self.keeper.context)
        for index in range(KEEPER_FILES):
            free(self.keeper.files[index])
        free(self.keeper.psk)
        free(self.keeper.user)
        pthread_mutex_destroy(&self.keeper.lock)
        free(self.keeper)


cdef class SecureChannel:
    """A connected socket that speaks TLS from the first byte on; it owns `fd`. One thread at a time.

    `host` is the name that the peer's certificate has to be for (X.509 alone). `timeout` is seconds; TimeoutError
    when it is over, TlsFailed when the session cannot be or has ended, OSError when the socket failed.
    """

    def __cinit__(self, int fd, TlsCredentials credentials not None, str host=""):
        cdef bytes name = host.encode("idna") if host else b""
        cdef const char *expected = name
        cdef int outcome
        self.channel.fd = -1
        self.credentials = credentials
        channel_begin(&self.channel, fd)
        with nogil:
            outcome = channel_secure(&self.channel, credentials.keeper, expected)
        if outcome < 0:
            self.channel.fd = -1        # the caller's again
            raise TlsFailed(credentials.load() or "out of memory")

    def handshake(self, double timeout):
        """Shake hands to the end."""
        cdef int64_t until = _milliseconds() + <int64_t>(timeout * 1000)
        cdef int outcome = 0
        with nogil:
            outcome = tls_shake(&self.channel)
        while outcome == CHANNEL_AGAIN:
            self.wait(WAIT_READ, until, 1.0)
            with nogil:
                outcome = tls_shake(&self.channel)
        if outcome < 0:
            self.failed(outcome)

    def send(self, data, double timeout):
        """Send some of `data`, at least a byte; how many. All of that has left when this returns.

        With a `timeout` of 0 nothing waits: -1 where the socket is full; the next call is to be given the same bytes.
        """
        cdef const uint8_t[::1] view = data
        cdef int64_t until = _milliseconds() + <int64_t>(timeout * 1000)
        cdef ssize_t n = self.owed
        cdef int flushed = 0
        if len(view) == 0:
            return 0
        while n == 0:
            with nogil:
                n = channel_send(&self.channel, &view[0], view.shape[0], False)
            if n < 0:
                self.failed(n)
            if n == 0 and not self.wait(WAIT_WRITE, until, timeout):
                return -1
        self.owed = n
        while flushed == 0:
            with nogil:
                flushed = channel_flush(&self.channel)
            if flushed < 0:
                self.failed(CHANNEL_BROKEN)
            if flushed == 0 and not self.wait(WAIT_WRITE, until, timeout):
                return -1
        self.owed = 0
        return n

    def receive_into(self, into, double timeout):
        """Receive some bytes, at least one; how many, or 0 when the peer has closed.

        With a `timeout` of 0 nothing waits: -1 where nothing is here.
        """
        cdef uint8_t[::1] view = into
        cdef int64_t until = _milliseconds() + <int64_t>(timeout * 1000)
        cdef ssize_t n = 0
        if len(view) == 0:
            return 0
        while n == 0:
            with nogil:
                n = channel_receive(&self.channel, &view[0], view.shape[0])
            if n == CHANNEL_CLOSED:
                return 0
            if n < 0:
                self.failed(n)
            if n == 0 and not self.wait(WAIT_READ, until, timeout):
                return -1
        return n

    cdef bint wait(self, int direction, int64_t until, double timeout) except -1:
        """Wait for the socket, and hear of signals meanwhile; False, at once, where `timeout` is 0."""
        cdef int64_t left = until - _milliseconds()
        if timeout == 0:
            return False
        if left <= 0:
            raise TimeoutError
        with nogil:
            channel_wait(&self.channel, direction, <int>min(left, 500))
        PyErr_CheckSignals()
        return True

    cdef int failed(self, ssize_t outcome) except -1:
        if self.channel.tls != NULL and self.channel.tls.failure == 0:
            raise TlsFailed(tls_text(&self.channel).decode("utf-8", "replace") or "TLS failed")
        raise OSError(self.channel.error, os.strerror(self.channel.error))

    def fileno(self):
        return self.channel.fd

    @property
    def protocol(self):
        """As "TLSv1.3"."""
        return SSL_get_version(self.channel.tls.ssl).decode() if self.channel.tls != NULL else ""

    @property
    def cipher(self):
        """The cipher suite's name in OpenSSL."""
        if self.channel.tls == NULL:
            return ""
        return SSL_CIPHER_get_name(SSL_get_current_cipher(self.channel.tls.ssl)).decode()

    @property
    def in_kernel(self):
        """Whether the kernel encrypts what is sent."""
        return self.channel.tls != NULL and bool(self.channel.tls.in_kernel)

    def close(self):
        """Say close_notify as far as the socket takes it, and close."""
        with nogil:
            channel_close(&self.channel)

    def __dealloc__(self):
        channel_close(&self.channel)


cdef int64_t _milliseconds() noexcept nogil:
    """Of a clock that only goes forward."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
