"""HTTP as text: heads, methods, cookies, trace context, targets, and HTTP/1.1 by llhttp.

Connections of clients live in lb.proxy.client.client, connections to endpoints in lb.upstream.connections.
"""
