"""Checks that concern more than one key or section of the configuration.

A check of one key belongs to its model in lb.config.schema.file.
"""
