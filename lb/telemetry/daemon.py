"""Metrics of the daemon itself, from the status document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric

from lb.telemetry.families import counter, gauge


def families(status: Mapping[str, Any]) -> Iterator[Metric]:
    """What `status` says of the daemon, its workers, the result cache, jobs and the certificates in use."""
    yield from _daemon(status)
    yield from _cache(status)
    yield from _jobs(status.get("jobs"))
    yield from _alerts(status.get("alerts"))
    yield from _certificates(status)


def kernel_drops(drops: Mapping[str, int]) -> Iterator[Metric]:
    """Datagrams that the sockets of udp listeners had no room for, by listener."""
    if drops:
        yield counter(
            "udp_kernel_dropped_datagrams",
            "Datagrams that came faster than the workers took them",
            ("listener",),
            (((name,), n) for name, n in drops.items()),
        )


def _daemon(status: Mapping[str, Any]) -> Iterator[Metric]:
    yield gauge(
        "build_info", "Always 1; the label has the version of the daemon", ("version",), [((status["version"],), 1)]
    )
    yield gauge("start_time_seconds", "Unix time of the daemon's start", (), [((), status["started_at"])])
    yield gauge(
        "plan_generation",
        "Generation of the plan in force; another one after each reload and each change of endpoints",
        (),
        [((), status["generation"])],
    )
    yield counter("reloads", "Reloads by outcome", ("result",), (((k,), n) for k, n in status["reloads"].items()))
    last = status["last_reload"]
    yield gauge(
        "last_reload_success",
        "0 since the last reload was refused, 1 else: the old configuration stays until a reload succeeds",
        (),
        [((), last is None or last["ok"])],
    )
    yield gauge(
        "changes_at_run_time",
        "Settings, and states, weights and limits of endpoints, that operators have changed since the file was loaded",
        (),
        [((), len(status.get("changes", ())))],
    )
    workers = status["workers"]
    yield gauge(
        "worker_up",
        "1 while the worker runs",
        ("worker",),
        (((str(w["index"]),), w["state"] == "running") for w in workers),
    )
    yield counter(
        "worker_restarts",
        "Times that the worker died or hung and was replaced",
        ("worker",),
        (((str(w["index"]),), w["restarts"]) for w in workers),
    )
    for name, text, key in (
        (
            "worker_overload_refused",
            "Requests refused because the worker had too much in flight or in memory",
            "refused_overload",
        ),
        (
            "worker_records_dropped",
            "Access records that were not written, as the log did not take them in time",
            "access_log_dropped",
        ),
        ("worker_mirror_requests", "Copies of requests that mirrors made, those that failed included", "mirrored"),
        (
            "worker_mirror_failures",
            "Of these, those without an endpoint, a connection, or an answer in time; answers are counted by pool",
            "mirror_failed",
        ),
        (
            "worker_mirror_skipped",
            "Copies that were not made: a limit of the mirror was reached, or the request was not kept whole",
            "mirror_skipped",
        ),
        ("worker_auth_requests", "Questions to authorization servers", "auth_asked"),
        ("worker_auth_remembered", "Requests decided by an answer that was remembered", "auth_remembered"),
        ("worker_auth_denied", "Answers of authorization servers that denied a request", "auth_denied"),
        ("worker_auth_failures", "Questions to authorization servers that brought no decision", "auth_failed"),
        (
            "worker_auth_let_through",
            "Questions without a decision whose requests were let through, by `failure_mode_allow`",
            "auth_let_through",
        ),
    ):
        yield counter(name, text, ("worker",), (((str(w["index"]),), (w["stats"] or {}).get(key, 0)) for w in workers))
    yield counter(
        "source_limit_table_full",
        "Connections and sessions that limits per source counted in their worker alone: no room in the table of all",
        (),
        [((), status.get("source_limits", {}).get("table_full", 0))],
    )
    yield counter(
        "rate_limit_evictions",
        "Rate limit buckets that made room for others before they were full again",
        (),
        [((), status.get("rate_limits", {}).get("evicted", 0))],
    )
    quotas = status.get("quotas", {})
    rows = quotas.get("quotas", ())
    for name, text in (
        ("clients", "Clients that have used something of the quota in the window that runs"),
        ("exhausted", "Clients that have used all of the quota in the window that runs"),
        ("used", "Requests that all clients have used of the quota in the window that runs"),
    ):
        yield gauge(f"quota_{name}", text, ("quota",), (((row["name"],), row[name]) for row in rows))
    yield counter(
        "quota_evictions",
        "Clients whose use of a quota was forgotten before its window was over: the table was full",
        (),
        [((), quotas.get("evicted", 0))],
    )
    tables = status.get("tables", ())
    for name, text in (
        ("evictions", "Entries of the stick table that made room for others before they expired"),
        (
            "refusals",
            "Requests that were not counted in the stick table, as all entries that their key could have were in use",
        ),
    ):
        field = "evicted" if name == "evictions" else "refused"
        yield counter(f"table_{name}", text, ("table",), (((row["name"],), row[field]) for row in tables))
    yield gauge(
        "table_capacity",
        "Entries that the stick table may have",
        ("table",),
        (((row["name"],), row["capacity"]) for row in tables),
    )
    if peers := status.get("peers"):
        yield from _peers(peers)
    for name, text in (
        ("table_denied", "Requests that a rule of stick tables has denied"),
        ("table_tarpitted", "Those of them whose refusal was held back"),
    ):
        rows = (((str(w["index"]),), (w["stats"] or {}).get(name, 0)) for w in workers)
        yield counter(f"{name.replace('table_', 'table_rules_')}", text, ("worker",), rows)
    yield gauge(
        "tarpit_requests", "Requests whose refusal is held back now", ("worker",),
        (((str(w["index"]),), (w["stats"] or {}).get("tarpit_held", 0)) for w in workers),
    )  # fmt: skip
    yield counter(
        "quota_save_errors",
        "Times that the counts of quotas could not be written to their file",
        (),
        [((), quotas.get("save_errors", 0))],
    )
    yield counter(
        "mirror_comparisons",
        "Answers to copies compared with their originals', by result; skipped: too large, compressed, or none came",
        ("route", "result"),
        (
            ((row["route"], result), row[result])
            for row in status.get("comparisons", ())
            for result in ("equal", "different", "skipped")
        ),
    )
    canaries = status.get("canaries", ())
    yield gauge(
        "canary_percent",
        "Share of the route's requests that its canary gets",
        ("route", "pool"),
        (((row["route"], row["pool"]), row["percent"]) for row in canaries),
    )
    yield gauge(
        "canary_phase",
        "1 for the phase in which the canary is: waiting, progressing, promoted or aborted",
        ("route", "pool", "phase"),
        (((row["route"], row["pool"], row["phase"]), 1) for row in canaries),
    )
    yield gauge(
        "worker_connections", "Connections of clients that the worker has open", ("worker",),
        (((str(w["index"]),), (w["stats"] or {}).get("connections", 0)) for w in workers),
    )  # fmt: skip
    yield counter(
        "connections_refused",
        "Connections of clients that were closed before their first request, by reason",
        ("worker", "reason"),
        (
            ((str(w["index"]), key.removeprefix("refused_")), n)
            for w in workers
            for key, n in (w["stats"] or {}).items()
            if key.startswith("refused_")
        ),
    )


# Counters of the result cache, by their names in the status document.
_CACHE = {
    "hits": "Look-ups of the result cache that found a fresh answer",
    "stale": "Look-ups of the result cache that found an answer past its time to live",
    "misses": "Look-ups of the result cache that found nothing of use",
    "stored": "Answers that the result cache took",
    "rejected_busy": "Answers that the result cache did not take: another process held the shard",
    "rejected_size": "Answers that the result cache did not take: larger than max_object",
    "rejected_value": "Answers that the result cache did not take: they save less per byte than what is there",
    "rejected_purged": "Answers that the result cache did not take: one of their tags was purged while they were made",
    "evictions": "Fresh answers that made room for others",
    "expired": "Stale and purged answers whose memory was taken back",
    "purges": "Tags of the result cache that were purged",
    "corrupt": "Damage found in the result cache; what is damaged is not answered with",
    "broken_locks": "Locks of the result cache that were taken from dead processes; the shard is emptied",
    "flights_followed": "Flights in which a worker waited for the answer that another worker had asked for",
    "flights_promoted": "Flights that a worker took over from one that was dead or hung",
    "flights_unshared": "Flights that ended without an answer to share; workers that waited asked for themselves",
    "flights_full": "Flights of a worker alone, since the table of the flights of all workers had no room",
}


# Results of gets from the cache tier, by their names in the status document.
_GETS = {
    "hits": "hit",
    "misses": "miss",
    "invalid": "invalid",
    "timeouts": "timeout",
    "errors": "error",
    "skipped": "skipped",
}


def _tier(tier: Mapping[str, Any] | None) -> Iterator[Metric]:
    if not tier:
        return
    processes = tier["processes"]
    yield counter(
        "cache_tier_gets",
        "Answers that were looked for in the cache tier; invalid: not written with our secret; skipped: "
        "not asked, since its breaker was open or too many were on their way",
        ("process", "result"),
        [((process, result), row[key]) for process, row in processes.items() for key, result in _GETS.items()],
    )
    yield counter(
        "cache_tier_puts",
        "Answers for the cache tier; dropped: the queue or the server had no room, or the tier was down",
        ("process", "result"),
        [((process, key), row[key]) for process, row in processes.items() for key in ("stored", "dropped")],
    )
    yield gauge(
        "cache_tier_up",
        "1 while the process asks the cache tier, 0 while its breaker is open",
        ("process",),
        [((process,), int(row["state"] == "closed")) for process, row in processes.items()],
    )
    yield counter(
        "cache_tier_breaker_opened",
        "Times that the breaker of the cache tier opened, after failures or slow answers",
        ("process",),
        [((process,), row["opened"]) for process, row in processes.items()],
    )
    yield counter(
        "cache_tier_purges",
        "Purges for the cache tier, by this daemon; and told by it, by any daemon",
        ("direction",),
        [((direction,), tier[key]) for direction, key in (("sent", "purges"), ("heard", "invalidations"))]
        if tier
        else [],
    )
    yield gauge(
        "cache_tier_pending_purges",
        "Tags whose purges the cache tier does not know yet",
        (),
        [((), tier["pending_purges"])],
    )


# Counters of the cache's disk, by their names in the status document.
_DISK = {
    "hits": "Answers that were found on disk, since memory did not have them",
    "stored": "Answers that were written to disk",
    "evictions": "Answers on disk that made room for others",
    "dropped": "Answers that were not written to disk: too large, too many at once, or the disk failed",
    "damaged": "Files that were torn or damaged, and removed",
    "errors": "Failures of the disk",
}


def _cache(status: Mapping[str, Any]) -> Iterator[Metric]:
    cache = status["cache"]
    if not cache or "entries" not in cache:
        return
    yield gauge("cache_entries", "Answers in the result cache", (), [((), cache["entries"])])
    yield gauge("cache_bytes", "Memory of the answers in the result cache, in whole chunks", (), [((), cache["bytes"])])
    yield gauge("cache_capacity_bytes", "Memory that the result cache has for answers", (), [((), cache["capacity"])])
    for name, text in _CACHE.items():
        yield counter(f"cache_{name}", text, (), [((), cache[name])])
    for name, text in _DISK.items():
        yield counter(f"cache_disk_{name}", text, (), [((), cache[f"disk_{name}"])])
    yield gauge("cache_disk_bytes", "Room that the answers on disk take", (), [((), cache["disk_bytes"])])
    yield gauge("cache_disk_failing", "Workers whose disk is full, fails or hangs", (), [((), cache["disk_failing"])])
    yield counter(
        "cache_saved_compute_seconds",
        "Time that endpoints took for the answers which the result cache gave in their place",
        (),
        [((), cache["saved_us"] / 1e6)],
    )
    yield from _tier(cache.get("tier"))
    cdns = cache.get("cdns", ())
    yield counter(
        "cdn_purges",
        "Calls that told a CDN of purges, by whether it took them; those that failed are tried again",
        ("cdn", "result"),
        [
            ((cdn["name"], result), cdn[key])
            for cdn in cdns
            for result, key in (("done", "purges"), ("failed", "failures"))
        ],
    )
    yield gauge(
        "cdn_purges_waiting",
        "Tags that a CDN has yet to be told of",
        ("cdn",),
        (((cdn["name"],), cdn["waiting"]) for cdn in cdns),
    )


def _jobs(jobs: Mapping[str, Any] | None) -> Iterator[Metric]:
    if not jobs:
        return
    yield gauge("jobs_process_up", "1 while the jobs process runs", (), [((), jobs["state"] == "running")])
    yield gauge(
        "jobs_store_up", "1 while the store of jobs can be reached and written", (), [((), not jobs["store_error"])]
    )
    yield counter("jobs_process_restarts", "Replacements of the jobs process", (), [((), jobs["restarts"])])
    yield gauge(
        "jobs",
        "Jobs in the store, by their state; those that are over stay until they expire",
        ("route", "state"),
        (((route, state), number) for route, state, number in jobs["jobs"]),
    )
    yield gauge("jobs_oldest_queued_seconds", "Age of the oldest job that is queued", (), [((), jobs["oldest_s"])])
    for key, name, text in (
        ("submissions", "jobs_submissions", "Submissions of jobs, by what became of them, since the process began"),
        ("ended", "jobs_ended", "Jobs that are over, by their last state, since the process began"),
        ("attempts", "jobs_attempts", "Attempts at jobs, by what became of the job, since the process began"),
        ("webhooks", "jobs_webhooks", "Attempts to tell a webhook, by their outcome, since the process began"),
    ):
        yield counter(name, text, ("result",), (((result,), number) for result, number in jobs[key].items()))


def _alerts(alerts: Mapping[str, Any] | None) -> Iterator[Metric]:
    if not alerts:
        return
    yield gauge(
        "alerts_firing", "Problems that webhooks were told of and that have not ended", (), [((), alerts["firing"])]
    )
    yield gauge("alerts_waiting", "Messages that webhooks have yet to be told", (), [((), alerts["waiting"])])
    yield counter(
        "alerts_deliveries",
        "Attempts to tell a webhook of problems, by their outcome",
        ("result",),
        (((result,), number) for result, number in alerts["deliveries"].items()),
    )


def _certificates(status: Mapping[str, Any]) -> Iterator[Metric]:
    tls = status.get("tls") or {"certificates": (), "reloads": {}}
    rows = {(c["owner"], c["file"]): c["not_after"] for c in tls["certificates"]}
    yield gauge(
        "tls_certificate_not_after_seconds",
        "Unix time at which a certificate in use expires",
        ("owner", "file"),
        rows.items(),
    )
    yield counter(
        "tls_certificate_reloads",
        "Changes of certificates on disk, by result: ok, taken into use; failed, the old ones stay",
        ("result",),
        (((result,), n) for result, n in tls["reloads"].items()),
    )


def _peers(peers: Mapping[str, Any]) -> Iterator[Metric]:
    """Of the tables that several daemons share."""
    yield gauge(
        "peers_connected", "1 if the last exchange with the server of shared tables went well, else 0",
        (), [((), int(peers["connected"]))],
    )  # fmt: skip
    for name, key, text in (
        ("peers_lag_seconds", "lag_s", "Age that the last message of another daemon had when it was counted"),
        (
            "peers_exchange_age_seconds",
            "exchanged_s",
            "Time since the last whole exchange with the server of shared tables",
        ),
    ):
        if peers[key] is not None:
            yield gauge(name, text, (), [((), peers[key])])
    yield counter(
        "peers_messages",
        "Messages of shared tables: sent, received from other daemons, and ignored, written with another secret",
        ("result",),
        (((result,), peers[result]) for result in ("sent", "received", "ignored")),
    )
    for name, key, text in (
        (
            "peers_dropped_entries",
            "dropped",
            "Entries of other daemons that found no room in the table, or had expired",
        ),
        ("peers_failures", "failures", "Exchanges with the server of shared tables that failed"),
    ):
        yield counter(name, text, (), [((), peers[key])])
