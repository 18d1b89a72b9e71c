"""The book reads well for everybody, on a laptop and a phone, in the light and in the dark: in a browser."""

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from built_book import pages
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

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


def looked_at(site: Path) -> list[Path]:
    """All pages, but of the records' own, which are all alike, one of each data set and one with slices."""
    of_runs = sorted((site / "runs").glob("*.html"))
    kinds = {page.name.partition("_")[0]: page for page in of_runs}
    shown = [*kinds.values(), *[page for page in of_runs if "own models" in page.read_text("utf-8")][:1]]
    return [page for page in pages(site) if page not in of_runs or page in shown]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        if "/_static/" in self.path:  # style sheets and scripts, which pages share
            self.send_header("Cache-Control", "max-age=600")
        super().end_headers()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the book is served."""
    with served(site) as address:
        yield address


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
    difference = page.locator("table.searchable thead th", has_text="Difference")
    place = difference.evaluate("cell => cell.cellIndex")
    difference.click()
    cells = page.locator(f"table.searchable tbody tr > :nth-child({place + 1})").all_text_contents()
    numbers = [float(text.replace("−", "-")) for text in cells if text]
    assert 1 < len(numbers) < len(cells)  # some mixes were not run
    assert cells[-len(numbers) :] == [text for text in cells if text]  # they come first
    assert numbers == sorted(numbers)
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


def test_figures_answer_the_mouse_and_the_slider_moves(browser: Browser, site: Path, tmp_path: Path) -> None:
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
    (tmp_path / "figure.html").write_text(f"{head}{figure}{scripts}", "utf-8")
    (tmp_path / "_static").symlink_to(site / "_static")
    with served(tmp_path) as address:
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
