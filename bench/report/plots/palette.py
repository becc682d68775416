"""The colours of the report, light and dark: one list for the plots and the page.

Tidegate always has the same accent. The others are told apart by lightness, marker and dashes as well as by hue, so
that they can be distinguished with any kind of colour vision and in grey.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers import OURS


@dataclass(frozen=True)
class Ink:
    """A colour in the light and in the dark scheme."""

    light: str
    dark: str


@dataclass(frozen=True)
class Look:
    """How a proxy's line is drawn; `dashes` are in widths of the line, () is solid."""

    ink: Ink
    marker: str
    dashes: tuple[float, ...] = ()


TEXT = Ink("#1b2430", "#e6eaf0")
MUTED = Ink("#586273", "#a3adbb")
GRID = Ink("#dde2e9", "#353e4a")
SURFACE = Ink("#fcfcfd", "#161b22")

OUR_LOOK = Look(Ink("#0a5fd0", "#62aaff"), "o")
_KNOWN = {
    OURS: OUR_LOOK,
    "haproxy": Look(Ink("#c2500a", "#ff9c5a"), "s", (5, 1.5)),
    "nginx": Look(Ink("#0d7f63", "#46cfa5"), "^", (1.2, 1.2)),
    "envoy": Look(Ink("#a03d8c", "#e391d2"), "D", (5, 1.5, 1.2, 1.5)),
    "varnish": Look(Ink("#7d6b00", "#d8c648"), "v", (8, 2)),
}
_OTHERS = (
    Look(Ink("#4b5563", "#b6c0cc"), "P", (3, 1.5)),
    Look(Ink("#8c2f39", "#f2949c"), "X", (2, 2, 6, 2)),
    Look(Ink("#2f6f8c", "#8fd0ea"), "p", (1, 3)),
)
# For what is no proxy, one after another.
LOOKS = (*[look for name, look in _KNOWN.items() if name != OURS], *_OTHERS)
INKS = (TEXT, MUTED, GRID, SURFACE, *(look.ink for look in (*_KNOWN.values(), *_OTHERS)))


def look(name: str) -> Look:
    """A proxy's own look; one that has none gets one by its name, always the same.

    A further row of a peer, as `haproxy-tuned`, has the colour of the peer and a solid line.
    """
    if (known := _KNOWN.get(name)) is not None:
        return known
    peer = _KNOWN.get(name.partition("-")[0], OUR_LOOK)
    if peer is not OUR_LOOK:
        return Look(peer.ink, peer.marker)
    return _OTHERS[sum(name.encode()) % len(_OTHERS)]


def dark_rules(used_in: str | None = None) -> str:
    """CSS that turns every colour of a plot (or those used in this one) to its dark form.

    matplotlib writes colours into `style` attributes; a rule with !important is stronger than those. A viewer that
    knows none of this shows the light plot.
    """
    pairs = [(f"{what}: {ink.light}", what, ink.dark) for ink in INKS for what in ("fill", "stroke")]
    return "".join(
        f'[style*="{pair}"]{{{what}:{dark}!important}}'
        for pair, what, dark in pairs
        if used_in is None or pair in used_in
    )
