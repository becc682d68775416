"""`python -m bench.peers.envoy_check DIRECTORY`: Envoy's own check of all files of a configuration.

`envoy --mode validate` does not follow the bootstrap to the files that it watches. So they are put into it as static
resources, and Envoy is run on that; the exit status is Envoy's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from bench.errors import BenchError
from bench.peers.envoy import CLUSTERS, LISTENERS, MAIN, ROUTES, require_binary


def as_one(directory: Path) -> dict[str, Any]:
    """The bootstrap with every watched file in it. Raises BenchError if a file is missing or is no YAML."""
    bootstrap = _read(directory / MAIN)
    bootstrap.pop("dynamic_resources", None)
    clusters, listeners = _resources(directory / CLUSTERS), _resources(directory / LISTENERS)
    for chain in (chain for found in listeners for chain in found.get("filter_chains", ())):
        for config in (each["typed_config"] for each in chain["filters"]):
            if config.pop("rds", None):
                (config["route_config"],) = _resources(directory / ROUTES)
    bootstrap["static_resources"] = {"clusters": clusters, "listeners": listeners}
    return bootstrap


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BenchError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise BenchError(f"{path}: is no mapping")
    return found


def _resources(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _read(path)["resources"]
    # In a discovery response the type goes with each resource, in a bootstrap the place says it.
    return [{key: value for key, value in each.items() if key != "@type"} for each in found]


def main() -> None:
    try:
        path = Path(sys.argv[1], ".check.json")
        path.write_text(json.dumps(as_one(Path(sys.argv[1]))))
        binary = require_binary()
    except BenchError as error:
        sys.exit(f"envoy_check: {error}")
    os.execv(binary, [binary, "--mode", "validate", "--log-level", "warning", "-c", str(path)])


if __name__ == "__main__":
    main()
