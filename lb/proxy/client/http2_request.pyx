"""One request on an HTTP/2 connection: see http2_request.pxd.

Events come from inside the session's reading, which allows to queue frames but not to send them: the connection writes
at the end of the batch.
"""

from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport UINT64_MAX, int32_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from lb.failure cimport FAIL_BAD_REQUEST, FAIL_HEAD_TOO_LARGE, FAIL_NOT_IMPLEMENTED, FAIL_SLOW_BODY, failure_of
from lb.http.authority cimport read_authority
from lb.net.arena cimport View
from lb.http.grpc.web cimport WEB_BINARY
from lb.inference.first_model cimport MODEL_FOUND, MODEL_UNKNOWN, first_model
from lb.inference.sequence cimport LOOK_MOST
from lb.proxy.exchange.grpc_web_codec cimport web_kind_of
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.http.head cimport H_CONTENT_LENGTH, H_HOST, Scan, is_dated, same_name, worker_scan
from lb.http.head_text cimport append_date, append_number, append_text, append_trailers, date_text
from lb.http.http2.session cimport (
    H2_BOMB_FRAME, H2_EMPTY_FRAME, H2_FAULT_FRAME, H2_FAULT_WORK, H2_PING_FRAME, H2_RESET_FRAME, H2_SETTINGS_FRAME,
    H2_WINDOW_FRAME, SESSION_OVER, Http2Session, h2_stream, h2_waiting,
)
from lb.http.http2.frames cimport H2_CANCEL, H2_ENHANCE_YOUR_CALM, H2_INTERNAL_ERROR, H2_NO_ERROR, H2_PROTOCOL_ERROR
from lb.http.http2.head cimport (
    HEAD_METHOD, HEAD_OK, HEAD_TOO_MANY, FieldList, read_request, read_request_again, read_trailers, worker_fields,
)
from lb.http.http2.resets cimport frames_begin, frames_look, reset_ahead
from lb.net.link cimport link_append, link_empty, link_init, link_remove
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NONE
from lb.net.poller cimport NEVER
from lb.net.reuse cimport tg_reuse
from lb.shared.segment cimport tg_add
from lb.shared.segment_words cimport LISTENER_REJECTED_REQUESTS_MALFORMED, LISTENER_HTTP2_FLOODS
from lb.net.stream cimport iovec
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.routing.headers.aliases cimport hide_trailers
from lb.proxy.client.rejection cimport dress_rejection
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.rejected cimport count_rejected, log_rejected
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.routing.headers.forwarded cimport tg_hop_cache
from lb.proxy.routing.normalize cimport NORMAL_HIDE_ALIASES, NORMAL_REFUSE_ALIASES
from lb.proxy.client.body_rate cimport body_rate_advance, body_rate_start
from lb.proxy.exchange.refusal cimport SPEAKS_GRPC, SPEAKS_HTTP, Refusal, refusal, speaks_grpc
from lb.proxy.routing.route cimport RouteTable


cdef enum:
    M_HEAD = 2                        # llhttp's number
    HIGH_WATER = 64 * 1024            # bytes of an answer that wait, before the exchange is told when they went
    BURST_SECONDS = 5                 # of control frames that may come at once
    FAULTS = 25                       # cancelled requests that one counts for which the client makes us reset
    # Frames that a DATA frame of ours may call forth: nobody sends more than three.
    ANSWERS = 4
    SECOND = 1_000_000_000
    MODEL_METHODS_LENGTH = 37


cdef const char *MODEL_METHODS = b"/inference.GRPCInferenceService/Model"


cdef bint names_model(Scan *scan) noexcept:
    """Whether it is a call of the inference protocol whose first message names a model, in a form that is read here."""
    return (scan.target_length > MODEL_METHODS_LENGTH
            and memcmp(scan.target, MODEL_METHODS, MODEL_METHODS_LENGTH) == 0
            and (speaks_grpc(scan) or web_kind_of(scan) == WEB_BINARY))


cdef bint nearly_due(Exchange exchange, uint64_t now) noexcept:
    """Three quarters of its time are over. The client's clock began sooner than ours, and both are late at times."""
    return exchange.expires != UINT64_MAX and now + (exchange.expires - exchange.started) // 4 >= exchange.expires


