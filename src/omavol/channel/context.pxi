# The credentials of one end, and the OpenSSL context made of them: X.509 files, or a file of pre-shared keys.
#
# The files of certificates are looked at (stat) when a session begins: changed, they are loaded anew, and new sessions
# have the new ones; what cannot be loaded leaves the old ones in place and is said once. Pre-shared keys are read from
# their file for each handshake, as GnuTLS does. Files are those of GnuTLS's users: certificates and keys as PEM, keys
# shared beforehand as lines `username:hexkey` (psktool(1)).

cdef enum:
    KEEPER_FILES = 3
    KEEPER_TEXT = 256
    LONGEST_LINE = 1024

cdef enum KeptFile:
    KEPT_CA
    KEPT_CERTIFICATE
    KEPT_KEY

cdef struct Stamp:              # what tells that a file was replaced or written
    uint64_t inode, size, seconds, nanoseconds

cdef struct TlsKeeper:
    bint serving
    bint verify                 # the peer's certificate has to be one of `ca`'s
    bint usual_trust            # with what the system trusts, where there is no `ca`
    int newest                  # TLS version: 0: the newest there is
    char *files[KEEPER_FILES]   # paths; NULL: none
    char *psk                   # path; NULL: none
    char *user                  # a client's name for its key
    pthread_mutex_t lock        # of what follows
    Stamp stamps[KEEPER_FILES]
    SSL_CTX *context
    char text[KEEPER_TEXT]      # why the newest files could not be loaded; empty: they were
    bint said                   # tls_complaint has told it

# The order is by speed where all are safe: AES-128-GCM is the quickest with AES in the processor, ChaCha20 without.
cdef extern from * nogil:
    """
    #define OMA_TLS13_SUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    #define OMA_CERTIFICATE_SUITES "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL"
    #define OMA_PSK_SUITES "DHE-PSK-AES128-GCM-SHA256:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-CHACHA20-POLY1305:" \
        "ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES128-CBC-SHA256:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384"
    #define OMA_BOTH_SUITES OMA_CERTIFICATE_SUITES ":" OMA_PSK_SUITES
    """
    const char *TLS13_SUITES "OMA_TLS13_SUITES"
    const char *CERTIFICATE_SUITES "OMA_CERTIFICATE_SUITES"
    const char *PSK_SUITES "OMA_PSK_SUITES"
    const char *BOTH_SUITES "OMA_BOTH_SUITES"


cdef void stamp(const char *path, Stamp *out) noexcept nogil:
    """All zero where there is no file."""
    cdef file_stat facts
    memset(out, 0, sizeof(Stamp))
    if path == NULL or file_status(path, &facts) < 0:
        return
    out.inode, out.size = facts.st_ino, <uint64_t>facts.st_size
    out.seconds, out.nanoseconds = <uint64_t>facts.st_mtim.tv_sec, <uint64_t>facts.st_mtim.tv_nsec


cdef SSL_CTX *keeper_context(TlsKeeper *keeper) noexcept nogil:
    """The context for a new session, with a reference for the caller; NULL if none could ever be made."""
    cdef Stamp now[KEEPER_FILES]
    cdef SSL_CTX *made
    cdef int index
    for index in range(KEEPER_FILES):
        stamp(keeper.files[index], &now[index])
    pthread_mutex_lock(&keeper.lock)
    if keeper.context == NULL or memcmp(now, keeper.stamps, sizeof(now)) != 0:
        memcpy(keeper.stamps, now, sizeof(now))
        keeper.text[0], keeper.said = 0, False
        made = keeper_load(keeper)
        if made != NULL:
            SSL_CTX_free(keeper.context)
            keeper.context = made
    made = keeper.context
    if made != NULL:
        SSL_CTX_up_ref(made)
    pthread_mutex_unlock(&keeper.lock)
    return made


cdef bint tls_complaint(TlsKeeper *keeper, char *text, size_t room) noexcept nogil:
    """Why the newest files are not used, once for each change of them; False: there is nothing to say."""
    cdef bint news
    pthread_mutex_lock(&keeper.lock)
    news = keeper.text[0] != 0 and not keeper.said
    if news:
        snprintf(text, room, "%s", keeper.text)
        keeper.said = True
    pthread_mutex_unlock(&keeper.lock)
    return news


cdef SSL_CTX *keeper_load(TlsKeeper *keeper) noexcept nogil:
    """A context of the files as they are now; NULL with `text` set. Lock held."""
    cdef SSL_CTX *context
    ERR_clear_error()
    context = SSL_CTX_new(TLS_server_method() if keeper.serving else TLS_client_method())
    if context == NULL:
        return keeper_refuses(keeper, NULL, "out of memory")
    SSL_CTX_set_app_data(context, keeper)
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION)
    if keeper.newest:
        SSL_CTX_set_max_proto_version(context, keeper.newest)
    SSL_CTX_set_options(
        context,
        SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF
        | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA,
    )
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_num_tickets(context, 0)
    if keeper.serving:      # in TLS 1.3 a key is a session resumed: where certificates are demanded it needs an id
        SSL_CTX_set_session_id_context(context, b"omavol", 6)
    SSL_CTX_set_mode(
        context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    )
    SSL_CTX_set_dh_auto(context, 1)
    SSL_CTX_set_ciphersuites(context, TLS13_SUITES)
    if not SSL_CTX_set_cipher_list(context, keeper_suites(keeper)):
        return keeper_refuses(keeper, context, "the cipher suites")
    if keeper.psk != NULL:
        if keeper.serving:
            SSL_CTX_set_psk_server_callback(context, psk_find)
        else:
            SSL_CTX_set_psk_client_callback(context, psk_give)
    return keeper_load_files(keeper, context)


