"""The configuration of a model: what is read, what is applied, what is named, what is refused."""

from __future__ import annotations

import json

import backend_models
import numpy as np
import pytest
from backend_process import DIGITS
from onnx import TensorProto, helper

from backend import options
from backend.errors import StartError
from backend.model import Model
from backend.repository.configuration import configuration_of_json, read_configuration
from backend.repository.folder import ModelFile, read_folder
from backend.repository.loading import load
from backend.repository.settings import Level, Settings, settings_of
from lb.wire.model_config_pb2 import ModelConfig, ModelInstanceGroup

FREE = ["serve", "--models", "/", "--listen", "127.0.0.1:0", "--threads", "3", "--concurrency", "4"]


def settings(folder, *arguments: str) -> Settings:
    return settings_of(folder.name, read_configuration(folder), options.parse([*FREE, *arguments]))


def loaded(root, name: str = "scale", *arguments: str) -> Model:
    """The highest version of a model, as the server would load it."""
    folder = read_folder(root, name)
    if folder.problem:
        raise StartError(folder.problem)
    return load(folder.files[-1], settings_of(name, folder.configuration, options.parse([*FREE, *arguments])))


@pytest.fixture
def scale(tmp_path):
    """The folder of `scale`, FP32 [N,2] to FP32 [N,2]."""
    return backend_models.scale(tmp_path, 2.0, 1).parent.parent


PBTXT = """
name: "scale"  # as the folder
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output { name: "y" data_type: TYPE_FP32 dims: 2 }
version_policy: { latest { num_versions: 1 } }
instance_group [ { count: 1 kind: KIND_CPU }, { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  max_queue_delay_microseconds: 500
  default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 2000 }
}
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
"""
YAML = """
name: scale
backend: onnxruntime
max_batch_size: 16
input: [{name: x, data_type: TYPE_FP32, dims: [2]}]
output: [{name: y, data_type: TYPE_FP32, dims: [2]}]
version_policy: {latest: {num_versions: 1}}
instance_group: [{count: 1, kind: KIND_CPU}, {count: 2, kind: KIND_CPU}]
dynamic_batching:
  max_queue_delay_microseconds: 500
  default_queue_policy: {max_queue_size: 7, default_timeout_microseconds: 2000}
parameters: {intra_op_thread_count: 2}
"""


@pytest.mark.parametrize(("name", "text"), [("config.pbtxt", PBTXT), ("config.yaml", YAML), ("config.yml", YAML)])
def test_what_is_applied(scale, name, text):
    backend_models.scale(scale.parent, 3.0, 2)
    (scale / name).write_text(text)
    found = settings(scale, "--providers", "cuda,cpu")
    assert found.configuration.source == name
    assert found.configuration.without_effect() == []
    assert (found.max_batch, found.max_batch_size, found.runs, found.threads) == (16, 16, 3, 2)
    assert (found.max_queue_delay, found.levels) == (500_000, (Level(7, 2_000_000),))
    assert found.providers == ("cpu",)
    assert [file.version for file in read_folder(scale.parent, "scale").files] == [2]
    config = loaded(scale.parent).config(4)
    assert (config.name, config.max_batch_size, config.backend) == ("scale", 16, "onnxruntime")
    assert list(config.input[0].dims) == [2]
    assert config.version_policy.latest.num_versions == 1
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, ModelInstanceGroup.KIND_CPU)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 7
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 2000
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.default_model_filename == "model.onnx"


def test_without_a_configuration_the_command_line_counts(scale):
    found = settings(scale, "--max-batch", "5", "--max-queue", "9", "--max-queue-delay", "2ms")
    assert (found.max_batch, found.max_batch_size, found.runs, found.threads) == (5, None, 0, 3)
    assert (found.max_queue_delay, found.levels) == (2_000_000, (Level(9, 0),))
    config = loaded(scale.parent, "scale", "--max-batch", "5").config(4)
    assert (config.max_batch_size, config.instance_group[0].count) == (5, 4)
    assert config.version_policy.WhichOneof("policy_choice") == "all"


@pytest.mark.parametrize(("text", "rows"), [("", 32), ("max_batch_size: 0", 1), ("max_batch_size: 1", 1)])
def test_the_rows_of_a_batch(scale, text, rows):
    """A size that is not given is not 0."""
    (scale / "config.pbtxt").write_text(text)
    assert loaded(scale.parent).max_batch == rows


def test_more_instances_than_the_server_runs(scale):
    (scale / "config.pbtxt").write_text("instance_group { count: 9 }")
    assert settings(scale).runs == 4


