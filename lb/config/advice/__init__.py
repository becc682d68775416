"""Messages of configuration errors: what to write in place of a key or value that does not stand here.

The errors are found by the models of lb.config.schema.file and by lb.config.checks.file.
"""
