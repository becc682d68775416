"""How a command lists its sub-commands in its help."""

from __future__ import annotations

from typing import Any

import typer.core


class Commands(typer.core.TyperGroup):
    """Each with the first paragraph of its own help as a whole, which is wrapped and not cut."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                text = command.short_help or (command.help or "").partition("\n\n")[0]
                rows.append((name, " ".join(text.split())))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
