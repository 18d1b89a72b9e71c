"""The book builds without a warning, needs no network, shows what was stored and leads to the code."""

import ast
import functools
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from built_book import build, pages

from heterofl_core.folders import ROOT

OUTSIDE = re.compile(r"(https?:)?//", re.IGNORECASE)


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


@functools.cache
def references(page: Path) -> References:
    """What a page has of these; two tests ask."""
    return References(page)


def test_pages_load_nothing_from_outside(site: Path) -> None:
    for page in pages(site):
        assert [url for url in references(page).loaded if OUTSIDE.match(url)] == [], page
    for style in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", style.read_text("utf-8"))
        assert [url for url in urls if OUTSIDE.match(url)] == [], style


def test_every_page_that_was_written_is_in_the_book(site: Path) -> None:
    """One that the table of contents leaves out is built all the same, but nothing leads to it."""
    listed = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    for page in [
        page for folder in ("", "report", "decisions") for page in (ROOT / "book" / folder).glob("*.md")
    ]:
        name = page.relative_to(ROOT / "book").with_suffix("").as_posix()
        assert re.search(rf"(file|root): {re.escape(name)}$", listed, re.MULTILINE), name
        assert (site / f"{name}.html").is_file(), name


def test_images_have_alternative_text(site: Path) -> None:
    for page in pages(site):
        assert references(page).images_without_alt == [], page


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


def test_every_page_is_there(site: Path) -> None:
    assert {"index", "heterofl", "glossary", "stored"} <= {page.stem for page in pages(site)}


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
