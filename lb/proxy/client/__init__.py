"""Connections of clients, HTTP/1.1 and HTTP/2: requests in, answers out.

The route of a request is found by lb.proxy.routing, and its answer is made by lb.proxy.exchange.exchange.
"""
