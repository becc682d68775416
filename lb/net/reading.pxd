"""What a read that gave less than was asked for means."""

from lb.net.stream cimport Stream


# Whether the poller will tell when there is more. With TLS a read also ends when it has decrypted enough for one call;
# what is left waits in the socket or in OpenSSL, where no event tells of it: whoever reads has to come again.
cdef inline bint drained(Stream stream) noexcept:
    return stream.tls is None or stream.tls.dry
