"""Table 4 stands beside what runs get."""

import csv
from pathlib import Path

from heterofl_core import clients, cnn, preresnet, transformer
from heterofl_core.folders import PARAMS
from heterofl_core.params import run_params
from heterofl_core.report import table4
from heterofl_core.report.titles import DATASETS


def test_schedules_are_what_runs_get() -> None:
    schedules = table4.schedules()
    assert list(schedules) == [
        *("mnist, iid", "mnist, non-iid-2", "cifar10, iid", "cifar10, non-iid-2", "wikitext2, iid"),
        *("digits, iid", "digits, non-iid-2"),
    ]
    for column in schedules:
        dataset, _, partition = str(column).partition(", ")
        params = run_params(dataset=dataset, levels="e", partition=partition).model_dump(mode="json")
        assert schedules[column].to_dict() == {name: params[name] for name in schedules.index}


def test_it_has_each_row_of_the_paper_beside_ours_and_they_agree() -> None:
    table = vars(table4.beside_paper())["data"].set_index("Setting")
    with (PARAMS / "paper" / "table4.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(table.index[: len(rows)]) == [row["setting"] for row in rows]
    differing = []
    for row in rows:
        for dataset in ("mnist", "cifar10", "wikitext2"):
            name = DATASETS[dataset]
            paper, here = table.loc[row["setting"], [f"{name}, paper", f"{name}, here"]]
            assert paper == row[dataset]
            if here != (str(float(paper)) if "E-" in paper else paper):
                differing.append((dataset, row["setting"], here))
    absent = ("Embedding Size", "Number of heads", "Dropout", "Sequence length")
    assert sorted(differing) == sorted(
        [(dataset, name, "–") for dataset in ("mnist", "cifar10") for name in absent]
        + [("wikitext2", name, "–") for name in table.index if name.endswith("non-IID")]
    )


def test_it_has_what_the_paper_leaves_out_below_its_rows() -> None:
    table = vars(table4.beside_paper())["data"].set_index("Setting")
    assert table.loc["Clients", ["MNIST, paper", "MNIST, here"]].tolist() == ["–", "100"]
    assert table.loc["Blocks in the stages", "CIFAR10, here"] == "[1, 1, 1, 2]"


def test_its_sizes_are_those_of_the_models() -> None:
    for module in (cnn, preresnet, transformer):
        read = table4.constants(module.__name__.rpartition(".")[2])
        assert read
        assert read == {name: getattr(module, name) for name in read}
    assert "torch.optim.SGD(" in Path(clients.__file__).read_text(encoding="utf-8")
