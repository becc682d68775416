"""The endpoints of a pool, called from Python as the data path calls them."""

from libc.stdint cimport uint64_t
from lb.balancing.policy cimport Policy
from lb.balancing.turns cimport pick_any, pick_in_turn
from lb.shared.atomics cimport tg_load_i32_relaxed
from lb.shared.recent_failures cimport note_attempt
from lb.endpoints.choice cimport Choice
from lb.endpoints.groups cimport Groups
from lb.endpoints.set cimport EndpointSet


def effective_weight(EndpointSet endpoints not None, int i):
    """The weight by which a policy chooses now, in units of `unit`; 0: takes no new requests."""
    endpoints.check(i)
    return endpoints.effective_weight(i)


def take(EndpointSet endpoints not None, int i, double cost=1.0):
    """`take` for a request that costs `cost`, 1.0 for an average one: whether there was room. IndexError when `i` is
    out of range."""
    endpoints.check(i)
    return endpoints.take(i, endpoints.units(cost), endpoints.probes, 1) >= 0


def note_attempt_at(EndpointSet endpoints not None, int i, bint failed, uint64_t now):
    """An attempt at the endpoint ended at `now`; IndexError when `i` is out of range."""
    endpoints.check(i)
    note_attempt(endpoints.records[i], failed, now)


def acquire(EndpointSet endpoints not None, int i, double cost=1.0):
    """`acquire` for a request that costs `cost`, 1.0 for an average one: what it added to the load, for `release`.
    IndexError when `i` is out of range."""
    endpoints.check(i)
    return endpoints.acquire(i, endpoints.units(cost))


def release(EndpointSet endpoints not None, int i, int charged=0):
    """`release`; IndexError when `i` is out of range, ValueError when none was acquired."""
    endpoints.check(i)
    if tg_load_i32_relaxed(endpoints.own[i]) <= 0:
        raise ValueError(f"this worker has nothing in flight at endpoint {i}")
    if charged and (endpoints.own_cost is NULL or not 0 <= charged <= tg_load_i32_relaxed(endpoints.own_cost[i])):
        raise ValueError(f"this worker has no cost of {charged} at endpoint {i}")
    endpoints.release(i, charged)


def draw_group(Groups groups not None, uint64_t key):
    """`draw`: the turns of this worker go on."""
    groups.check()
    return groups.draw(key)


def pick(Policy policy not None, Choice choice not None, bint in_turn=True, bint queued=False):
    """The endpoint that the data path would take by this policy; not `in_turn`: however many attempts at it failed.
    `queued`: for the first in the pool's queue."""
    choice.turn = queued
    return pick_in_turn(policy, choice) if in_turn else pick_any(policy, choice)


def set_report(EndpointSet endpoints not None, i, utilization, qps, eps, now):
    """`set_report`; IndexError when `i` is out of range."""
    endpoints.check(i)
    endpoints.set_report(i, utilization, qps, eps, now)