cdef class Http2Host(Http2Session):

    def __dealloc__(self):
        tg_buffer_free(&self.hop.host)
        tg_buffer_free(&self.hop.block)

    cdef void setup(self, Client connection, Admission admission) noexcept:
        self.admission = admission
        self.connection = connection
        self.peer = connection
        link_init(&self.requests)
        link_init(&self.ended_requests)
        frames_begin(&self.frames)

    cdef int take(self, const char *data, size_t size) noexcept:
        cdef tg_frames before = self.frames
        cdef int rc
        self.resets = frames_look(&self.frames, data, size)
        self.reading = True
        rc = self.feed(data, size)
        self.reading = False
        if self.untaken:
            self.frames = before                  # the look was ahead: it is taken up again where the frames stopped
            frames_look(&self.frames, data, size - self.untaken)
        return rc

    cdef void launch_waiting(self) noexcept:
        cdef Http2Request request
        cdef Exchange exchange
        for request in self.waiting:
            exchange = request.exchange
            if exchange is not None and self.state != SESSION_OVER:
                exchange.launch_now()
        self.waiting.clear()

    cdef h2_stream *on_request(self, int32_t id) noexcept:
        cdef Http2Request request
        cdef Client peer = self.peer
        if peer is None:
            return NULL
        request = Http2Request.__new__(Http2Request)
        request.host = self
        request.poller = peer.poller
        request.listener = peer.listener
        memcpy(request.ip, peer.ip, sizeof(peer.ip))
        request.ip_length = peer.ip_length
        request.port = peer.port
        request.tls = peer.tls            # to be asked about the client; it is the connection that speaks through it
        request.stream.owner = <void *>request
        request.stream.streaming = True
        request.link.owner = <void *>request
        Py_INCREF(request)                # `bury` gives it back
        link_append(&self.requests, &request.link)
        self.active += 1
        return &request.stream

    cdef void on_fields_end(self, h2_stream *stream, bint last) noexcept:
        cdef Http2Request request = <Http2Request>stream.owner
        cdef Scan *scan = worker_scan()
        cdef int problem
        if not request.started:
            request.started = True
            if self.resets and reset_ahead(<uint32_t>stream.id):
                return
            scan.max_fields = request.listener.max_headers
            if (not last and not self.blocks.over and (<RouteTable>request.listener.table).by_model
                    and tg_buffer_append(&request.kept_head, tg_buffer_head(&self.blocks.fields),
                                         tg_buffer_size(&self.blocks.fields)) < 0):
                request.stop(H2_INTERNAL_ERROR)
                return
            if self.blocks.over:
                read_request(scan, &self.blocks.fields, last)          # as far as it came
                request.malformed(HEAD_TOO_MANY)
                return
            if self.blocks.known == NULL:
                problem = read_request(scan, &self.blocks.fields, last)
            else:
                problem = read_request_again(scan, &self.blocks.fields, last, &self.blocks.known.reading)
            if problem != HEAD_OK:
                request.malformed(problem)
                return
            request.begin(scan)
        elif request.exchange is not None:
            if self.blocks.over or read_trailers(scan, &self.blocks.fields) != HEAD_OK:
                request.malformed(0)
                return
            if request.listener.normalize & (NORMAL_HIDE_ALIASES | NORMAL_REFUSE_ALIASES):
                hide_trailers(scan, (<RouteTable>request.listener.table).guarded)
            request.exchange.take_trailers(scan)

    cdef void on_data(self, h2_stream *stream, const char *data, size_t size) noexcept:
        cdef Http2Request request = <Http2Request>stream.owner
        cdef Exchange exchange = request.exchange
        cdef iovec span
        if request.holding:
            request.hold(data, size, False)
            return
        if exchange is None:
            return                        # answered already: no more of it is wanted
        span.iov_base = <void *>data
        span.iov_len = size
        request.advance(size)
        exchange.take_body(&span, 1, size, False)
        if request.exchange is not exchange:
            return                        # which ended it
        if exchange.wants_body:
            self.consume(stream, size)
        else:
            request.held += size
        request.watch()

    cdef void on_end(self, h2_stream *stream) noexcept:
        cdef Http2Request request = <Http2Request>stream.owner
        if request.holding:
            request.hold(NULL, 0, True)
        if request.exchange is not None:
            request.exchange.take_body(NULL, 0, 0, True)

    cdef void on_close(self, h2_stream *stream, uint32_t code) noexcept:
        cdef Http2Request request = <Http2Request>stream.owner
        cdef Exchange exchange = request.exchange
        if not stream.reset_by_peer:
            if code == H2_NO_ERROR:
                self.finished += 1
        elif exchange is not None and nearly_due(exchange, request.poller.now):
            self.timely = True
        elif self.forgiven < self.finished:
            self.forgiven += 1
            self.timely = True
        self.detach(request)
        if request.let_go():
            exchange.client_gone()

    cdef void on_room(self, h2_stream *stream) noexcept:
        cdef Http2Request request = <Http2Request>stream.owner
        if request.exchange is not None:
            request.exchange.client_drained()
        elif request.cut:
            request.break_off()

    cdef void on_control(self, int kind) noexcept:
        """Leaky buckets: of the frames that are cheap to send, and of RST_STREAM, which may have cost a request; so has
        what makes us send one (CVE-2025-8671), which no honest client does: it counts for many. Others end the
        connection at the first (RFC 9113 section 5.4.1 allows that), together with other users' requests.

        Not counted is what our own DATA calls forth: the two windows, and the PING by which gRPC clients measure the
        way ("BDP"). So many messages a second as are streamed, so many of them come. Two kinds of resets count for a
        sixteenth, like whatever else an honest peer may send many of: one at the time by which the client wanted an
        answer, which ends nothing that was not about to end; and one for each request that was answered, since a
        connection may carry the requests of many users (Envoy's rule, too: half of the streams).

        A header block of many times the limit ends the connection at once."""
        cdef uint64_t now, cost
        cdef uint64_t *due = &self.control_due
        if self.peer is None or self.flooded:
            return
        if (kind == H2_WINDOW_FRAME or kind == H2_PING_FRAME) and self.answers < ANSWERS * self.data_frames:
            self.answers += 1
            return
        if kind == H2_BOMB_FRAME:
            self.end_flood()
            return
        now = self.peer.poller.now
        if kind == H2_FAULT_FRAME or (kind == H2_RESET_FRAME and not self.timely):
            due = &self.reset_due
            cost = SECOND // self.peer.listener.http2.reset_rate
            if kind == H2_FAULT_FRAME:
                cost *= FAULTS
        else:
            cost = SECOND // self.peer.listener.http2.control_rate
            if kind != H2_PING_FRAME and kind != H2_SETTINGS_FRAME and kind != H2_EMPTY_FRAME:
                cost //= 16
                self.timely = False
        due[0] = max(due[0], now) + cost
        if due[0] - now > <uint64_t>BURST_SECONDS * SECOND:
            self.end_flood()

    cdef void end_flood(self) noexcept:
        self.flooded = True
        tg_add(&self.peer.listener.series[LISTENER_HTTP2_FLOODS], 1)
        self.terminate(H2_ENHANCE_YOUR_CALM)

    cdef void detach(self, Http2Request request) noexcept:
        request.gone = True
        if request.holding:
            request.holding = False
            self.admission.busy -= 1
        link_remove(&request.link)
        self.active -= 1
        link_append(&self.ended_requests, &request.link)
        request.poller.disarm(request)

    cdef void bury(self) noexcept:
        cdef Http2Request request
        while not link_empty(&self.ended_requests):
            request = <Http2Request>self.ended_requests.next.owner
            link_remove(&request.link)
            Py_DECREF(request)

    cdef void lose(self) noexcept:
        cdef Http2Request request
        cdef Exchange exchange
        self.peer = None
        self.connection = None
        if self.waiting:
            self.waiting.clear()
        while not link_empty(&self.requests):
            request = <Http2Request>self.requests.next.owner
            exchange = request.exchange
            self.forget(&request.stream)
            self.detach(request)
            if request.let_go():
                exchange.client_gone()


