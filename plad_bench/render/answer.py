"""The result of a group of a board in words: which method is best and how certain that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plad_bench.contract.training_budget import extent
from plad_bench.leaderboard.board import Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.statistics import LEVEL, Pairwise
from plad_bench.records import text
from plad_bench.render.entries import decimals
from plad_bench.render.pieces import Line, Name, Said, joined

NAMED = 4
"""Methods that are named before the rest is counted."""
MANY = 0.1
"""The share of truncated or empty responses from which a page speaks of them."""


def answer(group: Group) -> Line:
    """A few sentences for the top of a page; empty if the metric has no direction or no method is complete."""
    metric = group.primary
    if metric is None or metric.better is None or not group.rows:
        return ()
    parts: list[Line] = [*_unfit(group, metric)]
    if group.pairs is None:
        parts += [_trial(group, metric), *_unfinished(group)]
    else:
        parts += [_best(group, metric, group.pairs), *_worse(group, metric, group.pairs)]
        parts += [*_controls(group), *_unfinished(group), _scope(group)]
    return tuple(piece for part in parts for piece in (*part, " "))[:-1]


def _leads(group: Group, metric: MetricInfo) -> Line:
    """That the first method has the best mean, and which."""
    best = group.rows[0]
    mean = text.number(metric.scale * best.estimates[metric.name].value, decimals(group, metric))
    extreme = "highest" if metric.better == "higher" else "lowest"
    return (Name(best.label), f" has the {extreme} mean ", Said(metric.name, 60), f" ({mean}", *_unit(metric), ")")


def _trial(group: Group, metric: MetricInfo) -> Line:
    return (
        "One seed is a trial: ",
        *_leads(group, metric),
        ", but another seed may reverse the order. For a ranking, run at least five: ",
        Name("--seeds 5"),
        ".",
    )


def _unfit(group: Group, metric: MetricInfo) -> Iterator[Line]:
    """Whether the metric rates the teacher below the student that has only been initialised."""
    by_name = {row.method: row.estimates.get(metric.name) for row in group.baselines}
    teacher, start = by_name.get("teacher"), by_name.get("sft-init")
    if teacher is None or start is None:
        return
    sign = 1 if metric.better == "higher" else -1
    if sign * (teacher.value - start.value) < 0:
        yield (
            Said(metric.name, 60),
            " cannot rank distillation here: it rates the teacher below the student before distillation.",
        )


def _best(group: Group, metric: MetricInfo, pairs: Pairwise) -> Line:
    lead, others = _leads(group, metric), [row for row in group.rows[1:] if row.best]
    if not others:
        rest = len(group.rows) - 1
        if not rest:
            return (*lead, "; it is the only method here.")
        return (*lead, " and is significantly better than ", f"all {rest} others." if rest > 1 else "the other method.")
    k = group.rows.index(others[0])
    seeds = pairs.seeds_to_separate(0, k)
    enough = (
        f": about {seeds} seeds would be needed to confirm that difference."
        if seeds
        else ": more seeds alone would not decide."
    )
    return (
        *lead,
        ". It is not significantly better than ",
        *_names(others),
        ". Its lead over ",
        Name(others[0].label),
        " is ",
        *_difference(group, metric, pairs, 0, k),
        enough,
    )


def _worse(group: Group, metric: MetricInfo, pairs: Pairwise) -> Iterator[Line]:
    """The nearest method that the first is significantly better than."""
    for k, row in enumerate(group.rows[1:], start=1):
        if pairs.p_holm[0, k] < 1 - LEVEL:
            yield ("It beats ", Name(row.label), " by ", *_difference(group, metric, pairs, 0, k), ".")
            return


def _controls(group: Group) -> Iterator[Line]:
    """Which methods beat every control, which the others would if they learnt from the teacher."""
    compared = [row for row in group.rows if row.beats]
    if not compared:
        return
    controls: Line = joined([(Name(label),) for label in compared[0].beats])
    lost = [row for row in compared if not all(row.beats.values())]
    several = "controls" if len(compared[0].beats) > 1 else "control"
    if not lost:
        every = "Every method beats" if len(compared) > 1 else "It beats"
        yield (f"{every} the {several} ", *controls, ".")
        return
    verb = "do" if len(lost) > 1 else "does"
    yield (
        *_names(lost),
        f" {verb} not beat {'every control' if len(compared[0].beats) > 1 else 'the control'} (",
        *controls,
        "), so this board does not show that they learn from the teacher."
        if len(lost) > 1
        else "), so this board does not show that it learns from the teacher.",
    )


def _unfinished(group: Group) -> Iterator[Line]:
    """Which rows, but for the untouched student's, have many truncated or empty responses."""
    rows = [row for row in (*group.rows, *group.baselines) if row.method != "student"]
    limit: Line = (
        (" at ", Said(group.protocol["max_new_tokens"], 20), " tokens") if "max_new_tokens" in group.protocol else ()
    )
    for what, kind, advice in (
        (("Truncated", *limit), "truncated", ". Look at texts before you trust their metrics."),
        (("Empty",), "empty", "."),
    ):
        many = [(row, of) for row in rows if max((of := getattr(row, kind)).values(), default=0) >= MANY]
        many.sort(key=lambda found: -_mean(found[1]))
        if many:
            told = [_of(row, of, "" if n else " of the responses") for n, (row, of) in enumerate(many)]
            yield (*what, ": ", *joined(told), advice)


