"""The answer to an inference: see infer_answer.pxd."""

import logging

from libc.stdint cimport uint64_t
from libc.string cimport memset
from lb.core.buffer cimport tg_buffer, tg_buffer_free
from lb.core.head_text cimport append_number, append_text
from lb.inference.response cimport InferResponse, render
from lb.inference.status cimport http_status
from lb.proxy.exchange cimport CACHE_BYPASS, CACHE_COLLAPSED, CACHE_HIT, CACHE_MISS, X_DONE
from lb.proxy.infer cimport InferExchange

from lb.errors import TidegateError

log = logging.getLogger("tidegate.proxy")


cdef void answer_error(InferExchange exchange, int grpc_status, str message) noexcept:
    exchange.fail(http_status(grpc_status), b"model-error", message or "the model server gave no reason")


cdef void answer(InferExchange exchange, const char *message, size_t size) noexcept:
    cdef InferResponse response
    if exchange.state == X_DONE:
        return
    response = rendered(exchange, message, size)
    if response is not None:
        respond(exchange, response)


cdef InferResponse rendered(InferExchange exchange, const char *message, size_t size):
    """The codec's form of the answer; None when it has none, and the exchange has failed."""
    try:
        return render(exchange.request, message, size)
    except TidegateError as failure:
        exchange.fail(failure.status, b"upstream-protocol", str(failure))
    except MemoryError:
        exchange.fail(503, b"no-memory", "out of memory")
    except Exception:                     # nothing above takes it: the exchange would never end
        log.exception("an inference answer could not be rendered")
        exchange.fail(500, b"internal", "internal error")
    return None


cdef void respond(InferExchange exchange, InferResponse response) noexcept:
    """The answer, with what RFC 9211 says of the cache."""
    cdef tg_buffer head
    memset(&head, 0, sizeof(head))
    if response.json_length < 0:
        append_text(&head, b"Content-Type: application/json\r\n")
    else:
        append_text(&head, b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: ")
        append_number(&head, <uint64_t>response.json_length)
        append_text(&head, b"\r\n")
    exchange.append_endpoint(&head)
    if exchange.route.response_fields is not None:
        exchange.route.response_fields.append(&head)
    if exchange.cache == CACHE_HIT:
        append_text(&head, b"Cache-Status: tidegate; hit\r\n")
    elif exchange.cache == CACHE_MISS:
        append_text(&head, b"Cache-Status: tidegate; fwd=miss")
        append_text(&head, b"; stored\r\n" if exchange.stored else b"\r\n")
    elif exchange.cache == CACHE_COLLAPSED:
        append_text(&head, b"Cache-Status: tidegate; fwd=miss; collapsed\r\n")
    elif exchange.cache == CACHE_BYPASS:
        append_text(&head, b"Cache-Status: tidegate; fwd=bypass\r\n")
    exchange.status = 200
    exchange.bytes_out = response.size
    exchange.call = None
    exchange.record()
    exchange.client.respond_whole(200, &head, response.parts, response.part_count)
    tg_buffer_free(&head)