def test_the_levels_of_priorities(scale):
    (scale / "config.pbtxt").write_text("""
        dynamic_batching {
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { max_queue_size: 7 }
          priority_queue_policy [
            { key: 1 value { max_queue_size: 3 } },
            { key: 3 value { default_timeout_microseconds: 5000 } }
          ]
        }
    """)
    found = settings(scale, "--max-queue", "9")
    assert found.configuration.without_effect() == []
    assert found.levels == (Level(3, 0), Level(7, 0), Level(9, 5_000_000))
    assert found.default_level == 1
    config = loaded(scale.parent, "scale", "--max-queue", "9").config(4).dynamic_batching
    assert (config.priority_levels, config.default_priority_level) == (3, 2)
    assert [config.priority_queue_policy[level].max_queue_size for level in (1, 2, 3)] == [3, 7, 9]


def test_fields_without_effect_are_named(scale):
    (scale / "config.pbtxt").write_text("""
        optimization { cuda { graphs: true } execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
        dynamic_batching {
          preferred_batch_size: [ 4, 8 ]
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9 allow_timeout_override: true }
        }
        instance_group [ { passive: true } ]
        parameters { key: "execution_mode" value { string_value: "1" } }
        response_cache { }
        input { name: "x" format: FORMAT_NCHW }
    """)
    assert sorted(read_configuration(scale).without_effect()) == [
        "dynamic_batching.default_queue_policy.allow_timeout_override",
        "dynamic_batching.default_queue_policy.timeout_action",
        "dynamic_batching.preferred_batch_size",
        "input.format",
        "instance_group.passive",
        "optimization.cuda.graphs",
        "optimization.execution_accelerators.cpu_execution_accelerator",
        "parameters.execution_mode",
        "response_cache",
    ]
    assert settings(scale).levels[0].timeout == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "config.pbtxt",
            "dynamic_batching { priority_levels: 3 }",
            "default_priority_level: expected 1 to 3, as priority_levels says, got 0",
        ),
        (
            "config.pbtxt",
            "dynamic_batching { default_priority_level: 3 }",
            "default_priority_level: expected priority_levels beside it",
        ),
        (
            "config.pbtxt",
            "dynamic_batching { priority_levels: 101 default_priority_level: 1 }",
            "priority_levels: expected at most 100, got 101",
        ),
        (
            "config.yaml",
            "dynamic_batching: {priority_levels: 2, default_priority_level: 1, priority_queue_policy: {3: {}}}",
            "priority_queue_policy: expected a key from 1 to 2, got 3",
        ),
        ("config.pbtxt", 'name: "other"', "name: expected 'scale', as its folder is called, got 'other'"),
        ("config.pbtxt", 'platform: "tensorflow_savedmodel"', "platform: expected onnxruntime_onnx, got 'tensorflow_s"),
        ("config.pbtxt", 'backend: "python"', "backend: expected onnxruntime, got 'python'"),
        ("config.pbtxt", "max_batch_size: -1", "max_batch_size: expected 0 or more, got -1"),
        ("config.pbtxt", 'input { name: "z" }', "the model has no input 'z'; expected 'x' FP32 [-1,2]"),
        ("config.pbtxt", 'output { name: "x" }', "the model has no output 'x'; expected 'y' FP32 [-1,2]"),
        ("config.pbtxt", 'input { name: "x" data_type: TYPE_INT8 }', "input 'x': expected datatype FP32, as the model"),
        ("config.pbtxt", 'input { name: "x" dims: [ 3 ] }', "expected dims [-1,2], as the model has them, got [3]"),
        ("config.pbtxt", 'output { name: "y" dims: [ 1, 3 ] }', "output 'y': expected dims [-1,2], as the model has"),
        (
            "config.pbtxt",
            'max_batch_size: 8 input { name: "x" dims: [ -1, 2 ] }',
            "expected dims [2] behind the rows of max_batch_size, as the model has them, got [-1,2]",
        ),
        ("config.pbtxt", 'input { name: "x" reshape { shape: [ ] } }', "'x': reshape is not supported"),
        ("config.pbtxt", "instance_group { kind: KIND_GPU }", "KIND_GPU, but --providers has cpu"),
        (
            "config.pbtxt",
            "instance_group { kind: KIND_GPU } instance_group { kind: KIND_CPU }",
            "expected one of KIND_CPU and KIND_GPU, got KIND_CPU and KIND_GPU",
        ),
        ("config.pbtxt", "max_batch: 8", 'config.pbtxt:1:1 : Message type "inference.ModelConfig" has no field named'),
        ("config.pbtxt", "max_batch_size: 8 max_batch_size: 9", 'should not have multiple "max_batch_size" fields'),
        ("config.pbtxt", 'default_model_filename: "../model.onnx"', "expected the name of a file, got '../model.onnx'"),
        (
            "config.pbtxt",
            'parameters { key: "intra_op_thread_count" value { string_value: "many" } }',
            "intra_op_thread_count: expected a whole number up to 1024, got 'many'",
        ),
        ("config.yaml", "max_batch: 8", 'config.yaml: Message type "inference.ModelConfig" has no field named'),
        ("config.yaml", "[1", "config.yaml: while parsing a flow"),
        ("config.yaml", "- 1", "config.yaml: expected names with values"),
        ("config.yaml", "warmup: never", "config.yaml: warmup: expected skip, got 'never'"),
        ("config.yaml", "input: 7", "config.yaml: "),
        ("config.yaml", "model_warmup: [{inputs: {x: {range: [2, 1]}}}]", "expected range: [low, high], got [2, 1]"),
    ],
)
def test_what_contradicts_the_model_breaks_it(scale, name, text, message):
    (scale / name).write_text(text)
    with pytest.raises(StartError) as caught:
        loaded(scale.parent)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_configurations_are_refused(scale):
    (scale / "config.pbtxt").touch()
    (scale / "config.yml").touch()
    with pytest.raises(StartError, match=r"expected one configuration, found config\.pbtxt and config\.yml"):
        read_configuration(scale)


