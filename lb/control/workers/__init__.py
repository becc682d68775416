"""The workers of a master: the fork server, the channel to each, heartbeats, restarts, the adoption of plans.

The data path that a worker runs is lb.proxy.
"""
