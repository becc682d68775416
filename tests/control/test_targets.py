"""What the master watches by a plan."""

from __future__ import annotations

import os

from lb.config.schema.file import HealthConfig
from lb.control.endpoints.targets import answered_well
from lb.health.monitor import Target
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT


def test_answers_without_a_fault_are_those_of_every_class() -> None:
    master = Segment.create(2)
    worker = Segment.attach(os.dup(master.fd), 0)
    target = Target("app", "127.0.0.1:1", 0, HealthConfig(type="tcp"), None, 3)
    for name, count in (("requests.2xx", 5), ("requests.429", 2), ("requests.5xx", 4), ("errors", 3)):
        worker.add_series(3, ENDPOINT.place(name), count)
    assert answered_well(master, target) == 5 + 2 + 4 - 3
    worker.add_series(3, ENDPOINT.place("requests.other"), 7)  # nobody was answered
    assert answered_well(master, target) == 8
    worker.close()
    master.close()