def test_dims_narrow_inputs(tmp_path):
    """A detector takes any size; its configuration says which one is used."""
    path = backend_models.save(
        tmp_path,
        "any",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", "FP32", ("N", 3, "H", "W"))],
        [("y", "FP32", ("N", 3, "H", "W"))],
    )
    (path.parent.parent / "config.yaml").write_text(
        "{max_batch_size: 4, input: [{name: x, dims: [3, 96, 96]}], output: [{name: y, dims: [3, -1, -1]}]}"
    )
    model = loaded(tmp_path, "any")
    assert model.session.inputs[0].shape == (-1, 3, 96, 96)
    assert model.max_batch == 4
    assert list(model.config(1).input[0].dims) == [3, 96, 96]
    assert list(model.config(1).output[0].dims) == [3, -1, -1]


def test_a_batch_size_that_the_model_cannot_have(tmp_path, caplog):
    folder = backend_models.mixing(tmp_path).parent.parent
    (folder / "config.pbtxt").write_text('max_batch_size: 8 input { name: "x" dims: [ 2 ] }')
    model = loaded(tmp_path, "mixing")
    assert model.max_batch == 1
    assert "no batching, although max_batch_size is 8: " in caplog.text
    config = model.config(1)  # one row, as clients of that configuration send it
    assert (config.max_batch_size, list(config.input[0].dims)) == (1, [2])


@pytest.mark.parametrize(
    ("policy", "versions", "missing"),
    [
        ("{all: {}}", [1, 2, 10], []),
        ("{latest: {num_versions: 2}}", [2, 10], []),
        ("{latest: {}}", [10], []),
        ("{specific: {versions: [2, 7, 1]}}", [1, 2], ["7"]),
    ],
)
def test_version_policies(scale, policy, versions, missing):
    for version in (2, 10):
        backend_models.scale(scale.parent, 1.0, version)
    (scale / "config.yaml").write_text(f"version_policy: {policy}")
    folder = read_folder(scale.parent, "scale")
    assert [file.version for file in folder.files] == versions
    assert list(folder.missing) == missing


def test_the_name_of_the_file(scale):
    (scale / "1" / "model.onnx").rename(scale / "1" / "net.onnx")
    assert "has no version: expected a file like" in read_folder(scale.parent, "scale").problem
    (scale / "config.yaml").write_text("default_model_filename: net.onnx")
    assert loaded(scale.parent).config(1).default_model_filename == "net.onnx"


def test_json_is_read_as_yaml_is():
    found = configuration_of_json(json.dumps({"max_batch_size": 3, "parameters": {"intra_op_thread_count": 1}}))
    assert found.message == ModelConfig(max_batch_size=3, parameters=found.message.parameters)
    for wrong in ("{", "[]", '{"a": 1}'):
        with pytest.raises(StartError, match="the parameter 'config'"):
            configuration_of_json(wrong)


def embedding(root, rows: int = 50):
    """`embed`: a row of a table for each INT64 of [N,4]; zeros are not in it, so a warm-up on them fails."""
    nodes = [
        helper.make_node("Sub", ["index", "first"], ["at"]),
        helper.make_node("Gather", ["table", "at"], ["row"]),
    ]
    table = helper.make_tensor("table", TensorProto.FLOAT, [rows], np.arange(rows, dtype=np.float32))
    first = helper.make_tensor("first", TensorProto.INT64, [], [1000])
    path = backend_models.save(
        root, "embed", nodes, [("index", "INT64", ("N", 4))], [("row", "FP32", ("N", 4))], initializers=[table, first]
    )
    return path.parent.parent


