# What is used of OpenSSL 3.0 (the names and what they do: its man pages, section 3ssl).

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct ASN1_TIME:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CIPHER:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    enum:
        BIO_CTRL_EOF
        BIO_CTRL_FLUSH
        BIO_NOCLOSE
        BIO_TYPE_SOURCE_SINK
        SSL_ERROR_WANT_READ
        SSL_ERROR_WANT_WRITE
        SSL_ERROR_ZERO_RETURN
        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
        SSL_MODE_ENABLE_PARTIAL_WRITE
        SSL_MODE_RELEASE_BUFFERS
        SSL_SESS_CACHE_OFF
        SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_VERIFY_NONE
        SSL_VERIFY_PEER
        TLS1_2_VERSION
        X509_V_OK
        SSL_FILETYPE_PEM
    uint64_t SSL_OP_CIPHER_SERVER_PREFERENCE
    uint64_t SSL_OP_ENABLE_KTLS
    uint64_t SSL_OP_IGNORE_UNEXPECTED_EOF
    uint64_t SSL_OP_NO_COMPRESSION
    uint64_t SSL_OP_NO_RENEGOTIATION
    uint64_t SSL_OP_NO_TICKET
    uint64_t SSL_OP_PRIORITIZE_CHACHA

    void BIO_clear_retry_flags(BIO *bio)
    void BIO_set_retry_read(BIO *bio)
    void BIO_set_retry_write(BIO *bio)
    void *BIO_get_data(BIO *bio)
    int BIO_get_ktls_send(BIO *bio)
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int type, const char *name)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD *method, int (*read)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_write(BIO_METHOD *method, int (*write)(BIO *, const char *, int) noexcept nogil)
    BIO *BIO_new(const BIO_METHOD *method)
    BIO *BIO_new_socket(int fd, int close)
    void BIO_set_data(BIO *bio, void *data)
    void BIO_set_init(BIO *bio, int init)
    int BIO_free(BIO *bio)
    int BIO_up_ref(BIO *bio)

    const SSL_METHOD *TLS_client_method()
    const SSL_METHOD *TLS_server_method()
    int SSL_CTX_check_private_key(const SSL_CTX *context)
    void SSL_CTX_free(SSL_CTX *context)
    void *SSL_CTX_get_app_data(SSL_CTX *context)
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    int SSL_CTX_set_app_data(SSL_CTX *context, void *data)
    int SSL_CTX_set_cipher_list(SSL_CTX *context, const char *names)
    int SSL_CTX_set_ciphersuites(SSL_CTX *context, const char *names)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *context)
    int SSL_CTX_set_dh_auto(SSL_CTX *context, int on)
    int SSL_CTX_set_min_proto_version(SSL_CTX *context, int version)
    int SSL_CTX_set_max_proto_version(SSL_CTX *context, int version)
    long SSL_CTX_set_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_num_tickets(SSL_CTX *context, size_t tickets)
    int SSL_CTX_set_session_id_context(SSL_CTX *context, const unsigned char *id, unsigned int length)
    uint64_t SSL_CTX_set_options(SSL_CTX *context, uint64_t options)
    void SSL_CTX_set_psk_client_callback(
        SSL_CTX *context,
        unsigned int (*give)(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int) noexcept nogil,
    )
    void SSL_CTX_set_psk_server_callback(
        SSL_CTX *context, unsigned int (*find)(SSL *, const char *, unsigned char *, unsigned int) noexcept nogil
    )
    long SSL_CTX_set_session_cache_mode(SSL_CTX *context, long mode)
    void SSL_CTX_set_verify(SSL_CTX *context, int mode, void *callback)
    int SSL_CTX_up_ref(SSL_CTX *context)
    int SSL_CTX_use_PrivateKey_file(SSL_CTX *context, const char *path, int type)
    int SSL_CTX_use_certificate_chain_file(SSL_CTX *context, const char *path)
    int SSL_CTX_load_verify_locations(SSL_CTX *context, const char *file, const char *directory)
    void *SSL_CTX_get_client_CA_list(const SSL_CTX *context)
    void *SSL_load_client_CA_file(const char *path)
    void SSL_CTX_set_client_CA_list(SSL_CTX *context, void *names)

    int SSL_do_handshake(SSL *ssl)
    void SSL_free(SSL *ssl)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    SSL_CTX *SSL_get_SSL_CTX(const SSL *ssl)
    BIO *SSL_get_rbio(const SSL *ssl)
    BIO *SSL_get_wbio(const SSL *ssl)
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *ssl)
    const char *SSL_CIPHER_get_name(const SSL_CIPHER *cipher)
    int SSL_get_error(const SSL *ssl, int outcome)
    long SSL_get_verify_result(const SSL *ssl)
    const char *SSL_get_version(const SSL *ssl)
    int SSL_is_init_finished(const SSL *ssl)
    SSL *SSL_new(SSL_CTX *context)
    int SSL_pending(const SSL *ssl)
    int SSL_read_ex(SSL *ssl, void *into, size_t room, size_t *got)
    void SSL_set0_rbio(SSL *ssl, BIO *bio)
    void SSL_set0_wbio(SSL *ssl, BIO *bio)
    int SSL_set1_host(SSL *ssl, const char *name)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    void SSL_set_hostflags(SSL *ssl, unsigned int flags)
    uint64_t SSL_set_options(SSL *ssl, uint64_t options)
    int SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    int SSL_shutdown(SSL *ssl)
    int SSL_want_write(const SSL *ssl)
    int SSL_write_ex(SSL *ssl, const void *data, size_t length, size_t *sent)

    X509 *SSL_CTX_get0_certificate(const SSL_CTX *context)
    int ASN1_TIME_diff(int *days, int *seconds, const ASN1_TIME *since, const ASN1_TIME *until)
    const ASN1_TIME *X509_get0_notAfter(const X509 *certificate)
    const ASN1_TIME *X509_get0_notBefore(const X509 *certificate)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM *parameters, const char *address)
    const char *X509_verify_cert_error_string(long error)

cdef extern from "<openssl/err.h>" nogil:
    enum:
        SSL_R_CERTIFICATE_VERIFY_FAILED
    void ERR_clear_error()
    unsigned long ERR_peek_error()
    int ERR_GET_REASON(unsigned long error)
    const char *ERR_reason_error_string(unsigned long error)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *data, size_t length)

cdef extern from "<openssl/x509v3.h>" nogil:
    enum:
        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
