"""JSON answers of the admin server. Each ends with a newline, so that a terminal's prompt is on a line of its own."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError


def json_answer(document: Any, status: int = 200) -> web.Response:
    """NaN becomes null, and a value that JSON does not have, such as a date of the configuration file, its text."""
    body = orjson.dumps(document, default=str, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")


def refusal(text: str, status: int = 400) -> web.Response:
    return json_answer({"error": text}, status)


def invalid(error: ValidationError) -> web.Response:
    """The refusal of a body that its model does not take: its first mistake."""
    detail = error.errors(include_url=False)[0]
    return refusal(f"{'.'.join(map(str, detail['loc'])) or 'body'}: {detail['msg']}")
