"""The poller with its timers, sockets and streams, addresses, datagrams and the PROXY protocol's header.

Nothing here knows HTTP, pools or routes.
"""
