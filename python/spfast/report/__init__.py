"""One page about one rewrite: a layer before and after, its collectives, its memory, every reason.

The page is one file that asks no network: what draws the graphs (Cytoscape.js with the dagre
layout) is part of it.
"""

from spfast.report.drawing import Drawing
from spfast.report.page import page

__all__ = ["Drawing", "page"]
