"""What an inference asks for: see infer_request.pxd."""

import logging

from libc.stdint cimport int64_t
from libc.string cimport memchr
from lb.core.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_head, tg_buffer_size
from lb.core.head cimport H_CONTENT_ENCODING, H_INFERENCE_LENGTH, Field, Scan, parse_decimal
from lb.core.methods cimport method_text
from lb.core.protobuf cimport span
from lb.inference.paths cimport MATCH_ESCAPED, NO_MATCH, decode_model, match_infer
from lb.inference.request cimport parse_http
from lb.proxy.infer cimport InferExchange

from lb.errors import TidegateError
from lb.inference.compression import decompress

log = logging.getLogger("tidegate.proxy")

cdef enum:
    M_POST = 3                        # llhttp's number


cdef bint read_request_head(InferExchange exchange, Scan *scan) noexcept:
    cdef span model, version
    cdef const char *query = <const char *>memchr(scan.target, 63, scan.target_length)
    cdef size_t path_length = scan.target_length if query == NULL else <size_t>(query - scan.target)
    cdef Field *field
    cdef int64_t length
    cdef const char *verb
    cdef size_t verb_length
    cdef int matched = NO_MATCH
    if exchange.method == M_POST:
        matched = match_infer(scan.target, path_length, &model, &version)
    if matched:
        try:
            exchange.model = decode_model(&model) if matched == MATCH_ESCAPED else model.data[:model.size]
        except TidegateError as failure:
            exchange.fail(failure.status, b"bad-request", str(failure))
            return False
        exchange.version = version.data[:version.size]
        if exchange.pool.models is not None:
            exchange.want_model(exchange.model)
    else:
        exchange.path = scan.target[:path_length]
        verb = method_text(scan, exchange.method, &verb_length)
        exchange.verb = verb[:verb_length]
    if scan.first[H_CONTENT_ENCODING] >= 0:
        field = &scan.fields[scan.first[H_CONTENT_ENCODING]]
        exchange.encoding = field.value[:field.value_length].lower()
    if scan.first[H_INFERENCE_LENGTH] >= 0:
        field = &scan.fields[scan.first[H_INFERENCE_LENGTH]]
        length = parse_decimal(field.value, field.value_length)
        if length < 0:
            exchange.fail(400, b"bad-request", "Inference-Header-Content-Length is not a number")
            return False
        exchange.json_length = <Py_ssize_t>length
    return True


cdef bint read_request_body(InferExchange exchange) noexcept:
    cdef const char *data
    cdef size_t size
    cdef bytes plain
    try:
        if exchange.encoding is not None and exchange.encoding != b"identity":
            plain = tg_buffer_head(&exchange.body)[:tg_buffer_size(&exchange.body)]
            plain = decompress(exchange.encoding, plain, exchange.route.max_body)
            tg_buffer_clear(&exchange.body)
            if tg_buffer_append(&exchange.body, <const char *>plain, <size_t>len(plain)) < 0:
                raise MemoryError
        if exchange.model is None:
            return True
        data = tg_buffer_head(&exchange.body)
        size = tg_buffer_size(&exchange.body)
        exchange.request = parse_http(exchange.model, exchange.version, data, size, exchange.json_length)
    except TidegateError as failure:
        exchange.fail(failure.status, b"bad-request", str(failure))
        return False
    except MemoryError:
        exchange.fail(503, b"no-memory", "out of memory")
        return False
    except Exception:                     # nothing above takes it: the exchange would never end
        log.exception("an inference request could not be read")
        exchange.fail(500, b"internal", "internal error")
        return False
    return True
