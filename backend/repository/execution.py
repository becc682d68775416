"""By which execution provider a model runs, and with which of its options: what the model's configuration says over
what the command line says."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from typing import Any

from backend.errors import StartError
from backend.options import ServeOptions, providers
from backend.providers import Tuning
from backend.repository.configuration import Configuration
from lb.wire import model_config_pb2

PROVIDERS = "providers"  # a parameter of the model, in place of the server's --providers
_GROUP = model_config_pb2.ModelInstanceGroup
# Triton's names for what ONNX Runtime calls otherwise, and its numbers.
_TENSORRT = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS = {
    "FP32": {"trt_fp16_enable": "0", "trt_int8_enable": "0"},
    "FP16": {"trt_fp16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
_CUDA: Mapping[str, Mapping[str, str]] = {
    "gpu_mem_limit": {},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "cudnn_conv_use_max_workspace": {},
    "do_copy_in_default_stream": {},
}
# Triton's `optimization.graph.level`; without one, all that ONNX Runtime has.
_LEVELS = {-1: "basic", 1: "extended"}


def execution(configuration: Configuration, options: ServeOptions) -> tuple[tuple[str, ...], Tuning]:
    """The providers in order of preference, of which the model runs on one or not at all, and how they are tuned.
    Raises StartError."""
    message = configuration.message
    accelerators = message.optimization.execution_accelerators.gpu_execution_accelerator
    named = _parameter(message, PROVIDERS)
    try:
        chosen = providers(named) if named else options.providers
    except ArgumentTypeError as error:
        raise StartError(f"{configuration.source}: parameters.{PROVIDERS}: {error}") from error
    tuned: dict[str, dict[str, str]] = {name: dict(said) for name, said in options.provider_options.items()}
    _tune_by_parameters(configuration, tuned)
    for accelerator in accelerators:
        if accelerator.name != "tensorrt":
            raise StartError(
                f"{configuration.source}: gpu_execution_accelerator: expected tensorrt, got '{accelerator.name}'"
            )
        tuned.setdefault("tensorrt", {}).update(_of_tensorrt(configuration, accelerator.parameters))
    if accelerators and not named:
        chosen = ("tensorrt",)  # what else may run the model, `parameters.providers` has to name
    chosen = _of_kind(configuration, chosen, bool(named or accelerators))
    device = _device(configuration)
    if device is not None:
        for name in ("cuda", "tensorrt"):
            tuned.setdefault(name, {})["device_id"] = str(device)
    level = message.optimization.graph.level
    if level and level not in _LEVELS:
        raise StartError(f"{configuration.source}: optimization.graph.level: expected -1 (basic) or 1, got {level}")
    return chosen, Tuning(tuned, _LEVELS.get(level, "all"))


def _of_kind(configuration: Configuration, chosen: tuple[str, ...], by_model: bool) -> tuple[str, ...]:
    """Those that run the kind of the model's instances."""
    kinds = {group.kind for group in configuration.message.instance_group} - {_GROUP.KIND_AUTO}
    if not kinds:
        return chosen
    names = " and ".join(sorted(map(_GROUP.Kind.Name, kinds)))
    if not kinds <= {_GROUP.KIND_CPU} and not kinds <= {_GROUP.KIND_GPU}:
        raise StartError(f"{configuration.source}: instance_group: expected one of KIND_CPU and KIND_GPU, got {names}")
    on_cpu = kinds == {_GROUP.KIND_CPU}
    left = tuple(name for name in chosen if (name == "cpu") == on_cpu)
    if not left:
        whose = "the model's" if by_model else "--providers"
        raise StartError(f"{configuration.source}: instance_group: {names}, but {whose} has {', '.join(chosen)}")
    return left


def _device(configuration: Configuration) -> int | None:
    """The GPU of the model's instances; None: nothing is said."""
    gpus = {gpu for group in configuration.message.instance_group for gpu in group.gpus}
    if len(gpus) > 1:
        raise StartError(
            f"{configuration.source}: instance_group: expected one GPU, got {', '.join(map(str, sorted(gpus)))}: "
            "a server has a model on one GPU; start a server for each"
        )
    return gpus.pop() if gpus else None


def _tune_by_parameters(configuration: Configuration, tuned: dict[str, dict[str, str]]) -> None:
    for name, value in configuration.message.parameters.items():
        provider, dot, option = name.partition(".")
        if dot and provider in ("cuda", "tensorrt"):
            tuned.setdefault(provider, {})[option] = value.string_value
        elif name in _CUDA:
            words = _CUDA[name]
            tuned.setdefault("cuda", {})[name] = words.get(value.string_value, value.string_value)


def _of_tensorrt(configuration: Configuration, parameters: Mapping[str, str]) -> dict[str, str]:
    """Triton's parameters of the accelerator as ONNX Runtime has them."""
    found: dict[str, str] = {}
    for name, value in parameters.items():
        if name == "precision_mode":
            if value not in _PRECISIONS:
                raise StartError(
                    f"{configuration.source}: precision_mode: expected {', '.join(_PRECISIONS)}, got '{value}'"
                )
            found |= _PRECISIONS[value]
        elif name in _TENSORRT or name.startswith("trt_"):
            found[_TENSORRT.get(name, name)] = value
        else:
            raise StartError(f"{configuration.source}: tensorrt has no parameter '{name}'")
    return found


def _parameter(message: Any, name: str) -> str:
    return message.parameters[name].string_value if name in message.parameters else ""  # [] alone would add it
