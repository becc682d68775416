"""Answers to gRPC calls that are made here and have a message, or a status that no HTTP status stands for."""

from lb.net.buffer cimport tg_buffer
from lb.net.stream cimport iovec
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.grpc_web_codec cimport WebCodec


cdef enum:
    GRPC_PREFIX = 5                   # bytes before a message: whether it is compressed, and its length


# Ends the exchange by this answer; its state is X_REQUEST. `web` is that of a client that speaks gRPC-Web, else None;
# `kind` the content type as of gRPC. `parts` are a message with its prefix, or none. `extra` are field lines that the
# head gets before those of route and pool.
cdef void answer_call(Exchange exchange, WebCodec web, bytes kind, int status, str message, const iovec *parts,
                      int count, tg_buffer *extra) noexcept
# The bytes before a message of `size` bytes that is not compressed.
cdef void put_prefix(char *into, size_t size) noexcept nogil
