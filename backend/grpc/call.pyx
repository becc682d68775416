"""Calls of gRPC: see call.pxd.

    on_fields_end    the head: which method it is
    take             bytes become messages
    take_inference   a message becomes an inference, which waits in its model's queue
    answered         the inference is done: the answer is queued, tensors where the run left them
    respond_status   the trailers
"""

import logging

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.errno cimport errno
from libc.string cimport memcmp, memcpy, memset, strerror, strlen
from backend.grpc.front cimport Front
from backend.grpc.shared cimport copy_shared, read_shared
from backend.inference.engine cimport ModelQueue
from backend.inference.inference cimport (
    INFERENCE_DONE, STATUS_DEADLINE_EXCEEDED, STATUS_INTERNAL, STATUS_INVALID_ARGUMENT, STATUS_OK,
    STATUS_RESOURCE_EXHAUSTED, inference_fail, inference_free, inference_hurry, inference_of, inference_read,
    inference_refused, is_our_fault, message_memory, tg_inference,
)
from backend.inference.reply cimport (
    reply_fields, reply_final, reply_finished, reply_name, reply_tensor, reply_tensor_head, reply_tensor_head_size,
)
from backend.inference.spans cimport traced
from lb.http.grpc.protobuf cimport WIRE_BYTES, append_field, append_tag, append_varint, span, varint_size
from lb.http.grpc.text cimport grpc_timeout_ns
from lb.http.http2.frames cimport H2_ENHANCE_YOUR_CALM, H2_INTERNAL_ERROR, get_u32, put_u32
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NO_COPY_NAME, nghttp2_nv
from lb.http.http2.queue cimport h2_field
from lb.http.http2.session cimport (
    H2_BOMB_FRAME, H2_EMPTY_FRAME, H2_PING_FRAME, H2_RESET_FRAME, H2_SETTINGS_FRAME, H2_WINDOW_FRAME, Http2Session,
    h2_waiting,
)
from lb.http.head_text cimport append_number, append_text
from lb.inference.counts cimport count_request
from lb.inference.first_timeout cimport time_after
from lb.inference.message cimport RequestMessage, read_request
from lb.net.arena cimport Arena, View, new_arena
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.net.iovec cimport iovec
from lb.net.link cimport link_append, link_empty, link_init, link_remove
from lb.net.poller cimport monotonic_ns
from lb.net.states cimport states_of, tg_move, tg_state, tg_states

from backend.errors import BackendError

log = logging.getLogger("tidegate.backend")

cdef enum:
    MESSAGE_HEAD = 5                  # bytes: a flag, and the length
    LARGEST_MESSAGE = 0x7FFFFFFF      # what Protocol Buffers allows
    LARGEST_OTHER = 256 * 1024        # of a call that Python answers: each field becomes an object
    SMALL = 4096                      # bytes of a tensor that is copied into the answer
    BULK = 64 * 1024                  # bytes of a message, from which on it is worth a second read not to be copied
    AHEAD = 64                        # inferences of one stream at once, and messages of a call that are read in a turn
    HIGH_WATER = 64 * 1024            # bytes of a stream that wait, at which Python's handler is asked to wait
    FULL = 1024 * 1024                # at which no more of its messages are read
    HELD = 256 * 1024 * 1024          # of answers of a connection, at which its further calls are refused
    LONGEST_FIELD = 1024              # of the head's fields that are looked at
    # Of Http2Session.work: what Python has to answer takes as long as so many frames.
    PYTHON_WORK = 32
    # PINGs and SETTINGS a second that a peer may send, and how many at once; of other frames many times as many. What
    # our own DATA calls forth is not counted, nor are calls that are given up: a deadline is not an attack.
    CONTROL_NS = 1_000_000
    CHEAPER = 16
    CONTROL_BURST = 5000
    ANSWERS = 4
    LONGEST_TEXT = 2048               # bytes of a status message
    # Of ModelStreamInferResponse.
    ERROR_MESSAGE = 1
    INFER_RESPONSE = 2

cdef tg_states TABLE
TABLE.machine = b"call of gRPC"
tg_state(&TABLE, b"new", 1 << CALL_ASKED | 1 << CALL_ANSWERED | 1 << CALL_GONE)
tg_state(&TABLE, b"asked", 1 << CALL_ANSWERED | 1 << CALL_GONE)
tg_state(&TABLE, b"answered", 1 << CALL_GONE)
tg_state(&TABLE, b"gone", 0)
STATES = states_of(&TABLE)

