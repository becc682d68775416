"""What can go wrong in a benchmark."""


class BenchError(Exception):
    """A benchmark cannot be done or would measure the wrong thing; the message is one line for the user."""


class Cannot(Exception):
    """A proxy has no way to do what a scenario asks; the message says why and is shown in its place."""
