"""Heads of answers over HTTP/2, and whole answers of our own: `respond` and its like of lb.proxy.client."""

from lb.core.buffer cimport tg_buffer
from lb.core.head cimport Scan
from lb.core.stream cimport iovec
from lb.proxy.http2_request cimport Http2Request


cdef void answer_head(Http2Request request, Scan *scan, const tg_buffer *extra, bint last) noexcept
cdef void answer_whole(Http2Request request, int status, const tg_buffer *head, const iovec *parts, int count) noexcept
cdef void answer_continue(Http2Request request) noexcept
