"""MathJax from the installed package ``sphinx-mathjax-offline``, so that the book needs no network.

That package is a Sphinx extension itself, but it copies all of its 24 MB. A page needs the combined
component, the fonts, and the TeX extensions that MathJax loads when a formula asks for one.
"""

from importlib.resources import as_file, files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

PARTS = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy ``PARTS`` into ``_static/mathjax`` of the built site, where ``mathjax_path`` points."""
    if exception is not None or app.builder.format != "html":
        return
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        for part in PARTS:
            target = Path(app.outdir, "_static", "mathjax", part)
            folder = target if (source / part).is_dir() else target.parent
            copy_asset(str(source / part), str(folder))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
