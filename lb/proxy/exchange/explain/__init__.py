"""Explanations of choices: of requests that are only described (`tidegate explain`) and of real ones.

The choices themselves are made by lb.upstream.pool and lb.balancing.
"""
