"""An authorization server: what it is asked about a request, and what its answer means. No I/O."""

from libc.stdint cimport uint16_t, uint64_t
from lb.http.head cimport Field, Scan
from lb.net.buffer cimport tg_buffer
from lb.net.tls.session cimport Tls
from lb.proxy.access.known cimport Decision
from lb.upstream.pool cimport Pool


cdef struct tg_asker:
    # Of the request besides its head.
    const char *source                # the client's address; its length is 0 where it has none
    size_t source_length
    uint16_t port                     # of the client; 0 = not known
    const char *scheme
    int method                        # as the configuration sees it
    const char *id                    # X-Request-Id; its length is 0 where there is none
    size_t id_length


cdef class AuthServer:
    cdef readonly str name            # of its provider
    cdef readonly bint grpc
    cdef readonly str pool_name
    cdef public Pool pool             # that of the plan in force
    cdef bytes path
    cdef bytes host                   # b"" = the endpoint's address
    cdef frozenset told               # request headers that it is told, in lower case; None = all
    cdef frozenset untold             # and those that it is not told, as anybody may make them up
    cdef frozenset taken              # headers of its answer that the request gets; no client's are passed on
    cdef tuple replaced               # the same, and the one that names the identity
    cdef frozenset added              # headers of its answer that the client gets where the request is granted
    cdef frozenset denied             # and where it is denied
    cdef bytes identity               # header of its answer that names the identity; b"" = it names none
    cdef readonly uint64_t timeout
    cdef readonly uint64_t cache      # time that a decision is remembered; 0 = none is
    cdef bint by_credentials          # remembered by the headers that it is told, else by all that it is told
    cdef readonly size_t max_answer     # of an answer
    cdef readonly bint lets_through   # requests that it has not decided about
    cdef readonly int busy            # questions under way
    cdef object codec                 # lb.proxy.access.ext_authz; None: it speaks HTTP
    cdef set unknown                  # names that it sets and may not, of which the log has told
    cdef bint failing                 # the last question was not answered, and the log has told it

    cdef bint ambiguous(self, const Scan *scan) noexcept
    # What it is asked: for HTTP all of a request's head behind the line of Host, else the message of a call. 0 or -1
    # (no memory). The head's `hop` marks are those of what is passed on.
    cdef int ask(self, tg_buffer *into, Scan *scan, const tg_asker *asker, Tls tls) noexcept
    # What a decision is remembered by: into `key`, from the question that `ask` made.
    cdef int key(self, tg_buffer *key, const tg_buffer *question, const Scan *scan) noexcept
    # The first lines of a request to an endpoint of this address.
    cdef bytes first_lines(self, str address)
    # What an answer's head says. None: no decision; the body is the caller's to add. Raises ValueError.
    cdef Decision read(self, const Scan *scan)
    # What the message of an answer says. Raises ValueError.
    cdef Decision read_reply(self, const char *data, size_t n)
    cdef Decision grant(self, bytes identity)
    cdef int ask_http(self, tg_buffer *into, const Scan *scan, const tg_asker *asker) noexcept
    cdef bint tells(self, const Field *field) noexcept
    cdef bytes message(self, const Scan *scan, const tg_asker *asker, Tls tls)
    # Whether the request may get a header of this name from it.
    cdef bint may_set(self, bytes name) noexcept
    # It has answered; or has not, for this reason.
    cdef void answered(self) noexcept
    cdef void failed(self, str why) noexcept
