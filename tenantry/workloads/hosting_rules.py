"""Which shapes can serve which tiers, containers and instances: one table, checked as a workload's
file is read, and printed in docs/hosting.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tenantry.names.tiers import Tier
from tenantry.workloads.hosting import MOST_CONTAINERS, SHADOWED, HostingShape, Pipeline
from tenantry.workloads.instance_types import (
    gpu_gigabytes,
    has_accelerator,
    has_gpu,
    multi_model_fault,
)

if TYPE_CHECKING:
    from tenantry.workloads.schema import Workload

TIERS: Final[tuple[Tier, ...]] = ("silo", "bridge", "pool")
SHAPES: Final[Mapping[str, str]] = {
    "multi_model": "many models on shared instances; SageMaker loads them when they are asked",
    "single_model": "one tenant's model on instances of its own",
    "serverless": "one tenant's model without an instance, paid for each request",
    "multi_container": f"up to {MOST_CONTAINERS} models, each in a container of its own",
    "pipeline": f"2 to {MOST_CONTAINERS} containers in a row, one of them multi-model",
    "container_managed": "many models behind one container, which fetches archives itself",
}
"""What each shape is, for people."""


@dataclass(frozen=True)
class Rule:
    """What a shape cannot be.

    ``shapes`` are those that it holds for. ``says`` is for people. ``source`` is AWS's page, or the
    article (docs/differences-from-the-articles.md). ``cure`` says what would work. ``broken`` tells
    whether a workload's file breaks it for a tier; it may give the particulars.
    """

    shapes: frozenset[str]
    says: str
    source: str
    cure: str
    broken: Callable[[Workload, Tier, HostingShape], bool | str]


def _is_shared(_: Workload, tier: Tier, __: HostingShape) -> bool:
    return tier != "silo"


def _is_silo(_: Workload, tier: Tier, __: HostingShape) -> bool:
    return tier == "silo"


def _not_a_multi_model_type(workload: Workload, _: Tier, __: HostingShape) -> bool | str:
    return multi_model_fault(workload.serving.instance_type) or False


def _on_a_gpu(workload: Workload, _: Tier, __: HostingShape) -> bool:
    return has_gpu(workload.serving.instance_type)


def _has_an_accelerator(workload: Workload, _: Tier, __: HostingShape) -> bool:
    return has_accelerator(workload.serving.instance_type)


def _has_a_capacity(workload: Workload, tier: Tier, _: HostingShape) -> bool:
    return tier == "silo" and workload.serving.silo_capacity is not None


def _has_a_machine_image(workload: Workload, _: Tier, __: HostingShape) -> bool:
    return workload.serving.ami_version is not None


def _gathers_batches(workload: Workload, _: Tier, __: HostingShape) -> bool:
    return workload.serving.batching is not None


def _does_not_fit(workload: Workload, _: Tier, __: HostingShape) -> bool | str:
    needed, serving = workload.serving.gpu_gigabytes, workload.serving
    has = gpu_gigabytes(serving.instance_type)
    if needed is None or has is None or needed <= has:
        return False
    return (
        f"the models need {needed:g} GB of GPU memory, and a GPU of {serving.instance_type} has "
        f"{has:g} GB"
    )


def _mixes(workload: Workload, _: Tier, shape: HostingShape) -> bool:
    """Whether a container beside the models' own runs on a machine with a GPU that it does not
    need."""
    return isinstance(shape, Pipeline) and has_gpu(workload.serving.instance_type)


RULES: Final = (
    Rule(
        frozenset({"multi_model", "pipeline"}),
        "Multi-model containers run on CPU types and on some types of one GPU, never on Inferentia "
        "or Trainium.",
        "docs.aws.amazon.com/sagemaker/latest/dg/multi-model-support.html (S1)",
        "choose another instance type, or container_managed",
        _not_a_multi_model_type,
    ),
    Rule(
        frozenset({"multi_model"}),
        "On GPUs, AWS supports multi-model endpoints with its Triton container alone, and "
        "Tenantry's client does not speak Triton's protocol.",
        "docs.aws.amazon.com/sagemaker/latest/dg/multi-model-endpoints.html (S1)",
        "choose container_managed",
        _on_a_gpu,
    ),
    Rule(
        frozenset({"single_model"}),
        "A single-model endpoint serves one model, and each tenant of a shared tier has its own.",
        "S1, S4",
        "choose multi_model or container_managed here, and silo for tenants who need machines of "
        "their own",
        _is_shared,
    ),
    Rule(
        frozenset({"serverless"}),
        "A serverless endpoint serves one model; an account has 50 of them in a region.",
        "docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html (S1, S4)",
        "choose multi_model or container_managed here, and serverless for silo",
        _is_shared,
    ),
    Rule(
        frozenset({"serverless"}),
        "Serverless endpoints have no GPU, Inferentia or Trainium.",
        "docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html",
        "choose single_model or container_managed, or a CPU type for serving.instance_type",
        _has_an_accelerator,
    ),
    Rule(
        frozenset({"serverless"}),
        "A serverless endpoint has no instances, so nothing scales them.",
        "docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html (S1)",
        "remove serving.silo_capacity; max_concurrency is its limit",
        _has_a_capacity,
    ),
    Rule(
        frozenset({"serverless"}),
        "A serverless endpoint has no machine image to choose.",
        "docs.aws.amazon.com/sagemaker/latest/APIReference/API_ProductionVariant.html",
        "remove serving.ami_version",
        _has_a_machine_image,
    ),
    Rule(
        frozenset({"serverless"}),
        "A serverless endpoint gives each request an environment of its own, so none has company.",
        "docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html",
        "remove serving.batching, or choose single_model",
        _gathers_batches,
    ),
    Rule(
        frozenset({"multi_container"}),
        "SageMaker has no GPU inference for containers that are called directly.",
        "Model hosting patterns in Amazon SageMaker, Part 1 (S1)",
        "choose container_managed, or a CPU type",
        _has_an_accelerator,
    ),
    Rule(
        frozenset({"multi_container"}),
        "A multi-container endpoint is shared, and a silo tenant shares with nobody.",
        "S4",
        "choose single_model or serverless",
        _is_silo,
    ),
    Rule(
        frozenset({"pipeline"}),
        "A pipeline's containers share an instance; those without a GPU would hold it idle.",
        "S1: CPU with CPU, GPU with GPU",
        "choose a CPU type, or container_managed",
        _mixes,
    ),
    Rule(
        frozenset({"pipeline"}),
        "A silo tenant has one model, which needs no multi-model container.",
        "S4",
        "choose single_model",
        _is_silo,
    ),
    Rule(
        frozenset({"multi_model", "single_model", "container_managed"}),
        "The base that all models share, and a model, must fit a GPU of the instance.",
        "S0: one GPU serves a model",
        "choose an instance type with a larger GPU, or correct serving.gpu_gigabytes",
        _does_not_fit,
    ),
)


@dataclass(frozen=True)
class Difference:
    """Where Tenantry does otherwise than the articles, and why."""

    what: str
    article: str
    why: str


DIFFERENCES: Final = (
    Difference(
        "A shared tier's asynchronous endpoint serves all its tenants.",
        "S4: asynchronous for silo, otherwise an endpoint for each tenant",
        "Its container fetches the archive that a request names, so cost does not grow with "
        "tenants.",
    ),
    Difference(
        "`container_managed` serves many tenants at once without a multi-model container.",
        "S4: real-time for silo alone",
        "AWS supports GPUs and Inferentia that way, where multi-model is Triton's alone.",
    ),
    Difference(
        "`multi_model` may serve a silo tenant, and does where a file has no section `hosting`.",
        "S4: multi-model for bridge and pool alone",
        "A new version is a pointer that flips at once; it costs no deployment.",
    ),
    Difference(
        "Tenants of tier `pool` have models of their own, on the shape of the tier.",
        "S4: one shared model",
        "A workload with one model for all tenants is not offered yet.",
    ),
)


def tables() -> str:
    """The shapes, the rules and the differences as tables in Markdown, as docs/hosting.md has
    them."""
    lines = ["| shape | what it is | tiers |", "|---|---|---|"]
    for shape, what in SHAPES.items():
        refused = {
            tier
            for tier in TIERS
            for rule in RULES
            if shape in rule.shapes
            and rule.broken in {_is_shared, _is_silo}
            and (tier == "silo") == (rule.broken is _is_silo)
        }
        tiers = ", ".join(tier for tier in TIERS if tier not in refused)
        lines.append(f"| `{shape}` | {what} | {tiers} |")
    lines += ["", "| shapes | what cannot be | what would work | source |", "|---|---|---|---|"]
    for rule in RULES:
        shapes = ", ".join(f"`{one}`" for one in SHAPES if one in rule.shapes)
        lines.append(f"| {shapes} | {rule.says} | {rule.cure} | {rule.source} |")
    lines += ["", "| Tenantry | the articles | why |", "|---|---|---|"]
    lines += [f"| {one.what} | {one.article} | {one.why} |" for one in DIFFERENCES]
    return "\n".join(lines) + "\n"


def hosting_fault(workload: Workload) -> str | None:
    """Why a workload cannot be hosted as its file says, with the field and the cure; None where it
    can."""
    for tier in TIERS:
        shape: HostingShape = getattr(workload.hosting, tier)
        for rule in RULES:
            if shape.shape not in rule.shapes:
                continue
            particulars = rule.broken(workload, tier, shape)
            if particulars:
                why = particulars if isinstance(particulars, str) else rule.says.removesuffix(".")
                return f"hosting.{tier} is {shape.shape}: {why} ({rule.source}); {rule.cure}"
    if workload.hosting.shadow is not None and not SHADOWED & {
        getattr(workload.hosting, tier).shape for tier in TIERS
    }:
        return (
            f"hosting.shadow needs a tier of one of the shapes {', '.join(sorted(SHADOWED))}; "
            f"choose one for a tier, or remove hosting.shadow"
        )
    return None
