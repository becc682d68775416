"""A route to its plan: one spelling for each condition and action, references as indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from lb.config.plan.caching import FreshnessPlan
from lb.config.plan.places import MODELS, place_of
from lb.config.plan.plan import PRIORITIES, RoutePlan
from lb.config.plan.routes import (
    SERVER_CALLS,
    AnswerPlan,
    BandwidthPlan,
    ComparePlan,
    ConditionPlan,
    FieldsPlan,
    HedgePlan,
    MirrorPlan,
    NormalizePlan,
    RatePlan,
    RetryPlan,
    RewritePlan,
    SharePlan,
    SplitPlan,
)
from lb.config.schema.pools.pool import KeyConfig
from lb.config.schema.routes.bandwidth import bandwidth_plan
from lb.config.schema.routes.bodies import content_type
from lb.config.schema.routes.cache import RouteCacheConfig, freshness_plan
from lb.config.schema.routes.cache_key import cache_key_plan
from lb.config.schema.routes.compression import compression_plan, decompression_plan
from lb.config.schema.routes.cors import cors_plan
from lb.config.schema.routes.error_pages import error_page_plans
from lb.config.schema.routes.http_cache import http_cache_plan
from lb.config.schema.routes.match import HOW, Conditions, Group, MatchConfig, NormalizeConfig, TextMatch
from lb.config.schema.routes.rate import rate_plan
from lb.config.schema.routes.response_rewrite import response_rewrite_plan
from lb.config.schema.routes.retry import NO_HEDGE, NO_RETRY, HedgeConfig
from lb.config.schema.routes.route import (
    FieldsConfig,
    MirrorConfig,
    PathRewriteConfig,
    RouteConfig,
    ShareConfig,
)
from lb.config.schema.routes.template import Template, parts_of, substitution_of, with_captures
from lb.config.schema.tables import comparisons_of
from lb.config.values import escaped, has_values, renamed

_PER_PERCENT = 10_000  # millionths


def compile_route(
    route: RouteConfig,
    name: str,
    series: int,
    pools: Mapping[str, int],
    cached: bool,
    files: Mapping[Path, bytes],
    canary: float = 0.0,
) -> RoutePlan:
    """The plan of `route`; `pools` maps names to indices. `cached`: there is a cache for its answers. `files` has what
    files of bodies hold; KeyError where it was read for another configuration. `canary` is the share of the requests
    that its canary gets, in percent."""
    host, host_regex, path_kind, path = place_of(route.match)
    return RoutePlan(
        name=name,
        series=series,
        pool=pools[route.pool] if route.pool is not None and route.canary is None else -1,
        host=host,
        host_regex=host_regex,
        path_kind=path_kind,
        path=path,
        methods=tuple(route.match.method or ()),
        conditions=tuple(conditions_of(route.match)),
        cache=cached,
        cache_key=cache_key_plan(route.cache) if cached and route.cache is not None else None,
        timeout_ns=route.timeout or 0,
        max_body=route.max_body,
        freshness=_freshness(route.cache) if cached else None,
        client_tags=cached and route.cache is not None and route.cache.client_tags,
        results_by_get=cached and route.cache is not None and route.cache.results_by_get,
        expose_endpoint=route.expose_endpoint,
        split=_split(route, pools, canary) if route.pools or route.canary is not None else None,
        mirror=_mirror(route.mirror, pools) if route.mirror is not None else None,
        answer=_answer(route, files),
        rewrite=_rewrite(route, route.rewrite or route.redirect),
        rewrite_host=(route.rewrite.host or "") if route.rewrite is not None else "",
        request_fields=_fields(route, route.request_headers),
        response_fields=_fields(route, route.response_headers),
        response_rewrite=response_rewrite_plan(route),
        response_timeout_ns=-1 if route.response_timeout is None else route.response_timeout,
        max_in_flight=route.max_in_flight or 0,
        retry=_retry(route),
        hedge=_hedge(route.hedge),
        safe_retries=route.retry is None,
        safe_hedges=route.hedge is None,
        idempotent=route.idempotent,
        idempotency_key=route.idempotency_key,
        rate_limit=_rate(route),
        priority=PRIORITIES.index(route.priority),
        cors=cors_plan(route.cors),
        bare_streams=route.stream_messages == "mlserver",
        http_cache=http_cache_plan(route.http_cache),
        compression=compression_plan(route.compression),
        decompression=decompression_plan(route.decompression),
        bandwidth=_bandwidth(route),
        error_pages=error_page_plans(route.error_pages, files),
        log_fields=_log_fields(route),
        server_calls=sum(1 << SERVER_CALLS.index(name) for name in set(route.server_calls)),
    )


def _freshness(cache: RouteCacheConfig | None) -> FreshnessPlan | None:
    plan = freshness_plan(cache) if cache is not None else FreshnessPlan()
    return None if plan == FreshnessPlan() else plan


def compile_normalize(config: NormalizeConfig) -> NormalizePlan | None:
    """None when nothing is to be done."""
    plan = NormalizePlan(config.decode, config.dot_segments, config.merge_slashes, config.escaped_slash)
    return None if plan == NormalizePlan(False, False, False, "keep") else plan


def conditions_of(match: MatchConfig) -> Iterator[ConditionPlan]:
    """The conditions of `match` besides host, path and method, cheap ones first."""
    if match.grpc is not None:
        yield ConditionPlan("grpc")
    if match.source is not None:
        yield ConditionPlan("source", networks=tuple(match.source))
    if match.not_source is not None:
        yield ConditionPlan("source", invert=True, networks=tuple(match.not_source))
    if match.model is not None and place_of(match)[2:] == ("prefix", MODELS):
        if match.model.regex is not None:
            yield ConditionPlan("model", how="regex", value=f"^(?:{match.model.regex})$")
        elif match.model.exact is not None:
            yield ConditionPlan("model", how="exact", value=match.model.exact)
        else:
            yield ConditionPlan("model", how="prefix", value=match.model.prefix or "")
    yield from _conditions(match)
    if match.any:
        yield ConditionPlan("any", groups=tuple(map(_group, match.any)))
    if match.none:
        yield ConditionPlan("any", invert=True, groups=tuple(map(_group, match.none)))


def _conditions(match: MatchConfig | Conditions) -> Iterator[ConditionPlan]:
    """Those that a route's `match` and its groups have alike."""
    for name, text in match.headers.items():
        yield _text("header", name.lower(), text)
    for name, text in match.cookies.items():
        yield _text("cookie", name, text)
    for name, text in match.query.items():
        yield _text("query", name, text)
    for name, text in match.maps.items():
        yield _text("map", name, text)
    for each in comparisons_of(match.tables):
        yield ConditionPlan("table", each.table, "comparison", comparison=each)


