"""The model cache of a server: what it keeps for which provider."""

from __future__ import annotations

from pathlib import Path

from backend.cache.engines import Engines
from backend.cache.graphs import Graphs
from backend.cache.store import Store
from backend.cache.trials import Trials
from backend.gpus import device_name


class ModelCache:
    """In `folder`, of up to `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        store = Store(folder, limit)
        device = device_name()
        self.graphs = Graphs(store)
        self.engines = Engines(store, device)
        self.trials = Trials(store, device)
