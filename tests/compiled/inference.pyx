"""Compiled functions of the inference protocol, called from Python: messages and bodies as bytes."""

from libc.stdint cimport uint16_t, uint64_t
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.http.grpc.protobuf cimport span
from lb.inference.call cimport calls, read_call, tg_asked
from lb.inference.first_timeout cimport TIMEOUT_FOUND, TIMEOUT_MORE, first_timeout
from lb.inference.first_batch cimport first_batch, tg_batch
from lb.inference.first_model cimport MODEL_FOUND, MODEL_UNKNOWN, first_model
from lb.inference.floats cimport (
    FLOAT_TEXT_MAX, bfloat_from_double, bfloat_to_float, half_from_double, half_to_float, write_double, write_float,
)
from lb.inference.paths cimport MATCH_ESCAPED, NO_MATCH, decode_model, match_infer
from lb.inference.decimals cimport read_number
from lb.inference.request cimport (
    InferRequest, Reading, begin_generate, begin_reading, bodies, digest_of, headers, parse_http,
)
from lb.net.poller cimport NEVER
from lb.inference.response cimport InferResponse, is_sound, render, render_again, store_form
from lb.inference.rows cimport Rows, split_rows
from lb.inference.sequence cimport LOOK_MORE, LOOK_NONE, look_for_sequence, looked, tg_sequence
from lb.inference.template cimport Template


def find_first_timeout(bytes data not None):
    """Microseconds, 0 = none; None: more is needed."""
    cdef uint64_t us = 0
    cdef int found = first_timeout(<const char *> data, <size_t> len(data), &us)
    assert (us > 0) == (found == TIMEOUT_FOUND)
    return None if found == TIMEOUT_MORE else us


def find_first_batch(bytes data not None):
    """(model, batch), None when more is needed."""
    cdef tg_batch found
    if not first_batch(<const char *> data, <size_t> len(data), &found):
        return None
    return (found.model.data[:found.model.size] if found.model.size else b""), found.size


def find_first_model(bytes data not None):
    """The name, "" when there is none, None when more is needed."""
    cdef const char *name
    cdef size_t n
    cdef int found = first_model(<const char *>data, <size_t>len(data), &name, &n)
    if found == MODEL_UNKNOWN:
        return None
    return name[:n] if found == MODEL_FOUND else b""


def float_text(double value, bint single=False):
    """Text of a value in JSON answers; `single` takes it as a float32."""
    cdef char[FLOAT_TEXT_MAX] text
    cdef char *end = write_float(text, <float>value) if single else write_double(text, value)
    return text[:end - text].decode()


def half_bits(double value, bint bfloat=False):
    """The 16 bits of a value in FP16 (or BF16); None when it is too large."""
    cdef uint16_t bits
    if not (bfloat_from_double(value, &bits) if bfloat else half_from_double(value, &bits)):
        return None
    return bits


def half_value(uint16_t bits, bint bfloat=False):
    """The value of 16 bits of FP16 (or BF16)."""
    return bfloat_to_float(bits) if bfloat else half_to_float(bits)


def infer_target(bytes path):
    """(model, version) of an inference path, names decoded; None for any other path."""
    cdef span model
    cdef span version
    cdef int match = match_infer(path, <size_t>len(path), &model, &version)
    if match == NO_MATCH:
        return None
    return (decode_model(&model) if match == MATCH_ESCAPED else model.data[:model.size], version.data[:version.size])


def find_sequence(bytes body, bint whole):
    """`look_for_sequence`: None when it cannot be told yet, False when there is none, else (model, version,
    id, start, end); the id is an int or bytes."""
    cdef tg_sequence found
    cdef looked verdict = look_for_sequence(<const char *> body, <size_t> len(body), whole, &found)
    if verdict == LOOK_MORE:
        return None
    if verdict == LOOK_NONE:
        return False
    id_ = found.id.data[:found.id.size] if found.id.size else found.number
    return found.model.data[:found.model.size], found.version.data[:found.version.size], id_, found.start, found.end


def parse_request(bytes model, bytes version, bytes body, Py_ssize_t json_length=-1):
    """`parse_http`: the request keeps the body."""
    cdef InferRequest request = parse_http(model, version, body, <size_t>len(body), json_length)
    request.owner = body
    return request


def parse_in_steps(bytes model, bytes version, bytes body, Py_ssize_t json_length=-1):
    """The same by as many steps as there are; and their number."""
    cdef Reading reading = begin_reading(model, version, body, <size_t>len(body), json_length)
    cdef int steps = 1
    while not reading.go_on(0):
        steps += 1
    reading.request.owner = body
    return reading.request, steps


def parse_generate(bytes model, bytes version, bytes body, object schema):
    """Of a generate request."""
    cdef Reading reading = begin_generate(model, version, body, <size_t>len(body), schema)
    reading.go_on(NEVER)
    reading.request.owner = body
    return reading.request


