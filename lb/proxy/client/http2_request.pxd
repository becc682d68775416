"""One request on an HTTP/2 connection: a stream in front, an exchange behind."""

from libc.stdint cimport uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.http.http2.session cimport Http2Session, h2_stream
from lb.http.http2.resets cimport tg_frames
from lb.net.link cimport tg_link
from lb.net.poller cimport Source
from lb.net.stream cimport iovec
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.headers.forwarded cimport tg_hop_cache
from lb.proxy.client.body_rate cimport tg_body_rate


cdef class Http2Host(Http2Session):
    """The server's side of a connection: turns events into requests."""
    cdef Admission admission
    cdef Source connection            # which owns this object; `detach` cuts the tie
    cdef Client peer                  # whose listener and address the requests have; the connection too
    cdef tg_link requests             # that have a stream
    cdef tg_link ended_requests       # that have none any more; what was gathered from them may not be written yet
    cdef readonly int active          # length of `requests`
    cdef bint flooded
    cdef tg_frames frames             # of what comes next
    cdef bint resets                  # some are in what is being read
    cdef bint reading                 # events come from `take`
    cdef list waiting                 # requests that `take` put off; None: there was never one
    cdef bint timely                  # the stream that was reset just now had next to no time left
    cdef uint64_t finished            # streams that ended otherwise
    cdef uint64_t forgiven            # resets that were held against them
    cdef uint64_t answers             # frames of the peer that our DATA called forth
    cdef uint64_t control_due         # when the frames counted so far would be paid off (GCRA)
    cdef uint64_t reset_due
    cdef tg_hop_cache hop

    cdef void setup(self, Client connection, Admission admission) noexcept
    # As `feed`; a stream that the same bytes reset begins no request.
    cdef int take(self, const char *data, size_t size) noexcept
    # Launches what was put off while `take` read, if there is still somebody to answer.
    cdef void launch_waiting(self) noexcept
    # Frees the requests that are over: nothing refers to their bodies.
    cdef void bury(self) noexcept
    # The connection is gone: every exchange loses its client.
    cdef void lose(self) noexcept
    # Ends the connection with ENHANCE_YOUR_CALM, and counts it as a flood.
    cdef void end_flood(self) noexcept
    cdef void detach(self, Http2Request request) noexcept


cdef class Http2Request(Client):
    cdef Http2Host host
    cdef Exchange exchange
    cdef h2_stream stream
    cdef tg_link link
    cdef size_t held                  # bytes of the body that the peer may not send anew yet
    cdef bint started                 # its head has come
    # A call about a model, where routes go by that: neither route nor exchange is known before its first message is.
    cdef bint holding
    cdef tg_buffer kept_head          # a block
    cdef tg_buffer early              # what has come of the body meanwhile
    cdef bint gone                    # it has no stream any more
    cdef bint answered                # its answer's head is on its way
    cdef bint cut                     # its answer breaks off behind what waits of it
    cdef bint head_request
    cdef bint grpc
    cdef uint64_t seen_out            # what the last look of the timer saw, to tell whether anything moved since
    cdef tg_body_rate body_rate       # of the request's body
    cdef uint64_t body_deadline       # for it to be fast enough

    cdef void begin(self, Scan *scan) noexcept
    # The exchange begins; `model` as in Admission.admit.
    cdef void admit(self, Scan *scan, const char *model, size_t model_length) noexcept
    # A piece of the body while it is `holding`; `whole`: there is no more.
    cdef void hold(self, const char *data, size_t size, bint whole) noexcept
    cdef void malformed(self, int problem) noexcept
    cdef void stop(self, uint32_t code) noexcept
    cdef void begin_body_rate(self) noexcept
    cdef void advance(self, size_t came) noexcept
    cdef bint awaits_body(self) noexcept
    cdef void watch(self) noexcept
    cdef void mark(self) noexcept
    cdef bint let_go(self) noexcept
    cdef void break_off(self) noexcept
    cdef void look_again(self) noexcept


# Heads of answers over HTTP/2, those of our own among them: `respond` and its like of lb.proxy.client.client.

cdef void answer_head(Http2Request request, Scan *scan, const tg_buffer *extra, bint last) noexcept
cdef bint answer_own_head(Http2Request request, int status, const tg_buffer *head, size_t size) noexcept
cdef void answer_continue(Http2Request request) noexcept
