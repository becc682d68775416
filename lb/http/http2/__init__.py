"""HTTP/2 (RFC 9113): sessions, frames, streams, and header blocks (HPACK, RFC 7541) by nghttp2.

A session knows no socket: bytes in, bytes out. Its owners are lb.proxy.client.client and lb.upstream.connections.
"""
