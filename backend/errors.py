"""What the model server answers or stops with. Every message says what was expected and what was found."""

from __future__ import annotations


class BackendError(Exception):
    """Base of every error that a client is answered with; `code` is the name of the gRPC status."""

    code = "INTERNAL"


class InvalidInput(BackendError):
    """The request cannot be right for the model: wrong names, shapes, datatypes, sizes or values."""

    code = "INVALID_ARGUMENT"


class NotFound(BackendError):
    """No such model or version."""

    code = "NOT_FOUND"


class Unsupported(BackendError):
    """The request asks for a part of the protocol that this server does not offer."""

    code = "UNIMPLEMENTED"


class Unavailable(BackendError):
    """Not now: the server is loading, stopping or its queue is full. The request was not run; another server may."""

    code = "UNAVAILABLE"


class ModelFailure(BackendError):
    """The model could not be run on an input that looked right."""

    code = "INTERNAL"


class StartError(Exception):
    """The server cannot start or become ready: one clear line for the operator, exit status 1."""
