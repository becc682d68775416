"""Health checks, one protocol a file. The class of a check is named for its type; lb.health.registry finds it by that.

The decision over their answers is made in lb.health.rise_fall.
"""
