"""The udp listeners of a worker: made, changed and closed as plans come."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from lb.config.plan.plan import ListenerPlan, Plan
from lb.proxy.routing.split import Split
from lb.proxy.udp.listener import UdpListener
from lb.proxy.udp.pool import UdpPool, UdpSplit
from lb.proxy.udp.session import UdpBuffers
from lb.shared.segment import Segment

log = logging.getLogger("tidegate.proxy")


class Prepared(Struct, frozen=True):
    """A listener of a plan that is not in use yet. `fd` is the caller's descriptor of its socket."""

    plan: ListenerPlan
    fd: int
    upstream: UdpPool | UdpSplit
    listener: UdpListener
    new: bool


class UdpListeners:
    """Belongs to a Proxy: `prepare` may fail and changes nothing, `commit` follows it.

    A listener whose socket stays keeps its sessions. One that goes away ends them at once: nobody could answer their
    clients from the address they know.
    """

    def __init__(self, poller: Any, segment: Segment, access: Any) -> None:
        self._poller = poller
        self._segment = segment
        self._access = access
        self._buffers: UdpBuffers | None = None
        self._current: dict[str, Prepared] = {}

    def prepare(self, plan: Plan, sockets: Mapping[str, int], pools: Sequence[Any]) -> dict[str, Prepared]:
        """The udp listeners of `plan`, by place; `sockets` has a bound socket for each, `pools` are those of the
        plan."""
        prepared = {}
        open_ = {(old.plan.name, old.fd): old.listener for old in self._current.values()}
        for whole in plan.listeners:
            if whole.udp is None:
                continue
            for place, bind in whole.places().items():
                listener, fd = whole.at(bind), sockets[place]
                upstream = self._upstream(plan, listener, pools)
                old = open_.get((listener.name, fd))
                if old is not None:
                    old.reserve(whole.udp.max_sessions)
                    prepared[place] = Prepared(listener, fd, upstream, old, new=False)
                    continue
                if self._buffers is None:
                    self._buffers = UdpBuffers(_most_sessions())
                made = UdpListener(self._poller, self._buffers, self._access, listener, self._segment, upstream)
                prepared[place] = Prepared(listener, fd, upstream, made, new=True)
        return prepared

    def _upstream(self, plan: Plan, listener: ListenerPlan, pools: Sequence[Any]) -> UdpPool | UdpSplit:
        if listener.split is None:
            return UdpPool(plan.pools[listener.pool], pools[listener.pool], self._segment, listener)
        numbers = {share.pool for share in listener.split.shares}
        made = {plan.pools[i].name: UdpPool(plan.pools[i], pools[i], self._segment, listener) for i in numbers}
        return UdpSplit(Split(listener.split, pools), made)

    def commit(self, prepared: dict[str, Prepared]) -> None:
        """Take what `prepare` gave into use. Raises OSError when the kernel refuses, with what was in use going on."""
        started = []
        try:
            for one in prepared.values():
                if one.new:
                    one.listener.start(_duplicate(one.fd))
                    started.append(one.listener)
        except OSError:
            for listener in started:
                listener.close()
            raise
        kept = {id(one.listener) for one in prepared.values()}
        for old in self._current.values():
            if id(old.listener) not in kept:
                old.listener.close()
        for one in prepared.values():
            if not one.new:
                one.listener.update(one.plan, self._segment, one.upstream)
        self._current = prepared
        self._warn()

    def _warn(self) -> None:
        plans = {one.plan.name: one.plan.udp for one in self._current.values()}  # a limit is for all addresses together
        wanted = sum(udp.max_sessions for udp in plans.values() if udp is not None)
        # All workers have the same limits: one line is enough.
        if self._buffers is not None and wanted > self._buffers.most and self._segment.worker == 0:
            log.warning(
                "udp listeners may have %d sessions, perhaps all in one worker, but half of its open files are %d: "
                "raise the limit (LimitNOFILE, ulimit -n) or lower max_sessions",
                wanted,
                self._buffers.most,
            )

    def stop_accepting(self, replaced: bool) -> None:
        """No new sessions; those there are go on until they are silent. `replaced`: workers of another master read the
        sockets from now on."""
        if self._buffers is not None:
            self._buffers.drain()
        for one in self._current.values():
            if replaced:
                one.listener.leave()
            else:
                one.listener.drain()

    def in_flight(self) -> int:
        """Open sessions."""
        return 0 if self._buffers is None else self._buffers.sessions

    def close(self) -> None:
        """End everything at once."""
        for one in self._current.values():
            one.listener.close()
        self._current = {}


def _most_sessions() -> int:
    """Sessions that this worker may have: half of its descriptors, so that datagrams of forged senders cannot keep it
    from accepting connections and from reaching endpoints."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft // 2


def _duplicate(fd: int) -> int:
    """The data path's own descriptor of a socket, so that each side closes what is its own."""
    copy = os.dup(fd)
    os.set_blocking(copy, False)
    return copy
