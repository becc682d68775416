"""Models of the `listeners` section.

The models of their routes are in lb.config.schema.file.routes.
"""
