"""The `scaling` section: its rules, their options, and combinations that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.config.load import load
from lb.config.schema.file import ScalingConfig
from lb.config.units import SECOND
from lb.errors import ConfigError

FILE = """\
listeners: {{web: {{bind: "127.0.0.1:8080", protocol: http, routes: [{{pool: m}}]}}}}
pools:
  m:
    protocol: oip
    serve: {{models: ., min: 1, max: 3}}
    scaling: {section}
"""


def section(folder: Path, text: str) -> ScalingConfig:
    path = folder / "t.yaml"
    path.write_text(FILE.format(section=text))
    scaling = load(path).pools["m"].scaling
    assert scaling is not None
    return scaling


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        section(folder, text)
    return [p.removeprefix(f"{folder}/t.yaml:6: pools.m.scaling") for p in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{}", "auto"),
        ("{objective: 200ms, forecast: dry_run}", "auto"),
        ("{schedules: [{from: 2026-12-24, min: 2}]}", "auto"),
        ("{tolerance: 0.2}", "hpa"),
        ("{metrics: [{type: in_flight, target: 2}]}", "hpa"),  # as files had it before there were rules
        ("{rule: hpa}", "hpa"),
        ("{rule: kpa}", "kpa"),
        ("{kpa: {target: 10}}", "kpa"),
        ("{step: {cooldown: 10s}}", "step"),
        ("{rule: target_tracking, target_tracking: {metrics: [{type: queue_wait, target: 250ms}]}}", "target_tracking"),
        ("{ray: {target_ongoing_requests: 1.5, upscale_delay: 5s}}", "ray"),
    ],
)
def test_rules(tmp_path: Path, text: str, rule: str) -> None:
    assert section(tmp_path, text).rule == rule


def test_kubernetes_default_is_eighty_percent_of_a_core(tmp_path: Path) -> None:
    metrics = section(tmp_path, "{rule: hpa}").metrics
    assert [(metric.type, metric.target) for metric in metrics] == [("cpu", 80)]


def test_a_wait_is_aimed_at_as_a_duration(tmp_path: Path) -> None:
    metrics = section(tmp_path, "{metrics: [{type: queue_wait, target: 1500ms}]}").metrics
    assert metrics[0].target == 1.5  # seconds
    assert problems(tmp_path, "{metrics: [{type: queue_wait, target: 2}]}")[0].startswith(
        ".metrics[0].target: must be a duration with its unit"
    )
    assert "is not a duration" in problems(tmp_path, "{metrics: [{type: queue_wait, target: 2 sec}]}")[0]
    assert problems(tmp_path, "{metrics: [{type: queue_wait, target: 0s}]}")
    assert problems(tmp_path, "{metrics: [{type: cpu, target: 250ms}]}")


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("{rule: kpa, metrics: [{type: cpu, target: 1}]}", ".metrics", "only with rule hpa"),
        ("{rule: target_tracking, metrics: [{type: cpu, target: 1}]}", ".metrics", "target_tracking.metrics"),
        ("{rule: ray, interval: 1s}", ".interval", "only with rule hpa"),
        ("{rule: hpa, kpa: {}}", ".kpa", "only with rule kpa"),
        ("{rule: auto, metrics: [{type: cpu, target: 1}]}", ".metrics", "only with rule hpa"),
        ("{rule: kpa, objective: 200ms}", ".objective", "only with rule auto"),
        ("{rule: hpa, forecast: dry_run}", ".forecast", "only with rule auto"),
        ("{kpa: {}, ray: {}}", ".ray", "only with rule ray"),
        ("{rule: kpa, target: 10}", "", "target is an option of kpa; write kpa: {target: …}"),
        ("{rule: step, alarms: [], cooldown: 3s}", "", "alarms and cooldown are options of step; write step: {alarms:"),
        ("{rule: kap}", ".rule", "kpa"),
        ("{kpa: {target: 0}}", ".kpa.target", "more than 0"),
        ("{kpa: {targets: 3}}", ".kpa.targets", "target"),
        ("{metrics: [{type: cpu, target: 1}, {type: cpu, target: 2}]}", ".metrics[1].type", "twice"),
        (
            "{target_tracking: {metrics: [{type: cpu, target: 1}, {type: cpu, target: 2}]}}",
            ".target_tracking.metrics[1].type", "twice",
        ),
        ("{step: {alarms: [{type: cpu, threshold: 70, steps: []}]}}", ".step.alarms[0].steps", ""),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(tmp_path: Path, text: str, place: str, word: str) -> None:
    found = problems(tmp_path, text)
    assert found[0].startswith(f"{place}: ")
    assert word in found[0]


ABOVE = "{{step: {{alarms: [{{type: cpu, threshold: 70, steps: {steps}}}]}}}}"
BELOW = "{{step: {{alarms: [{{type: cpu, threshold: 30, comparison: below, steps: {steps}}}]}}}}"


@pytest.mark.parametrize(
    ("form", "steps", "place", "word"),
    [
        (ABOVE, "[{lower_bound: 5, adjustment: 1}]", "[0]", "begins at 5"),
        (ABOVE, "[{upper_bound: 5, adjustment: 1}]", "", "end at 5; the last one needs no upper_bound"),
        (ABOVE, "[{upper_bound: 5, adjustment: 1}, {lower_bound: 7, adjustment: 2}]", "[1]", "no gaps"),
        (ABOVE, "[{upper_bound: 5, adjustment: 1}, {lower_bound: 3, adjustment: 2}]", "[1]", "no overlaps"),
        (ABOVE, "[{lower_bound: -5, upper_bound: 0, adjustment: 1}, {adjustment: 2}]", "[0]", "other side"),
        (ABOVE, "[{lower_bound: 5, upper_bound: 5, adjustment: 1}]", "[0]", "not less than upper_bound"),
        (BELOW, "[{lower_bound: -5, adjustment: -1}]", "[0]", "begins at -5"),
        (BELOW, "[{upper_bound: -5, adjustment: -1}]", "", "end at -5; the last one needs upper_bound 0"),
        (BELOW, "[{upper_bound: 5, adjustment: -1}]", "[0]", "other side"),
    ],
)
def test_steps_leave_no_gaps(tmp_path: Path, form: str, steps: str, place: str, word: str) -> None:
    found = problems(tmp_path, form.format(steps=steps))
    assert found[0].startswith(f".step.alarms[0].steps{place}: ")
    assert word in found[0]


def test_adjustments_by_number_and_by_part(tmp_path: Path) -> None:
    exact = "{step: {alarms: [{type: cpu, threshold: 70, adjustment_type: exact_capacity, steps: [{adjustment: -1}]}]}}"
    assert problems(tmp_path, exact)[0].startswith(".step.alarms[0].steps[0].adjustment: ")
    least = "{step: {alarms: [{type: cpu, threshold: 70, min_adjustment_magnitude: 2, steps: [{adjustment: 1}]}]}}"
    assert problems(tmp_path, least)[0].startswith(".step.alarms[0].min_adjustment_magnitude: only with")
    named = "{step: {alarms: [{type: cpu, threshold: 1, adjustment_type: ChangeInCapacity, steps: [{adjustment: 1}]}]}}"
    assert "write change_in_capacity" in problems(tmp_path, named)[0]


def test_the_example_of_aws_is_the_default_of_its_rule(tmp_path: Path) -> None:
    alarms = section(tmp_path, "{rule: step}").step.alarms
    assert [(a.threshold, a.comparison, [s.adjustment for s in a.steps]) for a in alarms] == [
        (60, "above", [10, 30]),
        (40, "below", [-10, -30]),
    ]
    assert section(tmp_path, "{rule: step}").step.cooldown == 300 * SECOND


def test_schedules(tmp_path: Path) -> None:
    text = "{schedules: [{cron: 0 8 * * MON-FRI, timezone: Europe/Berlin, duration: 10h, min: 2}, "
    text += "{from: 2026-12-24, until: 2026-12-26 18:00, max: 1}]}"
    hours, holidays = section(tmp_path, text).schedules
    assert (hours.cron, hours.duration, hours.min, hours.max) == ("0 8 * * MON-FRI", 36_000 * SECOND, 2, None)
    assert (holidays.ends() - holidays.begins()) == 66 * 3600


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("{cron: 0 8 * *, duration: 1h, min: 1}", ".cron", "wrong number of fields; write minute, hour"),
        ("{cron: 99 8 * * *, duration: 1h, min: 1}", ".cron", "bad minute"),
        ("{cron: 0 0 31 2 *, duration: 1h, min: 1}", ".cron", "bad day-of-month"),
        ("{cron: '@daily', duration: 1h, min: 1}", ".cron", "no cron expression"),
        ("{cron: 0 8 * * *, min: 1}", ".duration", "is required with cron"),
        ("{cron: 0 8 * * *, duration: 8, min: 1}", ".duration", "must be a duration"),
        ("{from: 2026-12-24, duration: 8h, min: 1}", ".duration", "only with cron"),
        ("{cron: 0 8 * * *, duration: 1h}", "", "says nothing of the number"),
        ("{min: 2}", "", "says no time"),
        ("{from: 24.12.2026, min: 2}", ".from", "is no date"),
        ("{from: 2026-12-24, until: 2026-12-23, min: 2}", ".until", "is not after from"),
        ("{from: 2026-12-24, timezone: Berlin, min: 2}", ".timezone", "no time zone"),
        ("{from: 2026-12-24, timezone: ../etc/passwd, min: 2}", ".timezone", "no time zone"),
        ("{from: 2026-12-24, min: 3, max: 2}", ".min", "more than max, which is 2"),
        ("{from: 2026-12-24, min: 4}", ".min", "more than max of serve, which is 3"),
        ("{from: 2026-12-24, max: 0}", ".max", "less than min of serve, which is 1"),
    ],
)
def test_schedules_that_are_none(tmp_path: Path, text: str, place: str, word: str) -> None:
    found = problems(tmp_path, f"{{schedules: [{text}]}}")
    assert found[0].startswith(f".schedules[0]{place}: ")
    assert word in found[0]


@pytest.mark.parametrize(
    ("text", "word"), [("min: 4", "more than max of engine, which is 3"), ("max: 0", "less than min of engine")]
)
def test_schedules_beyond_the_numbers_of_an_engine(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "tidegate.yaml"
    of_engine = "discover: {dns: {name: chat, port: 80}}, engine: {external: {}, min: 1, max: 3}"
    scaling = f"scaling: {{schedules: [{{from: 2026-12-24, {text}}}]}}"
    path.write_text(f"listeners: {{}}\npools: {{p: {{protocol: http, {of_engine}, {scaling}}}}}\n")
    with pytest.raises(ConfigError, match=word):
        load(path)


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("{type: cpu, target: 1, quantile: 0.5}", ".quantile", "only with type latency"),
        ("{type: cpu, target: 1, query: up}", ".query", "only with type prometheus"),
        ("{type: prometheus, target: 1, query: up}", ".url", "is required"),
        ("{type: prometheus, target: 1, url: 'http://p:9090'}", ".query", "is required"),
        ("{type: prometheus, target: 1, query: up, url: 'p:9090'}", ".url", "is not the URL of a server"),
        ("{type: prometheus, target: 1, query: up, url: 'http://p:x'}", ".url", "is not the URL of a server"),
        ("{type: latency, target: 200}", ".target", "must be a duration"),
        ("{type: memory, target: 200}", ".target", "must be a size"),
        ("{type: memory, target: 2GB}", ".target", "is not a size"),
    ],
)
def test_signals_that_are_none(tmp_path: Path, text: str, place: str, word: str) -> None:
    found = problems(tmp_path, f"{{metrics: [{text}]}}")
    assert found[0].startswith(f".metrics[0]{place}: ")
    assert word in found[0]


def test_signals(tmp_path: Path) -> None:
    text = "{metrics: [{type: latency, target: 200ms}, {type: latency, quantile: 0.5, target: 50ms}, "
    text += "{type: memory, target: 2GiB}, {type: prometheus, url: 'http://p:9090', query: sum(x), target: 30}]}"
    metrics = section(tmp_path, text).metrics
    assert [metric.signal for metric in metrics] == ["latency_p95", "latency_p50", "memory", "prometheus sum(x)"]
    assert [metric.target for metric in metrics] == [0.2, 0.05, 2 << 30, 30]
    assert [metric.level for metric in metrics] == [True, True, True, False]
