"""What the model server answers or stops with. Every message says what was expected and what was found."""

from __future__ import annotations


class BackendError(Exception):
    """Base of every error that a client is answered with.

    `status` is the number of the gRPC status. `answer` is the ModelInferResponse that goes with the reason in a stream
    of inferences: which one it was.
    """

    status = 13  # INTERNAL
    answer = b""


class InvalidInput(BackendError):
    """The request cannot be right for the model: wrong names, shapes, datatypes, sizes or values."""

    status = 3  # INVALID_ARGUMENT


class NotFound(BackendError):
    """No such model or version."""

    status = 5  # NOT_FOUND


class AlreadyExists(BackendError):
    """What is to be made is there."""

    status = 6  # ALREADY_EXISTS


class Unsupported(BackendError):
    """The request asks for a part of the protocol that this server does not offer."""

    status = 12  # UNIMPLEMENTED


class Unavailable(BackendError):
    """Not now: the server is loading, stopping or its queue is full. The request was not run; another server may."""

    status = 14  # UNAVAILABLE


class ModelFailure(BackendError):
    """The model could not be run on an input that looked right."""

    status = 13  # INTERNAL


class StartError(Exception):
    """The server cannot start or become ready: one clear line for the operator, exit status 1."""
