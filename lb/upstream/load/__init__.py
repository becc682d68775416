"""The load of endpoints as requests, reports and probes tell it, and what attempts say of their health.

Policies that use it are in lb.balancing.
"""
