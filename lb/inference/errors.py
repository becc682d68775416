"""Errors of the Open Inference Protocol that are the client's fault."""

from __future__ import annotations

from lb.errors import ClientError
from lb.failure import BY_NAME


class OipError(ClientError):
    """A request that cannot be carried out; answered with `status` and `{"error": message}`."""


class UnknownEncoding(OipError):
    """Its Content-Encoding is none that is understood."""

    failure = BY_NAME["not-implemented"]


class BodyTooLarge(OipError):
    """Its body is over the limit once it is decompressed."""

    failure = BY_NAME["body-too-large"]
