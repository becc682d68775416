"""One stream towards an endpoint: see http2_call.pxd."""

from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport UINT64_MAX
from lb.failure cimport FAIL_PROTOCOL
from lb.net.buffer cimport tg_buffer_free
from lb.net.ending cimport tg_end_by
from lb.http.http2.blocks cimport blocks_keep


cdef class Http2Call(Attempt):

    def __cinit__(self):
        self.link.owner = <void *>self
        self.stream.owner = <void *>self

    cdef int build(self, FieldList fields, uint64_t now) noexcept:
        return FAIL_PROTOCOL

    cdef bint replayable(self) noexcept:
        return True

    cdef bint gathers(self) noexcept:
        return True

    cdef int take_field(self, Http2Session session, const char *name, size_t name_size, const char *value,
                        size_t value_size) noexcept:
        blocks_keep(&session.blocks, name, name_size, value, value_size)
        return 0

    cdef int take_fields(self, Http2Session session, bint last, bint *over) noexcept:
        return 0

    cdef int take_data(self, const char *data, size_t size, size_t *held) noexcept:
        return 0

    cdef int take_view(self, View view, size_t *held) noexcept:
        return self.take_data(view.data, view.size, held)

    cdef void judge(self) noexcept:
        pass

    cdef void sent_again(self) noexcept:
        pass

    cdef void room(self) noexcept:
        pass

    cdef void over(self) noexcept:
        pass

    cdef void on_timer(self) noexcept:
        cdef Dispatcher dispatcher = self.dispatcher     # which `expired` lets go
        if dispatcher is not None:
            dispatcher.expired(self)

    cdef void reset_call(self) noexcept:
        self.fail = 0
        self.refused = 0
        self.begun = False
        self.cut = False

    cdef void conclude(self) noexcept:
        self.dispatcher = None
        self.connection = None
        self.deadline = UINT64_MAX
        self.over()
        Py_DECREF(self)                       # taken by Http2Channel.start


cdef void end_call(void *call) noexcept:
    tg_buffer_free(&(<Http2Call>call).stream.queue)
    tg_buffer_free(&(<Http2Call>call).stream.trailers)
    tg_buffer_free(&(<Http2Call>call).fields)


tg_end_by(<PyTypeObject *>Http2Call, end_call)


cdef class Dispatcher(DeferringChannel):

    cdef Http2Call take(self):
        return None

    cdef void put_back(self, Http2Call call) noexcept:
        pass

    cdef void expired(self, Http2Call call) noexcept:
        pass

    cdef void opened(self, Stream connection) noexcept:
        pass

    cdef void is_local(self) noexcept:
        pass

    cdef void not_local(self, const char *problem) noexcept:
        pass

    cdef void served(self) noexcept:
        pass

    cdef void retired(self, Stream connection) noexcept:
        pass

    cdef void lost(self, Stream connection, bint was_up) noexcept:
        pass
