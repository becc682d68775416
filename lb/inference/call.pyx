"""What a gRPC inference asks for: see call.pxd.

A look at the message finds where its id and its tensors' data are. All the rest, with the sizes of the data, is the key
of its template in a memo: clients repeat it with other tensors. Only what is new there is read in full, by Python
objects, and strictly: what other readers of Protocol Buffers pass over, such as unknown fields, may mean something to
the model server.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from lb.http.grpc.protobuf cimport (
    WIRE_BYTES, WIRE_FIXED64, WIRE_VARINT, append_tag, append_varint, cursor, field, next_field, span, start_cursor,
    take_varint,
)
from lb.inference.contents cimport append_contents
from lb.inference.counts cimport count_request
from lb.inference.datatypes cimport DT_BYTES, MAX_RANK, MAX_TENSORS, bytes_framing_ok, datatype_of
from lb.inference.memo cimport Memo, finish_key, tg_memo_key
from lb.inference.request cimport InferRequest
from lb.inference.template cimport Template, build_template
from lb.net.stream cimport iovec
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_reserve, tg_buffer_size,
)

from lb.inference.errors import OipError

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t size, const void *needle, size_t needle_size)

cdef enum:                            # fields of ModelInferRequest
    MODEL_NAME = 1
    MODEL_VERSION = 2
    REQUEST_ID = 3
    REQUEST_PARAMETERS = 4
    INPUTS = 5
    OUTPUTS = 6
    RAW_CONTENTS = 7
cdef enum:                            # of InferInputTensor; InferRequestedOutputTensor has its parameters in 2
    TENSOR_NAME = 1
    TENSOR_DATATYPE = 2
    TENSOR_SHAPE = 3
    TENSOR_PARAMETERS = 4
    TENSOR_CONTENTS = 5
    OUTPUT_PARAMETERS = 2
cdef enum:                            # of InferParameter
    BOOL_PARAM = 1
    INT64_PARAM = 2
    STRING_PARAM = 3
    DOUBLE_PARAM = 4
    UINT64_PARAM = 5
cdef enum:
    MEMO_KEY_MAX = 4096               # bytes of a key that is kept
    # What a message may have that is looked up: each field becomes an object, and each value is converted.
    MOST_FIELDS = 2048
    MOST_VALUES = 262_144             # of typed contents, packed floats aside
    NO_MEMORY = -2

calls = Memo(1024)

# What they say over REST is for that hop alone; a model server that gets them over gRPC may know them.
cdef frozenset OF_THE_HOP = frozenset(("binary_data", "binary_data_size", "binary_data_output"))

# The message that is being read, without its id and its tensors' data. A worker reads one at a time.
cdef tg_buffer described


cdef struct Input:                    # of the message that is being read
    span contents                     # typed data
    bint typed                        # it has such
    span datatype

cdef Input[MAX_TENSORS] inputs


cdef int describe_input(const field *whole, const char *from_, const char *to, int index) noexcept nogil:
    """Adds an input to `described`, without its typed contents. 0; -1: not clear; NO_MEMORY."""
    cdef cursor c
    cdef field f
    cdef const char *at
    cdef const char *begun = NULL
    cdef const char *ended = NULL
    cdef Input *found = &inputs[index]
    cdef int more
    found.typed = False
    found.datatype = span(NULL, 0)
    start_cursor(&c, whole.bytes.data, whole.bytes.size)
    while True:
        at = <const char *>c.at
        more = next_field(&c, &f)
        if more < 0:
            return -1
        if more == 0:
            break
        if f.number == TENSOR_DATATYPE:
            found.datatype = f.bytes
        elif f.number == TENSOR_CONTENTS:
            if f.wire != WIRE_BYTES or found.typed:
                return -1
            found.typed = True
            found.contents = f.bytes
            begun, ended = at, <const char *>c.at
    if not found.typed:
        return NO_MEMORY if tg_buffer_append(&described, from_, <size_t>(to - from_)) < 0 else 0
    # As an input whose data is raw: both are one template.
    if (append_tag(&described, INPUTS, WIRE_BYTES) < 0
            or append_varint(&described, whole.bytes.size - <size_t>(ended - begun)) < 0
            or tg_buffer_append(&described, whole.bytes.data, <size_t>(begun - whole.bytes.data)) < 0
            or tg_buffer_append(&described, ended, <size_t>(whole.bytes.data + whole.bytes.size - ended)) < 0):
        return NO_MEMORY
    return 0


cdef int pack_contents(tg_asked *asked) noexcept nogil:
    """The typed contents of all inputs as raw data. 0; -1: not clear; NO_MEMORY."""
    cdef size_t begun
    cdef int64_t left = MOST_VALUES
    cdef int i, result
    if tg_buffer_reserve(&asked.packed, 8) < 0:
        return NO_MEMORY
    for i in range(asked.count):
        if not inputs[i].typed:
            return -1                         # its data is elsewhere, or there is none
        begun = tg_buffer_size(&asked.packed)
        result = append_contents(&asked.packed, datatype_of(inputs[i].datatype.data, inputs[i].datatype.size),
                                 inputs[i].contents.data, inputs[i].contents.size, &left)
        if result < 0:
            return result
        asked.tensors[i].iov_len = tg_buffer_size(&asked.packed) - begun
    begun = 0
    for i in range(asked.count):              # it moves while it grows
        asked.tensors[i].iov_base = tg_buffer_head(&asked.packed) + begun
        begun += asked.tensors[i].iov_len
    return 0


cdef int look(const char *message, size_t size, tg_asked *asked) noexcept nogil:
    """Fills `asked` and `described`. 0; -1: not clear; NO_MEMORY."""
    cdef cursor c
    cdef field f
    cdef const char *at
    cdef const char *begun = message          # of what is to be added to `described`
    cdef int more, result, raws = 0, fields = 0
    cdef bint typed = False, named = False
    asked.id = span(NULL, 0)
    asked.count = 0
    tg_buffer_clear(&asked.packed)
    tg_buffer_clear(&described)
    if size == 0 or count_request(message, size, &fields) != NULL or fields > MOST_FIELDS:
        return -1
    start_cursor(&c, message, size)
    while True:
        at = <const char *>c.at
        more = next_field(&c, &f)
        if more < 0:
            return -1
        if more == 0:
            break
        if f.wire != WIRE_BYTES:
            return -1
        if f.number == RAW_CONTENTS:
            if raws == MAX_TENSORS:
                return -1
            asked.tensors[raws].iov_base = <void *>f.bytes.data
            asked.tensors[raws].iov_len = f.bytes.size
            raws += 1
        elif f.number == REQUEST_ID:
            if named:
                return -1
            named = True
            asked.id = f.bytes
        elif f.number == INPUTS:
            if asked.count == MAX_TENSORS:
                return -1
            if tg_buffer_append(&described, begun, <size_t>(at - begun)) < 0:
                return NO_MEMORY
            result = describe_input(&f, at, <const char *>c.at, asked.count)
            if result < 0:
                return result
            typed = typed or inputs[asked.count].typed
            asked.count += 1
            begun = <const char *>c.at
            continue
        elif f.number > RAW_CONTENTS:
            return -1
        else:
            continue
        if tg_buffer_append(&described, begun, <size_t>(at - begun)) < 0:
            return NO_MEMORY
        begun = <const char *>c.at
    if tg_buffer_append(&described, begun, <size_t>(<const char *>c.at - begun)) < 0:
        return NO_MEMORY
    if raws:
        if typed or raws != asked.count:
            return -1
    else:
        result = pack_contents(asked)
        if result < 0:
            return result
    # State, which lives in one endpoint: it is not shared, and its ids would fill the memo.
    if memmem(tg_buffer_head(&described), tg_buffer_size(&described), b"sequence_", 9) != NULL:
        return -1
    return 0


cdef struct Named:                    # a key of the memo, and what it is made of besides `described`
    uint64_t[MAX_TENSORS + 1] sizes   # of the tensors' data, and behind them their number
    tg_memo_key key


cdef void name_template(Named *named, const tg_asked *asked) noexcept nogil:
    cdef int i
    for i in range(asked.count):
        named.sizes[i] = asked.tensors[i].iov_len
    named.sizes[asked.count] = <uint64_t>asked.count
    named.key.parts[0] = span(tg_buffer_head(&described), tg_buffer_size(&described))
    named.key.parts[1] = span(<const char *>named.sizes, (<size_t>asked.count + 1) * sizeof(uint64_t))
    named.key.count = 2
    finish_key(&named.key)


cdef object unclear(str what):
    return OipError(f"{what} cannot be read for certain")


cdef object value_of(const span *message):
    """An InferParameter."""
    cdef cursor c
    cdef field f
    cdef field rest
    cdef double real
    start_cursor(&c, message.data, message.size)
    if next_field(&c, &f) <= 0 or next_field(&c, &rest) != 0:
        raise unclear("a parameter")
    if f.number == STRING_PARAM and f.wire == WIRE_BYTES:
        return f.bytes.data[:f.bytes.size].decode()
    if f.number == DOUBLE_PARAM and f.wire == WIRE_FIXED64:
        memcpy(&real, &f.value, sizeof(real))
        if real != real:
            raise unclear("a parameter")      # there is more than one NaN
        return real
    if f.wire != WIRE_VARINT:
        raise unclear("a parameter")
    if f.number == BOOL_PARAM and f.value <= 1:
        return f.value == 1
    if f.number == INT64_PARAM:
        return <int64_t>f.value
    if f.number == UINT64_PARAM:
        return f.value
    raise unclear("a parameter")


cdef int add_parameter(dict parameters, const span *entry) except -1:
    """An entry of a map: the last one of a key counts."""
    cdef cursor c
    cdef field f
    cdef int more
    cdef object key = None
    cdef object value = None
    start_cursor(&c, entry.data, entry.size)
    while True:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0 or f.wire != WIRE_BYTES:
            raise unclear("a parameter")
        if f.number == 1 and key is None:
            key = f.bytes.data[:f.bytes.size].decode()
        elif f.number == 2 and value is None:
            value = value_of(&f.bytes)
        else:
            raise unclear("a parameter")
    if value is None or key in OF_THE_HOP:
        raise unclear("a parameter")
    parameters["" if key is None else key] = value
    return 0


cdef int add_dimensions(list shape, const field *f) except -1:
    cdef cursor c
    cdef uint64_t value
    if f.wire == WIRE_VARINT:
        shape.append(<int64_t>f.value)
    elif f.wire == WIRE_BYTES:
        start_cursor(&c, f.bytes.data, f.bytes.size)
        while c.at < c.end:
            if take_varint(&c, &value) < 0 or len(shape) > MAX_RANK:
                raise unclear("a shape")
            shape.append(<int64_t>value)
    else:
        raise unclear("a shape")
    return 0


cdef dict input_of(const span *message, size_t size):
    """An InferInputTensor as in JSON, with `size` bytes of binary data."""
    cdef cursor c
    cdef field f
    cdef int more
    cdef dict parameters = {}
    cdef list shape = []
    cdef dict found = {"shape": shape, "parameters": parameters}
    start_cursor(&c, message.data, message.size)
    while True:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more > 0 and f.number == TENSOR_SHAPE:
            add_dimensions(shape, &f)
        elif more < 0 or f.wire != WIRE_BYTES:
            raise unclear("an input")
        elif f.number == TENSOR_NAME and "name" not in found:
            found["name"] = f.bytes.data[:f.bytes.size].decode()
        elif f.number == TENSOR_DATATYPE and "datatype" not in found:
            found["datatype"] = f.bytes.data[:f.bytes.size].decode()
        elif f.number == TENSOR_PARAMETERS:
            add_parameter(parameters, &f.bytes)
        else:
            raise unclear("an input")
    parameters["binary_data_size"] = size
    return found


cdef dict output_of(const span *message):
    """An InferRequestedOutputTensor as in JSON."""
    cdef cursor c
    cdef field f
    cdef int more
    cdef dict parameters = {}
    cdef dict found = {"parameters": parameters}
    start_cursor(&c, message.data, message.size)
    while True:
        more = next_field(&c, &f)
        if more == 0:
            return found
        if more < 0 or f.wire != WIRE_BYTES:
            raise unclear("an output")
        if f.number == TENSOR_NAME and "name" not in found:
            found["name"] = f.bytes.data[:f.bytes.size].decode()
        elif f.number == OUTPUT_PARAMETERS:
            add_parameter(parameters, &f.bytes)
        else:
            raise unclear("an output")


cdef bytes text_of(const span *found):
    """Raises UnicodeDecodeError: it is none."""
    cdef bytes text = found.data[:found.size]
    text.decode()
    return text


cdef bint is_ascii(const span *found) noexcept nogil:
    cdef size_t i
    for i in range(found.size):
        if found.data[i] & 0x80:
            return False
    return True


cdef Template build(const tg_asked *asked):
    """The template of what `described` has. Raises OipError, ValueError, OverflowError, MemoryError."""
    cdef cursor c
    cdef field f
    cdef int more
    cdef int index = 0
    cdef bytes model = None
    cdef bytes version = None
    cdef dict parameters = {}
    cdef list wanted = []
    cdef list given = []
    start_cursor(&c, tg_buffer_head(&described), tg_buffer_size(&described))
    while True:
        more = next_field(&c, &f)
        if more == 0:
            break
        if more < 0:
            raise unclear("the request")
        if f.number == MODEL_NAME and model is None:
            model = text_of(&f.bytes)
        elif f.number == MODEL_VERSION and version is None:
            version = text_of(&f.bytes)
        elif f.number == REQUEST_PARAMETERS:
            add_parameter(parameters, &f.bytes)
        elif f.number == INPUTS:
            given.append(input_of(&f.bytes, asked.tensors[index].iov_len))
            index += 1
        elif f.number == OUTPUTS:
            wanted.append(output_of(&f.bytes))
        else:
            raise unclear("the request")
    if not model:
        raise unclear("the model's name")
    return build_template(model, b"" if version is None else version,
                          {"parameters": parameters, "inputs": given, "outputs": wanted})


cdef bint texts_fit(Template template, const tg_asked *asked) noexcept nogil:
    """Whether data of BYTES is as many elements as its shape says; of other datatypes the template says the size."""
    cdef int i
    for i in range(template.input_count):
        if template.inputs[i].datatype == DT_BYTES and not bytes_framing_ok(
                <const char *>asked.tensors[i].iov_base, asked.tensors[i].iov_len, template.inputs[i].count):
            return False
    return True


cdef Template read_call(const char *message, size_t size, tg_asked *asked):
    cdef Template template
    cdef Named named
    cdef int result = look(message, size, asked)
    if result == NO_MEMORY:
        raise MemoryError
    if result < 0:
        return None
    if not is_ascii(&asked.id):
        try:
            text_of(&asked.id)                # which answers repeat
        except UnicodeDecodeError:
            return None
    name_template(&named, asked)
    template = calls.get(&named.key)
    if template is None:
        try:
            template = build(asked)
        except (OipError, ValueError, OverflowError):
            template = Template.__new__(Template)     # kept, so that the same is not read again: not to be cached
        if named.key.size <= MEMO_KEY_MAX:
            calls.put(&named.key, template)
    return template if template.cacheable and texts_fit(template, asked) else None


cdef InferRequest request_of_call(Template template, const tg_asked *asked):
    cdef InferRequest request = InferRequest.__new__(InferRequest)
    cdef size_t count = <size_t>template.input_count
    cdef size_t size = count * sizeof(iovec)
    cdef iovec *tensors
    cdef char *at
    cdef size_t i
    for i in range(count):
        size += asked.tensors[i].iov_len
    tensors = <iovec *>malloc(size + 1)
    if tensors == NULL:
        raise MemoryError
    request.parts = request.tensors = tensors
    at = <char *>(tensors + count)
    for i in range(count):
        tensors[i].iov_base = at
        tensors[i].iov_len = asked.tensors[i].iov_len
        if tensors[i].iov_len:
            memcpy(at, asked.tensors[i].iov_base, tensors[i].iov_len)
        at += tensors[i].iov_len
    request.id = asked.id.data[:asked.id.size] if asked.id.size else b""
    request.model = template.model
    request.version = template.version
    request.batch = template.batch
    request.cacheable = template.cacheable
    request.timeout_us = template.timeout_us
    request.sequence = template.sequence
    request.sequence_start = template.sequence_start
    request.sequence_end = template.sequence_end
    request.template = template
    return request
