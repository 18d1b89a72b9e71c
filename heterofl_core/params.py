"""The parameters of one run: flat, validated before any work starts, with one name everywhere.

The same names stand in YAML, in a notebook's parameters cell, on the command line and in a record.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from heterofl_core.errors import InputError
from heterofl_core.levels import Mix
from heterofl_core.own import is_own_dataset, is_own_model
from heterofl_core.schedules import SCHEDULES, planned_schedule
from heterofl_core.traces import read_trace

SEQUENCE_LENGTH = 64  # tokens of a window: what the Transformer sees at once
EVALUATIONS = 40  # points on a curve, unless eval_every says otherwise
SCHEDULE = (
    "num_clients",
    "participation",
    "rounds",
    "local_epochs",
    "batch_size",
    "lr",
    "milestones",
    "momentum",
    "weight_decay",
    "clip_norm",
)
"""The parameters that make a schedule; Table 4 of the paper."""
PAPER_BLOCKS = (1, 1, 1, 2)
ARCHITECTURES = ("cnn", "preresnet18", "transformer", "mlp")
ARCHITECTURE_NORMS = {"mlp": "none", "transformer": "ln"}
"""The only norm of an architecture; the others have a choice."""

Count = Annotated[int, Field(strict=True, ge=1)]


def usual_eval_every(rounds: int) -> int:
    """Rounds between evaluations, unless `eval_every` says otherwise."""
    return max(1, rounds // EVALUATIONS)


class RunParams(BaseModel):
    """The parameters of one run, complete; `run_params` fills them in from the few that are given.

    Attributes:
        dataset: `digits` (embedded, not in the paper), `mnist`, `cifar10`, `wikitext2`, or one's own
            `own-NAME`; see `own`.
        levels: the mix, such as `e`, `a-e`, `a3-e7`; see `levels.Mix`.
        method: `heterofl`, or a baseline: `fedavg`, `standalone`, `lg-fedavg`; see `methods`.
        shared_layers: how many of the last layers `lg-fedavg` shares.
        arch: `cnn`, `preresnet18`, `mlp` or one's own `MODULE:CLASS` for images, `transformer` for text.
        blocks: in the four stages of `preresnet18`; None for the paper's 1, 1, 1, 2.
        partition: `iid`, `non-iid-k` for at most k labels a client, or `dirichlet-α`.
        assignment: `fix`; `dynamic` for levels drawn anew each round; `uniform` for levels drawn once;
            `trace` for given ones.
        trace: the clients' levels as one text with a letter for each, such as `aabce`; each level of the mix
            occurs.
        selection: which coordinates a sub-model has: `static` (HeteroFL), `random` or `rolling`.
        norm: `sbn`, or `none`, `in`, `gn`, `ln`, `bn`.
        scaler: whether the Scaler is on.
        masked_loss: `zero`, `neg_inf`, `detach`, or `none`; baselines have `none` only.
        label_restricted: whether the classifier's rows (and the rows of a token embedding) are averaged only
            over the clients that hold the label; never by a baseline.
        predicted: positions of a text whose tokens clients learn to predict: `all`, or the `masked` ones.
        mask_trained: whether clients send the embedding of [MASK] back, too; without `label_restricted`
            they send all rows.
        augmented: whether training images are cropped and flipped at random.
        augmented_statistics: whether they are so for the sBN statistics too.
        protocol: `paper` for Table 4's schedule, `short` for the same with rounds and milestones
            multiplied by `schedule_factor`, `smoke` for two rounds, `custom` for any other.
        schedule_factor: of the `short` protocol, in (0, 1); 1 for the others.
        num_clients, participation: clients in all, and the share of them active in a round.
        rounds, local_epochs, batch_size: communication rounds, epochs of a client in each, examples.
        lr, milestones: learning rate, and the rounds after which it is multiplied by 0.1.
        momentum, weight_decay, clip_norm: of a client's SGD; the gradient's norm is clipped.
        precision: of convolutions and products of matrices in training: `fp32`; `bf16`, which pays for large
            models where the processor has it; `tf32`, which only some GPUs have, in the forward pass.
            Evaluation is in float32.
        eval_every: rounds between evaluations; the last round and the milestones always count.
        seed: of every draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: str
    levels: str
    method: Literal["heterofl", "fedavg", "standalone", "lg-fedavg"] = "heterofl"
    shared_layers: Count = 3
    arch: str
    blocks: tuple[Count, Count, Count, Count] | None = None
    partition: str = "iid"
    assignment: Literal["fix", "dynamic", "uniform", "trace"]
    trace: str | None = None
    selection: Literal["static", "random", "rolling"] = "static"
    norm: Literal["sbn", "none", "in", "gn", "ln", "bn"] = "sbn"
    scaler: bool = True
    masked_loss: Literal["zero", "neg_inf", "detach", "none"] = "zero"
    label_restricted: bool = True
    predicted: Literal["all", "masked"] = "all"
    mask_trained: bool = False
    augmented: bool = False
    augmented_statistics: bool = False
    protocol: Literal["paper", "short", "smoke", "custom"]
    schedule_factor: float = Field(1.0, gt=0, le=1)
    num_clients: Count
    participation: float = Field(gt=0, le=1)
    rounds: Count
    local_epochs: Count
    batch_size: Count
    lr: float = Field(gt=0)
    milestones: tuple[Annotated[int, Field(strict=True)], ...]
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    precision: Literal["fp32", "bf16", "tf32"] = "fp32"
    eval_every: Count = Field(default_factory=lambda earlier: usual_eval_every(earlier["rounds"]))
    seed: int = Field(0, ge=0, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def check_switch(cls, value: object, field: ValidationInfo) -> object:
        """True and false are for switches; Python would take them for 1 and 0."""
        name = str(field.field_name)
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
            raise PydanticCustomError("switch", "it is not a switch")  # `sentence` says of what
        return value

    @field_validator("dataset")
    @classmethod
    def check_dataset(cls, dataset: str) -> str:
        """It is one of the study's, or has the name of somebody's own."""
        if dataset not in SCHEDULES["datasets"] and not is_own_dataset(dataset):
            raise InputError(
                f"dataset {dataset!r} is unknown; allowed are {', '.join(SCHEDULES['datasets'])}, and "
                "own-NAME for a folder of your own (small letters, digits and hyphens)"
            )
        return dataset

    @model_validator(mode="after")
    def check(self) -> Self:
        """What no field can check alone."""
        check_partition(self.partition)
        mix = Mix.parse(self.levels)
        if self.assignment == "fix":
            mix.fix(self.num_clients)
        if self.assignment in ("uniform", "trace") and len(set(mix.parts)) > 1:
            raise InputError(
                f"levels {self.levels!r} has numbers, which assignment {self.assignment} does not follow; "
                f"allowed is {'-'.join(mix.levels)!r}, or assignment fix or dynamic"
            )
        self.check_trace(mix)
        self.check_architecture()
        self.check_method(mix)
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise InputError(
                f"milestones {list(self.milestones)} is not allowed; give rounds from 1 on, ascending"
            )
        return self

    def check_trace(self, mix: Mix) -> None:
        """A trace belongs to the assignment `trace`, and has a level of the mix for each client.

        It has each level of the mix: the slice of one that nobody has would be judged, too.
        """
        if (self.trace is None) != (self.assignment != "trace"):
            raise InputError(
                f"trace {self.trace!r} does not go with assignment {self.assignment!r}; assignment trace "
                "needs one, and no other allows it"
            )
        if self.trace is None:
            return
        if len(self.trace) != self.num_clients:
            raise InputError(f"trace has {len(self.trace)} levels; num_clients asks for {self.num_clients}")
        strangers = sorted(set(self.trace) - set(mix.levels))
        if strangers:
            raise InputError(
                f"trace has the level {strangers[0]!r}, which levels {self.levels!r} does not have"
            )
        absent = [level for level in mix.levels if level not in self.trace]
        if absent:
            raise InputError(
                f"trace has no client of level {absent[0]!r}, which levels {self.levels!r} asks for"
            )

    def check_architecture(self) -> None:
        """The architecture fits the data and the norm, and other settings fit the data."""
        text = self.dataset == "wikitext2"
        if self.arch not in ARCHITECTURES and not is_own_model(self.arch):
            raise InputError(
                f"arch {self.arch!r} is unknown; allowed are {', '.join(ARCHITECTURES)}, and "
                "MODULE:CLASS for your own"
            )
        if (self.arch == "transformer") != text:
            of_images = [arch for arch in ARCHITECTURES if arch != "transformer"]
            allowed = "transformer" if text else ", ".join([*of_images, "MODULE:CLASS"])
            raise InputError(
                f"arch {self.arch!r} is not for dataset {self.dataset!r}; allowed there: {allowed}"
            )
        only = ARCHITECTURE_NORMS.get(self.arch)
        if only and self.norm != only:
            raise InputError(f"norm {self.norm!r} is not possible with arch {self.arch!r}; allowed is {only}")
        if self.blocks and self.arch != "preresnet18":
            raise InputError(f"blocks {list(self.blocks)} is for arch preresnet18 only, not for {self.arch}")
        for name, usual in (("predicted", "all"), ("mask_trained", False)):
            if not text and getattr(self, name) != usual:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is for dataset wikitext2 only, not for {self.dataset}"
                )
        for name in ("augmented", "augmented_statistics"):
            if text and getattr(self, name):
                raise InputError(f"{name} True is for images; dataset wikitext2 allows False")

    def check_method(self, mix: Mix) -> None:
        """A baseline has one level, and no label masks: FedAvg with them would be HeteroFL of one level."""
        if self.method == "heterofl":
            return
        if self.dataset == "wikitext2" and self.method != "fedavg":
            raise InputError(
                f"method {self.method!r} is for images; dataset wikitext2 allows heterofl, fedavg"
            )
        if len(mix.levels) > 1:
            raise InputError(
                f"levels {self.levels!r} is a mix, but method {self.method} allows one level only"
            )
        for name, usual in (("masked_loss", "none"), ("label_restricted", False)):
            if getattr(self, name) != usual:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is part of HeteroFL, and not of method {self.method!r}; "
                    f"allowed is {usual!r}, or method heterofl"
                )

    @property
    def num_active(self) -> int:
        """M_t = max(C·M, 1): clients that are active in a round."""
        return max(round_half_up(self.participation * self.num_clients), 1)

    @property
    def has_personal_models(self) -> bool:
        """Whether each client keeps layers of its own, or a whole model: there is no global model then."""
        return self.method in ("standalone", "lg-fedavg")

    def is_evaluated(self, round: int) -> bool:
        """Every `eval_every` rounds, at each milestone, and in the end."""
        return round % self.eval_every == 0 or round in self.milestones or round == self.rounds

    @property
    def run_id(self) -> str:
        """A name that people can read, and a hash of all settings that differ from their defaults.

        A parameter added later, with a default that keeps results as they were, leaves it unchanged.
        """
        settings = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        method = [self.method] if self.method != "heterofl" else []
        parts = (self.dataset, *method, self.partition, self.levels, self.assignment, self.protocol)
        return "_".join([*parts, f"s{self.seed}", digest])