def decimal(bytes text not None):
    """The value of a number; what is behind it is not read."""
    cdef double value
    cdef const char *start = text
    assert read_number(start, start + len(text) - 1, &value) == start + len(text) - 1
    return value


def digest_hex(InferRequest request not None, bytes secret not None):
    """`digest` of the request in hexadecimal; `secret` is 32 bytes."""
    cdef unsigned char[32] out
    if len(secret) != 32:
        raise ValueError("the secret must be 32 bytes")
    if request.digest(secret, out) < 0:
        raise RuntimeError("hashing failed")
    return (<const char *>out)[:32].hex()


cdef tg_asked asked


def call_digest_hex(bytes message not None, bytes secret not None):
    """(id, digest in hexadecimal) of a ModelInferRequest; None where its meaning is not known for certain."""
    cdef unsigned char[32] out
    cdef Template template = read_call(message, <size_t>len(message), &asked)
    if template is None:
        return None
    if digest_of(template, asked.tensors, secret, out) < 0:
        raise RuntimeError("hashing failed")
    return (asked.id.data[:asked.id.size] if asked.id.size else b""), (<const char *>out)[:32].hex()


def is_sound_answer(bytes message not None):
    return is_sound(message, <size_t>len(message))


def memo_stats():
    """Look-ups and sizes of this process's memos."""
    return {
        "headers": {"hits": headers.hits, "misses": headers.misses, "size": len(headers)},
        "bodies": {"hits": bodies.hits, "misses": bodies.misses, "size": len(bodies)},
        "calls": {"hits": calls.hits, "misses": calls.misses, "size": len(calls)},
    }


def render_again_bytes(InferRequest request, bytes message not None):
    """(body, json_length, the object) of `render_again`."""
    cdef InferResponse response = render_again(request, message, <size_t>len(message))
    return response.body(), response.json_length, response


def render_bytes(InferRequest request, bytes message):
    """(body, json_length) of `render`."""
    cdef InferResponse response = render(request, message, <size_t>len(message))
    return response.body(), response.json_length


def store_form_bytes(bytes message):
    """What `store_form` gives; None for a malformed message."""
    cdef tg_buffer out = tg_buffer(NULL, 0, 0, 0)
    try:
        if store_form(message, <size_t>len(message), &out) < 0:
            return None
        return tg_buffer_head(&out)[:tg_buffer_size(&out)] if tg_buffer_size(&out) else b""
    finally:
        tg_buffer_free(&out)


class NotCombined(Exception):
    """The answers do not go together."""


def split_batch(InferRequest request not None, bytes secret not None):
    """`split_rows`: None, or the rows for `row_keys`, `ask_rows` and `combine_rows`."""
    if len(secret) != 32:
        raise ValueError("the secret must be 32 bytes")
    return split_rows(request, secret)


def row_keys(Rows rows not None):
    """(key in hexadecimal, the first row that has it) of each row."""
    return [((<const char *>rows.rows[i].key)[:32].hex(), rows.rows[i].same) for i in range(rows.count)]


def ask_rows(Rows rows not None, dict stored, bint whole=False):
    """The request for the rows that are not in `stored` (key in hexadecimal -> answer); None: there are none. `whole`
    asks for the batch as it came."""
    cdef bytes message
    cdef int i
    rows.forget()
    if whole:
        return rows.ask_whole()
    for i in range(rows.count):
        message = stored.get((<const char *>rows.rows[i].key)[:32].hex())
        if rows.rows[i].same != i or message is None:
            continue
        if tg_buffer_append(&rows.found, <const char *>message, <size_t>len(message)) < 0:
            raise MemoryError
        rows.take(i, <size_t>len(message))
    if rows.settle() == 0:
        return None
    made = rows.ask()
    if made is None:
        raise MemoryError
    return made


def combine_rows(Rows rows not None, bytes message):
    """(answer to the batch, {row: answer to it} of the rows that were asked for); `message` is None where none was.
    Raises NotCombined."""
    cdef tg_buffer out = tg_buffer(NULL, 0, 0, 0)
    cdef const char *data = NULL
    cdef size_t size = 0
    cdef int i
    if message is not None:
        data = message
        size = <size_t>len(message)
    if rows.combine(data, size) < 0:
        raise NotCombined
    answers = {}
    try:
        for i in range(rows.asked_count):
            tg_buffer_clear(&out)
            if rows.row_answer(rows.asked[i], &out) < 0:
                raise MemoryError
            answers[rows.asked[i]] = tg_buffer_head(&out)[:tg_buffer_size(&out)]
    finally:
        tg_buffer_free(&out)
    return tg_buffer_head(&rows.answer)[:tg_buffer_size(&rows.answer)], answers
