"""Which model is best, in words, and what must be known beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gluonseg.report.columns import MIOU, SeedMean
from gluonseg.report.comparison import Comparison, ModelSummary
from gluonseg.text import join_names

_MAX_NAMES = 4


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Which model is best, in one sentence, and what must be known beside it."""

    headline: str
    caveat: str = ""


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far a model is behind the first; ``is_within_spread`` is None where one seed gave either number."""

    difference: float
    is_within_spread: bool | None
    text: str


def _count_thousandths(value: float) -> int:
    """A score as it is shown, with three digits, as a whole number."""
    return round(1000 * round(value, 3))


def _subtract_as_shown(one: SeedMean, two: SeedMean) -> str:
    """The difference of the rounded numbers, so that what stands beside it adds up."""
    return f"{(_count_thousandths(one.mean) - _count_thousandths(two.mean)) / 1000:.3f}"


def compute_gap(best: ModelSummary, model: ModelSummary) -> Gap | None:
    """The gap in mIoU between the first model and another; None where there is no mIoU, or no other.

    It is within the spread when the means are no further apart than both deviations together, all of them rounded as
    they are shown: a reader who adds up comes to the same verdict.
    """
    one, two = best.means["miou"], model.means["miou"]
    if one is None or two is None or best is model:
        return None
    is_within, words = None, "spread unknown"
    if one.spread is not None and two.spread is not None:
        difference = _count_thousandths(one.mean) - _count_thousandths(two.mean)
        is_within = difference <= _count_thousandths(one.spread) + _count_thousandths(two.spread)
        words = "within the spread" if is_within else "more than the spread"
    return Gap(one.mean - two.mean, is_within, f"{_subtract_as_shown(one, two)} behind, {words}")


def build_verdict(comparison: Comparison) -> Verdict:
    """Say which model is best, whether the differences are more than the spread over seeds, and what is missing."""
    if not comparison.models:
        return Verdict("No run has finished yet." if not comparison.failed else "No run has come to a result.")
    found = _rank(comparison.models)
    caveats = [found.caveat, _describe_missing(comparison), _describe_failed(comparison), _describe_absent(comparison)]
    headline = f"So far, {found.headline}" if comparison.num_open else found.headline
    return Verdict(headline, " ".join(text for text in caveats if text))


def _rank(models: Sequence[ModelSummary]) -> Verdict:
    measured = [(model, number) for model in models if (number := model.means["miou"])]
    unmeasured = [model.title for model in models if not model.means["miou"]]
    without = f"{join_names(unmeasured, _MAX_NAMES)} has no mIoU: no validation pixel is scored."
    if not measured:
        return Verdict(without)
    best, first = measured[0]
    if len(measured) == 1:
        caveat = f"{_describe_seeds(first)} {without if unmeasured else ''}".rstrip()
        return Verdict(f"{best.title} reaches mIoU {MIOU.format(first.mean)}.", caveat)
    second = measured[1][1]
    ranked = [model for model, _ in measured]
    judge = _judge_one_seed if first.spread is None or second.spread is None else _judge_spread
    return judge(ranked, first, second)


def _describe_seeds(number: SeedMean) -> str:
    if number.spread is None:
        return "One seed says nothing about the spread between trainings."
    return f"Spread over {number.count} seeds: ±{number.spread:.3f}."


def _count_wins(best: ModelSummary, second: ModelSummary) -> str:
    """On how many photos the first is better; nothing where all are the same under both."""
    pairs = [(value, second.photo_miou[name]) for name, value in best.photo_miou.items() if name in second.photo_miou]
    wins, same = sum(one > two for one, two in pairs), sum(one == two for one, two in pairs)
    if same == len(pairs):
        return ""
    ties = f", the same on {same}" if same else ""
    return f" Photo by photo, {best.title} scores higher than {second.title} on {wins} of {len(pairs)}{ties}."


def _find_others(models: Sequence[ModelSummary]) -> tuple[list[str], list[str]]:
    """Of the models after the second, those within the spread of the first, and those where it is unknown."""
    gaps = [(model.title, gap) for model in models[2:] if (gap := compute_gap(models[0], model))]
    return (
        [title for title, gap in gaps if gap.is_within_spread],
        [title for title, gap in gaps if gap.is_within_spread is None],
    )


def _describe_unknown(titles: Sequence[str]) -> str:
    listed = join_names(titles, _MAX_NAMES)
    return f" Whether that to {listed} is, one seed does not tell." if titles else ""


def _judge_one_seed(models: Sequence[ModelSummary], one: SeedMean, two: SeedMean) -> Verdict:
    best, second = models[0], models[1]
    single = [model.title for model in models if (number := model.means["miou"]) and number.spread is None]
    owner = "each" if len(single) == len(models) else f"of {join_names(single, _MAX_NAMES)}"
    caveat = (
        f"One seed {owner} says nothing about the spread between trainings: "
        "another seed could change the order. Several seeds of each would tell."
    )
    within, _ = _find_others(models)
    if within:
        caveat += f" The difference to {join_names(within, _MAX_NAMES)} is within the spread over seeds."
    caveat += _count_wins(best, second)
    gap = _subtract_as_shown(one, two)
    if not float(gap):
        return Verdict(f"{best.title} and {second.title} score the same: mIoU {one.mean:.3f}.", caveat)
    headline = f"{best.title} scores highest: mIoU {one.mean:.3f}, {gap} above {second.title} ({two.mean:.3f})."
    return Verdict(headline, caveat)


def _judge_spread(models: Sequence[ModelSummary], one: SeedMean, two: SeedMean) -> Verdict:
    best, second = models[0], models[1]
    found, gap = compute_gap(best, second), _subtract_as_shown(one, two)
    within, unknown = _find_others(models)
    seeds = f"{one.count} seeds each" if one.count == two.count else f"{one.count} and {two.count} seeds"
    few = " Two seeds measure a spread only roughly." if min(one.count, two.count) == 2 else ""
    numbers = f"mIoU {one.mean:.3f} ± {one.spread:.3f}"
    others = f"{two.mean:.3f} ± {two.spread:.3f}"
    if found and found.is_within_spread:
        headline = f"{best.title} and {second.title} cannot be told apart: {numbers} and {others}."
        caveat = f"Their difference, {gap}, is within the spread over seeds ({seeds})."
        caveat += f" So is that to {join_names(within, _MAX_NAMES)}." if within else ""
    else:
        # The best only if it is better than every other model: one further behind may have a larger spread.
        is_best = not within and not unknown
        verb = "is best" if is_best else "scores highest"
        headline = f"{best.title} {verb}: {numbers}, against {others} of {second.title}."
        owner = "" if is_best else f" to {second.title}"
        caveat = f"The difference{owner}, {gap}, is more than the spread over seeds ({seeds})."
        if within:
            equals = join_names(within, _MAX_NAMES)
            headline = f"{best.title} scores highest, {numbers}, but cannot be told apart from {equals}."
            caveat += f" That to {equals} is within it."
    return Verdict(headline, caveat + _describe_unknown(unknown) + few + _count_wins(best, second))


def _describe_missing(comparison: Comparison) -> str:
    number = comparison.num_open
    return f"{number} of {comparison.planned} runs {'are' if number > 1 else 'is'} still to come." if number else ""


def _describe_failed(comparison: Comparison) -> str:
    """Which models have failed, or are averaged over the seeds that have not."""
    finished = {model.name: len(model.runs) for model in comparison.models}
    titles = {record.model_name: record.title for record in comparison.failed}
    whole = [title for name, title in titles.items() if name not in finished]
    lines = [f"{join_names(whole, _MAX_NAMES)} failed."] if whole else []
    for name, title in titles.items():
        if name in finished:
            failed = sum(record.model_name == name for record in comparison.failed)
            number = failed + finished[name]
            lines.append(f"{failed} of {number} seeds of {title} failed: its numbers are of the rest.")
    return " ".join(lines)


def _describe_absent(comparison: Comparison) -> str:
    """Classes that no validation mask has, where a model predicts one: mIoU counts it for that model only."""
    absent = comparison.models[0].confusion.matrix.sum(axis=1) == 0
    if absent.all():
        return ""
    predicted = [(model.title, absent & model.confusion.matrix.any(axis=0)) for model in comparison.models]
    listed = [
        f"{title}: {join_names([comparison.class_names[index] for index in classes.nonzero()[0]], _MAX_NAMES)}"
        for title, classes in predicted
        if classes.any()
    ]
    if not listed:
        return ""
    return (
        "A class that no validation mask has counts as 0 in the mIoU of a model that predicts it anywhere "
        f"({'; '.join(listed)}), and not at all for the others."
    )
