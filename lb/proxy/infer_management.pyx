"""The routes of the protocol that infer nothing: see infer_management.pxd."""

import logging

from libc.string cimport memset
from lb.core.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.core.head_text cimport append_text
from lb.core.stream cimport iovec
from lb.proxy.infer cimport InferExchange

from lb.inference import management

log = logging.getLogger("tidegate.proxy")


cdef void run_management(InferExchange exchange) noexcept:
    cdef size_t size = tg_buffer_size(&exchange.body)
    cdef bytes body = tg_buffer_head(&exchange.body)[:size] if size else b""
    made = management.route(exchange.verb.decode(), (<bytes>exchange.path).decode("latin-1"), body)
    if isinstance(made, management.Reply):
        answer_management(exchange, made)
        return
    exchange.management = made
    if exchange.pool.models is not None and made.model:
        exchange.want_model(made.model.encode())
    exchange.pick()


cdef void management_answered(InferExchange exchange, int status, str message, bytes reply) noexcept:
    try:
        made = exchange.management.render(status, message, reply)
    except Exception:
        log.exception("the answer to %s could not be made", exchange.path)
        exchange.fail(500, b"internal", "internal error")
        return
    answer_management(exchange, made)


cdef void answer_management(InferExchange exchange, object reply) noexcept:
    cdef tg_buffer head
    cdef iovec part
    cdef bytes body = reply.body
    cdef bytes kind = reply.content_type.encode()
    cdef bytes allow = reply.allow.encode()
    memset(&head, 0, sizeof(head))
    if kind:
        append_text(&head, b"Content-Type: ")
        tg_buffer_append(&head, <const char *>kind, <size_t>len(kind))
        append_text(&head, b"\r\n")
    if allow:
        append_text(&head, b"Allow: ")
        tg_buffer_append(&head, <const char *>allow, <size_t>len(allow))
        append_text(&head, b"\r\n")
    exchange.append_endpoint(&head)
    if exchange.route.response_fields is not None:
        exchange.route.response_fields.append(&head)
    part.iov_base = <char *>body
    part.iov_len = <size_t>len(body)
    if reply.reason:
        exchange.reason = <const char *><bytes>reply.reason            # a constant of `management`
    exchange.status = reply.status
    exchange.bytes_out = part.iov_len
    exchange.call = None
    exchange.record()
    exchange.client.respond_whole(exchange.status, &head, &part, 1)
    tg_buffer_free(&head)