cdef class Http2Request(Client):

    def __dealloc__(self):
        tg_buffer_free(&self.stream.queue)
        tg_buffer_free(&self.stream.trailers)
        Py_XDECREF(self.stream.lender)
        tg_buffer_free(&self.kept_head)
        tg_buffer_free(&self.early)

    cdef void begin(self, Scan *scan) noexcept:
        if tg_buffer_size(&self.kept_head):
            if not scan.complete and names_model(scan):
                self.holding = True
                self.host.admission.busy += 1
                return
            tg_buffer_free(&self.kept_head)
        self.admit(scan, NULL, 0)

    cdef void hold(self, const char *data, size_t size, bint whole) noexcept:
        cdef Scan *scan = worker_scan()
        cdef const char *model = NULL
        cdef size_t n = 0
        cdef int found
        cdef iovec span
        cdef Exchange exchange
        if size and tg_buffer_append(&self.early, data, size) < 0:
            self.stop(H2_INTERNAL_ERROR)
            return
        found = first_model(tg_buffer_head(&self.early), tg_buffer_size(&self.early), &model, &n)
        if found == MODEL_UNKNOWN and not whole and tg_buffer_size(&self.early) <= LOOK_MOST:
            return
        self.holding = False
        self.host.admission.busy -= 1
        scan.max_fields = self.listener.max_headers
        if read_request(scan, &self.kept_head, False) != HEAD_OK:
            self.stop(H2_INTERNAL_ERROR)
            return
        self.admit(scan, model if found == MODEL_FOUND else NULL, n)
        exchange = self.exchange
        if exchange is not None and tg_buffer_size(&self.early):
            span.iov_base = tg_buffer_head(&self.early)
            span.iov_len = tg_buffer_size(&self.early)
            exchange.take_body(&span, 1, span.iov_len, False)
            if self.exchange is exchange:
                if exchange.wants_body:
                    self.host.consume(&self.stream, span.iov_len)
                else:
                    self.held += span.iov_len
                self.watch()
        tg_buffer_free(&self.kept_head)
        tg_buffer_free(&self.early)

    cdef void admit(self, Scan *scan, const char *model, size_t model_length) noexcept:
        cdef const char *host = NULL
        cdef size_t host_length = 0
        cdef Exchange exchange
        self.head_request = scan.method == M_HEAD
        self.grpc = speaks_grpc(scan)
        if scan.first[H_HOST] >= 0:
            host = scan.fields[scan.first[H_HOST]].value
            host_length = scan.fields[scan.first[H_HOST]].value_length
        if scan.host_count > 1 or host_length == 0 or not read_authority(host, host_length, &host_length):
            self.reject(FAIL_BAD_REQUEST, "exactly one valid authority is needed")
            return
        if scan.target_length == 0 or (scan.target[0] != 47 and not (scan.target_length == 1 and scan.target[0] == 42)):
            self.reject(FAIL_BAD_REQUEST, "the request target is not a path")
            return
        exchange = self.host.admission.admit(self, scan, host, host_length, model, model_length)
        if exchange is None:
            return
        self.exchange = exchange
        self.begin_body_rate()
        self.host.admission.start(exchange, scan)
        self.watch()

    cdef void malformed(self, int problem) noexcept:
        """A head that cannot be taken."""
        cdef Scan *scan = worker_scan()
        scan.head = False                         # not all of it is there
        if self.exchange is None and problem == HEAD_TOO_MANY:
            self.grpc = speaks_grpc(scan)         # whose clients say so before their metadata
            self.reject(FAIL_HEAD_TOO_LARGE, "the header fields are too large, or too many")
        elif self.exchange is None and problem == HEAD_METHOD:
            self.reject(FAIL_NOT_IMPLEMENTED, "the method is not known here")
        else:
            if self.exchange is None:
                tg_add(&self.listener.series[LISTENER_REJECTED_REQUESTS_MALFORMED], 1)
            self.stop(H2_PROTOCOL_ERROR)
            self.host.work -= H2_FAULT_WORK
            self.host.on_control(H2_FAULT_FRAME)

    cdef void stop(self, uint32_t code) noexcept:
        """Resets the stream; the exchange, if there is one, loses its client."""
        cdef Exchange exchange = self.exchange
        if self.gone:
            return
        self.host.reset(&self.stream, code)
        self.host.detach(self)
        self.mark()
        if self.let_go():
            exchange.client_gone()

    cdef bint let_go(self) noexcept:
        """Whether there was an exchange, which this request does not count any more."""
        if self.exchange is None:
            return False
        self.exchange = None
        self.host.admission.busy -= 1
        return True

    cdef void mark(self) noexcept:
        if self.host.connection is not None:
            self.poller.mark(self.host.connection)

    cdef void watch(self) noexcept:
        """A look at the stream in a while, unless one is due: whether its two sides move."""
        cdef uint64_t when = self.poller.now + self.listener.send_timeout if self.listener.send_timeout else NEVER
        if self.deadline != NEVER or self.exchange is None:
            return
        if self.awaits_body():
            when = min(when, self.body_deadline)
        self.seen_out = self.stream.handed
        self.poller.arm(self, when)

    cdef bint awaits_body(self) noexcept:
        """Whether the client has to go on; gRPC messages may be as far apart as the call's deadline allows."""
        return (self.exchange is not None and not self.exchange.request_complete and self.exchange.wants_body
                and not self.grpc and not self.answered)

    cdef void begin_body_rate(self) noexcept:
        body_rate_start(&self.body_rate, self.poller.now)
        self.advance(0)

    cdef void advance(self, size_t came) noexcept:
        self.body_deadline = body_rate_advance(&self.body_rate, self.poller.now, came, self.listener.body_quota,
                                               self.listener.body_timeout)
        if self.body_deadline == NEVER and self.listener.body_timeout:
            self.body_deadline = self.poller.now + self.listener.body_timeout

    cdef void on_timer(self) noexcept:
        cdef Exchange exchange = self.exchange
        if exchange is None:
            if h2_waiting(&self.stream) and self.stream.handed == self.seen_out:
                self.stop(H2_CANCEL)
            elif self.cut:
                self.look_again()
            return
        if h2_waiting(&self.stream):
            if self.stream.handed == self.seen_out:
                self.stop(H2_CANCEL)         # a client that opens no window, or does not read
                return
        elif self.awaits_body() and self.poller.now >= self.body_deadline:
            exchange.fail(FAIL_SLOW_BODY, "the request's body did not come in time")
            return
        self.watch()

    cdef tg_hop_cache *hop_cache(self) noexcept:
        return &self.host.hop

    # The answer (lb.proxy.client.client).

    cdef void respond(self, Scan *scan, const tg_buffer *extra, bint last) noexcept:
        answer_head(self, scan, extra, last)

    cdef void respond_whole(self, int status, const tg_buffer *head, const iovec *parts, int count) noexcept:
        cdef size_t size = 0
        cdef int i
        for i in range(count):
            size += parts[i].iov_len
        if self.respond_own_head(status, head, size):
            self.respond_body(parts, count)
        self.respond_end()

    cdef bint respond_own_head(self, int status, const tg_buffer *head, size_t size) noexcept:
        return answer_own_head(self, status, head, size)

    cdef void respond_body(self, const iovec *parts, int count) noexcept:
        cdef int i
        if self.gone:
            return
        for i in range(count):
            if self.host.write(&self.stream, parts[i].iov_base, parts[i].iov_len) < 0:
                self.stop(H2_INTERNAL_ERROR)
                return
        if h2_waiting(&self.stream) > HIGH_WATER:
            self.stream.wants_room = True
        self.watch()
        self.mark()

    cdef bint respond_view(self, View view) noexcept:
        if self.gone:
            return True
        if self.host.lend(&self.stream, view.data, view.size, view) < 0:
            return False
        if view.size > HIGH_WATER:
            self.stream.wants_room = True
        self.watch()
        self.mark()
        return True

    cdef void respond_upgrade(self, Scan *scan) noexcept:
        """RFC 8441 section 5: 200 stands for 101, and the fields of HTTP/1.1's handshake stay behind."""
        cdef int i
        scan.status = 200
        for i in range(scan.field_count):
            if same_name(scan.fields[i].name, scan.fields[i].name_length, b"sec-websocket-accept"):
                scan.fields[i].hop = True
        self.respond(scan, NULL, False)

    cdef void respond_trailers(self, Scan *scan) noexcept:
        if append_trailers(&self.stream.trailers, scan) < 0:
            self.stop(H2_INTERNAL_ERROR)

    cdef void respond_end(self) noexcept:
        if self.gone:
            return
        self.host.finish(&self.stream)
        self.let_go()
        if not h2_waiting(&self.stream):
            self.poller.disarm(self)              # else the look at what is left of it is due
        self.mark()

    cdef void abort(self) noexcept:
        if self.let_go() and not self.gone:
            self.cut = True
            self.break_off()
            self.mark()

    cdef void break_off(self) noexcept:
        """Resets the stream as soon as the client has had what came of its answer."""
        if not h2_waiting(&self.stream):
            self.stop(H2_INTERNAL_ERROR)
            return
        self.stream.wants_room = True             # `on_room` comes back here
        self.look_again()

    cdef void look_again(self) noexcept:
        self.seen_out = self.stream.handed
        if self.listener.send_timeout:
            self.poller.arm(self, self.poller.now + self.listener.send_timeout)

    cdef bint put_off(self) noexcept:
        """While frames are read: a later one may have the stream reset (CVE-2025-8671), which no endpoint has to see. A
        request that is complete by the end goes out in one write."""
        cdef Http2Host host = self.host
        if not host.reading:
            return False
        if host.waiting is None:
            host.waiting = []
        host.waiting.append(self)
        return True

    cdef void resume_request(self) noexcept:
        self.begin_body_rate()        # the time in which we wanted none of it does not count
        if self.held and not self.gone:
            self.host.consume(&self.stream, self.held)
            self.held = 0
            self.mark()

    cdef void send_continue(self) noexcept:
        answer_continue(self)

    cdef bint has_left(self) noexcept:
        return self.gone

    cdef size_t backlog(self) noexcept:
        return h2_waiting(&self.stream)

    cdef void reject(self, int kind, str message, const tg_buffer *fields=NULL) noexcept:
        cdef int speaks = SPEAKS_GRPC if self.grpc else SPEAKS_HTTP
        cdef Refusal answer = refusal(failure_of(kind).status, failure_of(kind).grpc_status, message, speaks, fields, 0)
        cdef Scan *scan = worker_scan()
        log_rejected(self, scan if scan.head else NULL, 20, kind, self.grpc)
        count_rejected(self.listener.series, kind)
        if not self.grpc:
            dress_rejection(self, answer, failure_of(kind).status, message)
        self.respond_whole(answer.status, &answer.head, &answer.part, 1)


