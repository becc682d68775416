"""One version of a model: see model.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport UINT64_MAX, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from backend.inference.counters cimport (
    counters_add, counters_failed, counters_free, counters_text, tg_counters,
)
from lb.inference.datatypes cimport datatype_of, element_size

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
        sequencing = model.sequencing
        filled = [] if sequencing is None else [
            *(control.spec for control in sequencing.controls), *(state.input for state in sequencing.states)
        ]
        names = {spec.name for spec in model.outputs}
        hidden = [] if sequencing is None else [
            state.output for state in sequencing.states if state.output.name not in names
        ]
        self.c.input_count = len(model.inputs)
        self.c.inputs = specs_of([*model.inputs, *filled], self.held, &self.c.fed_count)
        self.c.output_count = len(model.outputs)
        self.c.outputs = specs_of([*model.outputs, *hidden], self.held, &self.c.given_count)
        self.most_id = UINT64_MAX
        if sequencing is not None:
            self.c.sequential = True
            self.fill(sequencing, [spec.name for spec in (*model.outputs, *hidden)])

    def __dealloc__(self):
        cdef int i
        specs_free(self.c.inputs, self.c.fed_count)
        specs_free(self.c.outputs, self.c.given_count)
        for i in range(self.c.state_count):
            free(self.c.states[i].shape)
        free(self.c.states)
        free(self.c.fills)
        counters_free(&self.counters)

    cdef int fill(self, sequencing, list outputs) except -1:
        """How the inputs behind those of clients are filled in. Raises MemoryError."""
        cdef int controls = len(sequencing.controls), states = len(sequencing.states), i, axis
        cdef tg_fill *one
        cdef tg_state *state
        cdef bytes data
        self.c.fills = <tg_fill *>calloc(controls + states + 1, sizeof(tg_fill))
        self.c.states = <tg_state *>calloc(states + 1, sizeof(tg_state))
        if self.c.fills == NULL or self.c.states == NULL:
            raise MemoryError
        for i, control in enumerate(sequencing.controls):
            one = &self.c.fills[i]
            one.kind = control.kind
            one.size = len(control.true)
            data = control.false + control.true
            memcpy(one.values[0], PyBytes_AS_STRING(data), one.size)
            memcpy(one.values[1], PyBytes_AS_STRING(data) + one.size, one.size)
            if control.most_id is not None:
                self.numbered = True
                self.most_id = control.most_id
        for i, given in enumerate(sequencing.states):
            one = &self.c.fills[controls + i]
            one.kind = FILL_STATE
            one.state = i
            state = &self.c.states[i]
            state.input = self.c.input_count + controls + i
            state.output = outputs.index(given.output.name)
            state.size = element_size(self.c.inputs[state.input].datatype)
            state.shape = <int64_t *>calloc(len(given.shape) + 1, sizeof(int64_t))
            if state.shape == NULL:
                raise MemoryError
            self.c.state_count = i + 1
            for axis in range(len(given.shape)):
                state.shape[axis] = given.shape[axis]
                state.size *= <size_t>given.shape[axis]
            if given.initial:
                data = given.initial
                self.held.append(data)
                state.data = PyBytes_AS_STRING(data)
        return 0

    cdef int index_of(self, const char *name, size_t size) noexcept:
        """-1: the model has no such input."""
        return find(self.c.inputs, self.c.input_count, name, size)

    cdef int output_of(self, const char *name, size_t size) noexcept:
        return find(self.c.outputs, self.c.output_count, name, size)

    def take_counts(self, Served before not None) -> None:
        """Goes on with what was counted of the same model before it left memory, or came back."""
        counters_free(&self.counters)
        self.counters = before.counters
        memset(&before.counters, 0, sizeof(tg_counters))

    def add_counts(self, Served before not None) -> None:
        """What was counted since then of the model as it was before. Raises MemoryError."""
        counters_add(&self.counters, &before.counters)

    def refused(self) -> None:
        """A request that was no inference is counted as a failed one."""
        counters_failed(&self.counters, 0)

    @property
    def last_ms(self) -> int:
        """When a run ended last, in ms since 1970; 0: none has."""
        return self.counters.last_ms

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
