"""Copies of requests for another pool, whose answers are thrown away.

A copy never delays its original.
"""