tg_reuse(<PyTypeObject *>Http2Request)


cdef enum:
    INTERIM_LIMIT = 64 * 1024         # bytes that wait for the client, above which no interim answer is added


cdef void answer_head(Http2Request request, Scan *scan, const tg_buffer *extra, bint last) noexcept:
    cdef FieldList fields = worker_fields()
    cdef const char *date
    cdef size_t size
    cdef int failed
    if request.gone or (scan.status < 200 and tg_buffer_size(&request.host.queue.frames) > INTERIM_LIMIT):
        return
    fields.clear()
    fields.add_status(scan.status)
    # Neither an interim answer nor 204 has a length (RFC 9110 section 8.6).
    fields.add_fields(scan, <uint64_t>1 << H_CONTENT_LENGTH if scan.status < 200 or scan.status == 204 else 0)
    if scan.status < 200:
        failed = request.host.inform(&request.stream, fields.fields, fields.count)
    else:
        # RFC 9110 section 6.6.1: whoever passes it on has to date it. Of a gRPC call, which nobody keeps, it would
        # be a fiftieth of the cost.
        if not request.grpc and not is_dated(scan):
            date = date_text(request.poller.now, &size)
            if size:
                fields.add_held(b"date", 4, date, size, NGHTTP2_NV_FLAG_NONE)
        if extra != NULL:
            fields.add_lines(extra)
        request.answered = True
        failed = request.host.respond(&request.stream, fields.fields, fields.count, not last)
    if failed:
        request.stop(H2_INTERNAL_ERROR)
        return
    request.mark()


