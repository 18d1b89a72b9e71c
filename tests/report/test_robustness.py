"""How much of the ledger hangs on the number of its comparisons, and on the best round."""

import pytest
from test_evidence import a_record

from heterofl_core.params import run_params
from heterofl_core.report import claims, robustness
from heterofl_core.report.claims import Claim, Comparison, Judgement, judged
from heterofl_core.report.differences import difference
from heterofl_core.report.evidence import Evidence


def test_what_correction_leaves_of_outcomes_and_verdicts_by_hand() -> None:
    """Of four comparisons, three in the first claim. It keeps both that hold: 0.01 ≤ 0.05/3, 0.02 ≤ 0.05/2.
    Among all four, 0.01 ≤ 0.05/4, and 0.02 > 0.05/3 ends it: one of three holds, and the claim is undecided.
    The other claim has one that fails, by itself, and the third too few intervals.
    """
    first = [Judgement(None, *one) for one in (("holds", 0.01), ("holds", 0.02), ("open", 0.7))]
    others = [[Judgement(None, "fails", 0.04)], [Judgement(None, "no interval", float("nan"))]]
    assert robustness.corrected([first, *others]) == (
        "Of 4 comparisons with an interval, 2 hold and 1 fail. Holm's correction for all of them leaves 1 "
        "and 0. Of 2 verdicts that decide something (reproduced, partly, not reproduced, or their weaker "
        "words), 0 stay if each corrects for all comparisons and not for its claim's alone; without any "
        "correction, 2 would decide something."
    )


def test_chance_is_judged_at_the_margin() -> None:
    """a-e is better than e by about 10.5, which is far from 0 and near to a margin of 10."""
    accuracies = {"a-e": (90.0, 90.4, 90.1), "e": (79.4, 80.0, 79.5)}
    records = [
        a_record(value, levels=levels, seed=seed)
        for levels, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    mix, alone = (run_params(dataset="mnist", levels=levels) for levels in accuracies)
    found = difference(Evidence(records), mix, alone, "global_accuracy")
    assert found is not None
    comparison = Comparison(mix, alone, "global_accuracy", margin=10.0)
    assert judged(Evidence(records), comparison).chance == found.p_value(10.0) > 100 * found.p_value(0.0)


def test_what_hangs_on_the_best_round_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the best round e is better than a by 1 with each seed, by the last round worse by 1."""
    records = [
        a_record(best, levels=levels, seed=seed)
        | {"metrics": {"best_global_accuracy": best, "final_global_accuracy": final}}
        for levels, values in {"e": ((98.0, 95.0), (98.1, 95.1)), "a": ((97.0, 96.0), (97.1, 96.1))}.items()
        for seed, (best, final) in enumerate(values)
    ]
    e, a, b = (run_params(dataset="mnist", levels=levels) for levels in ("e", "a", "b"))
    comparison = Comparison(e, a, "global_accuracy")
    claim = Claim(1, "e is better than a and b", "nowhere", (comparison, Comparison(e, b, "global_accuracy")))
    monkeypatch.setattr(claims, "read_claims", lambda: [claim])
    monkeypatch.setattr(robustness, "all_evidence", lambda: Evidence(records))
    assert robustness.robustness() == (
        "Of 1 comparisons with an interval, 1 hold and 0 fail. Holm's correction for all of them leaves 1 "
        "and 0. Of 1 verdicts that decide something (reproduced, partly, not reproduced, or their weaker "
        "words), 1 stay if each corrects for all comparisons and not for its claim's alone; without any "
        "correction, 1 would decide something. Judged by the last round and not by the best, 1 of the 1 "
        "outcomes and 1 of the 1 verdicts with enough runs would be others."
    )
