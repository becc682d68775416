"""What was found, judged and written: no cell may be worse behind the balancer than at the server alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

Cells = dict[str, dict[str, str]]  # by client and case: the reason why it does not work, or ""

ALONE = "alone"
POOLS = {"pool of one": 1, "pool of three": 3}
CLIENTS = ("http", "http.aio", "grpc", "grpc.aio", "plain")
PERF = "perf_analyzer"
WORKS, ADDED, LACKS, WORSE = "yes", "yes, added", "-", "**no**"
_LONGEST = 160  # characters of a reason that the page shows


@dataclass(frozen=True)
class Found:
    """`versions` by environment and package; `cells` by server and arrangement."""

    versions: dict[str, dict[str, str]]
    cells: dict[str, dict[str, Cells]]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load(path: Path) -> Found:
    return Found(**json.loads(path.read_text()))


def judge(alone: str, behind: str) -> str:
    """Of a case, by the reasons why it does not work at the server alone and behind the balancer."""
    if behind:
        return LACKS if alone else WORSE
    return ADDED if alone else WORKS


@dataclass(frozen=True)
class Worse:
    server: str
    arrangement: str
    client: str
    case: str
    reason: str


def worse(found: Found) -> list[Worse]:
    return [
        Worse(server, arrangement, client, case, reason)
        for server, arrangements in found.cells.items()
        for arrangement in POOLS
        for client, cases in arrangements[arrangement].items()
        for case, reason in cases.items()
        if judge(arrangements[ALONE][client][case], reason) == WORSE
    ]


def markdown(found: Found, titles: dict[str, str]) -> str:
    """`titles`: the servers' names. One table for each server's methods, one for perf_analyzer."""
    lines = [
        f"- {place}: {', '.join(' '.join(pair) for pair in packages.items())}"
        for place, packages in found.versions.items()
    ]
    lines.append("")
    for server, arrangements in found.cells.items():
        lines += [f"### {titles[server]}", "", *_methods(arrangements), ""]
        lines += [f"perf_analyzer on {titles[server]}:", "", *_perf(arrangements), ""]
        lines += _reasons(arrangements)
    return "\n".join(lines)


def _methods(arrangements: dict[str, Cells]) -> list[str]:
    clients = [client for client in CLIENTS if client in arrangements[ALONE]]
    cases = dict.fromkeys(case for client in clients for case in arrangements[ALONE][client])
    rows = [
        "| case | " + " | ".join("HTTP" if client == "plain" else client for client in clients) + " |",
        "|---|" + "---|" * len(clients),
    ]
    for case in cases:
        cells = [_cell(arrangements, client, case) for client in clients]
        rows.append(f"| {case} | " + " | ".join(cells) + " |")
    return rows


def _perf(arrangements: dict[str, Cells]) -> list[str]:
    rows = ["| run | |", "|---|---|"]
    return rows + [f"| {case} | {_cell(arrangements, PERF, case)} |" for case in arrangements[ALONE][PERF]]


def _cell(arrangements: dict[str, Cells], client: str, case: str) -> str:
    """One word where the pools agree, else one for each."""
    if case not in arrangements[ALONE][client]:
        return ""
    alone = arrangements[ALONE][client][case]
    found = [judge(alone, arrangements[pool][client][case]) for pool in POOLS]
    return found[0] if len(set(found)) == 1 else f"one: {found[0]}, three: {found[1]}"


def _reasons(arrangements: dict[str, Cells]) -> list[str]:
    """Why cells do not work: at the server itself, and behind the balancer alone."""
    lacking: dict[tuple[str, str], list[str]] = {}
    wrong: dict[tuple[str, str], list[str]] = {}
    for client, cases in arrangements[ALONE].items():
        for case, alone in cases.items():
            behind = {pool: arrangements[pool][client][case] for pool in POOLS}
            for reason in behind.values():
                if reason and not alone:
                    wrong.setdefault((case, _short(reason)), []).append(client)
            if alone:
                lacking.setdefault((case, _short(alone)), []).append(client)
    lines = []
    for title, found in (("Behind the balancer", wrong), ("The server itself", lacking)):
        if found:
            lines += [f"{title}:", ""]
            lines += [
                f"- {case} ({', '.join(dict.fromkeys(clients))}): {reason}" for (case, reason), clients in found.items()
            ]
            lines.append("")
    return lines


def _short(reason: str) -> str:
    text = " ".join(reason.split()).replace("|", "/").replace("<", "&lt;")
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
