"""A connection to an endpoint that is one client's alone: see own_connection.pxd."""

from lb.core.head cimport Field, Scan, same_name
from lb.upstream.pool cimport Pool

cdef int owned = 0                    # connections of this worker that are a client's own: nearly always none


cdef bint names_scheme(const Field *field) noexcept nogil:
    """Whether one of the list's elements begins with such a scheme. One within quotes does no harm."""
    cdef size_t i = 0, begun
    while i < field.value_length:
        while i < field.value_length and (field.value[i] == 32 or field.value[i] == 9 or field.value[i] == 44):
            i += 1
        begun = i
        while i < field.value_length and field.value[i] not in (32, 9, 44):
            i += 1
        if (same_name(field.value + begun, i - begun, b"ntlm")
                or same_name(field.value + begun, i - begun, b"negotiate")):
            return True
        while i < field.value_length and field.value[i] != 44:
            i += 1
    return False


cdef bint brings_proof(const Scan *scan) noexcept nogil:
    cdef const Field *field
    cdef int i
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 13 and same_name(field.name, 13, b"authorization") and names_scheme(field):
            return True
    return False


cdef bint asks_for_proof(const Scan *scan) noexcept nogil:
    cdef const Field *field
    cdef int i
    if scan.status != 401:
        return False
    for i in range(scan.field_count):
        field = &scan.fields[i]
        if field.name_length == 16 and same_name(field.name, 16, b"www-authenticate") and names_scheme(field):
            return True
    return False


cdef AnsweringConnection client_of(ForwardExchange exchange):
    return <AnsweringConnection>exchange.client if isinstance(exchange.client, AnsweringConnection) else None


cdef void keep_to_own(ForwardExchange exchange) noexcept:
    cdef AnsweringConnection client
    cdef Pool pool = exchange.pool
    cdef int i
    if owned == 0:
        return
    client = client_of(exchange)
    if client is None or client.own is None:
        return
    for i in range(len(pool.channels)):
        if pool.channels[i] is client.own.pool:
            exchange.kept_to = i
            return


cdef Http1Upstream take_own(ForwardExchange exchange, Http1Pool channel):
    global owned
    cdef AnsweringConnection client
    cdef Http1Upstream own
    if owned == 0:
        return None
    client = client_of(exchange)
    if client is None or client.own is None:
        return None
    own = client.own
    client.own = None
    owned -= 1
    if own.fd < 0:
        return None
    if (own.pool is not channel or channel.closed or exchange.fresh or own.hangup
            or (own.tls is None and not own.silent())):
        own.pool.drop(own)
        return None
    return own


cdef void give_own(ForwardExchange exchange, Http1Upstream upstream) noexcept:
    global owned
    cdef AnsweringConnection client = client_of(exchange)
    cdef Http1Pool channel = upstream.pool
    if (client is None or client.fd < 0 or not client.keep or channel.closed or upstream.fd < 0 or upstream.pending()
            or upstream.hangup or upstream.unread or upstream.deaf):
        channel.drop(upstream)
        return
    drop_own(client)
    upstream.call = None
    upstream.used = True
    upstream.paused = False
    client.own = upstream
    owned += 1
    if channel.idle_timeout:
        channel.poller.arm(upstream, channel.poller.now + channel.idle_timeout)


cdef void drop_own(AnsweringConnection client) noexcept:
    global owned
    cdef Http1Upstream own = client.own
    if own is not None:
        client.own = None
        owned -= 1
        own.pool.drop(own)