def _group(group: Conditions) -> tuple[ConditionPlan, ...]:
    found: list[ConditionPlan] = []
    if group.method is not None:
        found.append(ConditionPlan("method", how="one_of", texts=tuple(group.method)))
    if group.source is not None:
        found.append(ConditionPlan("source", networks=tuple(group.source)))
    if group.not_source is not None:
        found.append(ConditionPlan("source", invert=True, networks=tuple(group.not_source)))
    if group.host is not None:
        found.append(_text("host", "", group.host))
    if group.path is not None:
        found.append(_text("path", "", group.path))
    found += _conditions(group)
    if isinstance(group, Group):
        for groups, invert in ((group.any, False), (group.none, True)):
            if groups:
                found.append(ConditionPlan("any", invert=invert, groups=tuple(map(_group, groups))))
    return tuple(found)


def _text(what: str, name: str, match: TextMatch) -> ConditionPlan:
    for how in HOW:
        value = getattr(match, how)
        if value is not None:
            return ConditionPlan(what, name, how, value, match.invert)
    if match.one_of is not None:
        return ConditionPlan(what, name, "one_of", invert=match.invert, texts=tuple(match.one_of))
    if match.map is not None:
        return ConditionPlan(what, name, "map", match.map, match.invert)
    return ConditionPlan(what, name, "present", "", match.invert != match.absent)


def key_of(key: KeyConfig | None) -> tuple[str, str, int, int, int, int]:
    """Kind and name of a key, the prefixes of a source, and how much of a path or URI counts, as in PolicyPlan."""
    if key is None:
        return "", "", 32, 128, 0, 0
    for kind in ("header", "cookie", "query", "text"):
        value = getattr(key, kind)
        if value is not None:
            return kind, value.lower() if kind == "header" else value, 32, 128, 0, 0
    for kind in ("path", "uri"):
        part = getattr(key, kind)
        if part is not None:
            return kind, "", 32, 128, part.depth or 0, part.length or 0
    if key.source is None:
        return "model", "", 32, 128, 0, 0
    return "source", "", key.source.ipv4_prefix, key.source.ipv6_prefix, 0, 0


def _bandwidth(route: RouteConfig) -> BandwidthPlan | None:
    plan = bandwidth_plan(route.bandwidth)
    return replace(plan, key_name=_numbered(route, plan.key_name)) if plan is not None else None


def _rate(route: RouteConfig) -> RatePlan | None:
    plan = rate_plan(route.rate_limit)
    return replace(plan, key_name=_numbered(route, plan.key_name)) if plan is not None else None


def compile_split(
    shares: Sequence[ShareConfig], sticky: KeyConfig | None, pools: Mapping[str, int], by: str = ""
) -> SplitPlan:
    """The plan of `shares`; `by` is a text that names one of them."""
    return SplitPlan(tuple(SharePlan(pools[each.pool], each.weight) for each in shares), *key_of(sticky), by=by)


