"""Tidegate: a load balancer for AI inference."""

import os

__version__ = "0.1.0"

# What is loaded later, in this process or in its children, is of this version, too, when a link on the way to this
# folder leads to another version by then (docs/howto/install.md).
__path__[:] = [os.path.realpath(folder) for folder in __path__]
