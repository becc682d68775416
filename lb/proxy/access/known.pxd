"""What is known of who a request is from: by its credential, or by the decision of an authorization server."""

from libc.stdint cimport uint64_t


cdef enum access:
    ACCESS_GRANTED = 0
    ACCESS_NONE                       # it brings no credential
    ACCESS_BAD                        # one that is not accepted
    ACCESS_FORBIDDEN                  # a good one, of somebody who may not
    ACCESS_DENIED                     # an authorization server has answered it: a Decision
    ACCESS_UNAVAILABLE                # nobody can say
    ACCESS_UNKNOWN                    # one that has to be checked first


cdef class Known:
    """What is known of a credential."""
    cdef access state
    cdef bytes identity               # b"" = not known
    cdef uint64_t until               # monotonic ns
    cdef frozenset scopes             # None: it has none
    cdef dict claims                  # of a token, those that routes ask for: name -> frozenset of values; None: none
    # ACCESS_UNKNOWN: by whom what is to be checked; an empty digest is one that is not remembered.
    cdef object provider              # lb.proxy.access.provider.Provider
    cdef bytes digest
    cdef bytes credential


cdef class Decision(Known):
    """The answer of an authorization server: ACCESS_GRANTED, or ACCESS_DENIED."""
    # Granted: names in lower case that are removed from the request, and fields (name, value) that it gets.
    cdef tuple removed
    cdef tuple fields
    # Lines of the client's answer, whatever gives it: of the endpoint's where it is granted, else of the server's.
    cdef bytes lines
    cdef int status                   # of the answer where it is denied
    cdef bytes body
    cdef str text                     # the same for clients of gRPC; None: the body will do

    # Bytes that it takes.
    cdef size_t size(self) noexcept


cdef Known NONE
cdef Known BAD
cdef Known FORBIDDEN
cdef Known UNAVAILABLE                # whoever could say does not answer
cdef Known LET_THROUGH                # the same, where such requests are granted
cdef Known known(access state, bytes identity=*, uint64_t until=*)
