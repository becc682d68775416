"""A connection of HTTP/1.1: see connection.pxd.

    read_loop      bytes go to the parser; what begins as HTTP/2 is handed over
    begin          the head: which request it is
    run            the body is here: an inference becomes a message, read like one of gRPC; Python answers the rest
    answered       the inference is done: its message becomes JSON, or JSON with binary tensors
    respond        the answer is written, and the next request may come
"""

import logging

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset
from backend.grpc.connection cimport take_over
from backend.inference.engine cimport ModelQueue
from backend.inference.inference cimport (
    INFERENCE_DONE, inference_free, inference_hurry, inference_of, inference_read, inference_refused, is_our_fault,
    message_memory, tg_inference,
)
from backend.inference.reply cimport reply_fields, reply_finished, reply_tensor, reply_tensor_head
from backend.inference.spans cimport traced
from lb.failure cimport http_of_grpc
from lb.http.codings cimport CODING_GZIP, CODING_IDENTITY, accept_codings, best_coding
from lb.http.grpc.protobuf cimport span
from lb.http.head cimport (
    H_CONTENT_ENCODING, H_EXPECT, H_INFERENCE_LENGTH, H_TRACEPARENT, MAX_FIELDS, SCAN_TOO_MANY_FIELDS,
    SCAN_URI_TOO_LONG, Field, Scan, has_token, parse_decimal, plainly_chunked, same_name, worker_scan,
)
from lb.http.head_text cimport append_date, append_number, append_text, reason_phrase
from lb.http.http2.frames cimport PREFACE
from lb.http.methods cimport method_text
from lb.inference.message cimport RequestMessage, read_request
from lb.inference.paths cimport MATCH_ESCAPED, NO_MATCH, decode_model, match_infer
from lb.inference.request cimport InferRequest, begin_generate, begin_reading, parse_raw, remembered
from lb.inference.response cimport InferResponse, render
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)
from lb.net.iovec cimport iovec
from lb.net.link cimport link_append, link_empty, link_remove
from lb.net.poller cimport READ_TURNS, monotonic_ns
from lb.net.states cimport states_of, tg_move, tg_state, tg_states
from lb.net.stream cimport EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP, IO_AGAIN, IO_ERROR
from lb.net.work cimport Work

from backend.errors import BackendError
from lb.errors import TidegateError
from lb.inference.compression import COMPRESS_LEAST, COMPRESS_MOST, RATIO, compress, decompressed
from lb.inference.generate import EVENTS, answer, event, target_of

log = logging.getLogger("tidegate.backend")

cdef enum:
    PREFACE_TOLD = 3                  # bytes of HTTP/2's preface that no method of HTTP/1 begins with: "PRI"
    MAX_HEAD = 64 * 1024
    MAX_BODY = 0x7FFFFFFF             # as a message of gRPC
    MOST_PLAIN = 64 * 1024 * 1024     # bytes of a body that came compressed: a small one may claim any size
    RESERVE = 16 * 1024 * 1024        # of a body, at its beginning: memory is taken when it is touched
    COPIED_AT_ONCE = 256 * 1024       # bytes of a message between two looks at the clock
    PATIENCE_NS = 60_000_000_000      # without a byte that the client owes, or takes
    M_POST = 3                        # llhttp's number

cdef tg_states TABLE
TABLE.machine = b"HTTP/1 connection of the model server"
tg_state(&TABLE, b"head", 1 << HTTP_BODY | 1 << HTTP_ASKED | 1 << HTTP_LAST | 1 << HTTP_CLOSED)
tg_state(&TABLE, b"body", 1 << HTTP_ASKED | 1 << HTTP_LAST | 1 << HTTP_CLOSED)
tg_state(&TABLE, b"asked", 1 << HTTP_HEAD | 1 << HTTP_LAST | 1 << HTTP_CLOSED)
tg_state(&TABLE, b"last", 1 << HTTP_CLOSED)
tg_state(&TABLE, b"closed", 0)
STATES = states_of(&TABLE)

