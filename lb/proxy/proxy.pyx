"""The data path of one worker: the listeners, pools and connections of the plan in force.

`adopt` makes what a plan needs in small steps and swaps the plan in the last one, between two events; exchanges that
run keep the objects of the plan they started with.
"""

import contextlib
import logging
import operator
import os
from collections import Counter
from threading import Thread
from time import monotonic_ns
from typing import TYPE_CHECKING
from msgspec.structs import replace
from weakref import WeakSet

from lb.net.wakeups cimport Wakeups
from lb.net.poller cimport Poller
from lb.net.splice cimport open_between
from lb.net.stream cimport Address
from lb.net.timers cimport Timers
from lb.net.tls.context cimport ServerContext, TicketKeys
from lb.net.tls.peer cimport ClientContext, Peer
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.accept.http_acceptor cimport HttpAcceptor
from lb.proxy.accept.listener cimport Listener
from lb.proxy.access.provider cimport Provider
from lb.proxy.accept.first_bytes cimport SniffingAcceptor
from lb.proxy.accept.overload cimport Overload
from lb.proxy.accept.sni cimport SniTable
from lb.proxy.client.http2_connection cimport Http2Connection
from lb.proxy.routing.quota cimport Quota
from lb.proxy.routing.text_key cimport TextKey
from lb.proxy.tcp.session cimport TunnelAcceptor
from lb.shared.quotas cimport Quotas
from lb.shared.stick_tables cimport StickTable
from lb.telemetry.accesslog cimport AccessLog
from lb.upstream.connections.http1 cimport Http1Pool
from lb.upstream.connections.http2 cimport Http2Channel
from lb.upstream.marks cimport PoolMarks
from lb.upstream.pool cimport Pool
from lb.cache.rules cimport PoolRules
from lb.upstream.queue cimport PoolQueue

from lb.cache.tiers.registry import load
from lb.config.checks.descriptors import room
from lb.config.plan.plan import PolicyPlan
from lb.errors import TidegateError
from lb.proxy.accept.sni import table_of
from lb.proxy.access.checks import make_check
from lb.proxy.exchange import authorization, delay, inference_body, tracking
from lb.proxy.exchange.mirror import mirror, report
from lb.proxy.exchange.explain.described import Described, Tables, explain
from lb.proxy.routing.tables import make_routes
from lb.proxy.routing.values.lookup import Lookup
from lb.proxy.exchange.hedge import HedgeTools
from lb.net.source import address_from
from lb.proxy.accept.listener import limit_connections, network_of_plan
from lb.proxy.udp.listeners import UdpListeners
from lb.telemetry.tracing import SpanExporter
from lb.upstream.load.probe_calls import add_prober
from lb.upstream.model_counts import ModelCounts
from lb.upstream.start import Start

if TYPE_CHECKING:
    import asyncio

    from lb.config.plan.plan import Plan
    from lb.shared.segment import Segment

log = logging.getLogger("tidegate.proxy")

FORGET = 256                          # routes freed at once
# Why nobody waits for the start of an endpoint any more.
GONE = Start(trouble="a reload has removed the pool")
STOPPING = Start(trouble="the daemon is stopping")


def refused_by(listener):
    """Connections that a listener refused for where they came from, by reason."""
    return Counter({
        "source-limit": listener.over_limit, "connection-rate": listener.over_rate, "denied": listener.denied,
    })


def duplicate(fd):
    """The data path's own descriptor of a listening socket, so that each side closes what is its own."""
    copy = os.dup(fd)
    os.set_blocking(copy, False)
    return copy


def try_check(plan):
    """For what it imports; whatever is wrong is said by who needs it."""
    with contextlib.suppress(Exception):
        make_check(plan)


