"""A model's graph: what is read of it from the file, and whether it keeps the rows of a batch apart.

Nothing here runs a model or knows the protocol.
"""
