"""Inference requests: from HTTP bodies of the Open Inference Protocol to `ModelInferRequest` messages.

Every encoding of a request gives the same message: tensors are always raw_input_contents, parameters are sorted,
defaults are left out. Clients repeat the JSON part with other tensors behind it, so what it says is kept (memo.pyx)
and the usual request is a dictionary look-up and some pointers. Multi-byte values are copied as they are in memory:
the hosts are little-endian, as the protocol is.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from cpython.object cimport PyTypeObject
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from lb.shared.data_digest cimport tg_digest_data
from lb.shared.hashing cimport tg_digest, tg_digest_final, tg_digest_init, tg_digest_update
from lb.net.ending cimport tg_end_by
from lb.net.stream cimport iovec
from lb.inference.datatypes cimport DT_BYTES, bytes_framing_ok
from lb.inference.memo cimport MEMO_PARTS, Memo, finish_key, key_bytes, tg_memo_key
from lb.http.grpc.protobuf cimport WIRE_BYTES, put_varint, span, varint_size
from lb.inference.template cimport InputSpec, OutputSpec, Template, build_template

import orjson

from lb.inference import nonfinite
from lb.inference.errors import OipError

cdef enum:
    MEMO_JSON_MAX = 4096              # bytes of a JSON part that is kept
    MEMO_BODY_MAX = 2048              # of a body that is JSON only: most never come again
    COPY_MAX = 512                    # bytes of a tensor that are cheaper copied than sent as a part of their own
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


cdef object load_json(object text):
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        refused = error
    try:
        return nonfinite.load(text)
    except nonfinite.TooLong as error:
        raise OipError(str(error)) from None
    except ValueError:
        raise OipError(f"the request is not valid JSON: {refused}") from None


cdef Template describe(bytes model, bytes version, object document):
    try:
        return build_template(model, version, document)
    except UnicodeEncodeError:
        raise OipError("the request is not valid JSON: a string has half a surrogate pair") from None
    except OverflowError:
        raise OipError("a number of the request is out of any range") from None


cdef InferRequest assemble(Template template, bytes model, bytes version, bytes id_, const char *tail,
                           size_t tail_size):
    """The request of a template, an id and the bytes behind the JSON part."""
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
    if template.binary_size != tail_size:
        raise OipError(f"binary_data_size adds up to {template.binary_size} bytes, "
                       f"but {tail_size} bytes follow the JSON part")
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
            if spec.datatype == DT_BYTES and not bytes_framing_ok(data, spec.size, spec.count):
                raise OipError(f"binary data of input {i} is not {spec.count} elements of length and bytes")
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


cdef InferRequest parse_raw(bytes model, bytes version, bytes header, const char *data, size_t size):
    cdef Named named
    cdef Template template
    name_template(&named, model, version, PyBytes_AS_STRING(header), <size_t>len(header), False)
    template = headers.get(&named.key)
    if template is None:
        template = build_template(model, version, orjson.loads(header))
        headers.put(&named.key, template)
    return assemble(template, model, version, b"", data, size)


cdef InferRequest parse_http(bytes model, bytes version, const char *body, size_t size, Py_ssize_t json_length):
    cdef Memo memo = headers
    cdef size_t json_size = <size_t>json_length
    cdef size_t limit = MEMO_JSON_MAX
    cdef size_t at
    cdef span id_
    cdef Named named
    cdef Template template = None
    if json_length < 0:
        memo, json_size, limit = bodies, size, MEMO_BODY_MAX
    elif json_size > size:
        raise OipError(f"Inference-Header-Content-Length is {json_size}, but the body has only {size} bytes")
    if json_size <= limit:
        at = split_id(body, json_size, &id_)
        name_template(&named, model, version, body + at, json_size - at, at != 0)
        template = memo.get(&named.key)
        if template is None:
            document = load_json(key_bytes(&named.key)[8 + len(model) + len(version):])
            if at and isinstance(document, dict) and "id" in <dict>document:
                raise OipError("'id' occurs twice")
            template = describe(model, version, document)
            # A template with data of its own is worth keeping only where the whole body may come again.
            if json_length < 0 or template.binary_inputs == template.input_count:
                memo.put(&named.key, template)
    else:
        at = 0
        document = load_json(PyMemoryView_FromMemory(<char *>body, <Py_ssize_t>json_size, PyBUF_READ))
        template = describe(model, version, document)
    if json_length < 0 and template.binary_inputs:
        raise OipError("binary_data_size without the header Inference-Header-Content-Length")
    text = template.id if at == 0 else id_.data[:id_.size]
    return assemble(template, model, version, text, body + json_size, size - json_size)
