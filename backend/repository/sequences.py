"""What `sequence_batching` of a configuration asks for: which inputs of a model the server fills in, and its state.

Triton's model_config.proto (ModelSequenceBatching) and its user guide ("Implicit State Management") have the meaning.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from backend.datatypes import BOOL, BY_CONFIG, BYTES, DATATYPES, DataType, TensorSpec, shape_text
from backend.errors import StartError
from backend.repository.settings import Settings
from backend.session import Session
from lb.wire import model_config_pb2

FOLDER = "initial_state"  # of the model, with the files of `data_file`
START, READY, END, ID = 0, 1, 2, 3  # Control.Kind
_IDLE = 1_000_000  # µs, as Triton
_MOST = 1 << 32  # bytes of a state
_INT32, _FP32 = DATATYPES["INT32"], DATATYPES["FP32"]
_IDS = tuple(DATATYPES[name] for name in ("UINT64", "INT64", "UINT32", "INT32", "BYTES"))


@dataclass(frozen=True, slots=True)
class Control:
    """An input of one element for each row that says where its sequence is: `false` and `true` are the bytes of the
    element, empty where it is the sequence's id (`kind` ID)."""

    spec: TensorSpec
    kind: int
    false: bytes = b""
    true: bytes = b""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,) * len(self.spec.shape)

    @property
    def most_id(self) -> int | None:
        """The largest id that is a number of the input's datatype; None where it has no number."""
        if self.kind != ID or self.spec.datatype is BYTES:
            return None
        return (1 << 8 * self.spec.datatype.size - (self.spec.datatype.dtype.kind == "i")) - 1


@dataclass(frozen=True, slots=True)
class State:
    """What the model gives as `output` is its `input` in the next inference of the sequence. In the first one it has
    the shape `shape` and the bytes `initial`, zeros where there are none."""

    input: TensorSpec
    output: TensorSpec
    shape: tuple[int, ...]
    initial: bytes


@dataclass(frozen=True, slots=True)
class Sequencing:
    """How sequences are served: `idle` ns without an inference end one. `asked` is the configuration."""

    idle: int
    controls: tuple[Control, ...]
    states: tuple[State, ...]
    asked: Any

    @property
    def filled(self) -> dict[str, tuple[int, ...]]:
        """The inputs that clients do not give, with the shapes that they have at the first inference."""
        controls = {control.spec.name: control.shape for control in self.controls}
        return controls | {state.input.name: state.shape for state in self.states}

    @property
    def growing(self) -> bool:
        """The shape of a state may change from one inference to the next."""
        return any(-1 in state.input.shape[1:] for state in self.states)

    def config(self, skip: int) -> Any:
        """As a ModelSequenceBatching, whose dims leave out the first `skip` dimensions."""
        made = model_config_pb2.ModelSequenceBatching()
        made.CopyFrom(self.asked)
        made.max_sequence_idle_microseconds = self.idle // 1000
        for one, state in zip(made.state, self.states, strict=True):
            one.data_type = state.input.datatype.config
            one.dims[:] = state.input.shape[skip:]
        return made


def sequencing_of(session: Session, settings: Settings, folder: Path) -> Sequencing | None:
    """None: the model's requests belong to no sequence. `folder` is the model's. Raises StartError where the
    configuration does not fit the model."""
    message = settings.configuration.message
    if not message.HasField("sequence_batching"):
        return None
    asked = message.sequence_batching
    what = f"{settings.configuration.source}: sequence_batching"
    if asked.iterative_sequence:
        raise StartError(f"{what}: iterative_sequence is not supported")
    inputs = {spec.name: spec for spec in session.inputs}
    outputs = {spec.name: spec for spec in session.outputs}
    controls = tuple(_control(f"{what}: control_input '{one.name}'", one, inputs) for one in asked.control_input)
    states = tuple(
        _state(f"{what}: state '{one.input_name}'", one, inputs, outputs, settings, folder / FOLDER)
        for one in asked.state
    )
    _check_once(what, [control.spec.name for control in controls] + [state.input.name for state in states], "input")
    _check_once(what, [state.output.name for state in states], "output")
    made = Sequencing((asked.max_sequence_idle_microseconds or _IDLE) * 1000, controls, states, asked)
    given = [tensor.name for tensor in message.input if tensor.name in made.filled]
    if given:
        raise StartError(f"{what}: '{given[0]}' is filled in by the server: it must not be among the inputs of clients")
    if settings.max_batch_size and not all(spec.shape and spec.shape[0] in (-1, 1) for spec in session.inputs):
        raise StartError(f"{what}: with a max_batch_size, the first dimension of each input must take one row")
    return made