cdef const char *INFER_PATH = b"/inference.GRPCInferenceService/ModelInfer"
cdef const char *STREAM_PATH = b"/inference.GRPCInferenceService/ModelStreamInfer"
cdef size_t INFER_SIZE = strlen(INFER_PATH)
cdef size_t STREAM_SIZE = strlen(STREAM_PATH)
# Of the loop: a message is read at once, and not twice.
cdef RequestMessage REQUEST


cdef class GrpcSession(Http2Session):

    cdef void setup(self, Front front, Stream connection) noexcept:
        self.front = front
        self.connection = connection
        link_init(&self.calls)
        link_init(&self.over)
        self.waiting = []

    cdef h2_stream *on_request(self, int32_t id) noexcept:
        cdef Call call
        if self.connection is None or self.held > HELD:
            return NULL
        self.connection.takes_descriptor = False      # an arena comes before the first call, or not at all
        call = Call.__new__(Call)
        call.session = self
        call.front = self.front
        call.stream.owner = <void *>call
        call.stream.streaming = True
        call.link.owner = <void *>call
        Py_INCREF(call)                       # `bury` gives it back
        link_append(&self.calls, &call.link)
        self.active += 1
        return &call.stream

    cdef bint gathers(self, h2_stream *stream) noexcept:
        return False

    cdef void on_field(self, h2_stream *stream, const char *name, size_t name_size, const char *value,
                       size_t value_size) noexcept:
        cdef Call call = <Call>stream.owner
        if call.state != CALL_NEW or value_size > LONGEST_FIELD:
            return
        if name_size == 5 and memcmp(name, b":path", 5) == 0:
            if value_size == INFER_SIZE and memcmp(value, INFER_PATH, INFER_SIZE) == 0:
                call.kind = CALL_INFER
            elif value_size == STREAM_SIZE and memcmp(value, STREAM_PATH, STREAM_SIZE) == 0:
                call.kind = CALL_STREAM
            else:
                call.path = value[:value_size]
        elif name_size == 7 and memcmp(name, b":method", 7) == 0:
            call.posted = value_size == 4 and memcmp(value, b"POST", 4) == 0
        elif name_size == 12 and memcmp(name, b"grpc-timeout", 12) == 0:
            call.timeout = grpc_timeout_ns(value, value_size)
        elif name_size == 12 and memcmp(name, b"content-type", 12) == 0:
            call.grpc = is_grpc(value, value_size)
        elif name_size == 13 and memcmp(name, b"grpc-encoding", 13) == 0:
            call.encoding = value[:value_size]
        elif self.front.tracer is not None and name_size == 11 and memcmp(name, b"traceparent", 11) == 0:
            call.trace = traced(value, value_size)

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        cdef Call call = <Call>stream.owner
        if call.state == CALL_NEW:
            call.begin()

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        cdef Call call = <Call>stream.owner
        if call.state == CALL_ASKED:
            call.take(data, size)

    cdef char *on_destination(self, h2_stream *stream, size_t *room) noexcept:
        cdef Call call = <Call>stream.owner
        cdef tg_incoming *incoming = &call.incoming
        if call.state != CALL_ASKED or call.blocked or call.ended or incoming.head_size < MESSAGE_HEAD:
            return NULL
        room[0] = incoming.length - incoming.came
        return incoming.data + incoming.came

    cdef void on_view(self, h2_stream *stream, View view, bint last) noexcept:
        cdef Call call = <Call>stream.owner
        if call.state == CALL_ASKED and not call.take_view(view):
            call.take(view.data, view.size)

    cdef int on_arena(self) noexcept:
        cdef int fd = 0
        if self.connection is not None:
            fd = self.connection.passed
            self.connection.passed = 0
            self.connection.takes_descriptor = False
        return fd

    cdef void on_mapped(self, const char *problem) noexcept:
        cdef Arena arena
        if problem != NULL:
            log.warning("a client's shared memory cannot be used: %s", problem.decode())
            return
        arena = new_arena()
        if arena is None:
            log.warning("no shared memory for a client: %s", strerror(errno).decode())
        elif self.connection is not None and self.offer(arena) == 0:
            self.connection.passing = arena.fd
            self.on_release()

    cdef void on_release(self) noexcept:
        if self.connection is not None:
            self.front.poller.mark(self.connection)

    cdef void on_end(self, h2_stream *stream) noexcept:
        cdef Call call = <Call>stream.owner
        call.ended = True
        if call.state == CALL_ASKED and not call.blocked:
            call.end_messages()

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        cdef Call call = <Call>stream.owner
        call.abandon()
        self.detach(call)

    cdef void on_room(self, h2_stream *stream) noexcept:
        cdef Call call = <Call>stream.owner
        if call.handler is not None:
            call.handler.room()
        if call.kind == CALL_STREAM and call.blocked:
            call.await_room()

    cdef void on_control(self, int kind) noexcept:
        """A leaky bucket of the frames that cost their sender next to nothing. Not counted is what our own DATA calls
        forth: windows, and the PING by which gRPC's clients measure the way."""
        cdef uint64_t now, cost = CONTROL_NS
        if self.connection is None or kind == H2_RESET_FRAME:
            return
        if (kind == H2_WINDOW_FRAME or kind == H2_PING_FRAME) and self.answers < ANSWERS * self.data_frames:
            self.answers += 1
            return
        now = self.front.poller.now
        if kind != H2_PING_FRAME and kind != H2_SETTINGS_FRAME and kind != H2_EMPTY_FRAME and kind != H2_BOMB_FRAME:
            cost //= CHEAPER
        self.control_due = max(self.control_due, now) + cost
        if self.control_due - now > <uint64_t>CONTROL_BURST * CONTROL_NS:
            self.terminate(H2_ENHANCE_YOUR_CALM)

    cdef void detach(self, Call call) noexcept:
        cdef bint begun = call.state != CALL_NEW
        call.move(CALL_GONE)
        self.held -= call.held
        link_remove(&call.link)
        link_append(&self.over, &call.link)
        self.active -= 1
        if call.kind != CALL_OTHER and begun:
            self.front.calls -= 1
        self.front.poller.disarm(call)

    cdef void resume(self) noexcept:
        cdef Call call
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call.waits = False
            if call.state == CALL_ASKED and call.blocked:
                call.unblock()

    cdef void bury(self) noexcept:
        cdef Call call
        while not link_empty(&self.over):
            call = <Call>self.over.next.owner
            link_remove(&call.link)
            Py_DECREF(call)

    cdef void lose(self) noexcept:
        cdef Call call
        self.connection = None
        self.end_local_transport()
        while not link_empty(&self.calls):
            call = <Call>self.calls.next.owner
            self.forget(&call.stream)
            call.abandon()
            self.detach(call)