def _split(route: RouteConfig, pools: Mapping[str, int], canary: float) -> SplitPlan:
    if route.pool is None or route.canary is None:
        return compile_split(route.pools, route.sticky, pools, _numbered(route, route.pool_by or ""))
    weight = round(canary * _PER_PERCENT)
    # The canary first: who is with it by `sticky` stays so while its share grows.
    shares = (
        SharePlan(pools[route.canary.pool], weight),
        SharePlan(pools[route.pool], 100 * _PER_PERCENT - weight),
    )
    return SplitPlan(shares, *key_of(route.sticky), by=_numbered(route, route.pool_by or ""))


def _mirror(mirror: MirrorConfig, pools: Mapping[str, int]) -> MirrorPlan:
    per_million = max(1, round(mirror.percent * _PER_PERCENT))
    compare = mirror.compare
    compared = None
    if compare is not None:
        compared = ComparePlan(compare.absolute, compare.relative, compare.nan_equal, compare.max_answer)
    return MirrorPlan(pools[mirror.pool], per_million, mirror.max_in_flight, mirror.max_bytes, compared)


def _answer(route: RouteConfig, files: Mapping[Path, bytes]) -> AnswerPlan | None:
    redirect, respond = route.redirect, route.respond
    if respond is not None:
        fields = _lines(route, respond.headers)
        if respond.file is not None:
            if not any(name.lower() == "content-type" for name in respond.headers):
                fields = (*fields, ("Content-Type", content_type(respond.file)))
            return AnswerPlan(respond.status, fields, files[respond.file])
        if has_values(text := _numbered(route, respond.body)):
            return AnswerPlan(respond.status, fields, text=text)
        return AnswerPlan(respond.status, fields, text.encode())
    if redirect is not None:
        return AnswerPlan(
            redirect.status,
            redirect=True,
            scheme=redirect.scheme or "",
            host=_numbered(route, redirect.host or ""),
            drop_query=redirect.drop_query,
            location=_numbered(route, redirect.location or ""),
        )
    return None


def _rewrite(route: RouteConfig, rewrite: PathRewriteConfig | None) -> RewritePlan | None:
    if rewrite is None:
        return None
    if rewrite.prefix is not None:
        assert route.match.path is not None
        if has_values(rewrite.prefix):
            return RewritePlan("format", (_numbered(route, rewrite.prefix),), route.match.path.prefix or "")
        return RewritePlan("prefix", (rewrite.prefix,), route.match.path.prefix or "")
    if rewrite.regex is not None:
        return RewritePlan("regex", substitution_of(rewrite.regex.substitution), rewrite.regex.pattern)
    if rewrite.path is not None:
        template = route.match.path.template if route.match.path is not None else None
        if has_values(rewrite.path):
            return RewritePlan("format", (_numbered(route, with_captures(rewrite.path)),))
        if template is None:
            return RewritePlan("path", parts_of(rewrite.path, ()))
        parsed = Template.parse(template)
        return RewritePlan("path", parts_of(rewrite.path, parsed.names), parsed.key.decode("latin-1"))
    return None


def _fields(route: RouteConfig, fields: FieldsConfig | None) -> FieldsPlan | None:
    if fields is None:
        return None
    return FieldsPlan(
        tuple(name.lower() for name in fields.remove), _lines(route, fields.set), _lines(route, fields.add)
    )


def _lines(route: RouteConfig, fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _numbered(route, value)) for name, value in fields.items())


def _log_fields(route: RouteConfig) -> str:
    """A text of the JSON that the access log gets; "" where the route has no fields of its own."""
    fields = (f'"{name}":"{escaped(_numbered(route, text))}"' for name, text in route.log_fields.items())
    return "{" + ",".join(fields) + "}" if route.log_fields else ""


def _numbered(route: RouteConfig, text: str) -> str:
    """`text` with the numbers of its captures: names mean nothing without the route's path."""
    return renamed(text, route.captures) if has_values(text) else text


def _retry(route: RouteConfig) -> RetryPlan | None:
    retry = route.retry
    if retry is None or retry == NO_RETRY:
        return None
    return RetryPlan(
        retry.attempts,
        tuple(retry.on),
        retry.per_attempt_timeout or 0,
        retry.budget,
        retry.budget_min,
        retry.backoff.base,
        retry.backoff.longest,
        retry_after_ns=retry.backoff.retry_after,
    )


def _hedge(hedge: HedgeConfig | None) -> HedgePlan | None:
    if hedge is None or hedge == NO_HEDGE:
        return None
    per_mille, delay = hedge.when
    return HedgePlan(per_mille, delay, hedge.samples, hedge.budget, hedge.budget_min)
