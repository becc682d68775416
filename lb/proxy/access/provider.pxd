"""A provider of identities: where the credential of a request is, and whose it is."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport Decision, Known
from lb.proxy.access.server cimport AuthServer


cdef class Provider:
    cdef readonly str name
    cdef readonly str digest          # of its plan
    cdef int kind
    # Where the credential is: the name of a header in lower case, or of a parameter of the query; one length is 0.
    cdef bytes placed
    cdef const char *place            # in `placed`
    cdef size_t header_length
    cdef size_t query_length
    cdef const char *scheme           # in front of it there, in lower case with its space; NULL: none
    cdef size_t scheme_length
    cdef readonly bytes challenge     # value of WWW-Authenticate; b"" = there is none for it
    cdef bytes secret                 # of the digests, this process's own
    cdef dict keys                    # api_key: digest of the SHA-256 of a key -> its name and scopes
    cdef tuple names                  # mtls
    # What was found of late, by the digest of the credential: those asked for last, and those before them.
    cdef readonly object checker      # lb.proxy.access.checks.Checker of what takes time; None: nothing does
    cdef readonly AuthServer server   # that is asked; None: nobody is
    cdef Known unasked                # ACCESS_UNKNOWN of a request that the server has to be asked about
    cdef readonly dict waiting        # digest -> who waits for the check of that credential, or for the server's answer
    cdef dict recent
    cdef dict older
    cdef dict refused                 # the same of what was not accepted, for a moment; of a server, its Decision

    # What is known of the credential that the request brings. Its `digest` is that of ACCESS_UNKNOWN.
    cdef Known look(self, const Scan *scan, Tls tls, uint64_t now)
    # 1: the request has one credential, 0: none, -1: one that could be read in two ways.
    cdef int find(self, const Scan *scan, const char **value, size_t *n) noexcept nogil
    cdef Known recall(self, bytes digest, uint64_t now)
    # What a check of `digest` has found is known from now on.
    cdef Known settle(self, bytes digest, object outcome, uint64_t now)
    # The same of what a server has decided, as long as that is remembered.
    cdef Known recall_decision(self, bytes digest, uint64_t now)
    cdef void keep_decision(self, bytes digest, Decision decision, uint64_t now) noexcept
    cdef void remember(self, bytes digest, Known found)
    cdef bytes digest_of(self, const char *data, size_t n)
    cdef Known of_key(self, const char *value, size_t n)
    cdef Known of_checked(self, const char *value, size_t n, uint64_t now)
    cdef Known of_certificate(self, Tls tls, uint64_t now)
    cdef Known of_server(self, const Scan *scan)
    # Takes the credential out of what is passed on. 0, or -1: no memory.
    cdef int strip(self, Scan *scan) noexcept
