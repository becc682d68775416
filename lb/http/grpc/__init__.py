"""gRPC as bytes: messages of protobuf, timeouts, statuses, gRPC-Web.

Calls to endpoints live in lb.upstream.connections.
"""