def visible(
    session: Session, settings: Settings, sequencing: Sequencing | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs that clients give, and the outputs that they get. A request of a sequence has one row."""
    if sequencing is None:
        return session.inputs, session.outputs
    listed = {tensor.name for tensor in settings.configuration.message.output}
    hidden = {state.output.name for state in sequencing.states} - listed
    filled = sequencing.filled
    inputs = tuple(spec for spec in session.inputs if spec.name not in filled)
    if settings.max_batch_size:
        inputs = tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in inputs)
    return inputs, tuple(spec for spec in session.outputs if spec.name not in hidden)


def _check_once(what: str, names: Sequence[str], role: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StartError(f"{what}: {role} '{twice[0]}' is named more than once")


def _control(what: str, asked: Any, inputs: Mapping[str, TensorSpec]) -> Control:
    spec = inputs.get(asked.name)
    if spec is None:
        raise StartError(f"{what}: the model has no such input; it has {', '.join(map(str, inputs.values()))}")
    if any(size not in (-1, 1) for size in spec.shape):
        raise StartError(f"{what}: expected one element for each row, the model has {spec}")
    if len(asked.control) != 1:
        raise StartError(f"{what}: expected one control, got {len(asked.control)}")
    control = asked.control[0]
    if control.kind == ID:
        if spec.datatype not in _IDS or control.data_type not in (0, spec.datatype.config):
            raise StartError(
                f"{what}: expected data_type {spec.datatype.name}, as the model has it, of "
                f"{', '.join(map(repr, _IDS))}; got {BY_CONFIG.get(control.data_type)}"
            )
        return Control(spec, ID)
    given = {
        _INT32: ("<i", control.int32_false_true),
        _FP32: ("<f", control.fp32_false_true),
        BOOL: ("<?", control.bool_false_true),
    }
    found = {datatype: values for datatype, (_, values) in given.items() if values}
    if list(found) != [spec.datatype] or len(found[spec.datatype]) != 2:
        name = spec.datatype.name.lower()
        raise StartError(f"{what}: expected {name}_false_true with two values and no other, as the model has {spec}")
    form, (false, true) = given[spec.datatype]
    return Control(spec, control.kind, struct.pack(form, false), struct.pack(form, true))


def _state(
    what: str, asked: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], settings: Settings,
    folder: Path,
) -> State:  # fmt: skip
    spec, output = inputs.get(asked.input_name), outputs.get(asked.output_name)
    if spec is None:
        raise StartError(f"{what}: the model has no such input; it has {', '.join(map(str, inputs.values()))}")
    if output is None:
        known = ", ".join(map(str, outputs.values()))
        raise StartError(f"{what}: the model has no output '{asked.output_name}'; it has {known}")
    if spec.datatype is not output.datatype or spec.datatype is BYTES or len(spec.shape) != len(output.shape):
        raise StartError(f"{what}: expected an input and an output of one numeric datatype and rank: {spec}, {output}")
    if asked.data_type not in (0, spec.datatype.config):
        given = BY_CONFIG.get(asked.data_type)
        raise StartError(f"{what}: expected datatype {spec.datatype.name}, as the model has it, got {given}")
    rows = settings.max_batch_size and spec.shape  # which the dims leave out then
    dims = tuple(asked.dims) or (spec.shape[1:] if rows else spec.shape)
    shape = (spec.shape[0], *dims) if rows else dims
    if len(shape) != len(spec.shape) or any(
        have not in (-1, size) or size < -1 for size, have in zip(shape, spec.shape, strict=True)
    ):
        raise StartError(f"{what}: dims {shape_text(dims)} do not fit the model's {spec}")
    if len(asked.initial_state) > 1:
        raise StartError(f"{what}: expected one initial_state, got {len(asked.initial_state)}")
    first = tuple(1 if size == -1 else size for size in shape)  # as Triton
    if not asked.initial_state:
        return State(spec, output, first, b"")
    initial = asked.initial_state[0]
    if initial.data_type not in (0, spec.datatype.config):
        raise StartError(f"{what}: initial_state: expected datatype {spec.datatype.name}")
    if initial.dims:
        first = (1, *initial.dims) if rows else tuple(initial.dims)
        if len(first) != len(shape) or any(
            size < 0 or (have not in (-1, size)) for size, have in zip(first, shape, strict=True)
        ):
            raise StartError(f"{what}: initial_state: dims {shape_text(tuple(initial.dims))} do not fit {spec}")
        if spec.lacks(first):
            raise StartError(f"{what}: initial_state: the model does not take {spec} without elements")
    kind = initial.WhichOneof("state_data")
    if kind is None:
        raise StartError(f"{what}: initial_state: expected zero_data or data_file")
    if kind == "zero_data":
        return State(spec, output, first, b"")
    return State(spec, output, first, _read(f"{what}: initial_state", folder, initial.data_file, spec.datatype, first))


def _read(what: str, folder: Path, name: str, datatype: DataType, shape: tuple[int, ...]) -> bytes:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise StartError(f"{what}: data_file: expected a file in {folder}, got '{name}'")
    size = math.prod(shape) * datatype.size
    if size > _MOST:
        raise StartError(f"{what}: the shape {shape_text(shape)} is too large")
    try:
        data = (folder / inside).read_bytes()
    except OSError as error:
        raise StartError(f"{what}: cannot read {folder / inside}: {error.strerror}") from error
    if len(data) != size:
        raise StartError(
            f"{what}: {folder / inside}: expected {size} bytes for {datatype.name} {shape_text(shape)}, got {len(data)}"
        )
    return data
