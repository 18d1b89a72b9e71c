"""What must agree before a version is given away: its number, how to cite it, and the workflow on GitHub."""

import re
import tomllib
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from heterofl_core.folders import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
)
JOBS: dict[str, Any] = WORKFLOW["jobs"]
STEPS: list[dict[str, Any]] = [step for job in JOBS.values() for step in job["steps"]]
COMMANDS = [step["run"] for step in STEPS if "run" in step]


# The version and the citation


def test_project_citation_and_changelog_have_the_same_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == CITATION["version"] == newest[1]


def test_the_citation_has_what_the_format_requires() -> None:
    """The required keys of the Citation File Format 1.2.0, of the file and of each reference."""
    assert CITATION["cff-version"] == "1.2.0"
    assert {"authors", "cff-version", "message", "title"} <= CITATION.keys()
    assert CITATION["type"] in ("software", "dataset")
    for reference in CITATION["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
    for cited in (CITATION, *CITATION["references"]):
        assert cited["authors"]
        assert all(author.keys() & {"name", "family-names"} for author in cited["authors"])


def test_the_citation_names_the_projects_license() -> None:
    assert CITATION["license"] == PROJECT["license"]


def test_conda_installs_the_extras_that_make_does() -> None:
    make = re.search(r"^EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    conda = re.search(r"\.\[(\S+)\]", (ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert make
    assert conda
    assert make[1] == conda[1]
    assert set(make[1].split(",")) == PROJECT["optional-dependencies"].keys()


# The workflow


def test_every_make_target_that_the_workflow_calls_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    called = [target for command in COMMANDS for target in re.findall(r"\bmake ([a-z]+)", command)]
    assert called == ["lint", "test", "book"]
    assert set(called) <= set(targets)


def test_its_python_is_one_that_the_project_allows() -> None:
    versions = [step["with"]["python-version"] for step in STEPS if "setup-python" in step.get("uses", "")]
    assert len(versions) == len([job for job in JOBS.values() if any("run" in step for step in job["steps"])])
    for version in versions:
        assert isinstance(version, str)  # 3.10 without quotes would be 3.1
        assert version in SpecifierSet(PROJECT["requires-python"])


def test_every_extra_that_it_installs_exists_and_brings_no_torch() -> None:
    installed = [extra for command in COMMANDS for extra in re.findall(r"'\.\[([a-z,]+)\]'", command)]
    assert installed == ["book"]
    named = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["book"]]
    assert not [requirement for requirement in named if requirement.startswith("torch")]


def test_actions_are_the_official_ones_pinned_by_major_version() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)


def test_only_the_job_that_deploys_may_write() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "deploy": {"pages": "write", "id-token": "write"}
    }


@pytest.mark.parametrize("condition", ["github.event_name == 'push'", "github.ref == 'refs/heads/main'"])
def test_the_site_comes_from_pushes_to_main_after_all_checks(condition: str) -> None:
    assert JOBS["deploy"]["needs"] == [name for name in JOBS if name != "deploy"]
    (upload,) = [step for step in STEPS if "upload-pages-artifact" in step.get("uses", "")]
    assert condition in JOBS["deploy"]["if"]
    assert condition in upload["if"]
