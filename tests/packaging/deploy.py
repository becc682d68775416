"""The chart and the Kustomize examples of deploy/, by Helm's own engine, Kustomize and the schemas of Kubernetes; the
container file by hadolint.

`make test-deploy` runs this in an environment of its own, since the tools are some 90 MB. What is rendered is valid for
Kubernetes with unknown fields refused, and each configuration in it is one that Tidegate takes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "tidegate"
TIDEGATE = ROOT / ".venv" / "bin" / "python"
VERSIONS = ("1.29", "1.37")  # of Kubernetes: an old one and the newest
LOAD = (
    "import sys; from pathlib import Path; from lb.config.load import load;"
    "print(load(Path(sys.argv[1]), files=False).model_dump_json(include={'admin', 'listeners'}))"
)
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# The keys of a file that the chart has from its own values.
OF_THE_CHART = re.compile(r"^(?:admin|shutdown):.*\n(?:[ #].*\n|\n)*", re.MULTILINE)
TOKEN = {"admin": {"token": "t" * 32}}
VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "rights": {"rbac": {"discovery": True, "engine": True}},
    "secret": {"admin": {"existingSecret": "mine", "token": ""}, "podDisruptionBudget": {"enabled": False}},
    "all": {
        "replicas": 3,
        "image": {"repository": "registry.example.org/tidegate", "tag": "0.1.0"},
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"prometheus.io/scrape": "true"},
        "podLabels": {"team": "models"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "service": {
            "type": "LoadBalancer",
            "annotations": {"a": "b"},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
            ],
        },
        "config": {
            "workers": 4,
            "listeners": {
                "main": {"bind": "0.0.0.0:8080", "protocol": "http", "routes": [{"pool": "chat"}]},
                "dns": {"bind": "0.0.0.0:5353", "protocol": "udp", "pool": "dns", "udp": {"max_sessions": 1000}},
            },
            "pools": {
                "chat": {
                    "protocol": "http",
                    "discover": {"dns": {"name": "chat.models.svc.cluster.local", "port": 8000}},
                },
                "dns": {"protocol": "udp", "endpoints": ["10.0.0.1:53"]},
            },
        },
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values(values))
        texts = chart.render(values, name="demo", namespace="prod")
    return [one for name, text in texts.items() if name.endswith(".yaml") for one in documents(text)]


def documents(text: str) -> Iterator[dict[str, Any]]:
    yield from (one for one in yaml.safe_load_all(text) if one)


def built(folder: str) -> list[dict[str, Any]]:
    command = ["kustomize", "build", ROOT / "deploy" / "kustomize" / folder]
    return list(documents(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def valid(found: list[dict[str, Any]], folder: Path) -> None:
    for version in VERSIONS:
        for one in found:
            kubernetes_validate.validate(one, version, strict=True)
    (configuration,) = [one["data"]["tidegate.yaml"] for one in found if one["kind"] == "ConfigMap"]
    path = folder / "tidegate.yaml"
    path.write_text(configuration)
    done = subprocess.run([TIDEGATE, "-c", LOAD, path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    (deployment,) = [one for one in found if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["containerPort"] for port in container["ports"]}
    binds = [read["admin"]["bind"], *(one["address"] for each in read["listeners"].values() for one in each["bind"])]
    assert ports == {int(bind.rpartition(":")[2]) for bind in binds}
    names = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= names
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    for service in (one for one in found if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels


@pytest.mark.parametrize("name", VALUES)
def test_the_chart(name: str, tmp_path: Path) -> None:
    found = rendered({**TOKEN, **VALUES[name]})
    valid(found, tmp_path)
    kinds = [one["kind"] for one in found]
    assert ("Secret" in kinds) == (name != "secret")
    assert ("Role" in kinds) == (name == "rights")
    assert ("PodDisruptionBudget" in kinds) == (name != "secret")


def by_helm(text: str, folder: Path) -> str:
    """The configuration in the ConfigMap of a chart that has `text` in its values, so that Helm's own reader of YAML
    reads it."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart)
    values = (chart / "values.yaml").read_text()
    config = "".join(f"  {line}" for line in OF_THE_CHART.sub("", text).splitlines(keepends=True))
    before, rest = re.split(r"^config:\n(?:[ #].*\n)*", values, maxsplit=1, flags=re.MULTILINE)
    (chart / "values.yaml").write_text(f"{before}config:\n{config}\n{rest}")
    with helm.Chart.load(str(chart)) as made:
        made.validate_schema(made.merge_values(TOKEN))
        texts = made.render(TOKEN, name="demo", namespace="prod")
    (text,) = [one["data"]["tidegate.yaml"] for name in texts for one in documents(texts[name]) if is_config(name, one)]
    token = folder / "token"
    token.write_text("t" * 32)
    token.chmod(0o600)
    return str(text).replace("/run/secrets/tidegate/token", str(token))


