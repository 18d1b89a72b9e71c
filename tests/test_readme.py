"""What the README promises."""

import io
import re
import tomllib

import pytest

from heterofl_core import figures
from heterofl_core.folders import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_picture_is_what_the_code_draws() -> None:
    """Made by `figures.nested_slices().savefig(PATH, metadata={"Date": None}, facecolor="white")`."""
    drawn = io.StringIO()
    figures.nested_slices().savefig(drawn, format="svg", metadata={"Date": None}, facecolor="white")
    assert drawn.getvalue() == (ROOT / "book" / "figures" / "nested-slices.svg").read_text(encoding="utf-8")


def test_every_make_target_that_it_names_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"\bmake ([a-z]+)", README.replace("make and git", "")))
    assert {"quickstart", "test", "run", "book"} <= named <= set(targets)


@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_the_code_comes_from_the_projects_address(page: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["Repository"]
    assert f"git clone {address} && cd {address.rpartition('/')[2]}\n" in (ROOT / page).read_text(
        encoding="utf-8"
    )


def test_every_file_that_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
