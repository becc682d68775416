"""Where routes stand in the table of their listener: by host and path. Looked at for every route of every load."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lb.config.schema.routes.match import MatchConfig

cdef str MODELS_PATH = "/v2/models/"
MODELS: str = MODELS_PATH

cdef object plain_name = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII).fullmatch


def place_of(match: MatchConfig) -> tuple[str, bool, str, str]:
    """Host of a MatchConfig, whether that is a regular expression, kind and text of its path, as in RoutePlan."""
    # A model's attributes cost three times as much as its dict.
    cdef dict given = match.__dict__
    host, host_regex = given["host"], given["host_regex"]
    path = given["path"]
    if path is None:
        kind, text = named(given)
    else:
        given = path.__dict__
        for kind in ("exact", "prefix", "template", "regex"):
            text = given[kind]
            if text is not None:
                break
    if host is None and host_regex is not None:
        return host_regex, True, kind, text
    return host or "", False, kind, text


cdef tuple named(dict given):
    """Kind and text of a path that is said in other words than a path's."""
    grpc, model = given["grpc"], given["model"]
    if grpc is not None:
        if grpc.method is None:
            return "prefix", f"/{grpc.service}/"
        return "exact", f"/{grpc.service}/{grpc.method}"
    if model is None:
        return "", ""
    if model.exact is not None and plain_name(model.exact):
        return "model", MODELS_PATH + model.exact
    if model.prefix is not None and plain_name(model.prefix):
        return "prefix", MODELS_PATH + model.prefix
    return "prefix", MODELS_PATH      # a name that may be escaped in more than one way: a condition compares it
