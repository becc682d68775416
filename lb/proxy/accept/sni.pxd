"""Rules of a `tls` listener: where a connection goes, by its ClientHello and its source, and whether TLS ends here.

The most exact name decides: the name itself, then the longest `*.` pattern above it, then the routes without a name;
among those of one name the first in the file whose ALPN and source fit, and when none fits, the next less exact name is
tried.
"""

from libc.stdint cimport uint32_t
from lb.net.tls.client_hello cimport tg_hello
from lb.net.ip cimport Networks, tg_ip


cdef struct tg_name:
    const char *text                  # inside SniTable.names
    uint32_t length
    uint32_t rule


cdef class SniRule:
    cdef object table                 # Pool or Split; None = another listener takes the connection
    cdef bint terminate               # TLS ends here
    cdef readonly str listener        # name of that listener
    cdef tuple alpn                   # of bytes; empty = any
    cdef Networks sources             # None = any

    cdef bint fits(self, const tg_hello *hello, const tg_ip *source) noexcept


cdef class SniTable:
    cdef tuple rules
    cdef bytes names                  # every name, one behind the other
    cdef tg_name *entries             # sorted: exact names, then patterns, then the rules without a name
    cdef Py_ssize_t exact             # entries of exact names
    cdef Py_ssize_t patterns          # and of patterns
    cdef Py_ssize_t count

    # The rule that takes the connection, or None. `source` of family 0 is no address (a Unix socket).
    cdef SniRule find(self, const tg_hello *hello, const tg_ip *source)
    cdef SniRule among(self, Py_ssize_t low, Py_ssize_t high, const char *name, size_t n, const tg_hello *hello,
                       const tg_ip *source)
