"""The book builds without a warning, needs no network, and reads well on a phone and in the dark.

The pages are built once into a temporary folder, from a copy of `book/`, exactly as `make book` does it.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Literal

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from heterofl_core import course
from heterofl_core.folders import ROOT
from heterofl_core.pages import copy_pages
from heterofl_core.report import interactive

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
Theme = Literal["light", "dark"]
WIDTHS = (1300, 390)  # a laptop and a phone, in CSS pixels
OUTSIDE = re.compile(r"(https?:)?//", re.IGNORECASE)


def stored_notebook() -> nbformat.NotebookNode:
    """An executed notebook with a progress bar and a formula, which would fail if it were executed."""
    cell = new_code_cell("raise AssertionError('a stored notebook is not executed')", execution_count=1)
    cell.outputs = [
        new_output("stream", name="stdout", text="a stored line\n"),
        new_output("stream", name="stderr", text="10%|#         | 1/10"),
        new_output(
            "display_data",
            {"application/vnd.jupyter.widget-view+json": {"model_id": "bar"}},
        ),
    ]
    widgets = {
        "application/vnd.jupyter.widget-state+json": {
            "state": {"bar": {}},
            "version_major": 2,
        }
    }
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "widgets": widgets,
    }
    title = new_markdown_cell("# A stored notebook\n\n$x^2$")
    return new_notebook(cells=[title, cell], metadata=metadata)


def build(book: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds the book in place, with warnings as errors."""
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(book), "-W", "-n", "--keep-going"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def pages(site: Path) -> list[Path]:
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


def looked_at(site: Path) -> list[Path]:
    """All pages, but of the records' own, which are all alike, one of each data set and one with slices."""
    of_runs = sorted((site / "runs").glob("*.html"))
    kinds = {page.name.partition("_")[0]: page for page in of_runs}
    shown = [*kinds.values(), *[page for page in of_runs if "own models" in page.read_text("utf-8")][:1]]
    return [page for page in pages(site) if page not in of_runs or page in shown]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages, one stored notebook of the test's own among them."""
    checkout = tmp_path_factory.mktemp("checkout")
    book = checkout / "book"
    shutil.copytree(ROOT / "book", book, ignore=shutil.ignore_patterns("_build", "course", "executed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heterofl_core.pages.BOOK", book)
        copy_pages()
    (book / "executed").mkdir(exist_ok=True)
    course.write_pages(book / "course")
    nbformat.write(stored_notebook(), book / "executed" / "stored.ipynb")
    result = build(book)
    assert result.returncode == 0, result.stderr
    site = book / "_build" / "html"
    assert {"index", "heterofl", "glossary", "stored"} <= {page.stem for page in pages(site)}
    return site


LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
}
"""For each tag that loads something the attribute with its address."""


class References(HTMLParser):
    """Collects what a page loads, and its images without alternative text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.images_without_alt: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in LOADING and not (tag == "link" and attributes.get("rel") == "canonical"):
            self.loaded.append(attributes.get(LOADING[tag]) or "")
        if tag == "img" and not (attributes.get("alt") or "").strip():
            self.images_without_alt.append(attributes.get("src") or "")


def test_pages_load_nothing_from_outside(site: Path) -> None:
    for page in pages(site):
        assert [url for url in References(page).loaded if OUTSIDE.match(url)] == [], page
    for style in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", style.read_text("utf-8"))
        assert [url for url in urls if OUTSIDE.match(url)] == [], style


def test_images_have_alternative_text(site: Path) -> None:
    for page in pages(site):
        assert References(page).images_without_alt == [], page


HEADER = re.compile(r"^---\n.*?\n---\n", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`|\$[^$]*\$", re.DOTALL)
RESULT = re.compile(r"\d+\.\d{2,}")
"""What accuracies, perplexities and differences look like."""


def text_alone(page: Path) -> str:
    """A page without its front matter, code and formulas."""
    return CODE.sub("", HEADER.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "page",
    [
        page
        for folder in ("", "report", "decisions")
        for page in sorted((ROOT / "book" / folder).glob("*.md"))
    ],
    ids=lambda page: page.stem,
)
def test_no_result_is_typed_into_a_page(page: Path) -> None:
    assert RESULT.findall(text_alone(page).replace("Python 3.11", "")) == []


def test_executed_notebooks_are_shown_as_stored(site: Path) -> None:
    page = (site / "executed" / "stored.html").read_text(encoding="utf-8")
    assert "a stored line" in page
    assert "10%|#" not in page  # progress bars are left out


def test_failing_cell_fails_the_build(tmp_path: Path) -> None:
    book = tmp_path / "book"
    shutil.copytree(
        ROOT / "book",
        book,
        ignore=shutil.ignore_patterns("_build", "executed", "report"),
    )
    header = "---\njupytext:\n  text_representation: {extension: .md, format_name: myst}\n"
    header += "kernelspec: {name: python3, display_name: Python 3}\n---\n"
    (book / "index.md").write_text(f"{header}# Failing\n\n```{{code-cell}}\n1 / 0\n```\n", "utf-8")
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\n", "utf-8")
    result = build(book, HETEROFL_OUTPUTS=str(tmp_path / "outputs"))  # no pages of runs
    assert result.returncode != 0
    assert "CellExecutionError" in result.stderr


def code_table() -> list[tuple[str, list[str], str]]:
    """The rows of the table "From equation to code": a file, names in it, and a test file."""
    table = (ROOT / "book" / "heterofl.md").read_text(encoding="utf-8").split("## From equation to code")[1]
    rows = []
    for line in table.splitlines():
        code = re.findall(r"`([^`]+)`", line)
        if line.startswith("|") and code:
            rows.append((code[0], code[1:-1], code[-1]))
    return rows


def defined_names(path: Path) -> set[str]:
    """Functions and classes of a file, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("file", "names", "test"), code_table())
