"""How Sphinx builds the documentation: `scripts/docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import slurm_provisioner

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.append(str(Path(__file__).parents[1] / "scripts" / "bench.d"))  # how measured values are written

project = "slurm_provisioner"
version = release = slurm_provisioner.__version__

extensions = ["myst_parser", "generated"]
exclude_patterns = ["_ext"]
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to headings are written as GitHub has them
smartquotes = False  # what is said of options has two dashes

html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["docs.css"]
toc_object_entries_show_parents = "all"
pygments_style = "tango"
