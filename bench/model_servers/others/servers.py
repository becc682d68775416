"""How each of the other model servers is started on a folder of models in Triton's layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.model_servers.others.environments import Environment, python_of, site_packages

HERE = Path(__file__).parent
_DATATYPES = {1: "FP32", 6: "INT32", 7: "INT64", 8: "BYTES"}  # by ONNX's element types


@dataclass(frozen=True)
class Other:
    """`prepare(models, folder)` writes into the folder what the server needs to serve the models.
    `command(environments, folder, http, grpc)` serves them on two ports of 127.0.0.1, each model with one thread."""

    name: str
    environment: Environment
    prepare: Callable[[Path, Path], None]
    command: Callable[[Path, Path, int, int], list[str]]


def prepare_triton(models: Path, folder: Path) -> None:
    """Triton's layout, for its Python backend: the package has no other. A model with a `model.py` keeps its own."""
    for source in sorted(models.iterdir()):
        made = folder / source.name
        shutil.copytree(source, made)
        if not (made / "1" / "model.py").exists():
            shutil.copy(HERE / "triton_model.py", made / "1" / "model.py")
        if not (made / "config.pbtxt").exists():
            (made / "config.pbtxt").write_text(_triton_config(made / "1" / "model.onnx"))


def _triton_config(path: Path) -> str:
    """A first dimension that is free in all tensors is the batch's. Raises BenchError without onnx."""
    tensors = _tensors(path)
    batches = all(len(each.shape) > 1 and each.shape[0] == -1 for each in tensors)
    lines = ['backend: "python"', f"max_batch_size: {64 if batches else 0}"]
    for each in tensors:
        datatype = "TYPE_STRING" if each.datatype == "BYTES" else f"TYPE_{each.datatype}"
        dims = ", ".join(map(str, each.shape[1:] if batches else each.shape))
        lines.append(f'{each.kind} [ {{ name: "{each.name}" data_type: {datatype} dims: [ {dims} ] }} ]')
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Tensor:
    """Of a model; `kind`: input or output; -1 in `shape`: free."""

    kind: str
    name: str
    datatype: str
    shape: tuple[int, ...]


def _tensors(path: Path) -> list[_Tensor]:
    """Raises BenchError without onnx."""
    try:
        from onnx import load
    except ImportError as error:
        raise BenchError("onnx is missing; make dev installs it") from error
    graph = load(str(path)).graph
    constants = {each.name for each in graph.initializer}
    found = [("input", each) for each in graph.input if each.name not in constants]
    return [
        _Tensor(
            kind,
            each.name,
            _DATATYPES[each.type.tensor_type.elem_type],
            tuple(one.dim_value if one.HasField("dim_value") else -1 for one in each.type.tensor_type.shape.dim),
        )
        for kind, each in [*found, *(("output", each) for each in graph.output)]
    ]


def triton_command(environments: Path, folder: Path, http: int, grpc: int) -> list[str]:
    packages = site_packages(environments, TRITON.environment)
    found = packages / "pytriton" / "tritonserver"
    # The backend's stub has to be the one of the environment's Python, whose packages the models import.
    stubs = found / "python_backend_stubs" / packages.parent.name.removeprefix("python")
    stub = stubs / "triton_python_backend_stub"
    backends = folder.parent / f"{folder.name}-backends"
    if not backends.exists():
        shutil.copytree(found / "backends", backends)
        shutil.copy(stub, backends / "python" / stub.name)
    path = f"{python_of(environments, TRITON.environment).parent}:/usr/bin:/bin"  # its first python3 is the models'
    words = ["env", f"PATH={path}", f"LD_LIBRARY_PATH={packages / 'nvidia_pytriton.libs'}"]
    words += [str(found / "bin" / "tritonserver"), "--model-repository", str(folder)]
    words += ["--backend-directory", str(backends), "--allow-metrics", "false"]
    words += ["--http-address", "127.0.0.1", "--http-port", str(http)]
    words += ["--grpc-address", "127.0.0.1", "--grpc-port", str(grpc)]
    return [*words, "--backend-config", f"python,shm-region-prefix-name=bench{grpc}"]


def prepare_mlserver(models: Path, folder: Path) -> None:
    for source in sorted(models.iterdir()):
        path = source / "1" / "model.onnx"
        if not path.exists():
            continue
        made = folder / source.name
        made.mkdir(parents=True)
        shutil.copy(path, made / "model.onnx")
        settings = {
            "name": source.name,
            "implementation": "mlserver_model.OnnxModel",
            "parameters": {"uri": "./model.onnx", "version": "1"},
            **_described(path),
        }
        (made / "model-settings.json").write_text(json.dumps(settings))
    shutil.copy(HERE / "mlserver_model.py", folder / "mlserver_model.py")


def _described(path: Path) -> dict[str, object]:
    """Inputs and outputs as MLServer's metadata gives them. Raises BenchError without onnx."""
    return {
        f"{kind}s": [
            {"name": each.name, "datatype": each.datatype, "shape": each.shape}
            for each in _tensors(path)
            if each.kind == kind
        ]
        for kind in ("input", "output")
    }


def mlserver_command(environments: Path, folder: Path, http: int, grpc: int) -> list[str]:
    python = python_of(environments, MLSERVER.environment)
    settings = {"HOST": "127.0.0.1", "HTTP_PORT": http, "GRPC_PORT": grpc, "METRICS_ENDPOINT": "", "DEBUG": "false"}
    words = ["env", f"PYTHONPATH={folder}", "MLSERVER_PARALLEL_WORKERS=0", "MLSERVER_METRICS_PORT=0"]
    words += [f"MLSERVER_{name}={value}" for name, value in settings.items()]
    return [*words, str(python.parent / "mlserver"), "start", str(folder)]


def prepare_kserve(models: Path, folder: Path) -> None:
    for path in sorted(models.glob("*/1/model.onnx")):
        made = folder / path.relative_to(models)
        made.parent.mkdir(parents=True)
        shutil.copy(path, made)


def kserve_command(environments: Path, folder: Path, http: int, grpc: int) -> list[str]:
    words = [str(python_of(environments, KSERVE.environment)), str(HERE / "kserve_server.py"), str(folder)]
    return [*words, "--http_port", str(http), "--grpc_port", str(grpc)]


TRITON = Other(
    "Triton",
    Environment(
        "triton",
        ("nvidia-pytriton>=0.7", "onnxruntime>=1.20", "numpy"),
        ("nvidia-pytriton", "onnxruntime"),
    ),
    prepare_triton,
    triton_command,
)
MLSERVER = Other(
    "MLServer",
    Environment("mlserver", ("mlserver>=1.7", "onnxruntime>=1.20"), ("mlserver", "onnxruntime")),
    prepare_mlserver,
    mlserver_command,
)
KSERVE = Other(
    "KServe",
    Environment("kserve", ("kserve>=0.15", "onnxruntime>=1.20"), ("kserve", "onnxruntime")),
    prepare_kserve,
    kserve_command,
)
OTHERS = (TRITON, MLSERVER, KSERVE)
