# STARTTLS and what is refused without it (T1 to T13). The TLS handshake itself is the caller's.


cdef inline bint _awaits_tls(const ServerHandshake *shake) noexcept nogil:
    """Whether the option under way gets nothing but TLS_REQD (T4); EXPORT_NAME gets the end (T5)."""
    return shake.tls == TLS_FORCED and not shake.secured \
        and shake.option != OPT_STARTTLS and shake.option != OPT_ABORT


cdef uint32_t _without_tls(const ServerHandshake *shake, uint32_t found) noexcept nogil:
    """What the owner said of an export, as it is told outside TLS: one that is told inside alone is refused.

    TLS_REQD answers INFO and GO where TLS can be had (T6), of a name that nobody has, too: who has no TLS does not
    learn which of them there are (T7). Nothing else gets it (T3, T8); EXPORT_NAME closes (T9).
    """
    cdef bint described = shake.option == OPT_INFO or shake.option == OPT_GO
    if shake.secured or (found and found != REP_ERR_UNKNOWN) or (found == 0 and not shake.facts.tls_only):
        return found
    if shake.tls != TLS_NONE and described:
        return REP_ERR_TLS_REQD
    return found if found else <uint32_t>REP_ERR_POLICY


cdef void _starttls(ServerHandshake *shake, Turn *turn, uint32_t length) noexcept nogil:
    """STARTTLS: what stands behind it was not sent by a client that waits for the ACK, and ends the session (T12)."""
    if shake.tls == TLS_NONE and not shake.secured:
        refuse(shake, turn, REP_ERR_UNSUP, "this server has no TLS")
    elif shake.secured:
        refuse(shake, turn, REP_ERR_INVALID, "this is inside TLS already")
    elif length:
        refuse(shake, turn, REP_ERR_INVALID, "the option takes no data")
    elif left(turn):
        shake.state = SERVER_CLOSED
    else:
        reply(shake, turn, REP_ACK, 0)
        shake.state = SERVER_SECURES


cdef void server_handshake_secured(ServerHandshake *shake) noexcept nogil:
    """Inside TLS: nothing that was negotiated before counts (T11); client flags do, they are not said again."""
    cdef bint no_zeroes = shake.agreed.no_zeroes
    if shake.state != SERVER_SECURES:
        shake.state = SERVER_CLOSED
        return
    memset(&shake.agreed, 0, sizeof(Negotiated))
    memset(&shake.facts, 0, sizeof(ExportFacts))
    shake.agreed.no_zeroes = no_zeroes
    shake.told, shake.context_name = False, 0
    shake.secured = True
    shake.state = SERVER_OPTION
