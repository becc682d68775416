"""What the protocol cannot carry, or ONNX Runtime does not live through, is refused, and the rest is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import graph_models
import numpy as np
import onnx
import pytest
from backend_models import scale
from backend_process import Backend
from graph_models import FLOAT, INT64, node, weights
from kind_clients import WAYS, Clients, Question
from onnx import TensorProto, helper

from backend.errors import StartError
from backend.graph.empties import filled_inputs
from backend.graph.file import read_graph
from backend.repository.folder import ModelFile
from backend.repository.loading import load
from backend.repository.settings import Settings
from lb.wire import grpc_service_pb2 as wire


def saved(root: Path, name: str, made: onnx.ModelProto) -> Path:
    path = root / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(made, path)
    return path


def typed(type_proto: onnx.TypeProto, *nodes: onnx.NodeProto, opset: int = 17) -> onnx.ModelProto:
    """A model from an input `x` of this type to `y`, FP32."""
    made = graph_models.model(nodes, [], [("y", FLOAT, None)], opset, at=np.array(0))
    made.graph.input.append(helper.make_value_info("x", type_proto))
    return made


def tensor(element: int) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(element, ["N", 2])


def of_element(element: int) -> Callable[[], onnx.ModelProto]:
    return lambda: typed(tensor(element), node("Cast", "x", "y", to=FLOAT), opset=23)


def sequence() -> onnx.ModelProto:
    return typed(helper.make_sequence_type_proto(tensor(FLOAT)), node("SequenceAt", "x at", "y"))


def optional() -> onnx.ModelProto:
    return typed(helper.make_optional_type_proto(tensor(FLOAT)), node("OptionalGetElement", "x", "y"), opset=18)


def sparse() -> onnx.ModelProto:
    kind = helper.make_sparse_tensor_type_proto(FLOAT, [3, 4])
    made = typed(kind, helper.make_node("SparseToDenseMatMul", ["x", "w"], ["y"], domain="com.microsoft"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights(4, 2), "w"))
    return made


def zipped() -> onnx.ModelProto:
    """As scikit-learn's exporters make them by default: a list of maps from class to probability."""
    made = graph_models.model(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])], outputs=[]
    )
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
    made.graph.output.append(helper.make_value_info("y", kind))
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return made


# What cannot be carried -> words of the reason.
ODD: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "sequence": (sequence, "input 'x' is a sequence, which the protocol cannot carry"),
    "optional": (optional, "input 'x' is an optional, which the protocol cannot carry"),
    "sparse": (sparse, "input 'x' is a sparse tensor, which the protocol cannot carry"),
    "zipped": (zipped, "output 'y' is a sequence, which the protocol cannot carry"),
    "float8": (
        of_element(TensorProto.FLOAT8E4M3FN),
        "tensor of FLOAT8E4M3FN, which the protocol cannot carry; cast it",
    ),
    "int4": (of_element(TensorProto.INT4), "tensor of INT4, which the protocol cannot carry; cast it within the model"),
}