cdef class Call(Waiter):

    def __dealloc__(self):
        if self.answer != NULL:
            inference_free(self.answer)
        free(self.incoming.block)
        free(self.parts)
        tg_buffer_free(&self.reply)
        tg_buffer_free(&self.inbox)
        tg_buffer_free(&self.stream.queue)
        tg_buffer_free(&self.stream.trailers)

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    cdef void mark(self) noexcept:
        if self.session.connection is not None:
            self.front.poller.mark(self.session.connection)

    # The head.

    cdef void begin(self) noexcept:
        self.move(CALL_ASKED)
        if self.kind != CALL_OTHER:
            self.front.calls += 1
        if not self.posted or not self.grpc:
            self.refuse_http()
            return
        if self.timeout:
            self.deadline = self.front.poller.now + self.timeout
            self.front.poller.arm(self, self.deadline)
        if self.kind == CALL_OTHER:
            self.begin_in_python()

    cdef void refuse_http(self) noexcept:
        """What is no gRPC (PROTOCOL-HTTP2.md, "Requests")."""
        cdef nghttp2_nv fields[1]
        cdef const char *status = b"415" if self.posted else b"405"
        h2_field(&fields[0], b":status", 7, status, 3, NGHTTP2_NV_FLAG_NO_COPY_NAME)
        self.move(CALL_ANSWERED)
        self.session.respond(&self.stream, fields, 1, False)
        self.mark()

    # Messages.

    cdef void take(self, const char *data, size_t size) noexcept:
        cdef tg_incoming *incoming = &self.incoming
        cdef size_t n, whole = size
        while size and self.state == CALL_ASKED and not self.blocked:
            if incoming.head_size < MESSAGE_HEAD:
                n = min(size, <size_t>(MESSAGE_HEAD - incoming.head_size))
                memcpy(incoming.head + incoming.head_size, data, n)
                incoming.head_size += <int>n
                data += n
                size -= n
                if incoming.head_size < MESSAGE_HEAD:
                    break
                if self.take_head() < 0:
                    return
            n = min(size, incoming.length - incoming.came)
            if data != incoming.data + incoming.came:         # else it was read to there
                memcpy(incoming.data + incoming.came, data, n)
            incoming.came += n
            data += n
            size -= n
            if incoming.came == incoming.length:
                self.take_message()
        if self.blocked and size and tg_buffer_append(&self.inbox, data, size) < 0:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
        self.session.consume(&self.stream, whole - size)      # what waits is still to be dealt with

    cdef bint take_view(self, View view) noexcept:
        cdef uint8_t prefix[MESSAGE_HEAD]
        cdef ModelQueue queue = None
        cdef tg_inference *inference = NULL
        cdef char *parts
        if self.kind != CALL_INFER or self.messages or self.incoming.head_size or view.size < MESSAGE_HEAD:
            return False
        copy_shared(prefix, view.data, MESSAGE_HEAD)
        if prefix[0] or get_u32(prefix + 1) != view.size - MESSAGE_HEAD:
            return False
        parts = read_shared(&REQUEST, view.data + MESSAGE_HEAD, view.size - MESSAGE_HEAD)
        if parts == NULL:
            return False
        queue = self.front.find(&REQUEST.model, &REQUEST.version)
        if queue is not None:
            inference = inference_read(queue.served, &REQUEST, parts)
        if inference == NULL:
            free(parts)
            return False
        Py_INCREF(view)
        inference.parts = <PyObject *>view
        self.messages = 1
        self.submit(queue, inference)
        return True

    cdef int take_head(self) noexcept:
        """What a message says of itself. -1: the call is over."""
        cdef tg_incoming *incoming = &self.incoming
        cdef size_t length = get_u32(&incoming.head[1])
        if incoming.head[0] > 1:
            self.respond_status(STATUS_INTERNAL, b"a message has a flag that gRPC does not know", 44)
            return -1
        if self.kind == CALL_INFER and self.messages:
            self.respond_status(STATUS_INTERNAL, b"a unary call has more than one message", 38)
            return -1
        if length > LARGEST_MESSAGE:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"a message is larger than 2 GiB", 30)
            return -1
        if self.kind == CALL_OTHER and length > LARGEST_OTHER:
            self.abandon()
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"a message of this method is larger than 256 KiB", 47)
            return -1
        incoming.block = message_memory(length, &incoming.data)
        if incoming.block == NULL:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"no memory for a message of this size", 36)
            return -1
        incoming.length = length
        incoming.came = 0
        self.session.bulky = length >= BULK
        return 0

    cdef void take_message(self) noexcept:
        cdef tg_incoming *incoming = &self.incoming
        self.messages += 1
        incoming.head_size = 0
        if incoming.head[0] and self.decompress() < 0:
            return
        if self.kind == CALL_OTHER:
            self.take_in_python(incoming.data[:incoming.length])
        else:
            self.take_inference()
        free(incoming.block)                  # where it is not an inference's now
        incoming.block = NULL
        self.count_message()

    cdef void count_message(self) noexcept:
        """A call that has many messages lets the others have their turn; one whose answers wait reads no more."""
        if self.read_at != self.front.poller.batch:
            self.read_at = self.front.poller.batch
            self.read_count = 0
        self.read_count += 1
        if self.state != CALL_ASKED:
            return
        if self.turn_count >= AHEAD or self.read_count >= AHEAD or h2_waiting(&self.stream) > FULL:
            self.blocked = True
            self.await_room()

    cdef void await_room(self) noexcept:
        """Reading goes on in the connection's next turn, unless it has to wait for answers, or for the client."""
        if h2_waiting(&self.stream) > FULL:
            self.stream.wants_room = True
        elif self.turn_count < AHEAD and not self.waits:
            self.waits = True
            self.session.waiting.append(self)
            if self.session.connection is not None:
                self.front.poller.defer(self.session.connection)

    cdef int decompress(self) except? -2:
        """-1: the call is over."""
        cdef tg_incoming *incoming = &self.incoming
        cdef bytes plain
        cdef char *block
        try:
            plain = self.front.service.decompress(self.encoding, incoming.data[:incoming.length])
        except BackendError as error:
            self.abandon()                    # a handler that waits for the message
            self.finish(error.status, str(error))
            return -1
        except Exception:
            self.break_off()
            return -1
        block = <char *>malloc(<size_t>len(plain) + 1)
        if block == NULL:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
            return -1
        memcpy(block, PyBytes_AS_STRING(plain), len(plain))
        free(incoming.block)
        incoming.block = incoming.data = block
        incoming.length = len(plain)
        return 0

    cdef void take_inference(self) noexcept:
        cdef tg_incoming *incoming = &self.incoming
        cdef ModelQueue queue = None
        cdef tg_inference *inference = NULL
        if self.refuse_bulky():
            return
        if read_request(&REQUEST, incoming.data, incoming.length) == NULL:
            queue = self.front.find(&REQUEST.model, &REQUEST.version)
            if queue is not None:
                inference = inference_read(queue.served, &REQUEST, incoming.block)
        if inference == NULL:
            self.take_irregular(incoming.data[:incoming.length])
            return
        incoming.block = NULL                 # the inference's now
        self.submit(queue, inference)

    cdef bint refuse_bulky(self) noexcept:
        """Whether the message has more than is read. Nothing is made of such a message."""
        cdef int fields = 0
        cdef const char *problem = count_request(self.incoming.data, self.incoming.length, &fields)
        if problem == NULL:
            return False
        try:
            self.await_turn(inference_refused(STATUS_INVALID_ARGUMENT, b"not a request that is read: " + problem, b""))
        except MemoryError:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
        return True

    cdef object take_irregular(self, bytes message):
        """Python reads what is seldom or wrong."""
        cdef tg_inference *inference
        cdef ModelQueue queue
        cdef bytes text, answer
        self.session.work -= PYTHON_WORK
        try:
            queue, operands, wanted, id, final, finish, sequence = self.front.service.irregular(message)
            inference = inference_of(queue.served, operands, wanted, id, final, finish, sequence)
            if read_request(&REQUEST, PyBytes_AS_STRING(message), <size_t>len(message)) == NULL:
                inference_hurry(inference, &REQUEST)
        except BackendError as error:
            text, answer = str(error).encode(), error.answer
            self.await_turn(inference_refused(error.status, text, answer))
            return
        except Exception:
            self.break_off()
            return
        self.submit(queue, inference)

    cdef void await_turn(self, tg_inference *inference) noexcept:
        """The inference is answered behind those that came before it."""
        inference.waiter = <PyObject *>self
        inference.begun = self.front.load.began(self.front.poller.now)
        link_append(&self.turns, &inference.turn)
        self.turn_count += 1
        if inference.state == INFERENCE_DONE:
            self.answered(inference)

    cdef void submit(self, ModelQueue queue, tg_inference *inference) noexcept:
        cdef uint64_t until
        if inference.timeout_us:
            until = time_after(self.front.poller.now, inference.timeout_us)
            if self.kind == CALL_INFER and until < self.deadline:
                self.deadline = until
                self.front.poller.arm(self, until)
            inference.deadline = min(self.deadline, until)
        else:
            inference.deadline = self.deadline
        self.await_turn(inference)
        queue.submit(inference, self.front.poller.now)

    cdef void end_messages(self) noexcept:
        """The client has sent all, and all was read."""
        self.taken = True
        if self.incoming.head_size:
            self.respond_status(STATUS_INTERNAL, b"the last message is cut off", 27)
        elif self.kind == CALL_OTHER:
            if self.handler is not None:
                self.handler.end()
        elif self.kind == CALL_INFER and self.messages == 0:
            self.respond_status(STATUS_INTERNAL, b"a unary call has no message", 27)
        elif self.kind == CALL_STREAM:
            self.respond_turns()

    cdef void unblock(self) noexcept:
        """A stream goes on with what came meanwhile."""
        cdef tg_buffer waited = self.inbox
        self.inbox.data = NULL
        self.inbox.start = self.inbox.end = self.inbox.capacity = 0
        self.blocked = False
        if tg_buffer_size(&waited):
            self.take(tg_buffer_head(&waited), tg_buffer_size(&waited))
        tg_buffer_free(&waited)
        if self.ended and not self.blocked and self.state == CALL_ASKED:
            self.end_messages()

    # Answers.

    cdef void answered(self, tg_inference *inference) noexcept:
        cdef uint64_t now = monotonic_ns()
        cdef int status = inference.status
        if self.front.tracer is not None:
            self.front.tracer.ended(self.trace, inference, now)
        self.front.load.ended(inference.begun, now, 0 if status else max(now - inference.since, <uint64_t>1),
                              is_our_fault(status))
        if self.kind == CALL_STREAM:
            self.respond_turns()
            return
        link_remove(&inference.turn)
        self.turn_count -= 1
        if self.state == CALL_ASKED:
            self.respond_unary(inference)
        else:
            inference_free(inference)

    cdef int respond_head(self) noexcept:
        """0, or -1: the stream is over."""
        cdef nghttp2_nv fields[2]
        if self.headed:
            return 0
        self.headed = True
        h2_field(&fields[0], b":status", 7, b"200", 3, NGHTTP2_NV_FLAG_NO_COPY_NAME)
        h2_field(&fields[1], b"content-type", 12, b"application/grpc", 16, NGHTTP2_NV_FLAG_NO_COPY_NAME)
        return self.session.respond(&self.stream, fields, 2, True)

    cdef void respond_unary(self, tg_inference *inference) noexcept:
        """Large tensors are sent from where the run left them; the rest is copied."""
        cdef h2_stream *stream = &self.stream
        cdef tg_buffer *reply = &self.reply
        cdef size_t total = 0, copied = 0
        cdef int count = 0, i
        cdef span tensor
        if inference.status == 0 and inference.finish != NULL:
            self.finish_in_python(inference)
            return
        if inference.status:
            self.respond_status(inference.status, inference.problem, inference.problem_size)
            inference_free(inference)
            return
        self.answer = inference               # freed with the call: what is sent lies there
        self.parts = <iovec *>malloc((2 * <size_t>inference.wanted_count + 1) * sizeof(iovec))
        if self.parts == NULL or reply_fields(reply, inference) < 0:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
            return
        for i in range(inference.wanted_count):
            tensor = reply_tensor(inference, i)
            if reply_tensor_head(reply, tensor.size) < 0:
                self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
                return
            if tensor.size < SMALL:
                if tg_buffer_append(reply, tensor.data, tensor.size) < 0:
                    self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
                    return
                continue
            # The buffer may still move: where its pieces are is filled in below.
            self.parts[count].iov_base = NULL
            self.parts[count].iov_len = tg_buffer_size(reply) - copied
            copied = tg_buffer_size(reply)
            self.parts[count + 1].iov_base = <void *>tensor.data
            self.parts[count + 1].iov_len = tensor.size
            total += tensor.size
            count += 2
        self.parts[count].iov_base = NULL
        self.parts[count].iov_len = tg_buffer_size(reply) - copied
        if self.parts[count].iov_len:
            count += 1
        total += tg_buffer_size(reply)
        copied = 0
        for i in range(count):
            if self.parts[i].iov_base == NULL:
                self.parts[i].iov_base = tg_buffer_head(reply) + copied
                copied += self.parts[i].iov_len
        if total > 0xFFFFFFFF:
            self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"the answer is larger than gRPC can say", 38)
            return
        put_prefix(<uint8_t *>stream.prefix, total)
        stream.streaming = False
        stream.messages = True
        stream.prefix_size = MESSAGE_HEAD
        stream.parts = self.parts
        stream.part_count = count
        stream.part = -1
        stream.offset = 0
        stream.left = MESSAGE_HEAD + total
        self.held = total
        self.session.held += total
        self.end_with(STATUS_OK, NULL, 0)

    cdef object finish_in_python(self, tg_inference *inference):
        """A unary answer that Python makes."""
        try:
            self.send(reply_finished(inference))
            self.finish()
        except BackendError as error:
            self.finish(error.status, str(error))
        except Exception:
            self.break_off()
        inference_free(inference)

    cdef object fields_in_python(self, tg_inference *inference, tg_buffer *fields):
        """The answer of a stream that Python makes; or why there is none. Raises MemoryError."""
        cdef bytes answer, text
        try:
            answer = reply_finished(inference)
        except BackendError as error:
            text = str(error).encode()
            inference_fail(inference, error.status, PyBytes_AS_STRING(text), <size_t>len(text))
            return
        if tg_buffer_append(fields, PyBytes_AS_STRING(answer), <size_t>len(answer)) < 0:
            raise MemoryError

    cdef void respond_turns(self) noexcept:
        """What is done at the head of a stream's turns."""
        cdef tg_inference *inference
        cdef int rc
        while not link_empty(&self.turns) and self.state == CALL_ASKED:
            inference = <tg_inference *>self.turns.next.owner
            if inference.state != INFERENCE_DONE:
                break
            link_remove(&inference.turn)          # what ends the call frees those that still have a turn
            self.turn_count -= 1
            rc = self.respond_streamed(inference)
            inference_free(inference)
            if rc < 0:
                self.respond_status(STATUS_RESOURCE_EXHAUSTED, b"out of memory", 13)
        if self.state != CALL_ASKED:
            return
        if self.blocked:
            if self.turn_count < AHEAD // 2:
                self.await_room()
        elif self.taken and link_empty(&self.turns):
            self.respond_status(STATUS_OK, NULL, 0)

    cdef int respond_streamed(self, tg_inference *inference) noexcept:
        """A ModelStreamInferResponse. 0, or -1: no memory."""
        cdef tg_buffer *fields = &self.reply
        cdef tg_buffer *out = &self.stream.queue
        cdef uint8_t prefix[MESSAGE_HEAD]
        cdef size_t size, inner
        cdef span tensor
        cdef int i
        fields.start = fields.end = 0
        if inference.finish != NULL and inference.status == 0:
            try:
                self.fields_in_python(inference, fields)
            except Exception:
                self.break_off()
                return 0
        elif inference.status == 0 and reply_fields(fields, inference) < 0:
            return -1
        if inference.status and failed_fields(fields, inference) < 0:
            return -1
        # Triton marks the last answer of each request, asked or not, and tritonclient's grpc.aio never asks.
        if inference.status == 0 and not inference.final and reply_final(fields) < 0:
            return -1
        inner = tg_buffer_size(fields)
        if inference.status == 0 and inference.finish == NULL:
            for i in range(inference.wanted_count):
                tensor = reply_tensor(inference, i)
                inner += reply_tensor_head_size(tensor.size) + tensor.size
        size = 1 + varint_size(inner) + inner
        if inference.status:
            size += 1 + varint_size(inference.problem_size) + inference.problem_size
        if size > 0xFFFFFFFF or self.respond_head() < 0:
            return -1
        put_prefix(prefix, size)
        if tg_buffer_reserve(out, MESSAGE_HEAD + size) < 0 or self.session.write(
                &self.stream, prefix, MESSAGE_HEAD) < 0:
            return -1
        if inference.status and append_field(out, ERROR_MESSAGE, inference.problem, inference.problem_size) < 0:
            return -1
        if append_tag(out, INFER_RESPONSE, WIRE_BYTES) < 0 or append_varint(out, inner) < 0:
            return -1
        if tg_buffer_append(out, tg_buffer_head(fields), tg_buffer_size(fields)) < 0:
            return -1
        if inference.status == 0 and inference.finish == NULL:
            for i in range(inference.wanted_count):
                tensor = reply_tensor(inference, i)
                if (reply_tensor_head(out, tensor.size) < 0
                        or tg_buffer_append(out, tensor.data, tensor.size) < 0):
                    return -1
        self.mark()
        return 0

    cdef void respond_status(self, int status, const char *text, size_t size) noexcept:
        if self.state == CALL_ASKED or self.state == CALL_NEW:
            self.drop_turns()
            self.end_with(status, text, size)

    cdef void end_with(self, int status, const char *text, size_t size) noexcept:
        """The trailers, behind the answer or instead of it, with a load report (gRFC A51)."""
        cdef tg_buffer *lines = &self.stream.trailers
        cdef const char *load
        cdef int load_size = 0
        cdef int rc
        self.move(CALL_ANSWERED)
        self.front.poller.disarm(self)
        load = self.front.load.header(self.front.poller.now, &load_size)
        if not self.headed and status:
            rc = respond_failed(self.session, &self.stream, status, text, size, load, <size_t>load_size)
        else:
            rc = append_text(lines, b"grpc-status: ")
            if rc == 0:
                rc = append_number(lines, <uint64_t>status)
            if rc == 0 and size:
                rc = append_text(lines, b"\r\ngrpc-message: ")
                if rc == 0:
                    rc = percent_encode(lines, text, size)
            if rc == 0:
                rc = append_text(lines, b"\r\nendpoint-load-metrics-bin: ")
            if rc == 0:
                rc = tg_buffer_append(lines, load, <size_t>load_size)
            if rc == 0:
                rc = append_text(lines, b"\r\n")
            if rc == 0:
                rc = self.respond_head()
            if rc == 0 and self.stream.streaming:
                self.session.finish(&self.stream)
        if rc < 0:
            self.session.reset(&self.stream, H2_INTERNAL_ERROR)
            self.session.detach(self)
        self.mark()

    # The end.

    cdef void drop_turns(self) noexcept:
        """Nobody waits for the inferences any more."""
        cdef tg_inference *inference
        cdef ModelQueue queue
        cdef uint64_t now
        if link_empty(&self.turns):
            return
        now = monotonic_ns()
        while not link_empty(&self.turns):
            inference = <tg_inference *>self.turns.next.owner
            self.turn_count -= 1
            if inference.state == INFERENCE_DONE:
                inference_free(inference)
                continue
            self.front.load.ended(inference.begun, now, 0, False)
            queue = <ModelQueue>inference.queue
            queue.abandon(inference)

    cdef void abandon(self) noexcept:
        """The client has left."""
        self.drop_turns()
        if self.handler is not None:
            self.handler.gone()
            self.handler = None

    cdef void on_timer(self) noexcept:
        if self.state == CALL_ASKED:
            self.abandon()
            self.respond_status(STATUS_DEADLINE_EXCEEDED, b"the deadline has passed", 23)

    # From Python, which answers what is rare.

    cdef object begin_in_python(self):
        try:
            self.handler = self.front.service.begin(self, (self.path or b"").decode(errors="replace"))
        except BackendError as error:
            self.finish(error.status, str(error))
        except Exception:
            self.break_off()

    cdef object take_in_python(self, bytes message):
        self.session.work -= PYTHON_WORK
        try:
            self.handler.take(message)
        except Exception:
            self.break_off()

    cdef object break_off(self):
        """An error that nobody expected."""
        log.exception("%s: unexpected error", self.path)
        self.abandon()
        self.finish(STATUS_INTERNAL, "unexpected error; the server's log has more")

    @property
    def room(self) -> bool:
        """Whether more may be sent; if not, `room` of the handler is called when it may."""
        if h2_waiting(&self.stream) < HIGH_WATER:
            return True
        self.stream.wants_room = True
        return False

    def send(self, bytes message) -> None:
        """Queues a message of the answer; nothing, when nobody waits for it any more. Raises MemoryError."""
        cdef uint8_t prefix[MESSAGE_HEAD]
        if self.state != CALL_ASKED:
            return
        put_prefix(prefix, <size_t>len(message))
        if (self.respond_head() < 0 or self.session.write(&self.stream, prefix, MESSAGE_HEAD) < 0
                or self.session.write(&self.stream, PyBytes_AS_STRING(message), <size_t>len(message)) < 0):
            raise MemoryError
        self.mark()

    def finish(self, int status=0, str text="") -> None:
        """Ends the call with a status of gRPC."""
        cdef bytes said = text.encode(errors="replace")
        self.handler = None
        self.respond_status(status, PyBytes_AS_STRING(said), <size_t>len(said))


