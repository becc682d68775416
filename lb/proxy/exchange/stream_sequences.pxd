"""The sequences in a stream of inference requests (ModelStreamInfer): each of its messages may begin, use or end one.

All of a stream goes to one endpoint. What its messages say is written down there as they pass, so that a sequence which
begins in the middle of one is found from elsewhere, and one that ends there is over.
"""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.inference.sequence cimport tg_sequence
from lb.proxy.exchange.exchange cimport Exchange
from lb.upstream.affinity.sequences cimport Sequences


cdef class StreamSequences:
    cdef tg_buffer part               # the beginning of a message, of which too little is here to tell
    cdef size_t enough                # of it to look again
    cdef uint64_t left                # bytes of the message being passed on that are still to come
    cdef uint64_t ending              # the sequence that ends with it; 0 = none does
    cdef bint blind                   # memory ran out: what is not noted ends by being idle
    cdef size_t begun                 # sequences that began in later messages, in all attempts
    cdef size_t seen                  # likewise, in this one
    cdef bint later                   # it is not the first: that one has chosen the endpoint (Exchange.join_sequence)

    # A try begins at the endpoint that the exchange has: `queue` is what there is of the stream.
    cdef void begin(self, Exchange exchange, const tg_buffer *queue) noexcept
    # `size` bytes more are sent there.
    cdef void take(self, Exchange exchange, const char *data, size_t size) noexcept

    cdef size_t read(self, Exchange exchange, const char *data, size_t size) noexcept
    cdef void note(self, Exchange exchange, tg_sequence *found) noexcept


# Whether the requests to a path are such streams.
cdef bint streams_inferences(const char *path, size_t n) noexcept nogil
# The key of the sequence that a message names.
cdef uint64_t sequence_key(Sequences sequences, const tg_sequence *found) noexcept nogil