class Proxy:
    """The data path of a worker on `loop` (uvloop or asyncio), with its column and stripe of `segment`.

    `access_log` is the descriptor that access records are written to, -1 = none. `wakeups` are the eventfds of all
    workers, none where there is one worker.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, segment: Segment, access_log_fd: int = -1,
        wakeups: Sequence[int] = ()
    ):
        open_between()
        self.poller = Poller(loop)
        self.segment = segment
        self.plan = None
        self.tables = None          # of the plan, for `explain`
        self.listeners = {}
        self.descriptors = {}       # place of a listener -> the caller's descriptor that it accepts from
        self.pools = []             # of the plan, in its order
        self.former = WeakSet()     # of plans before, as long as exchanges have them
        self.routes = {}            # http listener -> what its routes were made to (lb.proxy.routing.tables)
        self.connections = set()
        self.draining = False
        self.leaving = False
        self.tickets = TicketKeys()
        self.contexts = {}          # (listener, TlsPlan) or PoolTlsPlan -> what TLS begins from, while it is unchanged
        self.wakeups = Wakeups(self.poller, segment.worker, wakeups)
        self.queues = {}            # pool -> PoolQueue: who waits goes on waiting after a reload
        self.starts = {}            # pool -> what was told last of the start of an endpoint, where the master starts it
        self.wake = None
        self.channels = {}          # (protocol, pool, address, timeouts) -> channel: connections outlive a reload
        self.tools = HedgeTools(Timers(self.poller))
        self.quotas = Quotas(segment)
        self.checking = set()       # providers that may have a thread
        self.context = inference_body.InferContext(self.poller, segment, self.wakeups)
        self.counts = {}            # pool -> ModelCounts, of those whose model servers count nothing
        self.access = AccessLog(access_log_fd)
        self.spans = None           # the exporter in use
        self.overload = Overload(loop)
        self.admission = Admission(self.poller, self.context, self.overload)
        self.http = HttpAcceptor(self.admission)
        self.tcp = TunnelAcceptor(self.poller)
        self.sniffer = SniffingAcceptor(self.poller)
        self.refused = Counter()    # connections refused by listeners that are gone, by reason
        self.udp = UdpListeners(self.poller, segment, self.access)

    def connect(
        self, ask: Callable[[str, str, bytes, Callable[[int, str, bytes], None]], None], wake: Callable[[str], None]
    ) -> None:
        """`ask` puts a question about a whole pool to the master, `wake` has it start an endpoint of a pool."""
        self.context.ask = ask
        self.wake = wake
        for queue in self.queues.values():
            queue.wake = wake

    def tell_start(self, pool: str, start: Start) -> None:
        """What the master knows of the start of an endpoint of a pool whose endpoints it starts."""
        self.starts[pool] = start
        for known in self.pools:
            if known.name == pool:
                known.tell_start(start)
        if pool in self.queues:
            self.queues[pool].tell_start(start)

    def apply(self, plan: Plan, sockets: dict[str, int]) -> None:
        """`adopt` in one go."""
        for _ in self.adopt(plan, sockets):
            pass

    def adopt(self, plan: Plan, sockets: dict[str, int]) -> Iterator[None]:
        """Take `plan` into use. `sockets` has a listening descriptor for each place of each listener; they stay the
        caller's.

        A generator: each `yield` ends a step of less than a few milliseconds. Until the last step the plan before is
        in force, and stays so when the generator is closed or raises TidegateError, because the plan cannot be used.
        """
        try:
            yield from self.prepare(plan, sockets)
        except (OSError, ValueError, KeyError) as failure:
            raise TidegateError(f"plan {plan.generation} cannot be used: {failure}") from failure

    def prepare(self, plan, sockets):
        channels = {}
        contexts = {}
        yield from self.load_tier(plan)
        self.context.prepare(plan)
        self.admission.prepare(plan.cache, self.poller.loop)
        if plan.tickets:
            self.tickets.update(plan.tickets)     # which does no harm if the plan is refused
        queues = {
            pool.name: self.queues[pool.name] if pool.name in self.queues       # which is false while nobody waits
            else self.make_queue(pool.name)
            for pool in plan.pools if pool.queue is not None
        }
        pools = []
        for pool in plan.pools:
            pools.append(self.make_pool(pool, channels, contexts, queues.get(pool.name), len(pools)))
            yield
        unchanged = {pool for pool, old in zip(pools, self.pools) if pool is old}
        tables = {}
        routes = {}
        yield from self.load_checks(plan)
        self.tools.providers = {
            each.name: self.make_provider(each, pools) for each in plan.providers
        }
        self.tools.quotas = {each.name: Quota(each, self.quotas) for each in plan.quotas}
        maps = {each.name: (each.key, self.make_map(each)) for each in plan.maps}
        self.tools.tables = {each.name: (each.key, self.make_table(each)) for each in plan.tables}
        maps.update({("table", name): table for name, table in self.tools.tables.items()})
        self.tools.maps = maps
        udp = self.udp.prepare(plan, sockets, pools)
        streams = [listener for listener in plan.listeners if listener.protocol != "udp"]
        for listener in streams:
            if listener.protocol == "tcp":
                tables[listener.name] = table_of(listener, pools)
            elif listener.protocol == "tls":
                tables[listener.name] = SniTable(listener.sni_routes, pools, table_of(listener, pools))
            else:
                of_listener = yield from make_routes(
                    listener.routes, pools, unchanged, self.segment, self.tools,
                    self.routes.get(listener.name))
                routes[listener.name] = of_listener
                tables[listener.name] = of_listener.table
            yield
        made = {}
        secured = {listener.name: self.server_context(listener, contexts) for listener in streams}
        for listener in streams:
            factory = self.tcp if listener.protocol in ("tcp", "tls") else self.http
            for place, bind in listener.places().items():
                old = self.listeners.get(place)
                if (old is not None and self.descriptors[place] == sockets[place]
                        and old.protocol == listener.protocol and old.network == network_of_plan(listener)):
                    continue
                made[place] = Listener(
                    self.poller, listener.at(bind), self.segment, tables[listener.name], factory, self.connections,
                    self.access, secured[listener.name],
                )
                made[place].sniffer = self.sniffer
        spans = self.make_spans(plan.tracing)
        try:
            self.commit(plan, sockets, tables, channels, made, secured, udp, pools, queues)
        except OSError:
            if spans is not None and spans is not self.spans:
                spans.close()
            raise
        self.contexts = contexts
        self.close_providers()
        old, self.routes = self.routes, routes
        for name, of_listener in old.items():
            if of_listener is not routes.get(name):
                self.poller.loop.call_soon(self.forget, of_listener.routes)
        self.spans = spans
        self.access.export(spans)

    def make_provider(self, plan, pools):
        """The provider of a plan: the one in use, with what it remembers, if nothing of it changed. `pools`: where it
        finds that of its servers until the plan is in force."""
        old = self.tools.providers.get(plan.name)
        if old is not None and old.digest == plan.digest:
            return old
        made = Provider(plan, make_check(plan), self.poller.loop)
        if made.server is not None:
            made.server.pool = next(pool for pool in pools if pool.name == made.server.pool_name)
        self.checking.add(made)
        return made

    def follow_pools(self, formed):
        """Authorization servers are asked in the form that their pool has now."""
        for provider in self.tools.providers.values():
            if provider.server is not None:
                provider.server.pool = formed[provider.server.pool_name]

    def make_map(self, plan):
        """The map of a plan: the one in use, if nothing of it changed."""
        old = self.tools.maps.get(plan.name)
        return old[1] if old is not None and old[1].block == plan.block else Lookup(plan.block)

    def make_table(self, plan):
        """The table of a plan: the one in use, if nothing of it changed."""
        old = self.tools.tables.get(plan.name)
        return old[1] if old is not None and old[1].digest == plan.digest else StickTable(self.segment, plan)

    def close_providers(self):
        """Threads of providers that are in force no more end."""
        for provider in self.checking.difference(self.tools.providers.values()):
            provider.close()
            self.checking.discard(provider)

    def load_checks(self, plan):
        """As `load_tier`, for the packages of providers."""
        known = {provider.digest for provider in self.tools.providers.values()}
        for provider in plan.providers:
            if provider.digest not in known:
                loading = Thread(target=try_check, args=(provider,), daemon=True)
                loading.start()
                while loading.is_alive():
                    loading.join(0.0005)
                    yield

    def load_tier(self, plan):
        """What the cache tier needs is imported by a thread, so that requests are served meanwhile."""
        if plan.cache is None or plan.cache.tier is None:
            return
        loading = Thread(target=load, args=(plan.cache.tier,), daemon=True)
        loading.start()
        while loading.is_alive():
            loading.join(0.0005)
            yield

    def make_queue(self, name):
        queue = PoolQueue(self.poller, self.segment, self.wakeups, name)
        queue.wake = self.wake
        if name in self.starts:
            queue.tell_start(self.starts[name])
        return queue

    def make_spans(self, plan):
        """The exporter that `plan` (TracingPlan or None) wants: the one in use if that will do."""
        if plan is None:
            return None
        if self.spans is not None and self.spans.plan == plan:
            return self.spans
        return SpanExporter(plan)

    def server_context(self, listener, contexts):
        """What the TLS connections of a listener begin from, or None; the same object while its plan is the same."""
        tls = listener.tls
        if tls is None:
            return None
        key = (listener.name, tls)
        context = self.contexts.get(key)
        if context is None:
            old = self.listeners.get(listener.name)
            context = ServerContext(
                [(one.chain, one.key, one.names) for one in tls.certificates], self.tickets, name=listener.name,
                min_version=tls.min_version, ciphers=tls.ciphers, alpn=tls.alpn, client_auth=tls.client_auth,
                client_ca=tls.client_ca, crl=tls.crl,
                staples=[(one.staple, one.staple_until) for one in tls.certificates],
                previous=old.tls if old is not None else None,
            )
        contexts[key] = context
        return context

    def client_context(self, pool, contexts):
        tls = pool.tls
        key = (pool.name, tls)
        context = self.contexts.get(key)
        if context is None:
            context = ClientContext(
                ca=tls.ca, crl=tls.crl, certificate=tls.certificate, key=tls.key, server_name=tls.server_name,
                min_version=tls.min_version, alpn=tls.alpn, verify=tls.verify,
            )
        contexts[key] = context
        return context

    def make_address(self, plan, endpoint, context):
        if context is None:
            return self.address_of(plan, endpoint, None)
        name = endpoint.host
        if not name and not endpoint.address.startswith("unix:"):
            name = endpoint.address.rpartition(":")[0].strip("[]")
        peer = Peer(context, name, f"pool {plan.name}: {endpoint.address}")
        return self.address_of(plan, endpoint, peer)

    def address_of(self, plan, endpoint, peer):
        if plan.source is not None and not endpoint.address.startswith("unix:"):
            return address_from(endpoint.address, peer, plan.keepalive, plan.source)
        return Address(endpoint.address, peer, plan.keepalive)

    def make_pool(self, plan, channels, contexts, queue, number):
        """The pool of `plan`, at the place `number`: the one that is there if nothing of it changed."""
        made = []
        context = self.client_context(plan, contexts) if plan.tls is not None else None
        for endpoint in plan.endpoints:
            settings = (plan.connect_timeout_ns, plan.idle_timeout_ns, plan.max_idle)
            key = (
                plan.protocol, plan.name, endpoint.address, endpoint.host, context, plan.keepalive, plan.source,
                *settings,
            )
            channel = channels.get(key) or self.channels.get(key)
            if channel is None:
                address = self.make_address(plan, endpoint, context)
                if plan.protocol in ("tcp", "udp"):
                    channel = address
                elif plan.protocol == "http":
                    channel = Http1Pool(self.poller, address, *settings)
                else:
                    channel = self.context.channel(address, plan.connect_timeout_ns)
            channels[key] = channel
            made.append(channel)
        leaving = None
        if plan.leaving:
            # Nobody is picked among them; their policy is as good as any.
            rest = replace(plan, endpoints=plan.leaving, leaving=(), groups=(), policy=PolicyPlan("random"))
            leaving = self.make_pool(rest, channels, contexts, queue, len(self.pools))
        elif number < len(self.pools) and plan == self.plan.pools[number]:
            old = self.pools[number]
            if old.queue is queue and len(made) == len(old.channels) and all(map(operator.is_, made, old.channels)):
                return old
        pool = Pool(plan, self.segment, made, queue, leaving)
        if plan.policy.key == "text":
            pool.key_text = TextKey(plan.policy.key_name)
        if plan.cache is not None:
            pool.cache_rules = PoolRules(plan.cache)
        if plan.count_models:
            pool.counts = self.counts.setdefault(plan.name, ModelCounts())
        if plan.protocol != "udp" and (plan.on_marked_down != "keep" or plan.on_marked_up != "keep"):
            pool.marks = PoolMarks(
                self.poller, pool.endpoints, tuple(group // 2 for group in plan.groups),
                plan.on_marked_down == "shutdown_sessions", plan.on_marked_up == "shutdown_backup_sessions")
        add_prober(self.poller, pool)
        return pool

    def commit(self, plan, sockets, tables, channels, made, secured, udp, pools, queues):
        for name, listener in made.items():
            listener.start(duplicate(sockets[name]))
        self.udp.commit(udp)
        kept = {}
        for listener in plan.listeners:
            if listener.name in tables:
                kept.update({place: listener.at(bind) for place, bind in listener.places().items()})
        for place in [p for p in self.listeners if p in made or p not in kept]:
            self.give_up(self.listeners.pop(place))
        for place, listener in kept.items():
            if place not in made:
                self.listeners[place].update(
                    listener, self.segment, tables[listener.name], secured[listener.name])
        self.listeners.update(made)
        self.sniffer.listeners = self.listeners
        self.descriptors = dict(sockets)
        old, self.channels = self.channels, channels
        for key, channel in old.items():
            if key not in channels:
                self.retire(channel)
        self.commit_queues(plan, pools, queues)
        self.commit_probers(pools)
        formed = {pool.name: pool for pool in pools}
        self.former.update(set(self.pools).difference(pools))
        for pool in self.former:              # all of them: one that led to the next would keep all between
            pool.newer = formed.get(pool.name, pool.newer)
        self.follow_pools(formed)
        self.plan, self.pools = plan, pools
        for name in self.counts.keys() - formed.keys():
            del self.counts[name]
        self.tables = Tables(plan, tables, pools)
        self.context.commit(plan)
        # A client that sends its key to the wrong listener, host or path still sends it.
        self.access.hides_queries = any([provider.query for provider in plan.providers])
        self.access.enable(plan.access_log.path != "")
        limit_connections(room(plan).connections)
        self.overload.limit(plan.limits.max_in_flight, plan.limits.max_memory)

    def commit_queues(self, plan, pools, queues):
        """Who waits for a pool goes on waiting for its new form; where nobody needs to any more, they find that out."""
        for pool, pool_plan in zip(pools, plan.pools, strict=True):
            if pool.queue is not None:
                pool.queue.adopt(pool, pool_plan.queue)
            elif pool.name in self.queues:
                self.queues[pool.name].release(pool)
        old, self.queues = self.queues, queues
        for name in old.keys() - queues.keys():
            old[name].tell_start(GONE)
        started = {pool.name for pool in plan.pools if pool.managed or pool.on_demand}
        self.starts = {name: start for name, start in self.starts.items() if name in started}
        for pool in pools:
            if pool.name in self.starts:
                pool.tell_start(self.starts[pool.name])
        self.wakeups.wakes.difference_update([q for name, q in old.items() if name not in queues and not len(q)])

    def commit_probers(self, pools):
        """Endpoints are asked for the pools in use only: those that are gone may still have exchanges."""
        for pool in set(self.pools).difference(pools):
            if pool.prober is not None:
                pool.prober.stop()
        for pool in pools:
            if pool.prober is not None:
                pool.prober.start()

    def forget(self, routes):
        """Frees the routes of a table that is gone, a few at a time."""
        del routes[-FORGET:]
        if routes:
            self.poller.loop.call_soon(self.forget, routes)

    def retire(self, channel):
        """A channel of an endpoint that is gone: its connections close when the last of their exchanges is over."""
        if isinstance(channel, Http1Pool):
            channel.close()
        elif isinstance(channel, Http2Channel):
            channel.retire()

    def stop_accepting(self, replaced: bool = False) -> None:
        """Leave new connections to others; those that are open go on. `replaced`: others take datagrams, too."""
        for listener in self.listeners.values():
            self.give_up(listener)
        self.listeners = {}
        self.udp.stop_accepting(replaced)

    def end_datagrams(self) -> None:
        """Give up the sockets of datagrams, with their sessions: nothing else makes their addresses free."""
        self.udp.close()

    def give_up(self, listener):
        """No new connections; its count outlives it."""
        listener.halt()
        self.refused += refused_by(listener)

    def leave(self) -> None:
        """Another worker takes the new connections: those of clients that are open go on to their next answer, or to
        their idle timeout, and HTTP/2 ones are told to leave. A `drain` may follow."""
        self.leaving = self.draining = True
        for queue in self.queues.values():
            queue.tell_start(STOPPING)
        self.admission.drain()
        for connection in list(self.connections):
            # HTTP/1 has no word for it: a request may be on its way to a connection that is closed.
            if isinstance(connection, Http2Connection):
                connection.close_if_idle()

    def drain(self) -> None:
        """Close what is idle; every answer from now on closes its connection."""
        self.draining = True
        self.leaving = False
        for queue in self.queues.values():
            queue.tell_start(STOPPING)
        self.admission.drain()
        for connection in list(self.connections):
            connection.close_if_idle()

    def explain(self, asked: Described) -> dict[str, Any]:
        """What would become of a request: see lb.proxy.exchange.explain.described. Raises TidegateError."""
        if self.tables is None:
            raise TidegateError("there is no plan yet")
        return explain(self.tables, asked, monotonic_ns())

    def model_counts(self, pool: str) -> list[tuple[str, list[int]]]:
        """Inferences of a pool by model, where they are counted: as lb.upstream.model_counts has them."""
        counts = self.counts.get(pool)
        return counts.rows() if counts is not None else []

    def busy(self) -> int:
        """Exchanges and sessions in flight; during a drain also the answers that their clients have not taken yet, and
        after `leave` all connections."""
        busy = self.admission.in_flight() + self.tcp.in_flight() + self.udp.in_flight()
        if self.leaving:
            return max(busy, len(self.connections))
        if self.draining:
            busy += sum(connection.finishing() for connection in self.connections)
        return busy

    def stats(self) -> dict[str, int | str]:
        """Counts for the status page."""
        return {
            "connections": len(self.connections),
            "exchanges": self.admission.in_flight(),
            "sessions": self.tcp.in_flight(),
            "udp_sessions": self.udp.in_flight(),
            "sources": self.poller.sources,
            "access_log_dropped": self.access.dropped,
            "access_log_errors": self.access.write_errors,
            "access_log_trouble": self.access.trouble,
            **{f"refused_{reason}": n for reason, n in self.refusals().items()},
            **self.sniffer.stats(),
            "refused_overload": self.overload.refused,
            **mirror.counts(),
            **authorization.counts(),
            **tracking.counts(),
            **delay.counts(),
        }

    def comparisons(self) -> list[dict[str, Any]]:
        """What comparisons of mirrors' answers have found since the last time (lb.proxy.exchange.mirror.report)."""
        return report.taken()

    def refusals(self):
        """Connections refused for where they came from, by reason."""
        found = Counter(dict.fromkeys(("source-limit", "connection-rate", "denied"), 0))
        for counts in (self.refused, *map(refused_by, self.listeners.values())):
            found.update(counts)
        return found

    def tier_status(self) -> dict[str, Any] | None:
        """How the cache tier is (lb.cache.tiers.tier.TierStatus); None where there is none."""
        status = self.context.tier_status()
        return None if status is None else status.to_dict()

    def close(self) -> None:
        """Close everything at once."""
        self.stop_accepting()
        self.context.close()
        for connection in list(self.connections):
            connection.close()
        self.udp.close()
        self.commit_probers([])
        for channel in self.channels.values():
            if not isinstance(channel, Address):
                channel.close()
        self.channels = {}
        self.access.close()
        self.wakeups.close()
        self.tools.close()
        self.tools.providers = {}
        self.close_providers()
        self.overload.close()
        self.admission.close()
        self.poller.close()