def is_config(name: str, one: dict[str, Any]) -> bool:
    return name.endswith(".yaml") and one["kind"] == "ConfigMap"


def by_pyyaml(text: str, folder: Path) -> str:
    return yaml.safe_dump(yaml.safe_load(text))


def checked(text: str, folder: Path, name: str) -> tuple[int, set[str]]:
    """The exit status of `tidegate check`, and what it says of the sections that are the file's own, without lines."""
    configs = folder / "root" / "configs"
    shutil.copytree(ROOT / "configs", configs, dirs_exist_ok=True)
    examples = folder / "root" / "examples"
    if not examples.exists():
        examples.symlink_to(ROOT / "examples")
    path = configs / name
    path.write_text(text)
    command = [TIDEGATE, "-m", "lb", "check", "-c", path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = re.findall(rf"^{re.escape(str(path))}:\d+: (.*)$", done.stdout + done.stderr, re.MULTILINE)
    return done.returncode, set(found)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
@pytest.mark.parametrize("written", [by_helm, by_pyyaml])
def test_every_example_survives_readers_of_yaml_1_1(path: Path, written: Any, tmp_path: Path) -> None:
    text = path.read_text()
    if written is by_helm:
        text = OF_THE_CHART.sub("", text)
    given = checked(text, tmp_path, path.name)
    assert checked(written(text, tmp_path), tmp_path, path.name) == given
    missing = all("No such file" in one or "no such folder" in one for one in given[1] if "warning" not in one)
    assert given[0] == 0 or missing, given


def test_helm_finds_nothing_wrong() -> None:
    found = helm.lint(str(CHART))
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


def test_a_changed_configuration_restarts_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        (deployment,) = [one for one in rendered(values) if one["kind"] == "Deployment"]
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    other = {**TOKEN, "config": {"workers": 3}}
    assert checksum(TOKEN) == checksum(TOKEN)
    assert checksum(TOKEN) != checksum(other)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "tidegate:0.1.0"),
        ({"tag": "next"}, "tidegate:next"),
        (
            {"repository": "r.example.org:5000/t", "digest": "sha256:" + "a" * 64},
            "r.example.org:5000/t@sha256:" + "a" * 64,
        ),
        ({"tag": "next", "digest": "sha256:" + "a" * 64}, "tidegate:next@sha256:" + "a" * 64),
    ],
)
def test_the_name_of_the_image(image: dict[str, str], name: str) -> None:
    (deployment,) = [one for one in rendered({**TOKEN, "image": image}) if one["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == name


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": "three"},
        {"config": {"admin": {"bind": "0.0.0.0:1"}}},
        {"service": {"ports": []}},
        {"service": {"type": "Loadbalancer"}},
        {"image": {"repository": "tidegate@sha256:" + "a" * 64}},
        {"image": {"tag": "sha256:" + "a" * 64}},
        {"image": {"digest": "sha256:abc"}},
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        rendered(values)


@pytest.mark.parametrize("folder", ["base", "overlays/models"])
def test_kustomize(folder: str, tmp_path: Path) -> None:
    valid(built(folder), tmp_path)


def test_the_container_file() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "deploy" / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
