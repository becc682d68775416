"""One PromQL query at a Prometheus server, or another with its HTTP API (Thanos, Mimir, VictoriaMetrics).

Source: Prometheus documentation, "HTTP API", instant queries.
"""

from __future__ import annotations

import math

from lb.config.units import SECOND
from lb.control.servers.polled import MeasureFailed

MOST_BYTES = 1 << 20  # of an answer


async def ask(url: str, query: str, within: int) -> float:
    """The number that `query` gives at the server at `url`, within so many ns. Raises MeasureFailed."""
    import aiohttp

    asked = {"query": query, "timeout": f"{within / SECOND:g}s"}
    limit = aiohttp.ClientTimeout(total=within / SECOND)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(f"{url.rstrip('/')}/api/v1/query", params=asked) as answer,
        ):
            body = await answer.content.read(MOST_BYTES)
            if answer.status != 200:
                raise MeasureFailed(f"{url}: HTTP {answer.status}: {_said(body)}")
    except TimeoutError:
        raise MeasureFailed(f"{url}: no answer within {within / SECOND:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise MeasureFailed(f"{url}: {error}") from None
    return number_of(body)


def number_of(body: bytes) -> float:
    """The one number of an answer. Raises MeasureFailed."""
    import orjson

    try:
        answer = orjson.loads(body)
        if answer["status"] != "success":
            raise MeasureFailed(str(answer.get("error", answer["status"])))
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "vector" and len(result) == 1:
            text = result[0]["value"][1]
        elif kind == "vector":
            what = f"{len(result)} series; make them one, as with sum()" if result else "no series"
            raise MeasureFailed(f"the query gives {what}")
        elif kind == "scalar":
            text = result[1]
        else:
            raise MeasureFailed(f"the query gives a {kind}, and not a number")
        value = float(text)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise MeasureFailed("the answer is not that of a Prometheus server") from None
    if not math.isfinite(value) or value < 0:
        raise MeasureFailed(f"the query gives {text}")
    return value


def _said(body: bytes) -> str:
    """What an error says of itself."""
    import orjson

    try:
        return str(orjson.loads(body)["error"])[:200]
    except (KeyError, TypeError, ValueError):
        return body[:80].decode("ascii", "replace")
