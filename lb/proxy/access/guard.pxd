"""What a route asks of those who send it requests."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport Decision, Known
from lb.proxy.access.provider cimport Provider


cdef class Guard:
    cdef tuple providers              # () = it asks for nothing
    cdef readonly bint asks           # there are providers
    cdef frozenset allow              # None = whoever is known
    cdef frozenset scopes             # that the credential needs, all of them; None = none
    cdef tuple claims                 # (name, values) of which its token needs one each; () = none
    cdef bytes short_of_scopes        # parameters of WWW-Authenticate for one without the scopes
    cdef readonly bint trusted        # requests bring their identity; without providers
    cdef bint forward_identity
    cdef bint forward_credential
    cdef bytes challenges             # lines of WWW-Authenticate
    cdef bytes failed                 # the same, for who brought a credential

    # Who the request is from, by the first provider that accepts what it brings. `answers` has what checks have found:
    # Provider -> Known; None: nothing was checked. ACCESS_UNKNOWN: a check has to be made.
    cdef Known look(self, const Scan *scan, Tls tls, uint64_t now, dict answers)
    # Whether the credential has the scopes and claims that are needed.
    cdef bint suffices(self, Known found) noexcept
    # The answer to one that has not.
    cdef Decision insufficient(self, Provider provider, Known found)
    # What it asks for; `failed`: the request brought what is not accepted.
    cdef void append_challenges(self, tg_buffer *fields, bint failed) noexcept
    # Makes the head that of a request which is granted, for all that goes by headers, and for the endpoint: with the
    # identity, and what an authorization server says. `found` has to stay as long as the scan. 0, or -1: there are too
    # many fields, or no memory.
    cdef int mark(self, Scan *scan, Known found) noexcept
    # Names in lower case that no client chooses.
    cdef list names(self)
