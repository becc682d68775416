"""The memory that all workers and the master share: the segment, its endpoint records, counters, token buckets, the
affinity table and the costs of models.

What these words mean to balancing, health or telemetry is decided there.
"""
