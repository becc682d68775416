"""What `make chaos` reloads: each of its configurations is valid, or nothing would be reloaded."""

from __future__ import annotations

import random
from pathlib import Path

import yaml
from chaos_config import Ports, Roll

from lb.config.load import load


def test_random_configurations_are_valid(tmp_path: Path) -> None:
    roll = Roll(random.Random(5), [Ports(1000 + i, 2000 + i, 3000 + i) for i in range(5)], "-")
    path = tmp_path / "tidegate.yaml"
    for _ in range(100):
        path.write_text(yaml.safe_dump(roll()))
        assert load(path).pools
