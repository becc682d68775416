"""The reference page of the configuration and its JSON schema, generated from the models.

The models and their docstrings are in lb.config.schema.file.
"""
