"""Hostile clients of HTTP/1.1: others are served, memory is bounded, and afterwards nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable

import http1_attacks
import pytest
import siege
from daemon import Daemon
from hostile_site import Attack, Server


@pytest.mark.parametrize("attack", http1_attacks.ATTACKS, ids=lambda attack: attack.name)
async def test_others_are_served(attack: Attack, start: Callable[..., Daemon], server: Server) -> None:
    await siege.others_are_served(attack, start, server)


async def test_descriptors_come_back_after_all_attacks(start: Callable[..., Daemon], server: Server) -> None:
    await siege.descriptors_come_back(http1_attacks.ATTACKS, http1_attacks.SHORT, start, server)
