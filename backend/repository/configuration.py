"""The configuration of a model: `config.pbtxt` as Triton has it, or the same names in YAML or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from backend.errors import StartError
from lb.wire.model_config_pb2 import ModelConfig

FILES = ("config.pbtxt", "config.yaml", "config.yml")  # in the folder of the model; one of them
NOT_GIVEN = -(1 << 31)  # of max_batch_size, whose 0 means something

# What is applied; every other field that is set is named to the user. "*" stands for the name of a parameter.
_APPLIED = frozenset({
    "name", "platform", "backend", "version_policy", "max_batch_size", "default_model_filename", "model_warmup",
    "input.name", "input.data_type", "input.dims", "output.name", "output.data_type", "output.dims",
    "instance_group.count", "instance_group.kind", "instance_group.gpus",
    "optimization.execution_accelerators.gpu_execution_accelerator", "optimization.graph.level",
    "dynamic_batching.max_queue_delay_microseconds",
    "dynamic_batching.default_queue_policy.max_queue_size",
    "dynamic_batching.default_queue_policy.default_timeout_microseconds", "dynamic_batching.priority_levels",
    "dynamic_batching.default_priority_level", "dynamic_batching.priority_queue_policy",
    "parameters.intra_op_thread_count",
    "parameters.providers",
    "parameters.gpu_mem_limit", "parameters.arena_extend_strategy", "parameters.cudnn_conv_algo_search",
    "parameters.cudnn_conv_use_max_workspace", "parameters.do_copy_in_default_stream",
    "sequence_batching.max_sequence_idle_microseconds", "sequence_batching.control_input.name",
    "sequence_batching.control_input.control.kind", "sequence_batching.control_input.control.data_type",
    "sequence_batching.control_input.control.int32_false_true",
    "sequence_batching.control_input.control.fp32_false_true",
    "sequence_batching.control_input.control.bool_false_true", "sequence_batching.state.input_name",
    "sequence_batching.state.output_name", "sequence_batching.state.data_type", "sequence_batching.state.dims",
    "sequence_batching.state.initial_state", "sequence_batching.direct.max_queue_delay_microseconds",
    "sequence_batching.oldest.max_queue_delay_microseconds",
})  # fmt: skip
_INSIDE = frozenset({
    "input", "output", "instance_group", "dynamic_batching", "dynamic_batching.default_queue_policy",
    "sequence_batching", "sequence_batching.control_input", "sequence_batching.control_input.control",
    "sequence_batching.state", "sequence_batching.direct", "sequence_batching.oldest",
})  # fmt: skip

_OPTIONS = ("parameters.cuda.", "parameters.tensorrt.")  # of providers

Range = tuple[int, int]  # the least and the most, both included


@dataclass(frozen=True, slots=True)
class Configuration:
    """`source` is what messages call it, "" where there is none. `message` is a ModelConfig whose `max_batch_size` may
    be NOT_GIVEN. What only YAML and JSON say: `ranges` of random values by sample and input, `skip_warmup`."""

    source: str = ""
    message: Any = field(default_factory=lambda: ModelConfig(max_batch_size=NOT_GIVEN))
    ranges: Mapping[tuple[int, str], Range] = field(default_factory=dict)
    skip_warmup: bool = False

    def without_effect(self) -> list[str]:
        """The fields that are set and change nothing here, such as `optimization.cuda.graphs`."""
        return list(dict.fromkeys(_without_effect(self.message, "")))


def read_configuration(folder: Path) -> Configuration:
    """That of the model in `folder`. Raises StartError with file, place and reason."""
    found = [folder / name for name in FILES if (folder / name).exists()]
    if not found:
        return Configuration()
    if len(found) > 1:
        raise StartError(f"{folder}: expected one configuration, found {' and '.join(path.name for path in found)}")
    path = found[0]
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"cannot read {path}: {error}") from error
    if path.suffix == ".pbtxt":
        return Configuration(path.name, _of_text(path, text))
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StartError(f"{path}: {_one_line(error)}") from error
    return _of_mapping(path.name, str(path), {} if given is None else given)


def configuration_of_json(text: str) -> Configuration:
    """The parameter `config` of RepositoryModelLoad. Raises StartError."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise StartError(f"the parameter 'config' is no JSON: {error}") from error
    return _of_mapping("the parameter 'config'", "the parameter 'config'", given)


def _of_text(path: Path, text: str) -> Any:
    message = ModelConfig(max_batch_size=NOT_GIVEN)
    try:
        text_format.Parse(text, ModelConfig())  # which refuses what is said twice
        text_format.Merge(text, message)
    except text_format.ParseError as error:
        raise StartError(f"{path}:{_one_line(error)}") from error
    return message


def _of_mapping(source: str, place: str, given: Any) -> Configuration:
    if not isinstance(given, dict):
        raise StartError(f"{place}: expected names with values, as {{max_batch_size: 8}}")
    given = dict(given)
    warmup = given.pop("warmup", None)
    if warmup not in (None, "skip"):
        raise StartError(f"{place}: warmup: expected skip, got {warmup!r}; the samples of a warm-up are model_warmup")
    if warmup and given.get("model_warmup"):
        raise StartError(f"{place}: expected one of model_warmup and warmup: skip")
    ranges: dict[tuple[int, str], Range] = {}
    if isinstance(given.get("model_warmup"), list):
        given["model_warmup"] = [_sample(place, at, one, ranges) for at, one in enumerate(given["model_warmup"])]
    if isinstance(given.get("parameters"), dict):
        given["parameters"] = {
            name: value if isinstance(value, dict) else {"string_value": str(value)}
            for name, value in given["parameters"].items()
        }
    message = ModelConfig(max_batch_size=NOT_GIVEN)
    try:
        json_format.ParseDict(given, message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise StartError(f"{place}: {_one_line(error)}") from error
    return Configuration(source, message, ranges, warmup == "skip")


def _sample(place: str, at: int, sample: Any, ranges: dict[tuple[int, str], Range]) -> Any:
    """A sample of `model_warmup` as Triton has it; its ranges go to `ranges`."""
    if not isinstance(sample, dict) or not isinstance(sample.get("inputs"), dict):
        return sample
    inputs = {}
    for name, given in sample["inputs"].items():
        if isinstance(given, dict) and "range" in given:
            given = dict(given)
            limits = given.pop("range")
            if (
                not isinstance(limits, list)
                or len(limits) != 2
                or not all(type(limit) is int for limit in limits)
                or limits[0] > limits[1]
            ):
                raise StartError(f"{place}: model_warmup: input '{name}': expected range: [low, high], got {limits}")
            given.setdefault("random_data", True)
            ranges[at, str(name)] = (limits[0], limits[1])
        inputs[name] = given
    return {**sample, "inputs": inputs}


def _without_effect(message: Any, prefix: str) -> Iterator[str]:
    for one, value in message.ListFields():
        path = prefix + one.name
        if path in _APPLIED or (path == "max_batch_size" and value == NOT_GIVEN):
            continue
        if path == "parameters":
            yield from (
                name
                for name in (f"{path}.{key}" for key in sorted(value))
                if name not in _APPLIED and not name.startswith(_OPTIONS)
            )
        elif path in _INSIDE:
            for part in [value] if isinstance(value, Message) else value:
                yield from _without_effect(part, f"{path}.")
        elif isinstance(value, Message) and value.ListFields():
            yield from _without_effect(value, f"{path}.")
        else:
            yield path


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