cdef bint is_grpc(const char *content_type, size_t size) noexcept:
    """application/grpc, with a suffix (+proto) or parameters or without."""
    if size < 16 or memcmp(content_type, b"application/grpc", 16):
        return False
    return size == 16 or content_type[16] == c"+" or content_type[16] == c";" or content_type[16] == c" "


cdef inline void put_prefix(uint8_t *at, size_t size) noexcept:
    at[0] = 0
    put_u32(at + 1, <uint32_t>size)


cdef int failed_fields(tg_buffer *out, const tg_inference *inference) noexcept:
    """The ModelInferResponse of a stream's inference that failed: which it was."""
    cdef bytes answer
    if inference.served == NULL:
        answer = <bytes>inference.parts
        return tg_buffer_append(out, PyBytes_AS_STRING(answer), <size_t>len(answer))
    return reply_name(out, inference)


cdef int respond_failed(GrpcSession session, h2_stream *stream, int status, const char *text, size_t size,
                        const char *load, size_t load_size) noexcept:
    """Head and trailers in one ("Trailers-Only")."""
    cdef nghttp2_nv fields[5]
    cdef tg_buffer number, message
    cdef int rc = 0, count = 4
    memset(&number, 0, sizeof(number))
    memset(&message, 0, sizeof(message))
    if append_number(&number, <uint64_t>status) < 0 or percent_encode(&message, text, size) < 0:
        rc = -1
    if rc == 0:
        h2_field(&fields[0], b":status", 7, b"200", 3, NGHTTP2_NV_FLAG_NO_COPY_NAME)
        h2_field(&fields[1], b"content-type", 12, b"application/grpc", 16, NGHTTP2_NV_FLAG_NO_COPY_NAME)
        h2_field(&fields[2], b"grpc-status", 11, tg_buffer_head(&number), tg_buffer_size(&number),
                 NGHTTP2_NV_FLAG_NO_COPY_NAME)
        h2_field(&fields[3], b"endpoint-load-metrics-bin", 25, load, load_size, NGHTTP2_NV_FLAG_NO_COPY_NAME)
        if size:
            h2_field(&fields[4], b"grpc-message", 12, tg_buffer_head(&message), tg_buffer_size(&message),
                     NGHTTP2_NV_FLAG_NO_COPY_NAME)
            count = 5
        rc = session.respond(stream, fields, <size_t>count, False)
    tg_buffer_free(&number)
    tg_buffer_free(&message)
    return rc


cdef int percent_encode(tg_buffer *out, const char *text, size_t size) noexcept:
    """As grpc-message has it (PROTOCOL-HTTP2.md, "Responses"); of a long text the beginning."""
    cdef const char *digits = b"0123456789ABCDEF"
    cdef size_t i
    cdef uint8_t octet
    cdef char *at
    size = min(size, <size_t>LONGEST_TEXT)
    if tg_buffer_reserve(out, 3 * size) < 0:
        return -1
    at = tg_buffer_tail(out)
    for i in range(size):
        octet = <uint8_t>text[i]
        if 0x20 <= octet <= 0x7E and octet != c"%":
            at[0] = <char>octet
            at += 1
        else:
            at[0] = c"%"
            at[1] = digits[octet >> 4]
            at[2] = digits[octet & 15]
            at += 3
    out.end = <size_t>(at - out.data)
    return 0
