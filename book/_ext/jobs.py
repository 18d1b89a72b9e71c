"""Pages are read, and so executed, side by side: `jupyter-book build` does not hand on Sphinx's `--jobs`."""

import joblib
from sphinx.application import Sphinx
from sphinx.config import Config

MOST = 8
"""Kernels at once: each takes memory, and a page that waits for the others may take only so long."""
SAFE = ("sphinx_jupyterbook_latex", "sphinx_multitoc_numbering")
"""Jupyter Book's extensions that do not say so: one acts on LaTeX, one once all pages are read."""


def declare_safe(app: Sphinx, config: Config) -> None:
    """Lets these extensions say that pages may be read side by side."""
    for name in SAFE:
        app.extensions[name].parallel_read_safe = True


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.parallel = min(joblib.cpu_count(), MOST)
    app.connect("config-inited", declare_safe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
