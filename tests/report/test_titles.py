"""What a run is called."""

from typing import Any

import pytest

from heterofl_core.params import run_params
from heterofl_core.report.titles import title_of, variation


def test_a_page_is_titled_by_its_run() -> None:
    params = run_params(dataset="mnist", levels="a-e", partition="non-iid-2", protocol="short", seed=3)
    title = "MNIST, non-IID-2, levels a-e (dynamic), 40 rounds, seed 3"
    assert title_of(params.model_dump(mode="json")) == title
    params = run_params(dataset="mnist", levels="e", precision="bf16", seed=1)
    assert title_of(params.model_dump(mode="json")) == "MNIST, IID, levels e (fix), 200 rounds, bf16, seed 1"
    params = run_params(dataset="wikitext2", levels="b")
    assert title_of(params.model_dump(mode="json")) == "WikiText2, IID, levels b (fix), 100 rounds"


@pytest.mark.parametrize(
    ("settings", "changed"),
    [({"method": "fedavg", "arch": "mlp"}, "fedavg, mlp"), ({"norm": "bn"}, "norm bn")],
)
def test_a_page_is_titled_by_what_its_run_changes(settings: dict[str, Any], changed: str) -> None:
    params = run_params(dataset="mnist", levels="a", **settings).model_dump(mode="json")
    assert title_of(params) == f"MNIST, IID, levels a (fix), {changed}, 200 rounds"


@pytest.mark.parametrize("protocol", ["paper", "short", "smoke"])
def test_a_protocol_is_no_change_of_the_recipe(protocol: str) -> None:
    assert (
        variation(run_params(dataset="mnist", levels="a-e", protocol=protocol).model_dump(mode="json")) == ""
    )
