"""One version of a model: see model.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from backend.inference.counters cimport counters_failed, counters_free, counters_text
from lb.inference.datatypes cimport datatype_of

from backend.model import Model
from lb.wire import grpc_service_pb2 as wire


cdef class Served:
    """`model` is served by the compiled core: its inputs and outputs, its session, what is counted of it."""

    def __init__(self, model: Model, session: Session | None) -> None:
        """`session` runs the model; None: `model.session` does, by Python's binding. Raises MemoryError."""
        cdef bytes head = wire.ModelInferResponse(
            model_name=model.name, model_version=model.version
        ).SerializeToString()
        self.held = [head]
        self.model = model
        self.session = session
        self.max_batch = model.max_batch
        if session is not None:
            self.c.session = self.session.session
            self.c.options = self.session.quiet
        self.c.head = PyBytes_AS_STRING(head)
        self.c.head_size = len(head)
        self.c.inputs = specs_of(model.session.inputs, self.held, &self.c.input_count)
        self.c.outputs = specs_of(model.session.outputs, self.held, &self.c.output_count)

    def __dealloc__(self):
        specs_free(self.c.inputs, self.c.input_count)
        specs_free(self.c.outputs, self.c.output_count)
        counters_free(&self.counters)

    cdef int index_of(self, const char *name, size_t size) noexcept:
        """-1: the model has no such input."""
        return find(self.c.inputs, self.c.input_count, name, size)

    cdef int output_of(self, const char *name, size_t size) noexcept:
        return find(self.c.outputs, self.c.output_count, name, size)

    def refused(self) -> None:
        """A request that was no inference is counted as a failed one."""
        counters_failed(&self.counters, 0)

    def statistics(self) -> bytes:
        """What was counted, as a ModelStatistics message."""
        return counters_text(&self.counters, self.model.name, self.model.version)


cdef tg_spec *specs_of(specs, list held, int *count) except NULL:
    cdef tg_spec *made = <tg_spec *>calloc(len(specs) + 1, sizeof(tg_spec))
    cdef tg_spec *one
    cdef bytes name, datatype
    cdef int i, axis
    if made == NULL:
        raise MemoryError
    for i, spec in enumerate(specs):
        name, datatype = spec.name.encode(), spec.datatype.name.encode()
        held.append(name)
        one = &made[i]
        one.name = PyBytes_AS_STRING(name)
        one.name_size = len(name)
        one.datatype = datatype_of(datatype, len(datatype))
        one.element = spec.datatype.onnx
        one.rank = len(spec.shape)
        one.shape = <int64_t *>calloc(one.rank + 1, sizeof(int64_t))
        count[0] = i + 1
        if one.shape == NULL:
            specs_free(made, count[0])
            count[0] = 0
            raise MemoryError
        for axis in range(one.rank):
            one.shape[axis] = spec.shape[axis]
            if one.shape[axis] == ANY_SIZE and axis in spec.filled:
                one.shape[axis] = ANY_FILLED
    return made


cdef void specs_free(tg_spec *specs, int count) noexcept:
    cdef int i
    if specs == NULL:
        return
    for i in range(count):
        free(specs[i].shape)
    free(specs)


cdef inline int find(const tg_spec *specs, int count, const char *name, size_t size) noexcept:
    cdef int i
    for i in range(count):
        if specs[i].name_size == size and (size == 0 or memcmp(specs[i].name, name, size) == 0):
            return i
    return -1
