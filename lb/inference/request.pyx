"""Inference requests: from HTTP bodies of the Open Inference Protocol to `ModelInferRequest` messages.

Every encoding of a request gives the same message: tensors are always raw_input_contents, parameters are sorted,
defaults are left out. Clients repeat the JSON part with other tensors behind it, so what it says is kept (memo.pyx)
and the usual request is a dictionary look-up and some pointers. What is not kept is read in steps. Multi-byte values
are copied as they are in memory: the hosts are little-endian, as the protocol is.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from lb.shared.data_digest cimport tg_digest_data
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.net.buffer cimport tg_buffer_reserve
from lb.net.ending cimport tg_end_by
from lb.net.give_back cimport tg_give_back
from lb.net.poller cimport NEVER, monotonic_ns
from lb.net.stream cimport iovec
from lb.inference.datatypes cimport (
    DT_BYTES, FRAMING_DONE, FRAMING_MORE, MAX_RANK, bytes_framing_ok, look_at_framing, tg_framing,
)
from lb.inference.memo cimport MEMO_PARTS, Memo, finish_key, tg_memo_key
from lb.http.grpc.protobuf cimport WIRE_BYTES, put_varint, span, varint_size
from lb.inference.reader cimport READ_DONE, READ_MORE, read_text, tg_value
from lb.inference.template cimport InputSpec, OutputSpec, Template, build_template
from lb.inference.tensors cimport (
    PACK_DONE, PACK_MEMORY, PACK_MORE, begin_packing, most_packed, pack_some, packing_error,
)

import orjson

from lb.inference.errors import OipError

cdef enum:
    MEMO_JSON_MAX = 4096              # bytes of a JSON part that is kept
    MEMO_BODY_MAX = 2048              # of a body that is JSON only: most never come again
    COPY_MAX = 512                    # bytes of a tensor that are cheaper copied than sent as a part of their own
    TAIL_MAX = 64 * 1024              # bytes of binary tensors that are looked at at once
    STEP = 16 * 1024                  # bytes of text, or elements of strings, between two looks at the clock
    GIVE_BACK = 1 << 20               # bytes of the body whose memory is given back at once
    ID_TAG = 3 << 3 | WIRE_BYTES
    RAW_TAG = 7 << 3 | WIRE_BYTES

headers = Memo(1024)
bodies = Memo(512)


cdef int digest_of(Template template, const iovec *tensors, const unsigned char *secret, unsigned char *out) noexcept:
    cdef tg_digest state
    cdef const iovec *tensor
    cdef int i
    if template.keyed and memcmp(template.secret, secret, 32) == 0:
        memcpy(out, template.key, 32)
        return 0
    if (tg_digest_init(&state, secret) < 0
            or tg_digest_update(&state, template.meaning.data, template.meaning.end) < 0):
        return -1
    for i in range(template.input_count):
        tensor = &tensors[template.order[i]]
        if tg_digest_data(&state, secret, tensor.iov_base, tensor.iov_len) < 0:
            return -1
    if tg_digest_final(&state, out) < 0:
        return -1
    if template.binary_inputs == 0:           # a repetition has the same data, too
        memcpy(template.secret, secret, 32)
        memcpy(template.key, out, 32)
        template.keyed = True
    return 0


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class InferRequest:
    cdef int digest(self, const unsigned char *secret, unsigned char *out) noexcept:
        return digest_of(self.template, self.tensors, secret, out)

    cdef bint wants_binary(self, const char *name, size_t n) noexcept:
        cdef const OutputSpec *output
        cdef int i
        for i in range(self.template.output_count):
            output = &self.template.outputs[i]
            if output.binary >= 0 and output.name.size == n and memcmp(output.name.data, name, n) == 0:
                return output.binary
        return self.template.binary_default

    cdef bint shares(self, const char *name, size_t n) noexcept:
        cdef const OutputSpec *output
        cdef int i
        for i in range(self.template.output_count):
            output = &self.template.outputs[i]
            if output.shared and output.name.size == n and memcmp(output.name.data, name, n) == 0:
                return True
        return False

    def message(self):
        """The ModelInferRequest as bytes."""
        cdef int i
        cdef const iovec *parts = self.parts
        return b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(self.part_count)])

    def part_sizes(self):
        """Bytes of each part of the message."""
        cdef int i
        return [self.parts[i].iov_len for i in range(self.part_count)]

    def __repr__(self):
        return f"<InferRequest {self.model.decode()} version={self.version.decode() or '*'} {self.message_size} bytes>"


cdef void end_request(void *request) noexcept:
    free(<void *>(<InferRequest>request).parts)


tg_end_by(<PyTypeObject *>InferRequest, end_request)


cdef size_t split_id(const char *text, size_t size, span *id_) noexcept:
    """Where a JSON object goes on behind a plain `"id"` that is its first member; 0 when it does not begin with one.

    Stock clients write the id first. Taken out, what is left is the same for every request of a client."""
    cdef size_t at = 6
    cdef unsigned char c
    if size < 8 or memcmp(text, b'{"id":', 6) != 0:
        return 0
    if text[at] == 32:
        at += 1
    if text[at] != 34:
        return 0
    at += 1
    id_.data = text + at
    while at < size:
        c = <unsigned char>text[at]
        if c == 34:
            break
        # No escapes and nothing that needs to be checked for valid UTF-8.
        if c < 32 or c > 126 or c == 92:
            return 0
        at += 1
    id_.size = <size_t>(text + at - id_.data)
    at += 1
    while at < size and text[at] == 32:
        at += 1
    if at >= size or text[at] != 44:
        return 0
    return at + 1


cdef struct Named:                    # a key of a memo, and the lengths that tell its parts apart
    uint32_t[2] lengths
    tg_memo_key key


cdef void name_template(Named *named, bytes model, bytes version, const char *text, size_t size, bint split) noexcept:
    """The key of a JSON part; `split`: its brace was cut off with the id."""
    cdef span *parts = named.key.parts
    named.lengths[0] = <uint32_t>len(model)
    named.lengths[1] = <uint32_t>len(version)
    parts[0] = span(<const char *>named.lengths, sizeof(named.lengths))
    parts[1] = span(PyBytes_AS_STRING(model), <size_t>len(model))
    parts[2] = span(PyBytes_AS_STRING(version), <size_t>len(version))
    parts[3] = span(b"{", <size_t>split)
    parts[4] = span(text, size)               # of a body that is empty, NULL and 0
    named.key.count = MEMO_PARTS
    finish_key(&named.key)


cdef InferRequest assemble(Template template, bytes model, bytes version, bytes id_, const char *tail,
                           size_t tail_size):
    """The request of a template, an id and the bytes behind the JSON part, which have been looked at."""
    cdef InferRequest request
    cdef const InputSpec *spec
    cdef size_t n = <size_t>template.input_count
    cdef size_t id_size = <size_t>len(id_)
    cdef size_t owned = template.head.end
    cdef size_t i
    cdef iovec *parts
    cdef iovec *tensors
    cdef char *start
    cdef char *at
    cdef const char *data
    cdef int count = 0
    if id_size:
        owned += 1 + varint_size(id_size) + id_size
    for i in range(n):
        if template.inputs[i].shared:
            continue
        owned += 1 + varint_size(template.inputs[i].size)
        if template.inputs[i].size <= COPY_MAX:
            owned += template.inputs[i].size

    request = InferRequest.__new__(InferRequest)
    parts = <iovec *>malloc((3 * n + 1) * sizeof(iovec) + owned)
    if parts == NULL:
        raise MemoryError
    request.parts = parts
    request.tensors = tensors = parts + 2 * n + 1
    start = at = <char *>(tensors + n)
    memcpy(at, template.head.data, template.id_at)
    at += template.id_at
    if id_size:
        at[0] = ID_TAG
        at = put_varint(at + 1, id_size)
        memcpy(at, PyBytes_AS_STRING(id_), id_size)
        at += id_size
    memcpy(at, template.head.data + template.id_at, template.head.end - template.id_at)
    at += template.head.end - template.id_at
    request.message_size = owned
    for i in range(n):
        spec = &template.inputs[i]
        if spec.shared:
            tensors[i].iov_base = NULL
            tensors[i].iov_len = 0
            continue
        if spec.binary:
            data = tail
            tail += spec.size
        else:
            data = template.packed.data + spec.packed_at
        tensors[i].iov_base = <void *>data
        tensors[i].iov_len = spec.size
        at[0] = RAW_TAG
        at = put_varint(at + 1, spec.size)
        if spec.size <= COPY_MAX:
            memcpy(at, data, spec.size)
            at += spec.size
            continue
        parts[count].iov_base = start
        parts[count].iov_len = <size_t>(at - start)
        parts[count + 1].iov_base = <void *>data
        parts[count + 1].iov_len = spec.size
        count += 2
        start = at
        request.message_size += spec.size
    if at > start:
        parts[count].iov_base = start
        parts[count].iov_len = <size_t>(at - start)
        count += 1
    request.part_count = count
    request.model = model
    request.version = version
    request.id = id_
    request.batch = template.batch
    request.cacheable = template.cacheable
    request.timeout_us = template.timeout_us
    request.sequence = template.sequence
    request.sequence_start = template.sequence_start
    request.sequence_end = template.sequence_end
    request.template = template
    return request


cdef int check_tail(Template template, size_t tail_size) except -1:
    if template.binary_size != tail_size:
        raise OipError(f"binary_data_size adds up to {template.binary_size} bytes, "
                       f"but {tail_size} bytes follow the JSON part")
    return 0


cdef object wrong_framing(int index, int64_t count):
    return OipError(f"binary data of input {index} is not {count} elements of length and bytes")


cdef InferRequest parse_raw(bytes model, bytes version, bytes header, const char *data, size_t size):
    cdef Named named
    cdef Template template
    name_template(&named, model, version, PyBytes_AS_STRING(header), <size_t>len(header), False)
    template = headers.get(&named.key)
    if template is None:
        template = build_template(model, version, orjson.loads(header))
        headers.put(&named.key, template)
    check_tail(template, size)
    return assemble(template, model, version, b"", data, size)


cdef InferRequest remembered(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length):
    cdef Memo memo = headers
    cdef size_t json_size = <size_t>json_length
    cdef size_t limit = MEMO_JSON_MAX
    cdef const char *tail
    cdef const InputSpec *spec
    cdef size_t at
    cdef span id_
    cdef Named named
    cdef Template template
    cdef int i
    if json_length < 0:
        memo, json_size, limit = bodies, size, MEMO_BODY_MAX
    if json_size > limit or json_size > size or size - json_size > TAIL_MAX:
        return None
    at = split_id(body, json_size, &id_)
    name_template(&named, model, version, body + at, json_size - at, at != 0)
    template = memo.get(&named.key)
    if template is None:
        return None
    tail = body + json_size
    check_tail(template, size - json_size)
    for i in range(template.input_count):
        spec = &template.inputs[i]
        if spec.binary:
            if spec.datatype == DT_BYTES and not bytes_framing_ok(tail, spec.size, spec.count):
                raise wrong_framing(i, spec.count)
            tail += spec.size
    return assemble(template, model, version, template.id if at == 0 else id_.data[:id_.size], body + json_size,
                    size - json_size)


cdef enum:                            # stages of a reading
    READ
    DESCRIBE
    PACK
    LOOK
    ASSEMBLE
    OVER


@cython.final
@cython.freelist(8)
@cython.no_gc
cdef class Reading:
    cdef bint go_on(self, uint64_t until) except -1:
        while True:
            self.take_step()
            if self.stage == OVER:
                return True
            if until != NEVER and monotonic_ns() >= until:
                return False

    cdef int take_step(self) except -1:
        """A stage, or a part of one. What is small goes through all of them, and looks at no clock between them."""
        if self.stage == READ and self.read() == READ_MORE:
            return 0
        if self.stage == DESCRIBE:
            self.describe()
            if self.size > STEP:
                return 0
        if self.stage == PACK and self.pack() == PACK_MORE:
            return 0
        if self.stage == LOOK and self.look_at_tail() == FRAMING_MORE:
            return 0
        return self.assemble()

    cdef int read(self) except -1:
        cdef int result = self.reader.go_on(STEP)
        if result < 0:
            raise self.reader.refusal()
        if result == READ_DONE:
            self.stage = DESCRIBE
        return result

    cdef int describe(self) except -1:
        if self.schema is None:
            if self.reader.ids > 1:
                raise OipError("'id' occurs twice")
            self.document = self.reader.document()
        else:
            self.document = self.schema.document(self.reader.kept_text(), self.reader.counts())
        try:
            self.template = build_template(self.model, self.version, self.document)
        except UnicodeEncodeError:
            raise OipError("the request is not valid JSON: a string has half a surrogate pair") from None
        except OverflowError:
            raise OipError("a number of the request is out of any range") from None
        if self.json_only and self.template.binary_inputs:
            raise OipError("binary_data_size without the header Inference-Header-Content-Length")
        check_tail(self.template, self.size - self.json_size)
        self.stage = PACK
        self.index = -1
        return self.make_room()

    cdef int make_room(self) except -1:
        """Makes room for all tensors at once: what has been packed is not moved."""
        cdef Template template = self.template
        cdef size_t room = 0
        cdef int i
        for i in range(template.input_count):
            if template.inputs[i].value >= 0:
                self.begin_input(i)
                room += most_packed(&self.packing) + 8
        if room and tg_buffer_reserve(&template.packed, room) < 0:
            raise MemoryError
        return self.next_input()

    cdef int begin_input(self, int index) except -1:
        cdef const InputSpec *spec = &self.template.inputs[index]
        cdef const tg_value *value = &self.reader.values[spec.value]
        cdef list dims = self.document["inputs"][index]["shape"]
        cdef int64_t[MAX_RANK] shape
        cdef int rank = <int>len(dims)
        cdef int i
        for i in range(rank):
            shape[i] = dims[i]
        begin_packing(&self.packing, self.body + value.at, value.end - value.at,
                      self.schema is not None and value.count < 0, spec.datatype, spec.count, shape, rank)
        return 0

    cdef int next_input(self) except -1:
        """Goes to the next input that is to be packed, or to the next stage."""
        cdef Template template = self.template
        self.index += 1
        while self.index < template.input_count and template.inputs[self.index].value < 0:
            self.index += 1
        if self.index == template.input_count:
            self.stage = LOOK
            self.tail_at = self.json_size
            self.index = -1
            return self.next_tail()
        self.begin_input(self.index)
        template.packed.end = (template.packed.end + 7) & ~<size_t>7
        template.inputs[self.index].packed_at = template.packed.end
        return 0

    cdef int pack(self) except -1:
        cdef InputSpec *spec
        cdef size_t budget = STEP
        cdef const unsigned char *from_
        cdef int result
        while self.stage == PACK:
            spec = &self.template.inputs[self.index]
            from_ = self.packing.at
            result = pack_some(&self.packing, &self.template.packed, budget)
            if result == PACK_MEMORY:
                raise MemoryError
            if result < 0:
                name = self.document["inputs"][self.index]["name"]
                raise packing_error(&self.packing, f"input '{name}'")
            if self.gives_back:
                self.give_back(<size_t>(<const char *>self.packing.at - self.body))
            if result == PACK_MORE:
                return PACK_MORE
            spec.size = self.template.packed.end - spec.packed_at
            budget -= min(budget - 1, <size_t>(self.packing.at - from_))
            self.next_input()
            if budget == 1 and self.stage == PACK:
                return PACK_MORE
        return PACK_DONE

    cdef void give_back(self, size_t end) noexcept:
        """The memory of the body that has been packed: it will not be read again."""
        cdef size_t begin = max(self.released, self.reader.values[self.template.inputs[self.index].value].at)
        if end > begin + GIVE_BACK:
            tg_give_back(self.body + begin, end - begin)
            self.released = end

    cdef int next_tail(self) except -1:
        """Goes to the next binary input of strings, or to the next stage."""
        cdef Template template = self.template
        cdef const InputSpec *spec
        if self.index >= 0:
            self.tail_at += template.inputs[self.index].size
        self.index += 1
        while self.index < template.input_count:
            spec = &template.inputs[self.index]
            if spec.binary:
                if spec.datatype == DT_BYTES:
                    self.framing = tg_framing(
                        self.body + self.tail_at, self.body + self.tail_at + spec.size, spec.count)
                    return 0
                self.tail_at += spec.size
            self.index += 1
        self.stage = ASSEMBLE
        return 0

    cdef int look_at_tail(self) except -1:
        cdef int64_t budget = STEP
        cdef int64_t before
        cdef int result
        while self.stage == LOOK:
            before = self.framing.left
            result = look_at_framing(&self.framing, budget)
            if result < 0:
                raise wrong_framing(self.index, self.template.inputs[self.index].count)
            if result == FRAMING_MORE:
                return FRAMING_MORE
            budget -= min(budget - 1, before)
            self.next_tail()
        return FRAMING_DONE

    cdef int assemble(self) except -1:
        cdef Template template = self.template
        cdef Memo memo = headers
        cdef size_t at = 0
        cdef size_t limit = MEMO_JSON_MAX
        cdef span id_
        cdef Named named
        if self.json_only:
            memo, limit = bodies, MEMO_BODY_MAX
        # A template with data of its own is worth keeping only where the whole body may come again.
        if (self.json_size <= limit and self.schema is None
                and (self.json_only or template.binary_inputs == template.input_count)):
            at = split_id(self.body, self.json_size, &id_)
            name_template(&named, self.model, self.version, self.body + at, self.json_size - at, at != 0)
            memo.put(&named.key, template)
        self.request = assemble(template, self.model, self.version, template.id if at == 0 else id_.data[:id_.size],
                                self.body + self.json_size, self.size - self.json_size)
        self.stage = OVER
        return 0


cdef Reading begin_reading(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length):
    cdef Reading reading = Reading.__new__(Reading)
    if json_length >= 0 and <size_t>json_length > size:
        raise OipError(f"Inference-Header-Content-Length is {json_length}, but the body has only {size} bytes")
    reading.model = model
    reading.version = version
    reading.body = body
    reading.size = size
    reading.json_only = json_length < 0
    reading.json_size = size if reading.json_only else <size_t>json_length
    reading.reader = read_text(body, reading.json_size, None)
    return reading


cdef Reading begin_generate(bytes model, bytes version, const char *body, size_t size, object schema):
    cdef Reading reading = begin_reading(model, version, body, size, -1)
    reading.reader = read_text(body, size, schema.inputs)
    reading.schema = schema
    return reading


cdef InferRequest parse_http(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length):
    cdef InferRequest request = remembered(model, version, body, size, json_length)
    cdef Reading reading
    if request is None:
        reading = begin_reading(model, version, body, size, json_length)
        reading.go_on(NEVER)
        request = reading.request
    return request
