"""What a run is called: its data set, what it changes of the paper's method, and the title of its page."""

from collections.abc import Mapping
from typing import Any

from heterofl_core.params import SCHEDULE, run_params
from heterofl_core.report.paper import BASELINES

DATASETS = {"digits": "Digits", "mnist": "MNIST", "cifar10": "CIFAR10", "wikitext2": "WikiText2"}
"""Their names for people."""


def dataset_title(dataset: str) -> str:
    """The name of a data set for people; somebody's own has no other."""
    return DATASETS.get(dataset, dataset)


SWITCHES = (
    "method",
    "arch",
    "blocks",
    "selection",
    "norm",
    "scaler",
    "masked_loss",
    "label_restricted",
    "shared_layers",
    "predicted",
    "mask_trained",
    "augmented",
    "augmented_statistics",
)
"""What a run may change of the method itself."""

RECIPE = tuple(name for name in SCHEDULE if name not in ("rounds", "milestones"))
"""What it may change of the schedule beside its length, which is told anyway."""


def variation(params: Mapping[str, Any]) -> str:
    """What a run changes of the paper's method and of its recipe, such as `norm none, lr 0.1`; empty if
    nothing.

    Args:
        params: of a run, or a row of `results`; what is missing there counts as unchanged.
    """
    baseline = params["method"] in BASELINES
    named = {"method": params["method"], "arch": params["arch"]} if baseline else {}
    if params.get("protocol") == "smoke":
        named["protocol"] = "smoke"  # which has a local epoch of its own
    usual = run_params(
        dataset=params["dataset"], levels=params["levels"], partition=params["partition"], **named
    ).model_dump(mode="json")
    told = (*SWITCHES, *RECIPE)
    given = {name: params[name] for name in told if name in params and params[name] == params[name]}
    changes = [f"{name} {value}" for name, value in given.items() if value != usual[name]]
    return ", ".join([*(named[name] for name in ("method", "arch") if name in named), *changes])


def length(params: Mapping[str, Any]) -> str:
    """How many rounds a run had, and in which precision if that is another than float32."""
    precision = params.get("precision", "fp32")
    return f"{params['rounds']} rounds" + ("" if precision == "fp32" else f", {precision}")


def title_of(params: Mapping[str, Any]) -> str:
    """A title for the page of one run."""
    seed = f", seed {params['seed']}" if params["seed"] else ""
    varied = f", {variation(params)}" if variation(params) else ""
    return (
        f"{dataset_title(params['dataset'])}, {params['partition'].replace('iid', 'IID')}, "
        f"levels {params['levels']} ({params['assignment']}){varied}, {length(params)}{seed}"
    )
