"""Balancing policies, one algorithm a file. lb.balancing.registry names them.

Their common parts (draws, rings, averages) are in lb.balancing.
"""