cdef uint64_t LEAST = COMPRESS_LEAST
cdef uint64_t MOST = COMPRESS_MOST
JSON = b"application/json"
BINARY = b"application/octet-stream"
# Of the loop: a message is read at once, and not twice.
cdef RequestMessage REQUEST


cdef class HttpConnection(Stream):

    def __dealloc__(self):
        tg_buffer_free(&self.inbox)

    cdef void move(self, int state) noexcept:
        tg_move(&TABLE, &self.state, state)

    cdef void on_ready(self, uint32_t events) noexcept:
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.unread = True
        if events & (EPOLLHUP | EPOLLERR):
            self.close_now()
            return
        self.poller.mark(self)

    cdef void on_flush(self) noexcept:
        if self.fd < 0:
            return
        if self.pending():
            if self.push() == IO_ERROR:
                self.close_now()
                return
            self.moved_at = self.poller.now
        if self.pending() == 0 and self.state == HTTP_LAST:
            self.close_now()
            return
        if not self.deferred:
            self.read_loop()
        if self.fd >= 0:
            self.set_timer()

    cdef void read_loop(self) noexcept:
        """Reads until nothing is there, or an answer is under way."""
        cdef Py_ssize_t n
        cdef int turn = 0
        while self.fd >= 0 and self.state <= HTTP_BODY and self.pending() == 0:
            if tg_buffer_size(&self.inbox):
                self.parse()
                if self.fd < 0 or self.state > HTTP_BODY:
                    return
            if not self.unread:
                return
            if turn == READ_TURNS:
                self.poller.defer(self)
                return
            turn += 1
            n = self.receive(self.poller.scratch, self.poller.scratch_size)
            if n == IO_AGAIN:
                self.unread = False
                return
            if n <= 0 or tg_buffer_append(&self.inbox, self.poller.scratch, <size_t>n) < 0:
                self.close_now()
                return
            self.moved_at = self.poller.now

    cdef void parse(self) noexcept:
        """What has come; the rest stays until more has."""
        cdef Scan *scan = worker_scan()
        cdef const char *data = tg_buffer_head(&self.inbox)
        cdef size_t size = tg_buffer_size(&self.inbox)
        cdef Py_ssize_t taken
        cdef int i
        if not self.spoken and memcmp(data, PREFACE, min(size, <size_t>PREFACE_TOLD)) == 0:
            if size >= PREFACE_TOLD:
                self.front.connections.discard(self)
                if take_over(self, self.front, data, size) < 0:
                    self.close_now()
            return
        while size and self.state <= HTTP_BODY:
            scan.max_fields = MAX_FIELDS - 1
            taken = self.parser.execute(scan, data, size)
            if taken < 0:
                self.refuse(431 if scan.error == SCAN_TOO_MANY_FIELDS else
                            414 if scan.error == SCAN_URI_TOO_LONG else 400, self.parser.why)
                return
            if taken == 0 and not self.parser.reading_body:
                if size > MAX_HEAD:
                    self.refuse(431, b"the head is larger than 64 KiB")
                return
            if scan.head:
                self.spoken = True
                if not scan.chunked and <size_t>taken - scan.body_bytes > MAX_HEAD:
                    self.refuse(431, b"the head is larger than 64 KiB")
                    return
                self.begin(scan)
                if self.state > HTTP_BODY:
                    return
            for i in range(scan.span_count):
                if tg_buffer_size(&self.request.body) + scan.spans[i].iov_len > MAX_BODY:
                    self.refuse(413, b"the body is larger than 2 GiB")
                    return
                if tg_buffer_append(&self.request.body, scan.spans[i].iov_base, scan.spans[i].iov_len) < 0:
                    self.refuse(503, b"out of memory")
                    return
            if scan.complete:
                self.keep_alive = self.parser.keep_alive()
                self.move(HTTP_ASKED)
                self.moved_at = 0
            tg_buffer_consume(&self.inbox, <size_t>taken)
            data = tg_buffer_head(&self.inbox)
            size = tg_buffer_size(&self.inbox)
        if self.state == HTTP_ASKED:
            self.request.run()

    cdef void begin(self, const Scan *scan) noexcept:
        """A head has come."""
        cdef HttpRequest request = HttpRequest.__new__(HttpRequest)
        cdef const Field *field
        cdef const char *method
        cdef size_t method_size
        cdef int64_t length
        cdef int i
        request.front = self.front
        request.connection = self
        request.json_length = -1
        method = method_text(scan, scan.method, &method_size)
        request.method = method[:method_size]
        request.target = scan.target[:scan.target_length]
        self.request = request
        self.move(HTTP_BODY)
        if scan.host_count > 1 or (scan.host_count == 0 and scan.version >= 11):
            self.refuse(400, b"exactly one Host field is needed")     # RFC 9112 section 3.2
            return
        if not plainly_chunked(scan):
            self.refuse(501, b"the transfer coding is not supported")
            return
        if scan.first[H_INFERENCE_LENGTH] >= 0:
            field = &scan.fields[scan.first[H_INFERENCE_LENGTH]]
            length = parse_decimal(field.value, field.value_length)
            if length < 0:
                self.refuse(400, b"Inference-Header-Content-Length is not a number")
                return
            request.json_length = <Py_ssize_t>length
        if scan.first[H_CONTENT_ENCODING] >= 0:
            field = &scan.fields[scan.first[H_CONTENT_ENCODING]]
            request.encoding = field.value[:field.value_length]
        if self.front.tracer is not None and scan.first[H_TRACEPARENT] >= 0:
            field = &scan.fields[scan.first[H_TRACEPARENT]]
            request.trace = traced(field.value, field.value_length)
        for i in range(scan.field_count):
            field = &scan.fields[i]
            if same_name(field.name, field.name_length, b"accept-encoding"):
                accept_codings(&request.accepted, field.value, field.value_length)
        if scan.has_length:
            if scan.content_length > MAX_BODY:
                self.refuse(413, b"the body is larger than 2 GiB")
                return
            if tg_buffer_reserve(&request.body, min(<size_t>scan.content_length, <size_t>RESERVE)) < 0:
                self.refuse(503, b"out of memory")
                return
        if scan.first[H_EXPECT] >= 0:
            if not has_token(&scan.fields[scan.first[H_EXPECT]], b"100-continue"):
                self.refuse(417, b"the expectation is not known here")
            elif append_text(&self.out, b"HTTP/1.1 100 Continue\r\n\r\n") < 0 or self.push() == IO_ERROR:
                self.close_now()

    cdef void refuse(self, int status, const char *text) noexcept:
        """What cannot be read further: the answer is the last one."""
        cdef iovec part
        cdef bytes body = b'{"error":"' + text.replace(b'"', b"'") + b'"}'
        self.keep_alive = False
        if self.state < HTTP_ASKED:
            self.move(HTTP_ASKED)
        part.iov_base = <void *>PyBytes_AS_STRING(body)
        part.iov_len = <size_t>len(body)
        self.respond(status, b"application/json", NULL, &part, 1, part.iov_len)

    cdef void respond(self, int status, const char *content_type, const tg_buffer *fields, const iovec *parts,
                      int count, size_t size) noexcept:
        cdef HttpRequest request = self.request
        cdef tg_buffer *out = &self.out
        cdef bint last = not self.keep_alive or self.going
        cdef int rc
        if self.fd < 0:
            return
        rc = append_text(out, b"HTTP/1.1 ")
        if rc == 0:
            rc = append_number(out, <uint64_t>status)
        if rc == 0:
            rc = append_text(out, b" ")
        if rc == 0:
            rc = append_text(out, reason_phrase(status))
        if rc == 0:
            rc = append_text(out, b"\r\n")
        if rc == 0:
            rc = append_date(out, self.poller.now)
        if rc == 0:
            rc = append_text(out, b"Content-Type: ")
        if rc == 0:
            rc = append_text(out, content_type)
        if rc == 0 and fields != NULL:
            rc = append_text(out, b"\r\n")
        if rc == 0 and fields != NULL:
            rc = tg_buffer_append(out, tg_buffer_head(fields), tg_buffer_size(fields))
        if rc == 0:
            rc = append_text(out, b"Content-Length: " if fields != NULL else b"\r\nContent-Length: ")
        if rc == 0:
            rc = append_number(out, size)
        if rc == 0:
            rc = append_text(out, b"\r\nConnection: close\r\n\r\n" if last else b"\r\n\r\n")
        if rc == 0 and request is not None and request.method == b"HEAD":
            rc = self.push()
        elif rc == 0:
            rc = self.push_parts(parts, count)
        if rc < 0:
            self.close_now()
            return
        self.end_request()
        self.moved_at = self.poller.now
        if last:
            self.move(HTTP_LAST)
        else:
            self.move(HTTP_HEAD)
            self.parser.reset()
        self.poller.mark(self)                    # which reads on, or closes

    cdef void set_timer(self) noexcept:
        if self.moved_at and (self.pending() or self.state == HTTP_BODY or tg_buffer_size(&self.inbox)):
            self.poller.arm(self, self.moved_at + PATIENCE_NS)
        else:
            self.moved_at = 0
            self.poller.disarm(self)

    cdef void on_timer(self) noexcept:
        if self.pending() == 0 and self.state <= HTTP_BODY:
            self.refuse(408, b"the request did not come in time")
        else:
            self.close_now()

    cdef void end_request(self) noexcept:
        cdef HttpRequest request = self.request
        self.request = None
        if request is not None:
            request.abandon()

    cdef void close_now(self) noexcept:
        if self.fd < 0:
            return
        self.move(HTTP_CLOSED)
        self.poller.remove(self)
        self.front.connections.discard(self)
        self.end_request()

    # From Python.

    def leave(self) -> None:
        """The request under way is answered; then the connection closes."""
        self.going = True
        if self.state == HTTP_HEAD and tg_buffer_size(&self.inbox) == 0:
            self.move(HTTP_LAST)
            self.poller.mark(self)

    def close(self) -> None:
        """Closes at once; the request in progress is given up."""
        self.close_now()


