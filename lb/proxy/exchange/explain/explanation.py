"""The explanation of one real request: its choices as they were made, as JSON of a bounded size."""

from __future__ import annotations

import json
from typing import Any

from lb.proxy.exchange.explain.choices import View

MOST_CHOICES = 8  # of one request: more attempts than that are only counted
LOG_BYTES = 8 * 1024
LOG_CANDIDATES = 16
HEADER_BYTES = 2 * 1024  # beside what else stands in a head, which clients take 8 KiB of, and more


class Explanation:
    """Of a request that was sampled, or (`asked`) whose client wants to know."""

    def __init__(self, asked: bool) -> None:
        self.by = "request" if asked else "sample"
        self.view: View | None = None  # before the choice that is being made
        self.excluded = -1
        self.choices: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        self.more = 0

    def look(self, view: View, excluded: int) -> None:
        """What the next choice goes by."""
        self.view, self.excluded = view, excluded

    def choose(self, index: int, words: dict[str, Any]) -> None:
        """The choice fell on endpoint `index` of the view, -1: on none; `words` say how."""
        view, self.view = self.view, None
        if len(self.choices) == MOST_CHOICES:
            self.more += 1
            return
        rows: list[dict[str, Any]] = []
        if view is not None:
            rows = [view.row(one, self.excluded) for one in view.order(index)[:LOG_CANDIDATES]]
            words = {**words, "rule": view.explained.rule, "of": len(view.candidates)}
        self.choices.append((words, rows))

    def text(self, pool: str, policy: str, endpoint: str | None, most: int) -> bytes:
        """JSON in ASCII of `most` bytes at most: with as many candidates, then choices, as there is room for."""
        head = {"by": self.by, "pool": pool, "policy": policy, "endpoint": endpoint}
        shown, choices = LOG_CANDIDATES, self.choices
        while True:
            made = [{**words, "candidates": rows[:shown]} for words, rows in choices]
            left_out = self.more + len(self.choices) - len(choices)
            document = {**head, "choices": made, **({"choices_left_out": left_out} if left_out else {})}
            text = json.dumps(document, separators=(",", ":")).encode("ascii")
            if len(text) <= most or not choices:
                return text
            if shown > 1:
                shown //= 2
            else:
                choices = choices[1:]
