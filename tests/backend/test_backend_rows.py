"""Which models may have their calls merged, and why others may not."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import backend_models
import graph_models
import numpy as np
import onnx
import pytest
from graph_models import FLOAT, integers, node, weights
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from property import examples

from backend.graph.file import Graph, GraphError, read_graph
from backend.graph.rows import why_not
from backend.ort.errors import OrtError
from backend.ort.session import Session
from backend.repository.folder import ModelFile
from backend.repository.loading import load
from backend.repository.settings import Settings

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "models" / "digits" / "1" / "model.onnx"
APART = {
    "transformer": graph_models.transformer,
    "image classifier": graph_models.image_classifier,
    "recurrent": graph_models.recurrent,
    "perceptron": graph_models.perceptron,
    "digits": lambda: onnx.load(DIGITS),
}


def saved(folder: Path, made: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(made, path)
    return path


def max_batch(path: Path) -> int:
    return load(ModelFile("model", 1, path), Settings(max_batch=32)).max_batch


@pytest.mark.parametrize("name", APART)
def test_models_that_keep_rows_apart(tmp_path, name):
    path = saved(tmp_path, APART[name]())
    assert why_not(read_graph(path)) is None
    assert max_batch(path) == 32


@pytest.mark.parametrize("name", graph_models.MIXING)
def test_models_that_mix_rows(tmp_path, name):
    made, reason = graph_models.MIXING[name]
    path = saved(tmp_path, made)
    assert reason in (why_not(read_graph(path)) or "")
    assert max_batch(path) == 1


@pytest.mark.parametrize("made", [graph_models.perceptron, graph_models.transformer])
def test_a_model_that_is_quantized_as_it_runs(tmp_path, made, caplog):
    """Its scale is that of all the values of a batch: the same request among others got other answers."""
    caplog.set_level("INFO", "tidegate.backend")
    path = saved(tmp_path, graph_models.quantized(tmp_path, made()))
    assert max_batch(path) == 1
    assert "no batching: DynamicQuantizeLinear is not known to keep rows apart" in caplog.text


@pytest.mark.parametrize("name", ["mean", "softmax", "gram", "number of rows", "turned around", "quantized"])
def test_the_probe_finds_what_a_wrong_rule_would_let_pass(tmp_path, name, caplog, monkeypatch):
    caplog.set_level("INFO", "tidegate.backend")
    monkeypatch.setattr("backend.repository.warmup.why_not", lambda graph: None)
    if name == "quantized":
        made = graph_models.quantized(tmp_path, graph_models.perceptron())
    else:
        made, _ = graph_models.MIXING[name]
    assert max_batch(saved(tmp_path, made)) == 1
    reason = re.search(
        r"no batching: output 'y' of a row depends on the other rows: (\S+) among others, (\S+) alone", caplog.text
    )
    assert reason
    assert float(reason[1]) != pytest.approx(float(reason[2]), rel=1e-3)


def test_what_batches_says_by_what_tolerance(tmp_path, caplog):
    caplog.set_level("INFO", "tidegate.backend")
    assert max_batch(backend_models.scale(tmp_path, 2.0, 1)) == 32
    assert "batches up to 32 rows: its operators keep rows apart, and rows tried in batches gave what they gave alone "
    assert "(within 0.1 % of a 32-bit float)" in caplog.text


@pytest.mark.parametrize("operator", ["If", "Loop", "NonZero", "Unique", "Compress"])
def test_control_by_data_is_doubt(operator):
    made = graph_models.model([node(operator, "x", "y")])
    assert f"{operator} is not known to keep rows apart" in (why_not(graph_of(made)) or "")


def graph_of(made: onnx.ModelProto) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        return read_graph(saved(Path(folder), made))


def test_operators_of_others_are_doubt():
    made = graph_models.model([helper.make_node("Relu", ["x"], ["y"], domain="com.example")])
    assert why_not(graph_of(made)) == "Relu of domain com.example is not known to keep rows apart"


def test_functions_and_a_fixed_batch_are_doubt():
    function = helper.make_function("local", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
    made = graph_models.perceptron()
    made.functions.append(function)
    assert why_not(graph_of(made)) == "the model has functions of its own"
    fixed = graph_models.model([node("Relu", "x", "y")], [("x", FLOAT, (2, 4))])
    assert why_not(graph_of(fixed)) == "input 'x' has a fixed first dimension"
    twice = graph_models.model([node("Relu", "x", "y")], [("x", FLOAT, ("N", "N"))])
    assert why_not(graph_of(twice)) == "input 'x' has the number of rows in two dimensions"


def test_an_output_without_rows_is_doubt():
    made = graph_models.model([node("Relu", "w", "y")], w=weights(3, 4))
    assert why_not(graph_of(made)) == "output 'y' is not known to have a row for each of the inputs'"


def test_weights_are_stepped_over(tmp_path):
    big = graph_models.model(
        [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")], w=weights(4, 9000), v=weights(9000, 4)
    )
    graph = read_graph(saved(tmp_path, big))
    assert graph.constants["w"].shape == (4, 9000)
    assert graph.constants["w"].values is None
    assert why_not(graph) is None


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"this is no model", b"\xff" * 40])
def test_a_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError):
        read_graph(path)


@examples(200)
@given(st.data())
def test_any_damage_to_a_file_is_an_error_or_a_graph(tmp_path, data):
    content = bytearray(DIGITS.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]) or b"\0")
    with contextlib.suppress(GraphError):
        why_not(read_graph(path))


# Random graphs: what the rules let pass gives in a batch what it gives alone.

AXES = st.integers(-4, 3)
ORDERS = [[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2, 1], [1, 0], [1, 2, 0], [0, 1, 3, 2], [1, 0, 2, 3]]
SHAPES = [
    *((0, -1), (-1, 12), (-1, 4), (0, 3, 4), (-1, 3, 4), (3, -1, 4), (0, 0, -1), (0, 4, 3), (-1,), (1, 0, -1)),
    *((0, 2, 6), (-1, 1, 3, 4), (4, -1), (0, 1, 12)),
]
OTHERS = [(4,), (1, 4), (3, 1), (1, 3, 4), (3, 3, 4), (2, 1, 1), (1,)]
EQUATIONS = ["abc,cd->abd", "abc,cd->bad", "abc,cd->ad", "abc,cd->bd"]
PLAIN = ["Relu", "GlobalMaxPool"]
BY_AXIS = ["Flatten", "Softmax", "TopK", "LayerNormalization"]


class Chain:
    """A few operators, one after another, on `x` [N,3,4]; `draw` chooses."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.last = "x"
        for _ in range(draw(st.integers(1, 5))):
            self.add(getattr(self, draw(st.sampled_from(["plain", "by_axis", "laid_out", "chosen", "met", "reduced"]))))

    def add(self, made: Callable[[], tuple[str, str, dict[str, object]]]) -> None:
        operator, inputs, attributes = made()
        after = f"t{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, f"{after} i{after}" if operator == "TopK" else after, **attributes))
        self.last = after

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def plain(self) -> tuple[str, str, dict[str, object]]:
        return self.draw(st.sampled_from(PLAIN)), self.last, {}

    def by_axis(self) -> tuple[str, str, dict[str, object]]:
        operator = self.draw(st.sampled_from(BY_AXIS))
        extra = {"TopK": integers(1), "LayerNormalization": weights(4)}.get(operator)
        inputs = self.last if extra is None else f"{self.last} {self.constant(extra)}"
        return operator, inputs, {"axis": self.draw(AXES)}

    def laid_out(self) -> tuple[str, str, dict[str, object]]:
        kind = self.draw(st.sampled_from(["Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Tile", "Pad"]))
        if kind == "Transpose":
            return kind, self.last, {"perm": self.draw(st.sampled_from(ORDERS))}
        wanted = {
            "Reshape": self.draw(st.sampled_from(SHAPES)),
            "Unsqueeze": (self.draw(AXES),),
            "Squeeze": (self.draw(AXES),),
            "Expand": (2, 1, 1, 1),
            "Tile": self.draw(st.sampled_from([(1, 1, 2), (2, 1, 1), (1, 2)])),
            "Pad": self.draw(st.sampled_from([(0, 0, 1, 0, 0, 1), (1, 0, 0, 0, 0, 0)])),
        }[kind]
        return kind, f"{self.last} {self.constant(integers(*wanted))}", {}

    def chosen(self) -> tuple[str, str, dict[str, object]]:
        kind, axis = self.draw(st.sampled_from(["Gather", "Gather", "Slice", "Concat", "CumSum"])), self.draw(AXES)
        if kind == "Gather":
            index = self.draw(st.sampled_from([np.array(0), np.array([[1, 0]])]))
            return kind, f"{self.last} {self.constant(index)}", {"axis": axis}
        if kind == "Slice":
            numbers = (self.draw(st.integers(0, 2)), 2**31 - 1, axis)
            return kind, " ".join([self.last, *(self.constant(integers(number)) for number in numbers)]), {}
        if kind == "Concat":
            return kind, f"{self.last} {self.last}", {"axis": axis}
        return kind, f"{self.last} {self.constant(np.array(axis))}", {}

    def met(self) -> tuple[str, str, dict[str, object]]:
        kind = self.draw(st.sampled_from(["Add", "Mul", "MatMul", "Einsum"]))
        if kind == "Einsum":
            equation = self.draw(st.sampled_from(EQUATIONS))
            return kind, f"{self.last} {self.constant(weights(4, 2))}", {"equation": equation}
        if kind == "MatMul":
            left, right = self.constant(weights(3, 3)), self.constant(weights(4, 4))
            pairs = [f"{self.last} {right}", f"{left} {self.last}", f"{self.last} {self.last}"]
            return kind, self.draw(st.sampled_from(pairs)), {}
        other = self.constant(weights(*self.draw(st.sampled_from(OTHERS))))
        return kind, f"{self.last} {self.draw(st.sampled_from([other, self.last, 'x']))}", {}

    def reduced(self) -> tuple[str, str, dict[str, object]]:
        axes = self.draw(st.sampled_from([[self.draw(AXES)], [self.draw(AXES), 0], [1, 2]]))
        kind = self.draw(st.sampled_from(["ReduceMean", "ReduceMax"]))
        return kind, self.last, {"axes": axes, "keepdims": self.draw(st.integers(0, 1))}

    def model(self) -> onnx.ModelProto:
        outputs = [(self.last, FLOAT, None)]
        return graph_models.model(self.nodes, [("x", FLOAT, ("N", 3, 4))], outputs, **self.constants)


CHAINS = examples(1500)
# Three of four chains mix rows or fit no tensor: with some seeds so many at the start that Hypothesis would give up.
CHECKS = [*CHAINS.suppress_health_check, HealthCheck.filter_too_much]


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(CHAINS, suppress_health_check=CHECKS)
@given(st.data(), st.integers(2, 5), st.integers(0, 9))
def test_what_passes_gives_in_a_batch_what_it_gives_alone(tmp_path, data, rows, seed):
    path = saved(tmp_path, Chain(data.draw).model())
    assume(why_not(read_graph(path)) is None)
    try:
        session = Session(path)
    except OrtError:
        assume(False)
    x = np.random.default_rng(seed).standard_normal((rows, 3, 4)).astype("f4")
    names = [info.name for info in session.outputs]
    try:
        alone = [session.run(names, {"x": x[i : i + 1]})[0] for i in range(rows)]
    except OrtError:
        assume(False)
    (together,) = session.run(names, {"x": x})
    assert np.allclose(together, np.concatenate(alone), rtol=1e-3, atol=1e-5)
