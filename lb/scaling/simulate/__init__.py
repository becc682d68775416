"""Scaling rules in simulated time: a trace of requests, a queue, replicas that take their time to start.

Here live the simulated pool, the reader of traces, the drive of a rule, and the command with its page. The rules
themselves are the daemon's own.
"""
