"""Answers of ModelStreamInfer: messages of Triton's (ModelStreamInferResponse) and of MLServer's (ModelInferResponse).

Both are streams of messages of the same method, so which of them a server sends shows in the messages alone. A client
gets those that it reads, whatever its server sends.
"""

from lb.net.buffer cimport tg_buffer

cdef enum:
    MESSAGES_SAME = 0                 # the piece is what the client gets
    MESSAGES_OTHER                    # `out` is
    MESSAGES_ERROR                    # an error that the client has no message for; `out` is what goes before it
    MESSAGES_NO_MEMORY = -1


cdef enum:
    FORM_MORE                         # needed to tell
    FORM_BARE                         # ModelInferResponse
    FORM_WRAPPED                      # ModelStreamInferResponse that has an answer
    FORM_ERROR                        # one that has an error
    FORM_EITHER                       # it is empty, or compressed


cdef struct tg_form:
    int form
    size_t at                         # of the answer within the message, or of the error's text
    size_t size                       # of that


cdef class StreamMessages:
    """Of one answer, piece by piece."""
    cdef bint bare                    # the client reads ModelInferResponse
    cdef size_t count                 # messages that have come, since `begin`
    cdef size_t left                  # bytes of a message that are passed on as they come
    cdef tg_buffer head               # the beginning of a message, until it tells what it is
    cdef tg_buffer out
    cdef bytes error                  # of MESSAGES_ERROR: its text

    # Takes a piece: MESSAGES_…
    cdef int take(self, const char *data, size_t size) noexcept
    # Another answer begins.
    cdef void begin(self) noexcept
    cdef int rewrite(self, const char *message, size_t have, size_t n, const tg_form *found) noexcept
    cdef int prefix(self, size_t n) noexcept


cdef StreamMessages new_stream_messages(bint bare)
