"""Copies of requests for another pool, whose answers are thrown away, or compared with those of the originals.

A copy never delays its original.
"""