def test_equations_lead_to_code(file: str, names: list[str], test: str) -> None:
    assert set(names) <= defined_names(ROOT / file)
    assert (ROOT / test).is_file()


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Serves the site on this machine; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def end_headers(self) -> None:
            if "/_static/" in self.path:  # style sheets and scripts, which pages share
                self.send_header("Cache-Control", "max-age=600")
            super().end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no program 'chromium' on PATH: the pages are not looked at in a browser")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)


def open_page(browser: Browser, address: str, width: int, theme: Theme) -> tuple[Page, list[str]]:
    """A page, and the list in which its complaints will appear; what asks for another address is one."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    complaints: list[str] = []

    def look(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(f"request to {request.url}")

    page.on("request", look)
    page.on("pageerror", lambda error: complaints.append(f"page error {error}"))
    page.on(
        "console",
        lambda text: complaints.append(text.text) if text.type == "error" else None,
    )
    page.on(
        "response",
        lambda reply: (
            None if reply.ok or reply.status == 304 else complaints.append(f"{reply.status} {reply.url}")
        ),
    )
    return page, complaints


def one_of_each_kind(files: list[Path]) -> set[Path]:
    """The first of the pages whose names differ from a digit on, such as the tables, or the chapters."""
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(re.split(r"\d", file.relative_to(file.parents[1]).as_posix())[0], file)
    return set(first.values())


# What a theme changes (colours) does not hang on the width, and what the width changes not on the theme.
# The checker takes seconds a page: in the dark it sees one page of each kind, whose style sheet is the same.
# The list of pages, which all of them have, it sees on these only.
@pytest.mark.parametrize(("width", "theme"), [(WIDTHS[0], "light"), (WIDTHS[1], "dark")])
def test_pages_in_a_browser(browser: Browser, address: str, site: Path, width: int, theme: Theme) -> None:
    page, complaints = open_page(browser, address, width, theme)
    files = looked_at(site)
    of_each_kind = one_of_each_kind(files)
    for file in files:
        name = file.relative_to(site).as_posix()
        page.goto(f"{address}/{name}", wait_until="load")
        assert page.evaluate("document.documentElement.dataset.theme") == theme, name
        assert page.evaluate(PAGE_IS_WHOLE) == [], name
        if theme == "light" or file in of_each_kind:
            page.evaluate(AXE.read_text(encoding="utf-8"))
            without = [] if file in of_each_kind else [[".bd-sidebar-primary"]]
            assert page.evaluate(SERIOUS, without) == [], name
        assert complaints == [], name
    page.close()


AXE = files("axe_playwright_python") / "axe.min.js"
"""The accessibility checker axe-core."""

SERIOUS = """async without => {
    const found = await axe.run({exclude: without}, {preload: false, resultTypes: ["violations"]});
    return found.violations
        .filter(one => ["serious", "critical"].includes(one.impact))
        .map(one => `${one.id}: ${one.nodes.map(node => node.target.join(" ")).slice(0, 3).join(", ")}`);
}"""
"""Runs in the page; gives what keeps people from reading it, outside of some elements."""


def test_tables_can_be_sorted_and_searched(browser: Browser, address: str) -> None:
    page, complaints = open_page(browser, address, 1300, "light")
    page.goto(f"{address}/report/table7.html")
    page.wait_for_selector(".dt-search input")
    first = page.locator("table.searchable tbody tr").first
    paper = page.locator("table.searchable thead th", has_text="Paper")
    paper.click()
    expect(first.locator("td").nth(0)).to_have_text("a-b")  # the least perplexity that the paper prints
    paper.click()
    expect(first.locator("td").nth(0)).to_have_text("e")
    page.locator("table.searchable thead th", has_text="FLOPs").click()  # 69.3 M is less than 1.4 B
    expect(first.locator("td").nth(0)).to_have_text("e")
    page.locator(".dt-search input").fill("b-c-d")
    expect(page.locator("table.searchable tbody tr")).to_have_count(4)
    assert complaints == []
    page.close()


def test_the_names_of_rows_stay_in_sight_on_a_phone(browser: Browser, address: str) -> None:
    page, complaints = open_page(browser, address, 400, "light")
    page.goto(f"{address}/report/table7.html")
    page.wait_for_selector(".dt-search input")
    page.locator("table.searchable thead th").last.scroll_into_view_if_needed()
    name = page.locator("table.searchable tbody td").first.bounding_box()
    assert name is not None
    assert 0 <= name["x"] < 400 - name["width"]
    assert complaints == []
    page.close()


def test_figures_answer_the_mouse_and_the_slider_moves(browser: Browser, address: str, site: Path) -> None:
    points = pd.DataFrame(
        {
            "large": ["a", "a"],
            "small": ["e", "e"],
            "share": [50, 90],
            "value": [91.5, 95.25],
            "whose": ["ours", "ours"],
        }
    )
    scripts = "".join(f'<script src="_static/{name}"></script>' for name in ("plotly.min.js", "plots.js"))
    figure = interactive.mix_slider(points, "global_accuracy")
    head = '<html lang=en><title>A figure</title><link rel="icon" href="data:,">'  # no icon is asked for
    (site / "figure.html").write_text(f"{head}{figure}{scripts}", "utf-8")
    page, complaints = open_page(browser, address, 1300, "light")
    page.goto(f"{address}/figure.html")
    lines = "document.querySelector('.interactive-plot').data"
    shown = f"{lines}.filter(line => line.visible !== false && line.y.length)"
    assert page.evaluate(f"{shown}.map(line => line.y[0])") == [91.5]
    page.locator(".scatterlayer .point:visible").first.hover(force=True)
    page.wait_for_function("document.querySelector('.hoverlayer')?.textContent.includes('91.5')")
    handle = page.locator(".slider-grip-rect").bounding_box()
    rail = page.locator(".slider-rail-touch-rect").bounding_box()
    assert handle is not None
    assert rail is not None
    page.mouse.click(rail["x"] + rail["width"] - 5, handle["y"] + handle["height"] / 2)
    page.wait_for_function(f"{shown}.some(line => line.y[0] === 95.25)")
    (site / "figure.html").unlink()
    assert complaints == []
    page.close()


PAGE_IS_WHOLE = """async () => {
    const problems = [], formulas = document.querySelectorAll(".math").length;
    if (formulas) {
        while (!window.MathJax?.startup?.promise) await new Promise(done => setTimeout(done, 10));
        await MathJax.startup.promise;
        const typeset = document.querySelectorAll(".math mjx-container").length;
        if (typeset < formulas) problems.push(`${formulas - typeset} formulas are not typeset`);
        if (document.querySelector("mjx-merror")) problems.push("a formula has an error");
    }
    for (const formula of document.querySelectorAll("div.math > mjx-container")) {
        const [left, start] = [formula, formula.parentElement].map(e => e.getBoundingClientRect().left);
        if (left < start - 1) problems.push(`a formula is cut at the left: ${formula.textContent}`);
    }
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => {});
        if (!image.naturalWidth) problems.push(`image did not load: ${image.src}`);
    }
    const width = document.documentElement.scrollWidth;
    if (width > innerWidth + 1) problems.push(`the page is ${width} pixels wide`);
    return problems;
}"""
"""Runs in the page; gives what is wrong with it."""


def test_search_works_offline(browser: Browser, address: str) -> None:
    page, complaints = open_page(browser, address, 1300, "light")
    page.goto(f"{address}/search.html?q=shrinkage")
    page.wait_for_selector("#search-results li a[href*='glossary.html']")
    assert complaints == []
    page.close()