cdef const char *keeper_suites(const TlsKeeper *keeper) noexcept nogil:
    """TLS 1.2: by certificate, by pre-shared key (with DHE first, that nobody decrypts later), or both."""
    if keeper.psk == NULL:
        return CERTIFICATE_SUITES
    if keeper.files[<int>KEPT_CERTIFICATE] == NULL:
        return PSK_SUITES
    return BOTH_SUITES


cdef SSL_CTX *keeper_load_files(TlsKeeper *keeper, SSL_CTX *context) noexcept nogil:
    cdef const char *ca = keeper.files[<int>KEPT_CA]
    cdef const char *certificate = keeper.files[<int>KEPT_CERTIFICATE]
    cdef const char *key = keeper.files[<int>KEPT_KEY]
    cdef int mode = SSL_VERIFY_NONE
    if certificate != NULL:
        if not SSL_CTX_use_certificate_chain_file(context, certificate):
            return keeper_refuses(keeper, context, certificate)
        if not SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) or not SSL_CTX_check_private_key(context):
            return keeper_refuses(keeper, context, key)
    if ca != NULL and not SSL_CTX_load_verify_locations(context, ca, NULL):
        return keeper_refuses(keeper, context, ca)
    if ca != NULL and keeper.serving:
        SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(ca))
    if keeper.usual_trust:
        SSL_CTX_set_default_verify_paths(context)
    if keeper.verify:
        mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    SSL_CTX_set_verify(context, mode, NULL)
    return context


cdef SSL_CTX *keeper_refuses(TlsKeeper *keeper, SSL_CTX *context, const char *what) noexcept nogil:
    """Note why there is no context; NULL."""
    cdef unsigned long error = ERR_peek_error()
    cdef const char *reason = ERR_reason_error_string(error) if error else NULL
    if reason == NULL:
        reason = b"cannot be used"
    snprintf(keeper.text, KEEPER_TEXT, "%s: %s", what, reason)
    SSL_CTX_free(context)
    return NULL


cdef unsigned int psk_find(SSL *ssl, const char *user, unsigned char *key, unsigned int room) noexcept nogil:
    """The server is told a name: the length of its key, 0 where there is none."""
    cdef TlsKeeper *keeper = <TlsKeeper *>SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl))
    return 0 if user == NULL else psk_read(keeper.psk, user, key, room)


cdef unsigned int psk_give(
    SSL *ssl, const char *hint, char *user, unsigned int user_room, unsigned char *key, unsigned int room
) noexcept nogil:
    """The client says its name and has its key."""
    cdef TlsKeeper *keeper = <TlsKeeper *>SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl))
    if strlen(keeper.user) >= user_room:
        return 0
    strcpy(user, keeper.user)
    return psk_read(keeper.psk, keeper.user, key, room)


cdef unsigned int psk_read(const char *path, const char *user, unsigned char *key, unsigned int room) noexcept nogil:
    """Find `user` among the lines `username:hexkey`; the bytes of the key, 0 where there is none."""
    cdef char line[LONGEST_LINE]
    cdef size_t named = strlen(user)
    cdef unsigned int length = 0
    cdef FILE *file = fopen(path, b"re")
    if file == NULL:
        return 0
    while fgets(line, LONGEST_LINE, file) != NULL:
        if strncmp(line, user, named) == 0 and line[named] == c":":
            length = psk_key(line + named + 1, key, room)
            break
    fclose(file)
    OPENSSL_cleanse(line, sizeof(line))
    return length


cdef unsigned int psk_key(const char *text, unsigned char *key, unsigned int room) noexcept nogil:
    """The bytes that hexadecimal digits stand for, up to the end of the line; 0 where there is something else."""
    cdef unsigned int length = 0
    cdef int high, low
    while text[0] != 0 and text[0] != c"\n" and text[0] != c"\r":
        high = hex_digit(text[0])
        low = hex_digit(text[1]) if high >= 0 else -1
        if low < 0 or length >= room:
            return 0
        key[length] = <unsigned char>(high << 4 | low)
        length += 1
        text += 2
    return length


cdef inline int hex_digit(char digit) noexcept nogil:
    if c"0" <= digit <= c"9":
        return digit - c"0"
    if c"a" <= digit <= c"f":
        return digit - c"a" + 10
    return digit - c"A" + 10 if c"A" <= digit <= c"F" else -1
