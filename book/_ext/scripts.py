"""The pages' scripts: sortable tables and interactive figures from installed packages, without a network.

DataTables comes with `itables` and is a module, which a browser does not load from a folder: it becomes an
address in a script. plotly.js comes with `plotly`. Only pages that use a script load it.
"""

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent


def add_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.Node) -> None:
    """Has a page load the scripts that it uses."""
    app.add_js_file("accessible.js", loading_method="defer")
    body = str(context.get("body", ""))
    if "searchable" in body:
        app.add_css_file("datatables.css")
        app.add_js_file("tables.js", loading_method="defer")
    if "interactive-plot" in body:
        app.add_js_file("plotly.min.js", loading_method="defer")
        app.add_js_file("plots.js", loading_method="defer")


def write_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Puts the scripts into the built site's `_static`."""
    if exception is not None or app.builder.format != "html":
        return
    target = Path(app.outdir, "_static")
    bundle = files("itables") / "html"
    address = base64.b64encode((bundle / "dt_bundle.js").read_bytes()).decode()
    script = f'const BUNDLE = "data:text/javascript;base64,{address}";\n' + (HERE / "tables.js").read_text()
    (target / "tables.js").write_text(script)
    (target / "datatables.css").write_bytes((bundle / "dt_bundle.css").read_bytes())
    for name in ("accessible.js", "plots.js"):
        (target / name).write_bytes((HERE / name).read_bytes())
    plotly = files("plotly") / "package_data" / "plotly.min.js"
    (target / "plotly.min.js").write_bytes(plotly.read_bytes())


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
