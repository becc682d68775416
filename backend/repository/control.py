"""Which models are served, and how that changes while the server runs: Triton's model control modes.

    none       all models are loaded at the start
    poll       the same, and what changes in the repository is followed
    explicit   models are loaded and unloaded by RepositoryModelLoad and RepositoryModelUnload

A model is loaded and warmed up beside the one that is served, which the new one then replaces at once; the old one ends
with its last inference. What cannot be loaded takes nothing away. One change is made at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from backend.cache.models import ModelCache
from backend.errors import BackendError, InvalidInput, ModelFailure, NotFound, StartError, Unavailable, Unsupported
from backend.model import Model
from backend.options import ServeOptions
from backend.repository.catalog import LOADING, READY, UNAVAILABLE, UNLOADING, Catalog, Entry
from backend.repository.configuration import Configuration, configuration_of_json
from backend.repository.folder import ModelFile, ModelFolder, Signature, model_names, read_folder, survey
from backend.repository.loading import load
from backend.repository.memory import Memory, Use
from backend.repository.settings import FILE, Settings, settings_of
from backend.session import Session

log = logging.getLogger("tidegate.backend")

EXPLICIT, POLL = "explicit", "poll"
ALL = "*"  # of --load-model
_LOOK = 1.0  # seconds between two looks at memory
_ON_DEMAND = "not in memory: the next request loads it"
_OLD = "the one before is served, since the newer files cannot be loaded: "

T = TypeVar("T")


class Offers(Protocol):
    """Who serves the models."""

    def offer(self, catalog: Catalog) -> None: ...

    def uses(self) -> list[Use]: ...

    async def wait_ended(self, model: Model) -> None: ...


class Control:
    """Belongs to the loop; files are read and models loaded on a thread of its own."""

    def __init__(self, options: ServeOptions, serving: Offers) -> None:
        self._options = options
        self._serving = serving
        self._cache = _cache(options)
        limit = options.model_memory_limit
        self._memory = Memory(limit) if limit is not None else None
        self._files: dict[tuple[str, str], ModelFile] = {}  # of versions that were loaded
        self._models: dict[str, dict[str, Entry]] = {}
        self._signatures: dict[str, dict[str, Signature]] = {}  # of versions, as they were loaded or failed to
        self._surveyed: dict[str, Signature] = {}
        self._unreadable = ""
        self._started = False
        self._stopping = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._jobs: set[Future[Any]] = set()

    # What others see.

    @property
    def mode(self) -> str:
        return self._options.model_control_mode

    @property
    def busy(self) -> bool:
        """The thread is inside a load, which cannot be ended."""
        return any(job.running() for job in list(self._jobs))

    async def start(self) -> None:
        """Loads the models of the start, then offers them. Raises StartError when there is none of those to serve."""
        options = self._options
        if self.mode == POLL:
            self._surveyed = await self._on_thread(survey, options.models)
        names = await self._on_thread(model_names, options.models)
        if not names and self.mode not in (EXPLICIT, POLL):
            raise StartError(
                f"the model repository {options.models} is empty: expected a file like "
                f"{options.models / 'NAME' / '1' / FILE}"
            )
        if self.mode == EXPLICIT:
            asked = set(options.load_model)
            names = sorted(asked - {ALL} | set(names if ALL in asked else ()))
        for name in names:
            await self._follow(name, await self._on_thread(read_folder, options.models, name))
            self._make_room()
        entries = self._entries()
        if entries and not any(entry.model for entry in entries):
            raise StartError("; ".join(entry.reason for entry in entries))
        self._started = True
        self._publish()
        if self._memory is not None:
            self._keep(self._watch_memory())
        ready = ", ".join(f"{entry.name} {entry.version}" for entry in entries if entry.model)
        log.info("ready: %s", ready or "no model")

    async def poll(self) -> None:
        """Follows the repository until it is cancelled."""
        while True:
            await asyncio.sleep(self._options.repository_poll_secs)
            try:
                await self.look()
            except Exception:
                log.exception("unexpected error as the model repository was looked at; it will be again")

    async def look(self) -> None:
        """One look at the repository; what has changed there is followed."""
        await self._change(self._look())

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """RepositoryModelLoad. Raises BackendError."""
        self._check_mode("loaded")
        override = _override(parameters)
        await self._change(self._load(name, override))

    async def unload(self, name: str) -> None:
        """RepositoryModelUnload; models that others depend on are none here. Raises BackendError."""
        self._check_mode("unloaded")
        await self._change(self._unload(name))

    async def unloaded(self) -> list[str]:
        """The models of the repository of which nothing is known but their names: they were never loaded."""
        if self.mode != EXPLICIT:
            return []
        try:
            names = await asyncio.to_thread(model_names, self._options.models)
        except StartError as error:
            log.warning("%s", error)
            return []
        return [name for name in names if name not in self._models]

    def stop(self) -> None:
        """No new change is begun."""
        self._stopping = True

    def close(self) -> None:
        """Nothing changes any more."""
        self.stop()
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # Changes, one at a time.

    async def _change(self, change: Coroutine[Any, Any, None]) -> None:
        """Goes on also when its caller leaves."""
        await asyncio.shield(self._keep(self._in_turn(change)))

    async def _in_turn(self, change: Coroutine[Any, Any, T]) -> T:
        async with self._changing:
            result = await change
            self._make_room()
            return result

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()  # its caller may have left: nobody else looks at it
        if error is not None and not isinstance(error, BackendError) and not self._stopping:
            log.error("unexpected error as the models were changed", exc_info=error)

    async def _load(self, name: str, override: Configuration | None) -> None:
        if not name or "/" in name or name.startswith("."):
            raise InvalidInput(f"'{name}' is no name of a model")
        if name not in self._models and name not in await self._on_thread(self._names):
            raise NotFound(f"the model repository {self._options.models} has no model '{name}'")
        folder = await self._on_thread(read_folder, self._options.models, name, override)
        self._signatures.pop(name, None)  # whether or not its files have changed
        reasons = await self._follow(name, folder)
        if reasons:
            raise ModelFailure(f"failed to load '{name}': {'; '.join(reasons)}")

    def _names(self) -> list[str]:
        try:
            return model_names(self._options.models)
        except StartError as error:
            raise ModelFailure(str(error)) from error

    async def _unload(self, name: str) -> None:
        before = self._models.get(name)
        if before is None:
            raise NotFound(f"model '{name}' is not loaded")
        self._signatures.pop(name, None)
        self._set(name, {version: _unloading(entry) for version, entry in before.items()})
        log.info("model %s: unloading", name)

    async def _look(self) -> None:
        try:
            found: dict[str, Signature] = await self._on_thread(survey, self._options.models)
        except StartError as error:  # which is no reason to take models away
            if str(error) != self._unreadable:
                log.error("%s; what was loaded is served", error)
            self._unreadable = str(error)
            return
        self._unreadable = ""
        for name in sorted(self._surveyed.keys() - found.keys()):
            log.info("model %s: gone from the repository", name)
            del self._surveyed[name]
            self._signatures.pop(name, None)
            self._set(name, {})
        for name, signature in found.items():
            if self._surveyed.get(name) == signature:
                continue
            self._surveyed[name] = signature
            await self._follow(name, await self._on_thread(read_folder, self._options.models, name))

    async def _follow(self, name: str, folder: ModelFolder) -> list[str]:
        """Makes what is served of a model what its folder says. The reasons why that cannot be, for each version."""
        before = self._models.get(name, {})
        try:
            if folder.problem:
                raise StartError(folder.problem)
            settings = settings_of(name, folder.configuration, self._options)
        except StartError as error:
            reason = str(error) if folder.problem else f"model {name}: {error}"
            log.error("not served: %s", reason)
            self._signatures.pop(name, None)
            kept = {version: _kept(entry, reason) for version, entry in before.items() if entry.model}
            self._set(name, kept or {"": Entry(name, "", UNAVAILABLE, reason)})
            return [reason]
        self._say_without_effect(name, settings)
        known = self._signatures.get(name, {})
        signatures = {str(file.version): folder.signatures[str(file.version)] for file in folder.files}
        stale = [version for version in signatures if known.get(version) != signatures[version]]
        loading = {version: Entry(name, version, LOADING) for version in stale}
        self._set(name, loading | {version: entry for version, entry in before.items() if entry.model})
        after: dict[str, Entry] = {}
        for version, reason in folder.missing.items():
            after[version] = self._failed(before, name, version, reason)
        for file in folder.files:
            version = str(file.version)
            after[version] = await self._loaded(before, file, settings) if version in stale else before[version]
        reasons = [after[version].reason for version in stale if after[version].reason] + list(folder.missing.values())
        if reasons:  # then nothing is taken away
            after = {version: entry for version, entry in before.items() if entry.model} | after
        self._signatures[name] = signatures
        self._set(name, after)
        return reasons

    async def _loaded(self, before: Mapping[str, Entry], file: ModelFile, settings: Settings) -> Entry:
        try:
            model = await self._on_thread(load, file, settings, self._cache)
        except StartError as error:
            return self._failed(before, file.name, str(file.version), str(error))
        except Exception:
            log.exception("model %s version %d: unexpected error as it was loaded", file.name, file.version)
            reason = f"model {file.name} version {file.version}: unexpected error; the server's log has more"
            return self._failed(before, file.name, str(file.version), reason)
        self._files[file.name, model.version] = file
        return Entry(file.name, model.version, READY, model=model)

    def _failed(self, before: Mapping[str, Entry], name: str, version: str, reason: str) -> Entry:
        log.error("not served: %s", reason)
        entry = before.get(version)
        if entry is not None and entry.model is not None:
            return _kept(entry, reason)
        return Entry(name, version, UNAVAILABLE, reason)

    # Models that leave memory, where it has a limit.

    async def _watch_memory(self) -> None:
        """What was in use as there was no room leaves when it is idle."""
        while True:
            await asyncio.sleep(_LOOK)
            async with self._changing:
                self._make_room()

    def _make_room(self, coming: Model | None = None) -> None:
        """In one step: a model that is idle as it leaves gets no inference in between."""
        if self._memory is None:
            return
        for model in self._memory.leaving(self._uses(), coming):
            log.info("%s: leaves memory, where %d bytes are too many; the next request loads it",
                     model, self._memory.limit)  # fmt: skip
            self._replace(model, self._on_demand(model))

    def _uses(self) -> list[Use]:
        if self._started:
            return self._serving.uses()
        models = [entry.model for entry in self._entries() if entry.model is not None]
        return [Use(model, model.loaded_ms, False) for model in models if not model.on_demand]

    def _on_demand(self, model: Model) -> Model:
        async def load_again() -> Session:
            return await self._keep(self._in_turn(self._load_again(made)))

        made = model.left_memory(load_again)
        return made

    async def _load_again(self, model: Model) -> Session:
        """Raises BackendError."""
        entry = self._models.get(model.name, {}).get(model.version)
        if entry is None or entry.model is None or self._stopping:
            raise Unavailable(f"{model} was unloaded meanwhile")
        model = entry.model
        if not model.on_demand:  # another request has had it loaded
            return model.session
        self._make_room(model)
        try:
            file = self._files[model.name, model.version]
            found: Model = await self._on_thread(load, file, model.settings, self._cache)
        except StartError as error:
            log.error("%s: cannot be loaded again: %s", model, error)
            self._put(Entry(model.name, model.version, READY, f"{_ON_DEMAND}; the last try failed: {error}", model))
            raise Unavailable(str(error)) from error
        self._replace(model, found)
        log.info("%s: loaded again", found)
        return found.session

    def _replace(self, model: Model, by: Model) -> None:
        reason = _ON_DEMAND if by.on_demand else ""
        self._put(Entry(by.name, by.version, READY, reason, by))

    def _put(self, entry: Entry) -> None:
        self._set(entry.name, {**self._models[entry.name], entry.version: entry})

    def _say_without_effect(self, name: str, settings: Settings) -> None:
        configuration = settings.configuration
        fields = configuration.without_effect()
        if fields:
            verb = "has" if len(fields) == 1 else "have"
            log.warning("model %s: %s: %s %s no effect here", name, configuration.source, ", ".join(fields), verb)

    # What is served.

    def _entries(self) -> list[Entry]:
        return [entry for versions in self._models.values() for entry in versions.values()]

    def _publish(self) -> None:
        if self._started:
            self._serving.offer(Catalog(self._entries()))

    def _set(self, name: str, versions: dict[str, Entry]) -> None:
        """From now on this is what there is of a model. Models that are left out end with their last inference."""
        before = self._models.pop(name, {})
        if versions:
            self._models[name] = versions
        kept = {id(entry.model) for entry in versions.values()}
        self._publish()
        for entry in before.values():
            if entry.model is not None and id(entry.model) not in kept and self._started:
                self._keep(self._end(name, entry.version, [entry.model]))

    async def _end(self, name: str, version: str, models: list[Model]) -> None:
        """`models` has the one that ends, and nobody else has it then: its memory is given back on the thread."""
        await self._serving.wait_ended(models[0])
        entry = self._models.get(name, {}).get(version)
        if entry is not None and entry.state == UNLOADING:
            self._models[name][version] = Entry(name, version, UNAVAILABLE, "unloaded")
            self._publish()
        log.info("%s: ended", models[0])
        await self._on_thread(models.clear)

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        job = self._thread.submit(work, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.wrap_future(job)

    def _check_mode(self, verb: str) -> None:
        if self.mode != EXPLICIT:
            raise Unsupported(
                f"models are {verb} by calls in --model-control-mode explicit only, and this server's is {self.mode}"
            )
        if self._stopping or not self._started:
            raise Unavailable("the server is stopping" if self._stopping else "the server is still loading its models")


def _cache(options: ServeOptions) -> ModelCache | None:
    folder = options.model_cache
    return None if folder is None else ModelCache(folder, options.model_cache_size)


def _kept(entry: Entry, reason: str) -> Entry:
    return Entry(entry.name, entry.version, READY, _OLD + reason, entry.model)


def _unloading(entry: Entry) -> Entry:
    if entry.state == UNLOADING:
        return entry
    if entry.model is None:
        return Entry(entry.name, entry.version, UNAVAILABLE, "unloaded")
    return Entry(entry.name, entry.version, UNLOADING, "its last inferences are answered")


def _override(parameters: Mapping[str, Any]) -> Configuration | None:
    """The configuration that a call of RepositoryModelLoad has with it. Raises BackendError."""
    for name in parameters:
        if name.startswith("file:"):
            raise Unsupported(f"parameter '{name}': files are taken from the model repository only")
        if name != "config":
            raise InvalidInput(f"unknown parameter '{name}'; expected config")
    if "config" not in parameters:
        return None
    if parameters["config"].WhichOneof("parameter_choice") != "string_param":
        raise InvalidInput("parameter 'config': expected a string with the configuration in JSON")
    try:
        return configuration_of_json(parameters["config"].string_param)
    except StartError as error:
        raise InvalidInput(str(error)) from error
