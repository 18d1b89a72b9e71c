"""Table 4 of the paper, architectures and schedules, beside what runs here get. Nothing here needs torch."""

import ast
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

import heterofl_core
from heterofl_core.folders import PARAMS
from heterofl_core.params import SCHEDULE, SEQUENCE_LENGTH
from heterofl_core.report.tables import printed
from heterofl_core.report.titles import DATASETS
from heterofl_core.schedules import SCHEDULES, planned_schedule


def schedules() -> pd.DataFrame:
    """The schedules of `params/schedules.yaml`: Table 4 of the paper, and ours for digits."""
    columns = {}
    for dataset in SCHEDULES["datasets"]:
        for partition in ("iid",) if dataset == "wikitext2" else ("iid", "non-iid-2"):
            plan = planned_schedule({"dataset": dataset, "partition": partition})
            columns[f"{dataset}, {partition}"] = {name: plan[name] for name in SCHEDULE}
    return pd.DataFrame(columns)


def beside_paper() -> Styler:
    """Table 4 as printed, each data set's column beside what runs here get, and ours for digits."""
    paper = pd.read_csv(PARAMS / "paper" / "table4.csv", dtype=str, keep_default_na=False)
    paper = paper.set_index("setting")
    columns: dict[str, Any] = {}
    for dataset in ("mnist", "cifar10", "wikitext2", "digits"):
        if dataset in paper:
            columns[f"{DATASETS[dataset]}, paper"] = paper[dataset]
        columns[f"{DATASETS[dataset]}, here"] = pd.Series(settings_here(dataset))
    further = (name for column in columns.values() for name in column.index)
    table = pd.DataFrame(columns).reindex(list(dict.fromkeys([*paper.index, *further]))).fillna("–")
    left: Any = [{"selector": "th", "props": "text-align: left"}]
    return printed(table.rename_axis("Setting").reset_index()).set_table_styles(left)


def settings_here(dataset: str) -> dict[str, str]:
    """What a run on a data set gets of the settings in Table 4, by the paper's names."""
    plans: dict[Any, dict[Any, Any]] = schedules().to_dict()
    iid, skewed = plans[f"{dataset}, iid"], plans.get(f"{dataset}, non-iid-2", {})
    arch = SCHEDULES["datasets"][dataset]["data"]["arch"]
    cnn, preresnet, transformer = (constants(module) for module in ("cnn", "preresnet", "transformer"))
    shape = {
        "cnn": {"Model": "CNN", "Hidden size": cnn["HIDDEN_SIZES"]},
        "preresnet18": {
            "Model": "PreResNet18",
            "Hidden size": preresnet["HIDDEN_SIZES"],
            "Blocks in the stages": preresnet["BLOCKS"],
        },
        "transformer": {
            "Model": "Transformer",
            "Hidden size": transformer["LAYERS"] * [transformer["HIDDEN_SIZE"]],
            "Embedding Size": transformer["EMBEDDING_SIZE"],
            "Number of heads": transformer["HEADS"],
            "Dropout": transformer["DROPOUT"],
            "Sequence length": SEQUENCE_LENGTH,
        },
    }
    values = shape[arch] | {
        "E": iid["local_epochs"],
        "B": iid["batch_size"],
        "Optimizer": "SGD",
        "Momentum": iid["momentum"],
        "Weight decay": iid["weight_decay"],
        "η": iid["lr"],
        "Communication rounds, IID": iid["rounds"],
        "Communication rounds, non-IID": skewed.get("rounds"),
        "Decay schedule (0.1), IID": iid["milestones"],
        "Decay schedule (0.1), non-IID": skewed.get("milestones"),
        "Clients": iid["num_clients"],
        "Active in a round": iid["participation"],
        "Bound on the gradient's norm": iid["clip_norm"],
    }
    return {
        name: str(list(value) if isinstance(value, tuple) else value)
        for name, value in values.items()
        if value is not None
    }


def constants(module: str) -> dict[str, Any]:
    """The constants of one of the core's modules, read off its source, since to import it takes torch."""
    tree = ast.parse((Path(heterofl_core.__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    return {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
