"""gRPC inferences of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from oip_rest import TYPED
from oip_tools import NUMPY, Tensor

from lb.wire.grpc_service_pb2 import ModelInferRequest


def set_parameters(into: Any, parameters: dict[str, Any]) -> None:
    for key, value in parameters.items():
        if isinstance(value, bool):
            into[key].bool_param = value
        elif isinstance(value, int):
            setattr(into[key], "int64_param" if value < 2**63 else "uint64_param", value)
        elif isinstance(value, float):
            into[key].double_param = value
        else:
            into[key].string_param = value


def texts_of(raw: bytes) -> list[Any]:
    found = []
    while raw:
        n = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + n])
        raw = raw[4 + n :]
    return found


def call_of(
    inputs: list[Tensor],
    *,
    typed: bool = False,
    parameters: dict[str, Any] | None = None,
    input_parameters: dict[str, Any] | None = None,
    outputs: list[dict[str, Any]] | None = None,
    **members: str,
) -> bytes:
    """The message of these inputs, as typed contents or raw."""
    made = ModelInferRequest(model_name="m", **members)
    set_parameters(made.parameters, parameters or {})
    for tensor in inputs:
        given = made.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        set_parameters(given.parameters, input_parameters or {})
        if not typed:
            made.raw_input_contents.append(tensor.raw)
            continue
        if tensor.datatype == "BYTES":
            values = texts_of(tensor.raw)
        else:
            values = np.frombuffer(tensor.raw, NUMPY[tensor.datatype]).tolist()
        getattr(given.contents, TYPED[tensor.datatype]).extend(values)
        given.contents.SetInParent()
    for output in outputs or []:
        set_parameters(made.outputs.add(name=output["name"]).parameters, output.get("parameters", {}))
    return bytes(made.SerializeToString())