cdef bint answer_own_head(Http2Request request, int status, const tg_buffer *head, size_t size) noexcept:
    cdef FieldList fields = worker_fields()
    cdef tg_buffer date, number
    cdef int failed
    cdef bint body
    if request.gone:
        return False
    memset(&date, 0, sizeof(date))
    memset(&number, 0, sizeof(number))
    body = size > 0 and not request.head_request
    append_date(&date, request.poller.now)
    fields.clear()
    fields.add_status(status)
    fields.add_lines(&date)
    fields.add_lines(head)
    if not request.grpc and status != 204 and status != 304:       # RFC 9110 section 8.6
        append_text(&number, b"Content-Length: ")
        append_number(&number, size)
        append_text(&number, b"\r\n")
        fields.add_lines(&number)
    request.answered = True
    failed = request.host.respond(&request.stream, fields.fields, fields.count, body)
    tg_buffer_free(&date)
    tg_buffer_free(&number)
    if failed:
        request.stop(H2_INTERNAL_ERROR)
        return False
    request.mark()
    return body


cdef void answer_continue(Http2Request request) noexcept:
    cdef FieldList fields = worker_fields()
    if request.gone:
        return
    fields.clear()
    fields.add_status(100)
    request.host.inform(&request.stream, fields.fields, fields.count)
    request.mark()
