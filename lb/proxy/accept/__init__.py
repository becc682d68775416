"""Listeners, acceptors, and the first bytes of a connection: PROXY header and server name.

What a connection says after these belongs to lb.proxy.client.client or lb.proxy.tcp.
"""
