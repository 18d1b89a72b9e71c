"""The parameters of one run: flat, validated before any work starts, with one name everywhere.

The same names stand in YAML, in a notebook's parameters cell, on the command line and in a record.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from heterofl_core.errors import InputError
from heterofl_core.folders import PARAMS
from heterofl_core.levels import Mix

SCHEDULES: dict[str, Any] = yaml.safe_load((PARAMS / "schedules.yaml").read_text(encoding="utf-8"))
EVALUATIONS = 40  # points on a curve, unless eval_every says otherwise
SHORT = 0.1  # schedule_factor of the short protocol, unless given


Count = Annotated[int, Field(strict=True, ge=1)]


class RunParams(BaseModel):
    """The parameters of one run, complete; `run_params` fills them in from the few that are given.

    Attributes:
        dataset: `digits` (embedded, not in the paper) or `mnist`.
        levels: the mix, such as `e`, `a-e`, `a3-e7`; see `levels.Mix`.
        method: `heterofl`.
        arch: the architecture.
        partition: `iid`, or `non-iid-k` for at most k labels a client.
        assignment: `fix`, or `dynamic` for levels drawn anew each round.
        norm: `sbn`, or `none`, `in`, `gn`, `ln`, `bn`.
        scaler: whether the Scaler is on.
        masked_loss: `zero`, `neg_inf`, `detach`, or `none`.
        protocol: `paper` for Table 4's schedule, `short` for the same with rounds and milestones
            multiplied by `schedule_factor`, `smoke` for two rounds, `custom` for any other.
        schedule_factor: of the `short` protocol, in (0, 1]; 1 for the others.
        num_clients, participation: clients in all, and the share of them active in a round.
        rounds, local_epochs, batch_size: communication rounds, epochs of a client in each, examples.
        lr, milestones: learning rate, and the rounds after which it is multiplied by 0.1.
        momentum, weight_decay, clip_norm: of a client's SGD; the gradient's norm is clipped.
        eval_every: rounds between evaluations; the last round and the milestones always count.
        seed: of every draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: Literal["digits", "mnist"]
    levels: str
    method: Literal["heterofl"] = "heterofl"
    arch: Literal["cnn"]
    partition: str = "iid"
    assignment: Literal["fix", "dynamic"]
    norm: Literal["sbn", "none", "in", "gn", "ln", "bn"] = "sbn"
    scaler: bool = True
    masked_loss: Literal["zero", "neg_inf", "detach", "none"] = "zero"
    protocol: Literal["paper", "short", "smoke", "custom"]
    schedule_factor: float = Field(1.0, gt=0, le=1)
    num_clients: Count
    participation: float = Field(gt=0, le=1)
    rounds: Count
    local_epochs: Count
    batch_size: Count
    lr: float = Field(gt=0)
    milestones: tuple[int, ...]
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    eval_every: Count = Field(default_factory=lambda earlier: max(1, earlier["rounds"] // EVALUATIONS))
    seed: int = Field(0, ge=0, strict=True)

    @model_validator(mode="after")
    def check(self) -> Self:
        """What no field can check alone."""
        if not re.fullmatch(r"iid|non-iid-[1-9]\d*", self.partition):
            raise InputError(
                f"partition {self.partition!r} is unknown; allowed are iid, and non-iid-k for at most k "
                "labels a client, such as non-iid-2"
            )
        mix = Mix.parse(self.levels)
        if self.assignment == "fix":
            mix.fix(self.num_clients)
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise InputError(
                f"milestones {list(self.milestones)} is not allowed; give rounds from 1 on, ascending"
            )
        return self

    @property
    def run_id(self) -> str:
        """A name that people can read, and a hash of all settings that differ from their defaults.

        A parameter added later, with a default that keeps results as they were, leaves it unchanged.
        """
        settings = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        parts = (self.dataset, self.partition, self.levels, self.assignment, self.protocol)
        return "_".join([*parts, f"s{self.seed}", digest])


class Execution(BaseModel):
    """How a run is executed; none of it changes the result.

    Attributes:
        workers: processes that execute clients side by side, one thread each; None for one a core.
        force: redo a run that is finished.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: Count | None = None
    force: bool = False


def planned_schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture and schedule that a protocol stands for, by the names of `RunParams`.

    Empty for an unknown data set.

    Raises:
        InputError: the protocol does not exist for the data set.
    """
    dataset = str(given.get("dataset"))
    if dataset not in SCHEDULES["datasets"]:
        return {}
    plans = SCHEDULES["datasets"][dataset]
    own = "paper" if "paper" in plans else "custom"
    protocol = given.get("protocol", own)
    if protocol in ("paper", "short") and own != "paper":
        raise InputError(
            f"protocol {protocol!r} does not exist for dataset {dataset!r}, which the paper does not use; "
            "allowed are custom, smoke"
        )
    plan = {"arch": plans["arch"], "protocol": protocol, **plans[own]}
    iid, non_iid = plan.pop("iid"), plan.pop("non-iid")
    plan |= iid if given.get("partition", "iid") == "iid" else non_iid
    factor = given.get("schedule_factor", SHORT if protocol == "short" else 1.0)
    if protocol == "short":
        plan |= shortened(plan, factor)
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
        "milestones": sorted({max(1, round(milestone * factor)) for milestone in plan["milestones"]}),
    }


def run_params(**values: Any) -> RunParams:
    """Completes and validates the parameters of one run.

    Only `dataset` and `levels` are needed; None counts as not given. The architecture and the schedule
    follow from `protocol`, `dataset` and `partition` (`params/schedules.yaml`). Any part of them that is
    given wins, and the run is then recorded as `custom`. As in the paper, a single level is always `fix`,
    and a mix is `dynamic` unless `fix` is given.

    Raises:
        InputError: one sentence that names the parameter, its value and what is allowed.
    """
    given = without_none(values)
    plan = planned_schedule(given)
    try:
        params = RunParams(**{"assignment": "dynamic", **plan, **given})
        planned = RunParams(**{**params.model_dump(), **plan})
    except ValidationError as failure:
        raise InputError(sentence(failure)) from failure
    mix = Mix.parse(params.levels)
    changes: dict[str, Any] = {"levels": str(mix)}
    if params != planned:
        changes["protocol"] = "custom"
    if changes.get("protocol", params.protocol) != "short":
        changes["schedule_factor"] = 1.0
    if len(mix.levels) == 1:
        changes["assignment"] = "fix"
    return params.model_copy(update=changes)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """None counts as not given."""
    return {name: value for name, value in values.items() if value is not None}


def sentence(failure: ValidationError) -> str:
    """The most telling thing that a validation found wrong, for a person."""
    errors = sorted(failure.errors(), key=lambda error: error["type"] != "extra_forbidden")  # misspelt first
    error = errors[0]
    if isinstance(cause := error.get("ctx", {}).get("error"), InputError):
        return str(cause)
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = [*RunParams.model_fields, *Execution.model_fields]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
        return f"parameter {name!r} (value {error['input']!r}) is unknown; {hint}"
    if error["type"] == "missing":
        return f"parameter {name!r} is missing; it must be given"
    return f"parameter {name!r} has the value {error['input']!r}, which is not allowed: {error['msg']}"


def split_settings(values: Mapping[str, Any]) -> tuple[RunParams, Execution]:
    """Validates settings of a run, and of its execution, that were given under one roof.

    Raises:
        InputError: see `run_params`.
    """
    given = without_none(values)
    about_execution = {name: value for name, value in given.items() if name in Execution.model_fields}
    try:
        execution = Execution(**about_execution)
    except ValidationError as failure:
        raise InputError(sentence(failure)) from failure
    return run_params(**{n: v for n, v in given.items() if n not in about_execution}), execution


def from_namespace(namespace: Mapping[str, Any]) -> tuple[RunParams, Execution]:
    """Validates the settings that stand as plain variables in a notebook's first cells.

    Every variable there that holds a number, a text, a truth value, a list or None counts as a
    setting, so that a misspelt one that papermill injected is found. Names with a leading underscore,
    and IPython's `In` and `Out`, are the notebook's own.

    Raises:
        InputError: see `run_params`.
    """
    literal = (int, float, str, bool, list, tuple, type(None))
    return split_settings(
        {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_") and name not in ("In", "Out") and isinstance(value, literal)
        }
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the parameters of one run from a YAML file.

    Raises:
        InputError: the file cannot be read, or is no mapping of names to values.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"parameter file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"parameter file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"parameter file {path} must hold lines of the form 'name: value'")
    return values
