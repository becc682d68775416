"""The page and the plots: well-formed, self-contained, safe, the same twice, and with the samples' own figures."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import html5lib
import pytest
from bench_sample import ATTACK, encoded, latencies, sample_results

from bench.errors import BenchError
from bench.report import words
from bench.report.analysis import figure, values, versus
from bench.report.figures import figures
from bench.report.histograms import curve, merged
from bench.report.page import html
from bench.report.plots import draw, write_all
from bench.report.plots.latency import sweep
from bench.report.plots.palette import INKS, look
from bench.report.plots.series import PANELS, points, typical
from bench.results import Results
from bench.stats import interval

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results() -> Results:
    return sample_results()


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return html(results)


@pytest.fixture(scope="module")
def tree(page: str) -> ET.Element:
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    document: ET.Element = parser.parse(page)
    return document


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_page_is_strict_html_with_unique_ids(tree: ET.Element) -> None:
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    links = [str(e.get("href")) for e in tree.iter() if e.get("href")]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_page_loads_nothing_and_runs_nothing(page: str, tree: ET.Element) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & {str(e.tag) for e in tree.iter()}
    assert not [key for e in tree.iter() for key in e.attrib if str(key).startswith(("on", "src"))]
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r'\bhttps?://[^\s"<]*', page)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_what_others_wrote_is_text(page: str, tree: ET.Element) -> None:
    assert "<script" not in page
    assert ATTACK in "".join(tree.itertext())
    assert "Example CPU <X>" in "".join(tree.itertext())
    assert "listen <port> & serve" in "".join(tree.itertext())  # of a configuration


def test_figures_on_the_page_are_those_of_the_samples(results: Results, tree: ET.Element) -> None:
    sections = {e.get("id"): e for e in tree.iter("section")}
    for outcome in results.outcomes:
        table = next(sections[f"scenario-{outcome.scenario}"].iter("table"))
        names = [text(e) for e in next(table.iter("tr"))][1:]
        assert sorted(names) == sorted(outcome.subjects)
        assert names[0] == "tidegate"
        rows = [[text(e) for e in row] for row in table.iter("tr")][1:]
        assert len(rows) == len(outcome.metrics)
        for metric, (head, *cells) in zip(outcome.metrics, rows, strict=True):
            assert head == f"{metric.title}{metric.better} is better"
            for name, cell in zip(names, cells, strict=True):
                found = values(outcome, name, metric)
                if not found:
                    assert cell == ("cannot" if outcome.subjects[name].cannot else "failed")
                    continue
                middle = sorted(found.values())[len(found) // 2]
                assert cell.startswith(f"{middle:,.{metric.digits}f}")
                compared = versus(outcome, metric, name) if name != "tidegate" else None
                if compared and metric.ratio:
                    ours = values(outcome, "tidegate", metric)
                    ratios = sorted(ours[r] / found[r] for r in found)
                    assert f"{words.times(ratios[len(ratios) // 2])}x" in cell
                    if len(ratios) > 1:
                        low, high = interval(ratios)
                        assert f"({words.times(low)} to {words.times(high)})" in cell
                    assert cell.endswith(compared.ranking)


def test_page_has_every_plot_with_a_title_and_a_description(results: Results, tree: ET.Element) -> None:
    pictures = [e for e in tree.iter() if str(e.tag).endswith("svg") and e.get("role") == "img"]
    assert len(pictures) == sum(len(figures(outcome)) for outcome in results.outcomes)
    by_id = {e.get("id"): text(e) for e in tree.iter() if e.get("id")}
    for picture in pictures:
        title, description = (by_id[i] for i in str(picture.get("aria-labelledby")).split())
        assert title
        assert "tidegate" in description


def test_plots_are_small_well_formed_and_the_same_twice(results: Results, tmp_path: Path) -> None:
    first, second = write_all(results, tmp_path / "a"), write_all(results, tmp_path / "b")
    kinds = {f.kind for outcome in results.outcomes for f in figures(outcome)}
    assert kinds == {"bars", "latency", "load", "series"}
    assert len(first) == len(set(first)) == 12
    known = {ink.light for ink in INKS}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size < 60_000
        root = ET.fromstring(one.read_text())
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title") is not None
        assert list(root.iter(f"{SVG}text"))  # letters, not outlines
        styles = " ".join(str(e.get("style")) for e in root.iter())
        # Each colour has a dark form.
        assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", styles)) <= known


def test_plots_of_a_long_series_and_five_proxies_stay_small(results: Results, tmp_path: Path) -> None:
    long = sample_results()
    outcome = next(o for o in long.outcomes if o.scenario == "autoscale-trace")
    ours = outcome.subjects["tidegate"]
    for sample in ours.samples:
        series = sample.raw["series"]
        sample.raw["series"] = {k: v * 20 if isinstance(v, list) else v for k, v in series.items()}
    outcome.subjects = dict.fromkeys(("tidegate", "haproxy", "nginx", "envoy", "varnish"), ours)
    long.outcomes = [outcome]
    assert all(path.stat().st_size < 60_000 for path in write_all(long, tmp_path))


def test_a_plot_that_cannot_be_written_is_told(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write the plot"):
        write_all(results, tmp_path / "file")


def test_merged_histogram_has_the_percentiles_of_all_values() -> None:
    parts = [latencies(200, 3000, seed, 9000) for seed in range(3)]
    whole = sorted(value for part in parts for value in part)
    found = merged(map(encoded, parts), "x")
    assert found is not None
    x, y = curve(found)
    assert x[0] == 1
    assert x[-1] == len(whole)
    assert y == sorted(y)
    for place, latency in zip(x, y, strict=True):
        rank = max(1, math.ceil(len(whole) * (1 - 1 / place) - 1e-6))
        near = whole[max(0, rank - 2) : rank + 1]
        assert min(near) * 0.998 <= latency <= max(near) * 1.002 + 1
    assert y[-1] == pytest.approx(whole[-1], rel=2e-3)
    assert merged([], "x") is None


@pytest.mark.parametrize("broken", ["", "no base64!", "aGVsbG8gd29ybGQsIGhlbGxv", encoded([1, 2, 3])[:-12]])
def test_a_broken_histogram_is_named(broken: str) -> None:
    with pytest.raises(BenchError, match="http1, nginx: a latency histogram cannot be read"):
        merged([broken], "http1, nginx")


def test_sweep_merges_the_runs_of_a_rate_and_marks_failures(results: Results) -> None:
    found = sweep(results.outcomes[0], "nginx")
    assert [p.rate for p in found] == pytest.approx([4000, 8000, 12000, 16000, 19000])
    assert [p.failing for p in found] == [False, False, False, False, True]
    assert all(p.low <= p.p99 <= p.high for p in found)


def test_a_rate_without_any_answer_has_no_point() -> None:
    results = sample_results(1)
    outcome = results.outcomes[0]
    outcome.subjects["nginx"].samples[0].raw["sweep"][-1]["latency"] = ""
    assert len(sweep(outcome, "nginx")) == 4
    outcome.subjects["nginx"].samples[0].raw["sweep"][-1]["latency"] = encoded([])
    assert len(sweep(outcome, "nginx")) == 4


def test_plots_without_any_data_are_drawn_all_the_same() -> None:
    results = sample_results(1)
    outcome = results.outcomes[0]
    for subject in outcome.subjects.values():
        for sample in subject.samples:
            sample.raw = {
                "latency": encoded([]),
                "sweep": [{"rate": 1.0, "latency": "", "failed": 1, "sent": 1}],
                "series": {"bin_s": 0.1, "sent": [0], "completed": [0], "failed": [0], "max_us": [0], "servers": [0]},
            }
    for wanted in figures(outcome):
        ET.fromstring(draw(outcome, wanted))


def test_long_series_keep_their_totals_and_their_peaks() -> None:
    rate, worst = PANELS[0], PANELS[2]
    series = {"bin_s": 0.1, "completed": [*range(1000)], "max_us": [0] * 999 + [77]}
    times, rates = points(series, rate)
    assert len(times) <= 150
    widths = [b - a for a, b in zip(times, [*times[1:], 100.0], strict=True)]
    assert sum(r * w for r, w in zip(rates, widths, strict=True)) == pytest.approx(sum(range(1000)))
    latencies_ = points(series, worst)[1]
    assert latencies_[-1] == 77
    assert math.isnan(latencies_[0])
    assert points({"bin_s": 0.1}, rate) == ([], [])
    assert points({"bin_s": 0.1, "servers": [1, 2, 3], "servers_bin_s": 0.5}, PANELS[3]) == ([0.0, 0.5, 1.0], [1, 2, 3])


def test_the_shown_run_is_the_one_with_the_median_headline(results: Results) -> None:
    outcome = next(o for o in sample_results().outcomes if o.scenario == "autoscale-trace")
    for sample, lost in zip(outcome.subjects["nginx"].samples, (9.0, 1.0, 5.0, 7.0, 3.0), strict=True):
        sample.values["lost"] = lost
    chosen = typical(outcome, "nginx")
    assert chosen is not None
    assert chosen.round == 3
    assert typical(outcome, "envoy") is None
    middle = figure(outcome, "nginx", outcome.metrics[0])
    assert middle is not None
    assert middle.median == 5.0


def test_proxies_look_different_and_ours_always_the_same() -> None:
    names = ("tidegate", "haproxy", "nginx", "envoy", "varnish")
    assert len({look(name).ink.light for name in names}) == len(names)
    assert len({look(name).dashes for name in names}) == len(names)
    assert len({look(name).marker for name in names}) == len(names)
    assert look("something else") == look("something else")
    assert look("something else") not in [look(name) for name in names]


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_stand_out_from_the_background(scheme: str) -> None:
    """At least 3:1, as WCAG 2.2 asks of graphics (1.4.11); 4.5:1 for text (1.4.3)."""
    text_, muted, _grid, surface, *lines = (getattr(ink, scheme) for ink in INKS)

    def contrast(colour: str) -> float:
        low, high = sorted((_luminance(colour), _luminance(surface)))
        return (high + 0.05) / (low + 0.05)

    assert min(map(contrast, lines)) >= 3
    assert min(contrast(text_), contrast(muted)) >= 4.5
