"""The body of an HTTP request to a pool that speaks the Open Inference Protocol: JSON or binary tensors in front, gRPC
behind, and the result cache between them."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport tg_buffer
from lb.http.head cimport Scan
from lb.net.poller cimport Poller
from lb.net.work cimport Work, WorkQueue
from lb.inference.reader cimport Reader
from lb.inference.request cimport InferRequest, Reading
from lb.inference.response cimport InferResponse
from lb.proxy.exchange.cached cimport AnswerCache, CachedBody
from lb.proxy.exchange.cached_result cimport ResultQuery
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.question cimport Question


cdef class InferContext:
    """What the inference exchanges of a worker share."""
    cdef Poller poller
    cdef AnswerCache answers
    cdef public object ask            # lb.control.workers.worker.Ask
    cdef dict raw_inputs              # (pool, model, version) -> lb.inference.raw_input.RawInput
    cdef dict schemas                 # the same -> lb.inference.generate.Schema
    cdef WorkQueue works

    cdef InferenceBody new_body(self)


cdef class BodyWork(Work):
    """The reading of a request's body: a body may be of any size, and other requests wait for the loop."""
    cdef Exchange exchange            # None: it is over
    cdef InferenceBody body


cdef class InferenceBody(CachedBody):
    cdef InferContext context
    cdef tg_buffer body
    cdef BodyWork work                # None: it is not being read
    cdef object pieces                # iterator over the body without its encoding, while it is taken off
    cdef tg_buffer plain              # those of them that have come
    cdef Reading reading              # of the message, while it is made
    cdef InferRequest request         # None for a management call
    cdef Reader counted_values        # of a management call's body, while it is read
    cdef object management            # a management Call with its gRPC request, or None
    cdef object path                  # of a management request
    cdef bytes verb
    cdef bytes name                   # of the model
    cdef bytes version
    cdef bytes encoding               # Content-Encoding, b"" = none
    cdef unsigned char coding         # of the answer, as the client wants it: CODING_… of lb.http.codings
    cdef Py_ssize_t json_length
    cdef Question question            # to the master; None: there is none
    cdef bytes metadata               # of the model of such a request, while its configuration is asked for
    cdef object generates             # lb.inference.generate.Target of a generate request; None: it is none
    cdef bint streams                 # its answers are those of a stream of the model server
    cdef ResultQuery query            # of a result that is asked for by GET
    cdef bytes single                 # the one answer that has come, where the client is to get one

    # Its units, where requests are weighed.
    cdef double units(self, Exchange exchange) noexcept
    cdef void run(self, Exchange exchange) noexcept
    # Its message is made: an endpoint is asked, or the cache.
    cdef void proceed(self, Exchange exchange) noexcept
    cdef bint join(self, Exchange exchange) noexcept
    # Whether the client has said when it wants an answer.
    cdef bint has_timeout(self) noexcept
    # Whether it may be sent once more, whatever became of the first time.
    cdef bint repeatable(self) noexcept


# What an inference asks for, as its head and its body say: the codec's side of a request.

# The model and version, or else the path and method of a management call; and the body's coding and form. False: the
# exchange has failed.
cdef bint read_request_head(InferenceBody body, Exchange exchange, Scan *scan) noexcept


# The stream of a generate request: its answers are passed on as they come, each as a server-sent event.

# A message of the stream: an event for the client, or the answer to keep for it. The first event begins the answer.
cdef void take_streamed(InferenceBody body, Exchange exchange, const char *message, size_t size) noexcept
# The stream has ended well.
cdef void end_streamed(InferenceBody body, Exchange exchange) noexcept
# The last event of an answer that has begun: why there is no more.
cdef void send_error(Exchange exchange, str message) noexcept


# A request that the description of its model makes an inference: a raw binary one, which is the tensor alone, and a
# generate one, whose keys are tensors. The description is asked for once by each worker, and kept until a model server
# finds fault with a request that was made by it.

# Goes on to its message, or puts the question for it; or the exchange has failed.
cdef void run_described(InferenceBody body, Exchange exchange) noexcept
# The answer to that question: first the model's metadata, then its configuration.
cdef void description_told(InferenceBody body, Exchange exchange, int status, str message, bytes reply) noexcept
# A model server has refused the request.
cdef void forget_description(InferenceBody body, Exchange exchange, int grpc_status) noexcept


# The answer to an inference, as the codec makes it of the model server's: JSON or binary tensors.

# The model server's error.
cdef void answer_error(Exchange exchange, int grpc_status, str message) noexcept
# Its message as an answer, unless the exchange is over.
cdef void answer(InferenceBody body, Exchange exchange, const char *message, size_t size) noexcept
# Both steps of that: the codec's form, None when it has none, and the exchange has failed; and sending it.
cdef InferResponse rendered(InferenceBody body, Exchange exchange, const char *message, size_t size)
cdef void respond(InferenceBody body, Exchange exchange, InferResponse response) noexcept


# A result that is asked for by GET: from the cache, or there is none. No endpoint is asked.

cdef void answer_result(InferenceBody body, Exchange exchange) noexcept


# The routes of the Open Inference Protocol that infer nothing (health, metadata, the repository): rare, and in plain
# Python.

# The request is here: answered now, or by an endpoint.
cdef void run_management(InferenceBody body, Exchange exchange) noexcept
# The endpoint's answer, with gRPC's status.
cdef void management_answered(InferenceBody body, Exchange exchange, int status, str message, bytes reply) noexcept
