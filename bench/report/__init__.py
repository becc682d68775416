"""Results as tables on a terminal (`show`), as Markdown (`markdown`), as SVG plots and as one HTML page.

The last two need matplotlib and are imported where they are used: `bench.report.page.html` and
`bench.report.plots.write_all`.
"""

from bench.report.document import markdown
from bench.report.terminal import show

__all__ = ["markdown", "show"]
