"""Server calls of a pool: every endpoint gets them, and those that come up later are told before they get requests.

    answer    a client's call: the endpoints that are up are told at once; what one of them has done is kept
    hold      an endpoint is about to come up: it is told what is kept, then it is up
    catch up  an endpoint that is up could not be reached, or refused: it is asked again, or left out for that model

Calls about one thing (a model, a kind of setting) are told one after the other, also to endpoints that come up. The
state is the master's: it outlives workers and reloads, and ends with the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from lb.control.endpoints.asking import Answer, Asked, Unreached, failed_answer, tell, worst
from lb.control.endpoints.asking import GrpcStatus as Status

if TYPE_CHECKING:
    from lb.control.endpoints.kept_calls import Call, Kept, KeptCalls, Key

log = logging.getLogger("tidegate.master")

MOST_WAITING = 1024  # calls of a pool under way; more are refused
SETTING_TIMEOUT = 5.0  # seconds for an endpoint to answer what is no load or unload
_BREAKS_AT_THE_ANSWER = (Status.INTERNAL, "Internal server error", b"")  # KServe's servicer
_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between two tries to reach an endpoint


class Rules(Struct, frozen=True):
    """What a pool's configuration says; `timeout` is in seconds, for a load or unload at one endpoint."""

    quorum: Literal["all", "majority", "one"] = "all"
    timeout: float = 300.0

    def reached(self, done: int, asked: int) -> bool:
        if self.quorum == "one":
            return done >= 1
        return 2 * done > asked if self.quorum == "majority" else done == asked


Withhold = Callable[[str, Mapping[str, frozenset[str]]], None]
"""Takes a pool, and by endpoint the models for which it is not to get requests, as it could not be told to load
them; it stands for what was said of that pool before."""


Changed = Callable[[str, Collection[str], str, bool], None]
"""Takes a pool, the addresses of endpoints that have done a load or an unload, the model, and whether it is loaded."""


class _Turn(Struct):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0  # who has it or waits for it
    clients: int = 0  # those of them that are clients' calls


class _Pool(Struct):
    name: str
    kept: KeptCalls
    turns: dict[Key, _Turn] = field(default_factory=dict)
    done: dict[str, dict[Key, int]] = field(default_factory=dict)  # address -> what it was told, by the number of it
    failed: dict[str, set[Key]] = field(default_factory=dict)  # address -> what of `kept` it has not done
    rising: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # endpoints that are told and come up then
    catching_up: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # those that are up
    waiting: int = 0

    @contextlib.asynccontextmanager
    async def turn(self, key: Key, client: bool = False) -> AsyncIterator[None]:
        """One at a time, in the order in which they come."""
        turn = self.turns.setdefault(key, _Turn())
        turn.users += 1
        turn.clients += client
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            turn.clients -= client
            if not turn.users:
                del self.turns[key]

    def busy(self) -> Key | None:
        """What a client's call under way is about. Endpoints that come up are none: two would wait for each other."""
        return next((key for key, turn in self.turns.items() if turn.clients), None)


