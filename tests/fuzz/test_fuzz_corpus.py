"""Every corpus entry goes through its target, and a short run of damaged ones does. Needs no fuzzing engine.

TIDEGATE_FUZZ_SECONDS (default 1) is for each target; TIDEGATE_FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import time

import corpus
import pytest
from mutator import mutated
from targets import TARGETS

SECONDS = float(os.environ.get("TIDEGATE_FUZZ_SECONDS", "1"))


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    for entry, data in corpus.load(name).items():
        try:
            TARGETS[name](data)
        except Exception as failure:
            failure.add_note(f"corpus entry {entry}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    seed = int(os.environ.get("TIDEGATE_FUZZ_SEED", time.time_ns() % 1_000_000_000))
    print(f"TIDEGATE_FUZZ_SEED={seed}")  # pytest shows it when the test fails
    target, end = TARGETS[name], time.monotonic() + SECONDS
    for data in mutated(list(corpus.load(name).values()), random.Random(seed)):
        try:
            target(data)
        except Exception as failure:
            failure.add_note(f"input {data!r}")
            raise
        if time.monotonic() >= end:
            break


def test_every_target_has_a_corpus() -> None:
    assert corpus.MAKERS.keys() == TARGETS.keys()
    for name in corpus.MAKERS:
        assert len([entry for entry in corpus.load(name) if entry.startswith(corpus.GENERATED)]) >= 3


@pytest.mark.parametrize("name", sorted(corpus.MAKERS.keys() - corpus.LIBRARIES))
def test_the_corpus_is_what_the_script_makes(name: str) -> None:
    """All but what libraries spell."""
    made = corpus.MAKERS[name]()
    kept = [data for entry, data in corpus.load(name).items() if entry.startswith(corpus.GENERATED)]
    assert kept == made
