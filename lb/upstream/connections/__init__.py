"""Connections to endpoints and the calls on them: HTTP/1.1, HTTP/2, gRPC.

The choice of an endpoint is lb.upstream.pool's.
"""
