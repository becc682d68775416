"""How a model is served: what its configuration says, and the command line where it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backend.datatypes import BY_CONFIG, TensorSpec, shape_text
from backend.errors import StartError
from backend.options import ServeOptions
from backend.providers import Tuning
from backend.repository.configuration import NOT_GIVEN, Configuration
from backend.repository.execution import execution

FILE = "model.onnx"
THREADS = "intra_op_thread_count"
_PLATFORMS = ("", "onnxruntime_onnx", "onnx_onnxv1")  # Triton's name, and the Open Inference Protocol's
_BACKENDS = ("", "onnxruntime")
_MOST_MICROSECONDS = 1 << 52
MOST_LEVELS = 100  # of priorities


@dataclass(frozen=True, slots=True)
class Level:
    """Requests of one priority: how many may wait for a run, and how long (ns; 0: as long as their deadlines allow)."""

    max_queue: int = 1000
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """`max_batch` is the most rows that requests are merged to, where the model allows it; 1: they are not. `runs` is
    the most runs of the model at once, 0: as many as the server has. `levels` are those of priorities, the first goes
    first; requests without a priority are of `default_level`, counted from 0. `max_sequences` is the most sequences
    that are open at once. Durations are nanoseconds. `configuration` is what was asked for."""

    providers: tuple[str, ...] = ("cpu",)
    tuning: Tuning = field(default_factory=Tuning)
    threads: int = 1
    max_batch: int = 1
    runs: int = 0
    max_queue_delay: int = 0
    levels: tuple[Level, ...] = (Level(),)
    default_level: int = 0
    max_sequences: int = 1
    configuration: Configuration = field(default_factory=Configuration)

    @property
    def max_batch_size(self) -> int | None:
        """As the configuration has it; None where it says nothing. From 1 on its `dims` leave out the first one."""
        given = self.configuration.message.max_batch_size
        return None if given == NOT_GIVEN else int(given)


def settings_of(name: str, configuration: Configuration, options: ServeOptions) -> Settings:
    """Raises StartError when the configuration is another model's, or asks for what this server has not."""
    message, source = configuration.message, configuration.source
    if message.name not in ("", name):
        raise StartError(f"{source}: name: expected '{name}', as its folder is called, got '{message.name}'")
    if message.platform not in _PLATFORMS:
        raise StartError(f"{source}: platform: expected onnxruntime_onnx, got '{message.platform}'")
    if message.backend not in _BACKENDS:
        raise StartError(f"{source}: backend: expected onnxruntime, got '{message.backend}'")
    if message.max_batch_size < 0 and message.max_batch_size != NOT_GIVEN:
        raise StartError(f"{source}: max_batch_size: expected 0 or more, got {message.max_batch_size}")
    for tensor in (*message.input, *message.output):
        if tensor.HasField("reshape"):
            raise StartError(f"{source}: '{tensor.name}': reshape is not supported; clients send the model's own shape")
    batching = message.dynamic_batching
    if batching.max_queue_delay_microseconds > _MOST_MICROSECONDS:
        raise StartError(f"{source}: dynamic_batching: {batching.max_queue_delay_microseconds} µs are too many")
    delay = batching.max_queue_delay_microseconds * 1000 if message.HasField("dynamic_batching") else None
    sequences = message.sequence_batching
    strategy = sequences.WhichOneof("strategy_choice")
    if strategy is not None:
        delay = getattr(sequences, strategy).max_queue_delay_microseconds * 1000
    for microseconds in (sequences.max_sequence_idle_microseconds, (delay or 0) // 1000):
        if microseconds > _MOST_MICROSECONDS:
            raise StartError(f"{source}: sequence_batching: {microseconds} µs are too many")
    given = message.max_batch_size != NOT_GIVEN
    providers, tuning = execution(configuration, options)
    return Settings(
        providers=providers,
        tuning=tuning,
        threads=_threads(configuration) or options.threads,
        max_batch=max(message.max_batch_size, 1) if given else options.max_batch,
        runs=min(_instances(configuration), options.concurrency),
        max_queue_delay=options.max_queue_delay if delay is None else delay,
        levels=_levels(source, batching, options),
        default_level=max(batching.default_priority_level, 1) - 1,
        max_sequences=options.max_sequences,
        configuration=configuration,
    )


def _levels(source: str, batching: Any, options: ServeOptions) -> tuple[Level, ...]:
    """Those of the priorities. Raises StartError where the configuration names one that there is not."""
    count, default, policies = batching.priority_levels, batching.default_priority_level, batching.priority_queue_policy
    if count > MOST_LEVELS:
        raise StartError(f"{source}: priority_levels: expected at most {MOST_LEVELS}, got {count}")
    if not count and default:
        raise StartError(f"{source}: default_priority_level: expected priority_levels beside it")
    if count and not 1 <= default <= count:
        expected = f"1 to {count}, as priority_levels says"
        raise StartError(f"{source}: default_priority_level: expected {expected}, got {default}")
    for level in policies:
        if not 1 <= level <= count:
            raise StartError(f"{source}: priority_queue_policy: expected a key from 1 to {count}, got {level}")
    return tuple(
        _level(source, policies.get(level, batching.default_queue_policy), options)
        for level in range(1, max(count, 1) + 1)
    )


def _level(source: str, policy: Any, options: ServeOptions) -> Level:
    microseconds = policy.default_timeout_microseconds
    if microseconds > _MOST_MICROSECONDS:
        raise StartError(f"{source}: dynamic_batching: {microseconds} µs are too many")
    timeout = microseconds * 1000 if policy.timeout_action == policy.REJECT else 0
    return Level(policy.max_queue_size or options.max_queue, timeout)


def file_name(configuration: Configuration) -> str:
    """Of a version's model. Raises StartError."""
    name: str = configuration.message.default_model_filename or FILE
    if "/" in name or name in (".", ".."):
        raise StartError(f"{configuration.source}: default_model_filename: expected the name of a file, got '{name}'")
    return name


def chosen_versions(configuration: Configuration, found: Sequence[int]) -> list[int]:
    """Those of `version_policy`, ascending, which need not be there; all without a policy."""
    policy = configuration.message.version_policy
    if policy.HasField("specific"):
        return sorted(set(policy.specific.versions))
    if policy.HasField("latest"):
        return sorted(found)[-max(policy.latest.num_versions, 1) :]
    return sorted(found)


def fitted(specs: Sequence[TensorSpec], settings: Settings, role: str) -> tuple[TensorSpec, ...]:
    """The model's inputs (`role` "input") or outputs, with the sizes that the configuration gives to free dimensions of
    inputs. Raises StartError where the configuration contradicts the model."""
    source = settings.configuration.source
    asked = {tensor.name: tensor for tensor in getattr(settings.configuration.message, role)}
    known = ", ".join(str(spec) for spec in specs)
    for name in asked.keys() - {spec.name for spec in specs}:
        raise StartError(f"{source}: the model has no {role} '{name}'; expected {known}")
    return tuple(_fitted(spec, asked[spec.name], settings, role) if spec.name in asked else spec for spec in specs)


def _fitted(spec: TensorSpec, tensor: Any, settings: Settings, role: str) -> TensorSpec:
    what = f"{settings.configuration.source}: {role} '{spec.name}'"
    if tensor.data_type and tensor.data_type != spec.datatype.config:
        given = BY_CONFIG.get(tensor.data_type)
        raise StartError(f"{what}: expected datatype {spec.datatype.name}, as the model has it, got {given}")
    if not tensor.dims:
        return spec
    dims = tuple(tensor.dims)
    shape = (spec.shape[0], *dims) if settings.max_batch_size and spec.shape else dims
    fits = len(shape) == len(spec.shape) and all(
        size == have or (size > 0 and have == -1) or (size == -1 and role == "output")
        for size, have in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        batch = " behind the rows of max_batch_size" if settings.max_batch_size else ""
        expected = shape_text(spec.shape[1:] if batch else spec.shape)
        raise StartError(f"{what}: expected dims {expected}{batch}, as the model has them, got {shape_text(dims)}")
    return replace(spec, shape=shape) if role == "input" else spec


def _instances(configuration: Configuration) -> int:
    """Runs of the model at once; 0: nothing is said."""
    groups = configuration.message.instance_group
    if any(group.count < 0 for group in groups):
        raise StartError(f"{configuration.source}: instance_group: expected a count of 1 or more")
    return sum(group.count or 1 for group in groups)


def _threads(configuration: Configuration) -> int:
    """Of one run; 0: nothing is said."""
    parameters = configuration.message.parameters
    text = parameters[THREADS].string_value if THREADS in parameters else "0"  # [] alone would add it
    if not text.isascii() or not text.isdigit() or int(text) > 1024:
        raise StartError(f"{configuration.source}: {THREADS}: expected a whole number up to 1024, got '{text}'")
    return int(text)
