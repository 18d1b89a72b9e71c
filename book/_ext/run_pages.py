"""A page for each record, in the book's own layout but outside its table of contents: there are hundreds."""

from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

from heterofl_core.report.run_pages import run_pages


def collect(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """What `html-collect-pages` asks for: names, contexts, templates."""
    for name, title, body in run_pages():
        yield name, {"title": title, "body": body}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("html-collect-pages", collect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