async def test_models_whose_tensors_the_protocol_cannot_carry_say_so(tmp_path: Path) -> None:
    for name, (make, _) in ODD.items():
        saved(tmp_path, name, make())
    scale(tmp_path, 2.0, 1)
    with Backend(tmp_path) as backend:
        clients = Clients(int(backend.wait_ready().targets[0].rpartition(":")[2]))
        index = (await clients.stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
        await clients.close()
    found = {model.name: (model.state, model.reason) for model in index}
    assert found.pop("scale") == ("READY", "")
    assert found.keys() == ODD.keys()
    for name, (_, words) in ODD.items():
        state, reason = found[name]
        assert state == "UNAVAILABLE"
        assert words in reason


# What ONNX Runtime ends its process at: a tensor without elements in one of these operators.


def hidden_in(operator: str) -> onnx.ModelProto:
    """A recurrent network in a branch, which takes its input from the graph around it; or in a function."""
    lstm = node("LSTM", "x W R", "s z", hidden_size=6)
    constants = {"W": weights(1, 24, 4), "R": weights(1, 24, 6)}
    inputs, outputs = [("x", FLOAT, ("T", "N", 4))], [("y", FLOAT, None)]
    if operator == "If":
        found = [helper.make_tensor_value_info("z", FLOAT, None)]
        branch = helper.make_graph([lstm], "branch", [], found)
        nodes = [node("If", "yes", "y", then_branch=branch, else_branch=branch)]
        return graph_models.model(nodes, inputs, outputs, yes=np.array(True), **constants)
    made = graph_models.model(
        [helper.make_node("F", ["x", "W", "R"], ["y"], domain="own")], inputs, outputs, **constants
    )
    opset = helper.make_opsetid("", 17)
    made.functions.append(helper.make_function("own", "F", ["x", "W", "R"], ["z"], [lstm], [opset]))
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def gated() -> onnx.ModelProto:
    return graph_models.model(
        [node("GRU", "x W R", "s y", hidden_size=6)],
        [("x", FLOAT, ("T", "N", 4))],
        [("y", FLOAT, None)],
        W=weights(1, 18, 4), R=weights(1, 18, 6),
    )  # fmt: skip


def contraction() -> onnx.ModelProto:
    return graph_models.model(
        [node("Einsum", "x z", "y", equation="ab,cb->ac")],
        [("x", FLOAT, ("N", "L")), ("z", FLOAT, ("M", "L"))],
        [("y", FLOAT, ("N", "M"))],
    )


def decoder() -> onnx.ModelProto:
    """Attention over the tokens before, `past`, of which there are none at first."""
    return graph_models.model(
        [
            node("Mul", "x one", "key"),
            node("Concat", "past key", "keys", axis=1),
            node("Einsum", "x keys", "y", equation="btd,bsd->bts"),
        ],
        [("x", FLOAT, ("B", "T", 4)), ("past", FLOAT, ("B", "P", 4))],
        [("y", FLOAT, ("B", "T", "S")), ("keys", FLOAT, ("B", "S", 4))],
        one=np.array(1, "f4"),
    )


FATAL: dict[str, tuple[Callable[[], onnx.ModelProto], list[dict[str, tuple[int, ...]]]]] = {
    "lstm": (graph_models.recurrent, [{"x": (0, 3, 5)}]),
    "gru": (gated, [{"x": (0, 2, 4)}, {"x": (2, 0, 4)}, {"x": (0, 0, 4)}]),
    "branch": (lambda: hidden_in("If"), [{"x": (2, 0, 4)}]),
    "function": (lambda: hidden_in("function"), [{"x": (2, 0, 4)}]),
    "contraction": (contraction, [{"x": (2, 0), "z": (2, 0)}]),
    "decoder": (decoder, [{"x": (2, 0, 4), "past": (2, 0, 4)}, {"x": (0, 1, 4), "past": (0, 3, 4)}]),
}


async def test_an_empty_tensor_ends_no_server(tmp_path: Path) -> None:
    for name, (make, _) in FATAL.items():
        saved(tmp_path, name, make())
    with Backend(tmp_path, "--threads", "1") as backend:
        clients = Clients(int(backend.wait_ready().targets[0].rpartition(":")[2]))
        for model, (_, requests) in FATAL.items():
            for shapes in requests:
                feeds = {name: np.zeros(shape, "f4") for name, shape in shapes.items()}
                question = Question("1", model, dict.fromkeys(feeds, "FP32"), feeds)
                for way in WAYS:
                    (reply,) = await clients.ask(way, [question])
                    assert reply.tensors is None, (model, way, shapes)
                    assert reply.code in ("INVALID_ARGUMENT", "400", "stream")
                    assert "has no elements, and an operator of the model needs some" in reply.reason
        # A decoder's first token has no others before it.
        feeds = {"x": np.ones((2, 1, 4), "f4"), "past": np.ones((2, 0, 4), "f4")}
        for way in WAYS:
            (reply,) = await clients.ask(way, [Question("1", "decoder", dict.fromkeys(feeds, "FP32"), feeds)])
            assert reply.tensors is not None, reply.reason
            assert np.array_equal(reply.tensors["y"], np.full((2, 1, 1), 4, "f4"))
        await clients.close()
        assert backend.process.poll() is None


def test_a_warm_up_is_on_elements(tmp_path: Path) -> None:
    path = saved(tmp_path, "gru", gated())
    (path.parent / "warmup.json").write_text('{"x": [2, 0, 4]}')
    with pytest.raises(StartError, match=r"expected a shape for input 'x' FP32 \[-1,-1,4\], got \[2, 0, 4\]"):
        load(ModelFile("gru", 1, path), Settings())


@pytest.mark.parametrize(
    ("nodes", "axes"),
    [
        ([node("Relu", "x", "y")], {}),
        ([node("Shape", "x", "s"), node("Cast", "s", "f", to=FLOAT), node("LSTM", "f W R", "y")], {}),
        ([node("Relu", "x", "r"), node("Neg", "r", "n"), node("LSTM", "n W R", "y")], {"x": {0, 1}}),
        ([node("Concat", "x z", "c", axis=1), node("GRU", "c W R", "y")], {"x": {0, 1}, "z": {0, 1}}),
        ([node("Relu", "x", "r"), node("Concat", "r z", "c", axis=-1), node("GRU", "c W R", "y")],
         {"x": {0, 1}, "z": {0}}),
        ([node("Concat", "r x", "c", axis=0), node("GRU", "c x R", "y"), node("Neg", "z", "q")], {"x": {0, 1}}),
    ],
)  # fmt: skip
def test_which_inputs_have_to_have_elements(tmp_path: Path, nodes: list[onnx.NodeProto], axes: dict) -> None:
    made = graph_models.model(nodes, [("x", FLOAT, ("N", "L")), ("z", FLOAT, ("N", "M"))])
    assert filled_inputs(read_graph(saved(tmp_path, "m", made))) == axes