class ServerCalls:
    """`endpoints(pool)` gives those of a pool that are up, but not those that are leaving it, `rules(pool)` its rules.
    `models_changed(pool, model)` is awaited before a client is told of a load or unload. Everything on the loop."""

    def __init__(
        self,
        endpoints: Callable[[str], Sequence[Asked]],
        find: Callable[[str, str], Asked | None],
        rules: Callable[[str], Rules],
        models_changed: Callable[[str, str], Awaitable[None]],
        withhold: Withhold,
        changed: Changed,
    ) -> None:
        """`find(pool, address)` gives an endpoint of a pool, up or not; None of one that is gone."""
        self._endpoints = endpoints
        self._find = find
        self._rules = rules
        self._models_changed = models_changed
        self._withhold = withhold
        self._changed = changed
        self._pools: dict[str, _Pool] = {}
        self._epochs: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Answer]] = set()

    def epoch(self, pool: str) -> int:
        """Another number after each load and unload: what is known of the pool's models counts no more."""
        return self._epochs.get(pool, 0)

    # Clients' calls.

    async def answer(self, pool: str, method: str, request: bytes) -> Answer:
        """What the client is told. The call goes on when the client has left."""
        from google.protobuf.message import DecodeError

        from lb.control.endpoints.kept_calls import KeptCalls, read_call

        try:
            call = read_call(method, request)
        except DecodeError:
            return Answer(Status.INVALID_ARGUMENT, f"the request is not a {method}Request", b"")
        if call.reads:
            return await self._any(pool, method, request)
        if not self._endpoints(pool):
            return worst(pool, [])
        state = self._pools.get(pool)
        if state is None:
            state = self._pools[pool] = _Pool(pool, KeptCalls())
        if state.waiting >= MOST_WAITING:
            return Answer(Status.RESOURCE_EXHAUSTED, f"pool {pool}: too many calls of {method}", b"")
        task = asyncio.create_task(self._in_turn(state, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _any(self, pool: str, method: str, request: bytes) -> Answer:
        errors = []
        for endpoint in self._endpoints(pool):
            answer = await tell(endpoint, method, request, SETTING_TIMEOUT)
            if isinstance(answer, bytes):
                return Answer(0, "", answer)
            errors.append(failed_answer(method, answer))
        return worst(pool, errors)

    async def _in_turn(self, state: _Pool, call: Call) -> Answer:
        state.waiting += 1
        try:
            async with state.turn(call.turn, client=True):
                return await self._tell_all(state, call)
        finally:
            state.waiting -= 1

    async def _tell_all(self, state: _Pool, call: Call) -> Answer:
        if not call.forgets and not state.kept.has_room(call):
            text = f"pool {state.name}: the server calls that have to be remembered are too many, or too large"
            return Answer(Status.RESOURCE_EXHAUSTED, text, b"")
        rules = self._rules(state.name)
        seconds = rules.timeout if call.of_model else SETTING_TIMEOUT
        told: dict[str, bytes | Unreached | Answer] = {}
        kept: Kept | None = None
        # Who comes up meanwhile, without having been held as nothing was kept yet, is told as well.
        while new := [e for e in self._endpoints(state.name) if e.address not in told]:
            found = await asyncio.gather(*(_tell(endpoint, call, seconds) for endpoint in new))
            told.update((endpoint.address, answer) for endpoint, answer in zip(new, found, strict=True))
            if kept is None and any(isinstance(answer, bytes) for answer in found):
                kept = state.kept.take(call)
        if kept is not None:
            self._done(state, kept, told)
            if call.of_model:
                done = [address for address, answer in told.items() if isinstance(answer, bytes)]
                self._changed(state.name, done, call.message.model_name, bool(call.model))
                self._epochs[state.name] = self._epochs.get(state.name, 0) + 1
                await self._models_changed(state.name, call.message.model_name)
        return self._outcome(state, call, rules, told)

    def _done(self, state: _Pool, kept: Kept, told: Mapping[str, bytes | Unreached | Answer]) -> None:
        call = kept.call
        if call.forgets:
            known = set(state.kept)
            for numbers in state.done.values():
                for key in numbers.keys() - known:
                    del numbers[key]
            for failed in state.failed.values():
                failed &= known
            return
        for address, answer in told.items():
            if isinstance(answer, bytes):
                state.done.setdefault(address, {})[call.key] = kept.number
                state.failed.get(address, set()).discard(call.key)
                continue
            state.failed.setdefault(address, set()).add(call.key)
            if isinstance(answer, Unreached):
                self._catch_up(state, address)
        self._tell_withheld(state)

    def _outcome(
        self, state: _Pool, call: Call, rules: Rules, told: Mapping[str, bytes | Unreached | Answer]
    ) -> Answer:
        done = {address: answer for address, answer in told.items() if isinstance(answer, bytes)}
        failed = {a: failed_answer(call.method, answer) for a, answer in told.items() if not isinstance(answer, bytes)}
        if not told:
            return worst(state.name, [])
        if not failed:
            log.info("pool %s: %s was done by all endpoints that are up: %d", state.name, call, len(done))
            return Answer(0, "", next(iter(done.values())))
        why = "; ".join(f"{address}: {answer.message}" for address, answer in failed.items())
        log.warning("pool %s: %s failed at %d of %d endpoints: %s", state.name, call, len(failed), len(told), why)
        if rules.reached(len(done), len(told)):
            return Answer(0, "", next(iter(done.values())))
        status = worst(state.name, list(failed.values())).status
        if not done and len({answer.message for answer in failed.values()}) == 1:
            return Answer(status, next(iter(failed.values())).message, b"")
        who = f"done by {', '.join(done)}" if done else "no endpoint did it"
        return Answer(status, f"{call} failed at {len(failed)} of {len(told)} endpoints ({why}); {who}", b"")

    # Endpoints.

    def remembers(self, pool: str) -> bool:
        """Whether endpoints that come up have to be told something first."""
        state = self._pools.get(pool)
        return state is not None and (len(state.kept) > 0 or state.busy() is not None)

    def hold(self, pool: str, address: str, up: Callable[[], None]) -> bool:
        """An endpoint is about to come up. True: it has to be told something first; `up` is called then, unless
        `fell` comes before."""
        if not self.remembers(pool):
            return False
        state = self._pools[pool]
        if address not in state.rising:
            self._stop(state.catching_up, address)
            state.rising[address] = asyncio.create_task(self._rise(state, address, up), name=f"{pool}: {address} rises")
        return True

    def holding(self, pool: str, address: str) -> bool:
        """Whether an endpoint would be up but for what it is told."""
        return pool in self._pools and address in self._pools[pool].rising

    def fell(self, pool: str, address: str) -> None:
        """An endpoint is down."""
        state = self._pools.get(pool)
        if state is not None:
            self._stop(state.rising, address)
            self._stop(state.catching_up, address)

    def ended(self, pool: str, address: str) -> None:
        """The process behind an endpoint has ended, and what it was told with it."""
        if pool in self._pools:
            self._pools[pool].done.pop(address, None)

    def follow(self, pools: Mapping[str, Collection[str]]) -> None:
        """These pools are left, with these addresses; of others everything is forgotten."""
        for name in self._pools.keys() - pools.keys():
            state = self._pools.pop(name)
            for address in [*state.rising, *state.catching_up]:
                self._stop(state.rising, address)
                self._stop(state.catching_up, address)
            self._withhold(name, {})
        for name, state in self._pools.items():
            stay = set(pools[name])
            for address in (state.rising.keys() | state.catching_up.keys()) - stay:
                self._stop(state.rising, address)
                self._stop(state.catching_up, address)
            for known in (state.done, state.failed):
                for address in known.keys() - stay:
                    del known[address]

    def _stop(self, tasks: dict[str, asyncio.Task[None]], address: str) -> None:
        task = tasks.pop(address, None)
        if task is not None:
            task.cancel()

    async def _rise(self, state: _Pool, address: str, up: Callable[[], None]) -> None:
        pause = _PAUSE
        try:
            while not await self._told(state, address, every=True):
                log.warning("pool %s: endpoint %s cannot be told what it missed, and stays down", state.name, address)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except Exception:  # one that nobody foresaw must not keep it down for ever
            log.exception("pool %s: endpoint %s comes up without what it missed", state.name, address)
        del state.rising[address]
        if state.kept:
            log.info("pool %s: endpoint %s was told what it missed: %d calls", state.name, address, len(state.kept))
        up()

    def _catch_up(self, state: _Pool, address: str) -> None:
        if address not in state.catching_up and address not in state.rising:
            task = asyncio.create_task(self._chase(state, address), name=f"{state.name}: {address} catches up")
            state.catching_up[address] = task

    async def _chase(self, state: _Pool, address: str) -> None:
        """What an endpoint refused is not asked of it again; what could not be said is, until it falls."""
        pause = _PAUSE
        while not await self._told(state, address, every=False):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        state.catching_up.pop(address, None)

    async def _told(self, state: _Pool, address: str, every: bool) -> bool:
        """Tells an endpoint `every` call that is kept, or those that failed. False: it could not be reached."""
        tried: dict[Key, int] = {}
        while True:
            wanted = list(state.kept) if every else list(state.failed.get(address, ()))
            todo = [key for key in wanted if (kept := state.kept.get(key)) and tried.get(key) != kept.number]
            for key in todo:
                found = state.kept.get(key)
                if found is None:
                    continue
                async with state.turn(found.call.turn):
                    kept = state.kept.get(key)
                    if kept is None or tried.get(key) == kept.number:
                        continue
                    if not await self._replay(state, address, kept):
                        return False
                    tried[key] = kept.number
            if todo:
                continue
            busy = state.busy() if every else None
            if busy is None:
                return True
            async with state.turn(busy):  # what it comes to has to be told, too
                pass

    async def _replay(self, state: _Pool, address: str, kept: Kept) -> bool:
        """False: the endpoint could not be reached."""
        endpoint = self._find(state.name, address)
        if endpoint is None:
            return False
        call, known = kept.call, state.done.get(address, {}).get(kept.call.key) == kept.number
        answer = await self._repeat(endpoint, call, known, self._rules(state.name).timeout)
        if isinstance(answer, Unreached):
            return False
        failed = state.failed.setdefault(address, set())
        if isinstance(answer, bytes):
            state.done.setdefault(address, {})[call.key] = kept.number
            failed.discard(call.key)
            if call.of_model:
                self._changed(state.name, [address], call.message.model_name, bool(call.model))
        else:
            failed.add(call.key)
            log.warning("pool %s: endpoint %s: %s failed: %s", state.name, address, call, answer.message)
        self._tell_withheld(state)
        return True

    async def _repeat(self, endpoint: Asked, call: Call, known: bool, seconds: float) -> bytes | Unreached | Answer:
        """Only what has to be repeated: a model that is there as it was told is not loaded anew."""
        if call.of_model:
            ready = await _model_ready(endpoint, call.message.model_name)
            if isinstance(ready, Unreached):
                return ready
            if ready == bool(call.model) and (not ready or (known and call.plain)):
                return b""
            return await _tell(endpoint, call, seconds)
        answer = await _tell(endpoint, call, SETTING_TIMEOUT)
        if not isinstance(answer, Answer) or answer.status != Status.ALREADY_EXISTS:
            return answer
        if known:
            return b""
        # A region of that name from before: it may be another one.
        from lb.wire import grpc_service_pb2 as wire

        forget = call.method.replace("Register", "Unregister")
        name = getattr(wire, f"{forget}Request")(name=call.message.name).SerializeToString()
        await tell(endpoint, forget, name, SETTING_TIMEOUT)
        return await _tell(endpoint, call, SETTING_TIMEOUT)

    def _tell_withheld(self, state: _Pool) -> None:
        found = {}
        for address, failed in state.failed.items():
            kept = [state.kept.get(key) for key in failed]
            models = frozenset(one.call.model for one in kept if one is not None and one.call.model)
            if models:
                found[address] = models
        self._withhold(state.name, found)


async def _tell(endpoint: Asked, call: Call, seconds: float) -> bytes | Unreached | Answer:
    """KServe's requests to load and unload have the model's name in field 1, where Triton's have the repository's: to
    an error about a model without a name, the request has it in both. KServe (0.21) then does what it is told and
    breaks at the answer, where a load that fails has another error; whether the model is ready confirms it."""
    answer = await tell(endpoint, call.method, call.message.SerializeToString(), seconds)
    if not isinstance(answer, Answer) or not call.of_model:
        return answer
    name = call.message.model_name
    named = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    if call.message.repository_name or named.search(answer.message):
        return answer
    both = type(call.message)(repository_name=name, model_name=name, parameters=call.message.parameters)
    again = await tell(endpoint, call.method, both.SerializeToString(), seconds)
    if not isinstance(again, Answer):
        return again
    if again == _BREAKS_AT_THE_ANSWER and await _model_ready(endpoint, name) is bool(call.model):
        return b""
    return again if named.search(again.message) else answer


async def _model_ready(endpoint: Asked, name: str) -> bool | Unreached:
    """Servers that do not know a model say so in different ways, none of which is that it is ready."""
    from google.protobuf.message import DecodeError

    from lb.wire import grpc_service_pb2 as wire

    request = wire.ModelReadyRequest(name=name).SerializeToString()
    answer = await tell(endpoint, "ModelReady", request, SETTING_TIMEOUT)
    if isinstance(answer, Unreached):
        return answer
    try:
        return isinstance(answer, bytes) and bool(wire.ModelReadyResponse.FromString(answer).ready)
    except DecodeError:
        return False
