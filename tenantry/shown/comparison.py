"""Challenger and champion side by side, as people see them."""

from __future__ import annotations

from tenantry.models.quality import comparable, has_fresh_score
from tenantry.models.registry import ModelVersion
from tenantry.shown.report import Markdown
from tenantry.workloads.schema import Workload


def comparison(workload: Workload, challenger: ModelVersion, champion: ModelVersion) -> Markdown:
    """Challenger and champion side by side: every figure either has, and when and how each was
    made.

    The first row has the compared score, in the first two columns of figures. The other figures are
    for people.
    """
    quality = workload.quality
    better = "lower" if quality.lower_is_better else "higher"
    columns = {f"challenger {challenger.version}": (challenger, challenger.metrics)}
    if has_fresh_score(challenger, champion):
        columns[f"champion {champion.version} on the same data"] = (
            champion,
            comparable(challenger, champion),
        )
        columns["champion at its training"] = (champion, champion.metrics)
    else:
        columns[f"champion {champion.version}"] = (champion, champion.metrics)
    skills = [quality.skill(metrics) for _, metrics in columns.values()]
    rows = [
        [
            f"**{quality.compared}**",
            *(_figure(None if skill is None else quality.shown(skill)) for skill in skills),
        ]
    ]
    names = dict.fromkeys(name for _, metrics in columns.values() for name in metrics)
    rows += [
        [name, *(_figure(metrics.get(name)) for _, metrics in columns.values())] for name in names
    ]
    rows.append(["made", *(f"{model.made:%Y-%m-%d %H:%M} UTC" for model, _ in columns.values())])
    rows.append(["recipe", *(model.recipe or "unknown" for model, _ in columns.values())])
    table = [[f"{better} is better", *columns], ["---"] * (len(columns) + 1), *rows]
    note = (
        f"A challenger up to {quality.tolerance:.0%} worse than the champion follows it: it "
        f"has seen newer data."
    )
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in table) + f"\n\n{note}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
