"""Examples are not timed: the machine may be busy."""

from hypothesis import settings

settings.register_profile("inference", deadline=None)
settings.load_profile("inference")