def test_a_warm_up_on_samples(tmp_path, caplog):
    caplog.set_level("INFO", "tidegate.backend")
    folder = embedding(tmp_path)
    with pytest.raises(StartError, match=r"the warm-up inference failed .*model_warmup in its configuration"):
        loaded(tmp_path, "embed")
    (folder / "config.yaml").write_text(
        "model_warmup: [{name: known, batch_size: 2, count: 3, inputs: {index: {dims: [4], range: [1000, 1049]}}}]"
    )
    model = loaded(tmp_path, "embed")
    assert model.max_batch == 32  # rows of values that the model takes were tried in batches
    assert model.config(1).model_warmup[0].count == 3
    (folder / "config.yaml").write_text(
        "model_warmup: [{name: unknown, batch_size: 2, inputs: {index: {dims: [4], range: [0, 9]}}}]"
    )
    with pytest.raises(StartError, match=r"embed version 1: the warm-up on 'unknown' failed"):
        loaded(tmp_path, "embed")
    (folder / "config.yaml").write_text("warmup: skip")
    assert loaded(tmp_path, "embed").max_batch == 1
    assert "no batching: the warm-up is skipped, so no batch was tried" in caplog.text


def test_a_warm_up_on_a_file(tmp_path, caplog):
    folder = embedding(tmp_path)
    (folder / "warmup").mkdir()
    (folder / "1" / "warmup.json").write_text("{}")
    (folder / "config.pbtxt").write_text("""
        model_warmup [
          {
            name: "file" batch_size: 3
            inputs { key: "index" value { data_type: TYPE_INT64 dims: [ 4 ] input_data_file: "rows" } }
          }
        ]""")
    with pytest.raises(StartError, match=r"model_warmup 'file': input 'index': cannot read .*/warmup/rows: No such"):
        loaded(tmp_path, "embed")
    (folder / "warmup" / "rows").write_bytes(np.array([1000, 1001, 1049, 1000], "<i8").tobytes())
    loaded(tmp_path, "embed")
    assert "warmup.json has no effect: config.pbtxt says how to warm up" in caplog.text
    (folder / "warmup" / "rows").write_bytes(bytes(5))
    with pytest.raises(StartError, match=r"expected 32 bytes for INT64 \[1,4\], got 5"):
        loaded(tmp_path, "embed")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("x: {dims: [2], zero_data: true}, z: {}", "expected inputs 'x' FP32 [-1,2]; 'z' is none"),
        ("", "expected inputs 'x' FP32 [-1,2]; 'x' is missing"),
        ("x: {dims: [3], zero_data: true}", "input 'x': expected shape [-1,2], got [1,3]"),
        ("x: {dims: [2]}", "expected one of zero_data, random_data and input_data_file"),
        ("x: {dims: [2], data_type: TYPE_INT8, zero_data: true}", "expected datatype FP32, got INT8"),
        ("x: {dims: [2], range: [0, 1]}", "FP32 has no range [0, 1] of integers"),
        ("x: {dims: [2], input_data_file: ../secret}", "input_data_file: expected a file in"),
        ("x: {dims: [2], input_data_file: /etc/passwd}", "input_data_file: expected a file in"),
    ],
)
def test_samples_that_do_not_fit(scale, given, message):
    (scale / "config.yaml").write_text(f"model_warmup: [{{batch_size: 1, inputs: {{{given}}}}}]")
    with pytest.raises(StartError) as caught:
        loaded(scale.parent)
    assert message in str(caught.value)


@pytest.mark.parametrize("datatype", backend_models.ELEMENTS)
@pytest.mark.parametrize("kind", ["zero_data", "random_data"])
def test_samples_of_every_datatype(tmp_path, datatype, kind):
    folder = backend_models.echo(tmp_path, datatype).parent.parent
    (folder / "config.yaml").write_text(
        f"model_warmup: [{{batch_size: 1, inputs: {{x: {{dims: [3], {kind}: true}}}}}},"
        f" {{batch_size: 4, inputs: {{x: {{dims: [3], {kind}: true}}}}}}]"
    )
    loaded(tmp_path, folder.name)


def test_digits_with_a_configuration_of_triton(tmp_path):
    """`label` has one dimension: the answer names full dims."""
    model = load(ModelFile("digits", 1, DIGITS / "models" / "digits" / "1" / "model.onnx"), Settings(max_batch=8))
    assert model.max_batch == 8
    assert (model.config(1).max_batch_size, list(model.config(1).output[0].dims)) == (0, [-1])
