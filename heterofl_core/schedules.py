"""The schedule that a protocol stands for, by data set and partition: Table 4, in `params/schedules.yaml`."""

from collections.abc import Mapping
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.folders import PARAMS
from heterofl_core.own import is_own_dataset
from heterofl_core.strict_yaml import parse_yaml

SCHEDULES: dict[str, Any] = parse_yaml((PARAMS / "schedules.yaml").read_text(encoding="utf-8"))
SHORT = 0.1  # schedule_factor of the short protocol, unless given


def planned_schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture and schedule that a protocol stands for, by the names of `RunParams`.

    Empty for an unknown data set.

    Raises:
        InputError: the protocol does not exist for the data set, or the partition is not possible with it, or
            the factor is too small, or given with a protocol that has none.
    """
    dataset = str(given.get("dataset"))
    plans = SCHEDULES["own"] if is_own_dataset(dataset) else SCHEDULES["datasets"].get(dataset)
    if plans is None:
        return {}
    own = "paper" if "paper" in plans else "custom"
    protocol = given.get("protocol", own)
    if protocol in ("paper", "short") and own != "paper":
        raise InputError(
            f"protocol {protocol!r} does not exist for dataset {dataset!r}, which the paper does not use; "
            "allowed are custom, smoke"
        )
    plan = {**plans["data"], "protocol": protocol, **plans[own]}
    by_partition = {"iid": plan.pop("iid"), "non-iid": plan.pop("non-iid", {})}
    kind = "iid" if given.get("partition", "iid") == "iid" else "non-iid"
    if not by_partition[kind]:
        raise InputError(
            f"partition {given['partition']!r} is not possible with dataset {dataset!r}; allowed is iid"
        )
    plan |= by_partition[kind]
    factor = given.get("schedule_factor", SHORT if protocol == "short" else 1.0)
    if protocol == "short":
        plan |= shortened(plan, factor)
        if not {"rounds", "milestones"} & given.keys():
            check_decays(plan)
    elif factor != 1:
        raise InputError(f"schedule_factor {factor!r} is for protocol short only, not for {protocol}")
    if protocol == "smoke":
        plan |= SCHEDULES["smoke"]
    return plan


def shortened(plan: Mapping[str, Any], factor: Any) -> dict[str, Any]:
    """Rounds and milestones multiplied by the factor; one that cannot be used is left to validation."""
    try:
        factor = float(factor)  # YAML reads 1e-1 as text
    except (TypeError, ValueError):
        return {"schedule_factor": factor}
    if not 0 < factor <= 1:
        return {"schedule_factor": factor}
    return {
        "schedule_factor": factor,
        "rounds": max(1, round(plan["rounds"] * factor)),
        "milestones": [max(1, round(milestone * factor)) for milestone in plan["milestones"]],
    }


def check_decays(plan: Mapping[str, Any]) -> None:
    """Raises an `InputError` unless each milestone has a round of its own behind it."""
    milestones, rounds = plan["milestones"], plan["rounds"]
    if len({*milestones, rounds}) <= len(milestones):
        raise InputError(
            f"schedule_factor {plan['schedule_factor']} leaves {rounds} rounds with the milestones "
            f"{milestones}, where a decay would be lost; give a larger one"
        )
