"""TCP sessions: bytes both ways between a client and an endpoint.

Listeners and first bytes are lb.proxy.accept's.
"""
