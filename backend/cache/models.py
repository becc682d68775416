"""The model cache of a server: what it keeps for which provider."""

from __future__ import annotations

from pathlib import Path

from backend.cache.engines import Engines
from backend.cache.graphs import Graphs
from backend.cache.store import Store
from backend.gpus import device_name


class ModelCache:
    """In `folder`, of up to `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        store = Store(folder, limit)
        self.graphs = Graphs(store)
        self.engines = Engines(store, device_name())
