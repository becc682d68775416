"""Makes the manual pages tidegate(8) and tidegate.yaml(5): `python tools/man.py FOLDER`. Run by `make man`.

The first comes from the command line's parser by argparse-manpage, the second from the reference page of the
configuration by lowdown. A row of a table of keys becomes an entry of a definition list, because a terminal has no room
for tables of four columns.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from argparse_manpage.compat import get_reproducible_date
from argparse_manpage.manpage import Manpage

import lb
from lb.cli.app import command_parser

ROOT = Path(__file__).resolve().parents[1]
MANUAL = "Tidegate Manual"
SECTIONS = {
    "files": """\
.TP
.I /etc/tidegate/tidegate.yaml
The configuration, see \\fBtidegate.yaml\\fR(5).
""",
    "environment": """\
.TP
.B TIDEGATE_CONFIG
The configuration file, instead of
.IR /etc/tidegate/tidegate.yaml .
.TP
.B TIDEGATE_ADMIN
The admin address of the daemon that commands ask, instead of the configuration's, where no
.B --config
is given.
.TP
.B TIDEGATE_TOKEN_FILE
A file with the admin token, instead of the configuration's.
""",
    "exit status": """\
.TP
.B 0
The command did what it was asked to.
.TP
.B 1
It did not; the reason is on standard error.
.TP
.B 2
The command line is wrong.
.TP
.B 78
The configuration cannot be used (\\fBtidegate run\\fR). A service manager should not try again.
""",
    "signals": """\
Of the process that \\fBtidegate run\\fR starts:
.TP
.B SIGHUP
Reload the configuration. A file with an error changes nothing.
.TP
.B SIGUSR1
Open the access log anew, after it was rotated.
.TP
.B SIGUSR2
Upgrade: the program that is installed now takes over, and drops no connection.
.TP
.BR SIGTERM ", " SIGINT
Drain and stop; the second one stops at once.
""",
    "see also": "\\fBtidegate.yaml\\fR(5)\n",
}
_ROW = re.compile(r"\| (`[^|]*`) \| ((?:\\\||[^|])*) \| ((?:\\\||[^|])*) \| ((?:\\\||[^|])*) \|")
_RULE = re.compile(r"\|[-|]+\|")
_SPACE = re.compile(r"^(\.S[HS](?: |\n(?!\.)).*\n)\.[LP]P\n", re.MULTILINE)  # a heading makes it
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def command_page() -> str:
    """tidegate(8)."""
    data = {
        "project_name": "tidegate", "version": lb.__version__, "description": "load balancer for AI inference",
        "manual_section": 8, "manual_title": MANUAL, "prog": "tidegate",
    }  # fmt: skip
    os.environ["COLUMNS"] = "80"  # the width of usage lines
    page = Manpage(command_parser(), data, format="single-commands-section")
    for heading, content in SECTIONS.items():
        page.add_section(heading, ">", content.rstrip("\n"))
    title, line_end, rest = str(page).partition("\n")
    return title.replace("\\-", "-") + line_end + rest  # mandoc reads a date with plain hyphens only


def configuration_markdown(page: str) -> str:
    """The reference page `page` as Markdown for a terminal: lists for tables, plain text for links."""
    body = page.partition("# Configuration\n")[2]
    name = "# NAME\n\ntidegate.yaml - configuration of the load balancer Tidegate\n\n# DESCRIPTION\n"
    return name + "\n".join(_listed(_LINK.sub(r"\1", body).splitlines())) + "\n\n# SEE ALSO\n\n**tidegate**(8)\n"


def _listed(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if _RULE.fullmatch(line) or line.startswith("| Key |"):
            continue
        row = _ROW.fullmatch(line)
        if row is None:
            yield line.replace("##", "#", 1) if line.startswith("##") else line
            continue
        key, value, default, meaning = (cell.replace("\\|", "|") for cell in row.groups())
        yield from ("", key, f": {value}. Default: {default}. {meaning}", "")


def configuration_page() -> str:
    """tidegate.yaml(5)."""
    markdown = configuration_markdown((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    names = ("title=TIDEGATE.YAML", "section=5", f"source=tidegate {lb.__version__}", f"volume={MANUAL}")
    about = [word for name in (*names, f"date={get_reproducible_date()}") for word in ("-m", name)]
    done = subprocess.run(["lowdown", "-s", "-t", "man", *about], input=markdown, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lowdown: {done.stderr}")
    return _SPACE.sub(r"\1", done.stdout)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tidegate.8").write_text(command_page(), encoding="utf-8")
    (folder / "tidegate.yaml.5").write_text(configuration_page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
