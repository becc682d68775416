"""One request with its answer, from its route to its record: attempts, retries, hedges, affinity.

Connections to endpoints live in lb.upstream.connections.
"""