def _of(row: Row, shares: Mapping[int, float], what: str) -> Line:
    """A row's mean share, and the seeds with the largest ones if those differ much."""
    most, worst = max(shares.values()), Line()
    if most > _mean(shares) + MANY:
        seeds = [seed for seed, share in sorted(shares.items()) if share > most - MANY]
        ends = sorted({f"{100 * share:.0f}" for share in (min(shares[seed] for seed in seeds), most)}, key=int)
        where = ("seed" if len(seeds) == 1 else "seeds", " ", *_and([(str(seed),) for seed in seeds]))
        worst = (f" ({' to '.join(ends)} % in ", *where, ")")
    return (f"{100 * _mean(shares):.0f} %{what} of ", Name(row.label), *worst)


def _mean(shares: Mapping[int, float]) -> float:
    return sum(shares.values()) / len(shares)


def _difference(group: Group, metric: MetricInfo, pairs: Pairwise, i: int, k: int) -> Line:
    places = decimals(group, metric)
    apart, half = (metric.scale * float(value) for value in (pairs.difference[i, k], pairs.half_width(i, k)))
    unit: Line = (" points",) if metric.unit == "%" else _unit(metric)
    return (f"{text.number(apart, places)} ± {text.number(half, places)}", *unit)


def _unit(metric: MetricInfo) -> Line:
    return (" ", Said(metric.unit, 20)) if metric.unit else ()


def _scope(group: Group) -> Line:
    """What the answer holds for."""
    seeds = max(row.asked for row in group.rows)
    length: Line = (", ", Said(extent(group.protocol), 60)) if "steps" in group.protocol else ()
    trials = {len(row.tuning.trials) if row.tuning else 0 for row in group.rows}
    if len(trials) == 1 and (count := max(trials)):
        settings = f"every method was tuned with {count} trials"
    elif any(row.named_settings for row in group.rows):
        settings = "every method with the settings in its name and otherwise its defaults"
    else:
        settings = "every method with its default settings"
    facts = f" ({seeds} seeds, {group.examples} examples"
    return ("This holds for this task, teacher, student and budget only", facts, *length, f"; {settings}).")


def _names(rows: list[Row]) -> Line:
    names: list[Line] = [(Name(row.label),) for row in rows]
    if len(rows) > NAMED + 1:
        names[NAMED:] = [(f"{len(rows) - NAMED} others",)]
    return _and(names)


def _and(lines: list[Line]) -> Line:
    *before, last = lines
    return (*joined(before), " and ", *last) if before else last
