"""The plan: what a configuration compiles to, immutable, sent to every worker.

The route tables that a worker makes of a plan are lb.proxy.routing's.
"""
