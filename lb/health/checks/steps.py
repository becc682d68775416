"""The steps of a check that speaks: what is sent, what has to come, and what of it is sent back.

HAProxy's `tcp-check send`, `expect` and `set-var`; nginx's `match { send; expect }`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from lb.config.schema.pools.steps import CAPTURED, CheckStepConfig
from lb.config.values import Value, parse
from lb.health.check import CheckFailed
from lb.health.checks.conversation import Conversation, waiting_for
from lb.http.regex import Regex


class Send(Struct, frozen=True):
    """What is sent: texts, and captures with what stands for one that is empty."""

    parts: tuple[str | Value, ...]

    async def run(self, conversation: Conversation, captures: dict[str, bytes]) -> None:
        await conversation.send(_filled(self.parts, captures))


class Expect(Struct, frozen=True):
    """A pattern that has to be found in what comes next; what stands before it and in it is taken. Its groups
    `names` are captured."""

    number: int
    pattern: str
    regex: Regex
    names: tuple[str, ...]

    async def run(self, conversation: Conversation, captures: dict[str, bytes]) -> None:
        with waiting_for(f"step {self.number} waits for '{self.pattern}'", conversation):
            try:
                while (spans := self.regex.spans(conversation.came)) is None:
                    await conversation.more()
            except CheckFailed as e:
                raise CheckFailed(f"step {self.number}: '{self.pattern}' did not come: {e}") from e
        for name in self.names:
            span = spans[self.regex.group(name)]
            captures[name] = conversation.came[slice(*span)] if span is not None else b""
        whole = spans[0]
        assert whole is not None
        conversation.take(whole[1])


class Script:
    """The steps of one pool's check, made once."""

    def __init__(self, steps: Sequence[CheckStepConfig]) -> None:
        self._steps = tuple(_made(number, step) for number, step in enumerate(steps, 1))

    async def run(self, conversation: Conversation) -> None:
        """Raises CheckFailed and OSError."""
        captures: dict[str, bytes] = {}
        for step in self._steps:
            await step.run(conversation, captures)


def _made(number: int, step: CheckStepConfig) -> Send | Expect:
    if step.send is not None:
        return Send(parse(step.send))
    assert step.expect is not None
    pattern = step.expect
    regex = Regex(b"(?s)" + pattern.encode("latin-1"))
    return Expect(number, pattern, regex, tuple(CAPTURED.findall(pattern)))


def _filled(parts: Sequence[str | Value], captures: dict[str, bytes]) -> bytes:
    """The bytes of `parts`."""
    return b"".join(
        part.encode("latin-1")
        if isinstance(part, str)
        else captures.get(part.argument) or _filled(part.otherwise, captures)
        for part in parts
    )
