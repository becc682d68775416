"""What a gRPC inference asks for: the template of its `ModelInferRequest`, and its key in the result cache.

The key is that of a JSON or binary request of the same meaning (lb.inference.request), so that all clients share the
entries. The message itself goes to the endpoint as the client wrote it.
"""

from lb.http.grpc.protobuf cimport span
from lb.inference.datatypes cimport MAX_TENSORS
from lb.inference.memo cimport Memo
from lb.inference.request cimport InferRequest
from lb.inference.template cimport Template
from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec


# By what a message says besides its id and its tensors' data.
cdef Memo calls


cdef struct tg_asked:
    # What differs between messages of one template. Zeroes to begin with; `packed` is its owner's to free.
    span id                           # in the message
    int count                         # of the inputs
    iovec[MAX_TENSORS] tensors        # data of every input, in the order of the message, there or in `packed`
    tg_buffer packed                  # data that came as typed contents, in raw form


# The template of a serialized ModelInferRequest, which stays as it is while `asked` is used. None: its meaning is not
# known for certain: it is malformed, has fields unknown here, data outside of it, or data that does not fit its shape;
# it belongs to a sequence; or it has too many fields or typed values to be read at once. Raises MemoryError.
cdef Template read_call(const char *message, size_t size, tg_asked *asked)
# The same as a request that owns its data, to be taken apart into rows; its own message is not made. Raises
# MemoryError.
cdef InferRequest request_of_call(Template template, const tg_asked *asked)