@cython.final
cdef class HttpWork(Work):
    cdef bint go_on(self, uint64_t until) noexcept:
        cdef HttpRequest request = self.request
        if request.connection is None:
            return True
        request.front.poller.now = monotonic_ns()
        try:
            if not request.read(until):
                return False
            if request.model is None:
                request.run_in_python()
            else:
                request.run_inference()
        except Exception as error:
            request.fail(error)
        return True


cdef class HttpRequest(Waiter):

    def __dealloc__(self):
        tg_buffer_free(&self.body)
        tg_buffer_free(&self.plain)
        free(self.block)

    cdef object run(self):
        """All of the request is here."""
        cdef span model, version
        cdef HttpWork work
        cdef int matched
        target = self.target.partition(b"?")[0]
        matched = match_infer(<const char *>target, <size_t>len(target), &model, &version) \
            if self.method == b"POST" else NO_MATCH
        try:
            if matched != NO_MATCH:
                self.model = decode_model(&model) if matched == MATCH_ESCAPED else model.data[:model.size]
                self.version = version.data[:version.size]
            elif self.method == b"POST":
                self.generates = target_of(target)
                if self.generates is not None:
                    self.model, self.version = self.generates.model, self.generates.version
        except TidegateError as error:
            self.say(error.status, str(error))
            return
        work = HttpWork.__new__(HttpWork)
        work.request = self
        self.front.works.begin(work)

    cdef void fail(self, object error) noexcept:
        if isinstance(error, BackendError):
            self.say(http_of_grpc(error.status), str(error))
        elif isinstance(error, TidegateError):
            self.say(error.status, str(error))
        elif isinstance(error, MemoryError):
            self.say(503, "out of memory")
        else:
            log.error("a request could not be read", exc_info=error)
            self.say(500, "unexpected error; the server's log has more")

    cdef bint read(self, uint64_t until) except -1:
        """Goes on until the message of an inference is made, or the body is one for Python, and then returns True, or
        until the clock says so. Raises BackendError, TidegateError, MemoryError."""
        if self.encoding is not None and self.encoding.lower() != b"identity" and not self.decode_body(until):
            return False
        if self.model is None:
            return True
        if self.infer is None:
            if self.reading is None:
                self.start_reading()
            if self.infer is None:
                if not self.reading.go_on(until):
                    return False
                self.infer, self.reading = self.reading.request, None
        return self.join_parts(until)

    cdef bint decode_body(self, uint64_t until) except -1:
        """Goes on with taking the encoding off."""
        cdef bytes piece
        if self.pieces is None:
            coded = memoryview(b"")
            if tg_buffer_size(&self.body):
                coded = PyMemoryView_FromMemory(
                    tg_buffer_head(&self.body), <Py_ssize_t>tg_buffer_size(&self.body), PyBUF_READ)
            self.pieces = decompressed(self.encoding, coded, MOST_PLAIN, RATIO)
        for piece in self.pieces:
            if tg_buffer_append(&self.plain, PyBytes_AS_STRING(piece), <size_t>len(piece)) < 0:
                raise MemoryError
            if monotonic_ns() >= until:
                return False
        self.pieces = None
        self.encoding = None
        tg_buffer_free(&self.body)
        self.body = self.plain
        memset(&self.plain, 0, sizeof(tg_buffer))
        return True

    cdef object start_reading(self):
        """Of what is known, the reading is done, too."""
        cdef const char *data = tg_buffer_head(&self.body)
        cdef size_t size = tg_buffer_size(&self.body)
        if self.generates is not None:
            schema = self.front.service.generate_schema(self.model.decode(), self.version.decode())
            self.reading = begin_generate(self.model, self.version, data, size, schema)
        elif self.json_length == 0:
            self.infer = self.raw_request()
            return
        else:
            self.infer = remembered(self.model, self.version, data, size, self.json_length)
            if self.infer is not None:
                return
            self.reading = begin_reading(self.model, self.version, data, size, self.json_length)
        self.reading.gives_back = True

    cdef bint join_parts(self, uint64_t until) except -1:
        """Goes on with the message as one block."""
        cdef const iovec *part
        cdef size_t size
        if self.block == NULL:
            self.block = message_memory(self.infer.message_size, &self.message)
            if self.block == NULL:
                raise MemoryError
        while self.part < self.infer.part_count:
            part = &self.infer.parts[self.part]
            size = min(part.iov_len - self.of_part, <size_t>COPIED_AT_ONCE)
            memcpy(self.message + self.joined, <const char *>part.iov_base + self.of_part, size)
            self.joined += size
            self.of_part += size
            if self.of_part == part.iov_len:
                self.of_part = 0
                self.part += 1
            if size == COPIED_AT_ONCE and monotonic_ns() >= until:
                return False
        return True

    cdef object run_inference(self):
        """Raises TidegateError, MemoryError."""
        cdef tg_inference *inference = NULL
        cdef ModelQueue queue = None
        cdef char *block = self.block
        if self.infer.timeout_us:
            self.deadline = self.front.poller.now + 1000 * self.infer.timeout_us
            self.front.poller.arm(self, self.deadline)
        self.block = NULL
        if read_request(&REQUEST, self.message, self.joined) == NULL:
            queue = self.front.find(&REQUEST.model, &REQUEST.version)
            if queue is not None:
                inference = inference_read(queue.served, &REQUEST, block)
        if inference == NULL:
            message = self.message[:self.joined]
            free(block)
            try:
                queue, operands, wanted, id, final, finish, sequence = self.front.service.irregular(message)
                inference = inference_of(queue.served, operands, wanted, id, final, finish, sequence)
                if read_request(&REQUEST, PyBytes_AS_STRING(message), <size_t>len(message)) == NULL:
                    inference_hurry(inference, &REQUEST)
            except BackendError as error:
                inference = inference_refused(error.status, str(error).encode(), error.answer)
        self.submit(queue, inference)

    cdef InferRequest raw_request(self):
        """The body is the one input's bytes (lb.inference.raw_input). Raises TidegateError, BackendError,
        MemoryError."""
        cdef size_t size = tg_buffer_size(&self.body)
        cdef uint32_t length = <uint32_t>size
        cdef tg_buffer text
        cdef bytes header
        header, prefixed = self.front.service.raw_header(
            self.model.decode(errors="replace"), self.version.decode(errors="replace"), size)
        if prefixed:
            text = self.body
            memset(&self.body, 0, sizeof(tg_buffer))
            rc = tg_buffer_append(&self.body, &length, sizeof(length))
            if rc == 0:
                rc = tg_buffer_append(&self.body, tg_buffer_head(&text), size)
            tg_buffer_free(&text)
            if rc < 0:
                raise MemoryError
        return parse_raw(self.model, self.version, header, tg_buffer_head(&self.body), tg_buffer_size(&self.body))

    cdef void submit(self, ModelQueue queue, tg_inference *inference) noexcept:
        cdef uint64_t now = self.front.poller.now
        self.front.calls += 1
        inference.waiter = <PyObject *>self
        inference.deadline = self.deadline
        inference.begun = self.front.load.began(now)
        link_append(&self.turns, &inference.turn)
        if inference.state == INFERENCE_DONE:
            self.answered(inference)
        else:
            queue.submit(inference, now)

    cdef void answered(self, tg_inference *inference) noexcept:
        cdef uint64_t now = monotonic_ns()
        cdef int status = inference.status
        if self.front.tracer is not None:
            self.front.tracer.ended(self.trace, inference, now)
        link_remove(&inference.turn)
        self.front.calls -= 1
        self.front.load.ended(inference.begun, now, 0 if status else max(now - inference.since, <uint64_t>1),
                              is_our_fault(status))
        try:
            if status:
                text = inference.problem[:inference.problem_size].decode(errors="replace")
                self.say(http_of_grpc(status), text)
            else:
                self.respond(inference)
        except BackendError as error:
            self.say(http_of_grpc(error.status), str(error))
        except TidegateError as error:
            self.say(error.status, str(error))
        except MemoryError:
            self.say(503, "out of memory")
        except Exception:
            log.exception("an answer could not be written")
            self.say(500, "unexpected error; the server's log has more")
        inference_free(inference)

    cdef object respond(self, tg_inference *inference):
        """The answer as the client wants it. Raises TidegateError, MemoryError."""
        cdef InferResponse response
        cdef tg_buffer message, fields
        cdef iovec part
        cdef span tensor
        cdef bytes packed
        cdef int i, rc, coding
        memset(&message, 0, sizeof(message))
        memset(&fields, 0, sizeof(fields))
        try:
            if inference.finish != NULL:
                packed = reply_finished(inference)
                rc = tg_buffer_append(&message, PyBytes_AS_STRING(packed), <size_t>len(packed))
            else:
                rc = reply_fields(&message, inference)
            for i in range(inference.wanted_count if inference.finish == NULL else 0):
                tensor = reply_tensor(inference, i)
                if rc == 0:
                    rc = reply_tensor_head(&message, tensor.size)
                if rc == 0:
                    rc = tg_buffer_append(&message, tensor.data, tensor.size)
            if rc < 0:
                raise MemoryError
            response = render(self.infer, tg_buffer_head(&message), tg_buffer_size(&message))
            if self.generates is not None:
                self.respond_generated(response)
                return
            content_type = JSON
            if response.json_length >= 0:
                content_type = BINARY
                if (append_text(&fields, b"Inference-Header-Content-Length: ") < 0
                        or append_number(&fields, <uint64_t>response.json_length) < 0
                        or append_text(&fields, b"\r\n") < 0):
                    raise MemoryError
            if self.connection is None:
                return
            coding = best_coding(&self.accepted)
            if coding != CODING_IDENTITY and LEAST <= response.size <= MOST:
                packed = compress(b"gzip" if coding == CODING_GZIP else b"deflate", [response.body()])
                if (append_text(&fields, b"Vary: Accept-Encoding\r\nContent-Encoding: ") < 0
                        or append_text(&fields, b"gzip\r\n" if coding == CODING_GZIP else b"deflate\r\n") < 0):
                    raise MemoryError
                part.iov_base = <void *>PyBytes_AS_STRING(packed)
                part.iov_len = <size_t>len(packed)
                self.connection.respond(200, <const char *>content_type, &fields, &part, 1, part.iov_len)
                return
            self.connection.respond(200, <const char *>content_type, &fields if tg_buffer_size(&fields) else NULL,
                                    response.parts, response.part_count, response.size)
        finally:
            tg_buffer_free(&message)
            tg_buffer_free(&fields)

    cdef object respond_generated(self, InferResponse response):
        """The answer to a generate request, which is the only event of a stream: a model gives one answer here."""
        made = answer(response.body())
        if self.generates.stream:
            self.reply(200, event(made), EVENTS, b"Cache-Control: no-cache\r\n")
        else:
            self.reply(200, made, "application/json", b"")

    def say(self, int status, str text) -> None:
        """Answers with an error, as the protocol shapes it."""
        error = self.front.service.error(text)
        if self.generates is not None and self.generates.stream:      # as Triton, with the status of an error
            self.reply(status, event(error), EVENTS, b"")
        else:
            self.reply(status, error, "application/json", b"")

    # From Python.

    cdef object run_in_python(self):
        body = tg_buffer_head(&self.body)[:tg_buffer_size(&self.body)]
        self.task = self.front.service.rest(self, self.method.decode("latin-1"), self.target.decode("latin-1"), body)

    def reply(self, int status, bytes body, str content_type, bytes fields) -> None:
        """The answer; nothing, when nobody waits for it any more. `fields` are further lines of the head."""
        cdef bytes kind = content_type.encode()
        cdef tg_buffer lines
        cdef iovec part
        if self.connection is None:
            return
        self.task = None
        lines.data = PyBytes_AS_STRING(fields)
        lines.start = 0
        lines.end = lines.capacity = <size_t>len(fields)
        part.iov_base = <void *>PyBytes_AS_STRING(body)
        part.iov_len = <size_t>len(body)
        self.connection.respond(status, <const char *>kind, &lines if len(fields) else NULL, &part, 1, part.iov_len)

    # The end.

    cdef void abandon(self) noexcept:
        """Nobody waits for an answer any more."""
        cdef tg_inference *inference
        self.connection = None
        self.front.poller.disarm(self)
        if self.task is not None:
            task, self.task = self.task, None
            task.cancel()
        while not link_empty(&self.turns):
            inference = <tg_inference *>self.turns.next.owner
            self.front.calls -= 1
            self.front.load.ended(inference.begun, monotonic_ns(), 0, False)
            (<ModelQueue>inference.queue).abandon(inference)

    cdef void on_timer(self) noexcept:
        if self.connection is not None and not link_empty(&self.turns):
            self.say(504, "the deadline has passed")