class Execution(BaseModel):
    """How a run is executed; none of it changes the result, but for the rounding that engine and device make,
    and for the Transformer's dropout, which a GPU draws by a generator of its own.

    Attributes:
        engine: `plain` for a loop operation by operation; `compiled` for local steps that are programs of
            their own, built once on a machine in about half a minute a level; `auto` for `compiled` where
            that pays, which is on a GPU, and in a run of many local steps on a machine with a C++ compiler.
        device: `cpu` or `cuda`.
        workers: processes that execute clients side by side, one thread each; None for as many as there are
            cores. A cluster that has an address has a number of its own.
        backend: where these processes are: `loky` on this machine, `dask` or `ray` on the cluster whose
            address stands in `DASK_SCHEDULER_ADDRESS` or `RAY_ADDRESS`; without one, on this machine.
        checkpoint_every: rounds between checkpoints; there is one at each evaluated round, too.
        force: redo a run that is finished.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["auto", "plain", "compiled"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    workers: Count | None = None
    backend: Literal["loky", "dask", "ray"] = "loky"
    checkpoint_every: Count = 5
    force: bool = False


def check_partition(partition: str) -> None:
    """Raises an `InputError` unless the partition is one that exists."""
    if partition.startswith("dirichlet-"):
        alpha = partition.removeprefix("dirichlet-")
        if not (is_number(alpha) and 0 < float(alpha) < math.inf):
            raise InputError(
                f"partition {partition!r} has α = {alpha}, which is not allowed; α must be finite and above 0"
            )
    elif not re.fullmatch(r"iid|non-iid-[1-9]\d*", partition):
        raise InputError(
            f"partition {partition!r} is unknown; allowed are iid, non-iid-k for at most k labels a client, "
            "such as non-iid-2, and dirichlet-α, such as dirichlet-0.3"
        )


def round_half_up(value: float) -> int:
    """To the nearest integer; 2.5 becomes 3."""
    return math.floor(value + 0.5)


def is_number(text: str) -> bool:
    """Whether Python reads the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def run_params(**values: Any) -> RunParams:
    """Completes and validates the parameters of one run.

    Only `dataset` and `levels` are needed; None counts as not given. The architecture and the schedule
    follow from `protocol`, `dataset` and `partition` (`params/schedules.yaml`). Any part of them that is
    given wins, and a run whose schedule then differs is recorded as `custom`. As in the paper, a single
    level is always `fix`, and a mix is `dynamic` unless another assignment, or a trace, is given.

    Raises:
        InputError: one sentence that names the parameter, its value and what is allowed.
    """
    given = without_none(values)
    if str(given.get("trace", "")).endswith(".csv"):
        given["trace"] = read_trace(given["trace"])
    plan = planned_schedule(given) | planned_method(given)
    arch = str(given.get("arch", plan.get("arch")))
    plan |= {"norm": ARCHITECTURE_NORMS[arch]} if arch in ARCHITECTURE_NORMS else {}
    try:
        params = RunParams(**{"assignment": "trace" if "trace" in given else "dynamic", **plan, **given})
    except ValidationError as failure:
        raise InputError(sentence(failure)) from failure
    mix = Mix.parse(params.levels)
    changes: dict[str, Any] = {"levels": str(mix)}
    settings = params.model_dump(mode="json")
    if any(settings[name] != plan[name] for name in SCHEDULE):
        changes["protocol"] = "custom"
    elif (params.protocol, params.schedule_factor) == ("short", 1):
        changes["protocol"] = "paper"
    if changes.get("protocol", params.protocol) != "short":
        changes["schedule_factor"] = 1.0
    if len(mix.levels) == 1:
        changes |= {"assignment": "fix", "trace": None, "selection": "static"}
        changes |= {"scaler": params.method == "heterofl"}  # the usual; its factor is 1 anyway
    if params.method != "lg-fedavg":
        changes["shared_layers"] = RunParams.model_fields["shared_layers"].default
    if not params.label_restricted:
        changes["mask_trained"] = False  # all rows come back anyway
    if params.blocks == PAPER_BLOCKS:
        changes["blocks"] = None
    if params.partition.startswith("dirichlet-"):
        alpha = float(params.partition.removeprefix("dirichlet-"))
        changes["partition"] = f"dirichlet-{np.format_float_positional(alpha, trim='-')}"
    return params.model_copy(update=changes)


def planned_method(given: Mapping[str, Any]) -> dict[str, Any]:
    """The switches that a baseline turns off: it knows neither label masks nor the Scaler."""
    if given.get("method", "heterofl") == "heterofl":
        return {}
    return {"masked_loss": "none", "label_restricted": False, "scaler": False}


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
    if name in Execution.model_fields and error["type"] == "extra_forbidden":
        return f"parameter {name!r} (value {error['input']!r}) belongs to an execution; give it with -p"
    if error["type"] == "extra_forbidden":
        known = [*RunParams.model_fields, *Execution.model_fields]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
        return f"parameter {name!r} (value {error['input']!r}) is unknown; {hint}"
    refused = f"has the value {error['input']!r}, which is not allowed"
    if error["type"] != "missing":
        return f"parameter {name!r} {refused}: {error['msg']}"
    if error["loc"][1:]:  # a place in a list
        return f"parameter {error['loc'][0]!r} {refused}: it has too few elements"
    return f"parameter {name!r} is missing; it must be given"
