"""The configuration file as typed, closed, immutable models, a module for each section.

Checks of more than one section are lb.config.checks.file'; what models compile to is lb.config.plan.plan's.
"""
