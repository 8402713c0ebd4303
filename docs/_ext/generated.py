"""The directive `generated`: a part of a page that is made from the package when the site is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import command_text
import config_text
import error_text
import performance_text
import planning_text
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import slurm_provisioner

_PARTS: dict[str, Callable[..., str]] = {
    "commands": command_text.commands,
    "config": config_text.config,
    "container": config_text.container,
    "ends-of-jobs": error_text.ends,
    "exit-codes": command_text.exit_codes,
    "limits": config_text.limits_of_a_site,
    "login-host": config_text.login_host,
    "performance": performance_text.rows,
    "performance-growth": performance_text.growth,
    "performance-hops": performance_text.hops,
    "performance-machine": performance_text.machine,
    "performance-outputs": performance_text.outputs,
    "performance-stalls": performance_text.stalls,
    "performance-steps": performance_text.steps,
    "performance-trips": performance_text.trips,
    "planning": planning_text.load,
    "planning-assumptions": planning_text.assumptions,
    "refused-options": config_text.refused_options,
    "refusals": error_text.refusals,
    "site": config_text.site,
    "starts": error_text.starts,
    "waits": error_text.waits,
}


class Generated(SphinxDirective):
    """Puts a part into the page, with its headings. What stands in the directive are lines that the part is made of."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return what the part's text becomes."""
        for path in (*Path(slurm_provisioner.__file__).parent.rglob("*.py"), *Path(__file__).parent.glob("*.py")):
            self.env.note_dependency(str(path))
        self.env.note_dependency(str(performance_text.RESULTS))
        lines = [line for line in self.content if line.strip()]
        text = _PARTS[self.arguments[0]](*([lines] if lines else []))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directive."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
