"""Health checks, one protocol a file. lb.health.registry names them.

The decision over their answers is made in lb.health.rise_fall.
"""
