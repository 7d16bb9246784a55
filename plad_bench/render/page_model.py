"""The content of a board's page before any markup: its sections, made of the pieces of pieces.py.

entries.py has what a table says of a row or a metric, origin.py the foot of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, groupby
from typing import Any

from plad_bench.contract.enums import DIVERSITY, OUTSIDE
from plad_bench.contract.protocol import Protocol, settings
from plad_bench.contract.training_budget import extent
from plad_bench.leaderboard.board import Board, Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.statistics import EXAMPLES_ONLY, LEVEL
from plad_bench.records import text
from plad_bench.records.text import NONE
from plad_bench.render import data_facts, entries
from plad_bench.render.pieces import Column, Entry, Line, Name, Said, Section, Table, joined

ALL_PAIRS = 12
"""Methods up to which every pair is listed; with more, each is compared with the first alone."""


def sections(group: Group, docs: str = "") -> Iterator[Section]:
    """The parts of a group in the order of a page: the ranking first, which the plots follow."""
    if group.rows:
        yield _ranking(group, docs)
    else:
        yield Section("none", before="No method is complete, so none is ranked.")
    if group.rows or group.baselines:
        yield _metrics(group, docs)
        if group.sampled:
            yield _sampled(group, docs)
    if group.rows:
        if tuned := [row for row in (*group.rows, *group.baselines) if row.tuning]:
            yield _tuning(group, tuned, docs)
        if group.leaders and group.primary:
            yield _during(group, group.primary)
        yield _costs(group, docs)
        if group.pairs is not None and len(group.rows) > 1:
            yield _pairwise(group)
    if group.unranked:
        columns = tuple(Column((head,)) for head in ("Method", "Status", "Seed", "Reason"))
        body = tuple(
            (
                Entry((Name(u.label),)),
                Entry((Said(u.status),)),
                Entry((_list(u.seeds),)),
                Entry((Said(u.reason or NONE),)),
            )
            for u in group.unranked
        )
        title = ("Incomplete, failed, skipped and trial cells",)
        yield Section("unranked", title, "These are not ranked, and no mean includes them.", Table(columns, body))

    if group.absent:
        columns = tuple(Column((head,)) for head in ("Metric", "Method", "Reason"))
        rows = tuple(
            (Entry((Name(a.metric),)), Entry((Said(", ".join(a.labels)),)), Entry((Said(a.reason),)))
            for a in group.absent
        )
        yield Section("absent", ("Metrics not measured",), table=Table(columns, rows))


def more_samples(board: Board, group: Group) -> Line:
    """Where a reader finds responses that the page does not show; empty if there are none."""
    cells = [cell for row in (*group.rows, *group.baselines) for cell in row.cells]
    if not cells:
        return ()
    name = cells[0] if len(board.groups) > 1 else "/".join(cells[0].split("/")[-2:])
    show = Name(f"plad-bench show {board.name}/{name} --samples 10", limit=500)
    why: Line = (
        ("More responses: ",)
        if group.samples
        else ("No samples: a board has them only of tasks whose text may be redistributed. To see responses: ",)
    )
    return (*why, show, ", on a machine that has the store of the run.")


_THINKING = {
    "off": "thinking mode off",
    "strip": "thinking text removed from the responses",
    "keep": "thinking text kept in the responses",
}


def counted(group: Group) -> str:
    """How many examples and seeds a group has."""
    rows = (*group.rows, *group.baselines)
    if not rows:
        return "no complete method yet"
    asked = max(row.asked for row in rows)
    return f"{group.examples} examples, {asked} seed{'s' if asked != 1 else ''}"


def setting(group: Group) -> Line:
    """The conditions of a group, in one line."""
    protocol = group.protocol
    pages = {name: setting["page"] for name, setting in settings().items()}
    facts: list[Line] = [(Said(length, 60),)] if (length := extent(protocol)) else []
    facts += [_filled(page, protocol[name]) for name, page in pages.items() if page and name in protocol]
    facts += [(Said(key, 40), " ", Said(value, 40)) for key, value in sorted(protocol.items()) if key not in pages]
    facts += [(f"{role}: {_THINKING[how]}",) for role, how in sorted(group.thinking.items()) if how in _THINKING]
    if chosen := group.selected:
        facts.append(
            (
                f"teacher: its best checkpoint of {chosen.points} (after {chosen.step} steps) by ",
                Name(chosen.metric),
                " on validation prompts",
            )
        )
    who: Line = ("Task ", Name(group.task), ", teacher ", Name(group.teacher), ", student ", Name(group.student))
    became = "; ".join(data_facts.facts(group.data))
    rows: Line = (f" Data: {became}.",) if became else ()
    return (*who, f"; {counted(group)}; ", *joined([*facts, *_rates(group)]), ".", *rows)


# ------------------------------------------------------------------------------------------------------------ parts


def _ranking(group: Group, docs: str) -> Section:
    """What decides: each method with its rank, the metric that ranks, and what it asks of the teacher."""
    ranked = group.pairs is not None
    places = {metric: entries.decimals(group, metric) for metric in (group.primary,) if metric}
    by: Line = (
        ("Ranking by ", *entries.linked(group.primary, docs)) if ranked and group.primary else ("Methods, not ranked",)
    )
    columns = (
        *([Column(("Rank",), right=True, better="lower")] if ranked else []),
        Column(("Method",)),
        *map(entries.metric_column, places),
        *([Column(("Gap closed",), right=True, better="higher")] if ranked else []),
        Column(("Teacher access",)),
        *([Column(("Win-tie-loss",), right=True, better="higher")] if ranked else []),
        *([Column(("Beats controls",), better="higher")] if _controls(group) else []),
        Column(("Seeds",), right=True),
    )
    body = tuple(
        (
            *([Entry((entries.starred(row) or NONE,), place if row.rank else None)] if ranked else []),
            entries.method_entry(row, docs),
            *entries.value_entries(row, places),
            *([entries.gap_entry(row.gap)] if ranked else []),
            Entry((Said(row.access),)),
            *([Entry(("-".join(map(str, row.tally)),), row.tally[0] - row.tally[2])] if ranked else []),
            *([_beats(row)] if _controls(group) else []),
            entries.seeds_entry(row),
        )
        for place, row in enumerate(group.rows)
    )
    best = tuple(row.best for row in group.rows)
    table = Table(columns, body, tuple(map(entries.access, group.rows)), named=int(ranked), best=best)
    return Section("ranking" if ranked else "methods", by, table=table, note=(" ".join(_reading(group)),))


def _controls(group: Group) -> bool:
    """Whether the methods of a group are compared with controls."""
    return any(row.beats for row in group.rows)


def _beats(row: Row) -> Entry:
    """How many controls a method beats; which it does not, unless that is all of them."""
    lost: list[Line] = [(Name(control),) for control, won in row.beats.items() if not won]
    won = len(row.beats) - len(lost)
    if not lost:
        return Entry(("all" if won > 1 else "yes",), won)
    if not won:
        return Entry(("none" if len(lost) > 1 else "no",), won)
    return Entry((f"{won} of {len(row.beats)}, not ", *joined(lost)), won)


def _metrics(group: Group, docs: str) -> Section:
    """Every metric of baselines and methods."""
    places = {metric: entries.decimals(group, metric) for metric in group.metrics}
    columns = (Column(("Method",)), *map(entries.metric_column, places), Column(("Seeds",), right=True))
    rows = (*group.baselines, *group.rows)
    body = tuple(
        (entries.method_entry(row, docs), *entries.value_entries(row, places), entries.seeds_entry(row)) for row in rows
    )
    accesses = ("",) * len(group.baselines) + tuple(map(entries.access, group.rows))
    note: Line = ("Baselines come first and are never ranked.",) if group.baselines else ()
    if entries.one_record(rows):
        note = (*note, *([" "] if note else []), entries.DAGGER)
    if docs:
        named: list[Line] = [
            (Name(metric.name, entries.documented(metric.name, "metrics", docs)),) for metric in places
        ]
        note = (*note, *([" "] if note else []), "Definitions: ", *joined(named), ".")
    return Section("metrics", ("All metrics",), table=Table(columns, body, accesses), note=note)


def _sampled(group: Group, docs: str) -> Section:
    """What the metric that ranks, metrics that verify responses, and diversity say of sampled responses."""
    rows = tuple(row for row in (*group.baselines, *group.rows) if any(s.name in row.estimates for s in group.sampled))
    metrics = {metric.name: metric for metric in group.metrics}
    kinds, names = ({getattr(s, of) for s in group.sampled} for of in ("kind", "name"))
    shown = {group.primary.name if group.primary else "", *(s.metric for s in group.sampled if s.kind == "pass")}
    columns, places = [Column(("Method",))], dict[MetricInfo, int]()
    for name, of in groupby(group.sampled, key=lambda s: s.metric):
        if name in shown:
            greedy = metrics[name]
            places[greedy] = entries.decimals(group, greedy)
            columns.append(Column(("greedy ", *entries.header(greedy)), right=True, better=greedy.better or ""))
        for s in of:
            if name in shown or s.kind == "set":
                places[s] = entries.decimals(group, s)
                columns.append(entries.metric_column(s))
    said = {**Protocol.unsaid(), **group.protocol}
    note: Line = (
        Said(said["evaluate_samples"], 20),
        " sampled responses to each prompt at temperature ",
        Said(said["evaluate_temperature"], 20),
        ". Ranks are by greedy responses. avg: mean over the samples.",
        *([" pass@k: probability that one of k samples is correct."] if "pass" in kinds else []),
        *(
            [f" {DIVERSITY}: distinct word pairs per word pair of all samples of a prompt."]
            if DIVERSITY in names
            else []
        ),
        *([" ", entries.DAGGER] if entries.one_record(rows) else []),
    )
    body = tuple(
        (entries.method_entry(row, docs), *entries.value_entries(row, places), entries.seeds_entry(row)) for row in rows
    )
    table = Table((*columns, Column(("Seeds",), right=True)), body, tuple(entries.access(row) for row in rows))
    return Section("sampled", ("Sampled responses",), table=table, note=note)


def _reading(group: Group) -> Iterator[str]:
    if all(e.label == EXAMPLES_ONLY for row in group.rows for e in row.estimates.values()):
        yield "† Means with 95 % intervals over the examples of a single record."
    else:
        yield "Values are means with 95 % intervals over seeds and examples."
        if entries.one_record(group.rows):
            yield entries.DAGGER
    if group.pairs is not None:
        yield (
            "Methods are sorted by mean. Rank: the ranks that a method may have according to tests of all pairs "
            "(paired by seed and example, Holm-adjusted). \N{BLACK STAR}: no method is significantly better, so it may "
            "be the best (multiple comparisons with the best). Win-tie-loss: the results of the pairwise tests."
        )
        if _controls(group):
            yield (
                "Beats controls: significantly better than the controls, baselines that train without the teacher's "
                "knowledge (paired tests, Holm-adjusted over all methods and controls)."
            )
        if any(row.gap for row in group.rows):
            yield ("Gap closed: (method - sft-init) / (teacher - sft-init) on this metric, with Fieller's interval.")
        else:
            yield (
                "Gap closed is empty: sft-init or the teacher lacks seeds, or the teacher is not significantly better "
                "than sft-init."
            )
    if outside := [text.clean(row.label) for row in group.baselines if row.method == OUTSIDE]:
        yield (
            f"Trained elsewhere: {', '.join(outside)}. Data, budget and tuning of that training are unknown here, so "
            "it has no rank."
        )
    if 1 < min(row.asked for row in (*group.rows, *group.baselines)) < 5:
        yield "With fewer than five seeds, intervals are wide."


def _costs(group: Group, docs: str) -> Section:
    prices = group.prices
    heads = "Training", "Teacher, if alone", "Teacher, shared", "Tokens trained", "Tokens generated", "Peak memory"
    measured = any(row.cost.train_energy is not None or row.cost.teacher_energy is not None for row in group.rows)
    energies = ("Energy of training", "Energy of the teacher") if measured else ()
    body = tuple(
        (
            entries.method_entry(row, docs),
            Entry((text.seconds(row.cost.train_seconds),), row.cost.train_seconds),
            Entry((text.seconds(row.cost.teacher_seconds),), row.cost.teacher_seconds),
            Entry((text.seconds(row.cost.teacher_share),), row.cost.teacher_share),
            Entry((text.amount(row.cost.tokens_trained),), row.cost.tokens_trained),
            Entry((text.amount(row.cost.tokens_generated),), row.cost.tokens_generated),
            Entry((text.size(row.cost.peak_memory),), row.cost.peak_memory),
            *(
                Entry((text.energy(value),), value)
                for value in (row.cost.train_energy, row.cost.teacher_energy)[: len(energies)]
            ),
            *([Entry((text.money(row.cost.money),), row.cost.money)] if prices else []),
        )
        for row in group.rows
    )
    note: Line = (
        "Device time per cell. The teacher's outputs are counted in full (if alone), and divided among the cells that "
        "use them (shared).",
    )
    columns = (Column(("Method",)), *(Column((head,), right=True, better="lower") for head in (*heads, *energies)))
    if energies:
        note = (*note, " Energy is measured while the models work, without their start; the teacher's as if alone.")
    if prices:
        unit = Said(prices.currency, 12)
        columns = (*columns, Column(("Money (", unit, ")"), right=True, better="lower"))
        note = (
            *note,
            " Money covers training, samples and the teacher's outputs, as if the cell were alone, at ",
            f"{prices.device_hour:g} ",
            unit,
            " per device-hour",
            *(
                (f" and {prices.teacher_million_tokens:g} ", unit, " per million tokens of the teacher")
                if prices.teacher_million_tokens is not None
                else ()
            ),
            ", without the shared SFT initialisation.",
        )
    return Section("cost", ("Cost",), table=Table(columns, body, tuple(map(entries.access, group.rows))), note=note)


def _tuning(group: Group, rows: Sequence[Row], docs: str) -> Section:
    """What was tried for each method, what was chosen, and how it did where it was chosen and where it counts."""
    metrics = {metric.name: metric for metric in group.metrics}
    body = []
    for row in rows:
        assert row.tuning is not None  # noqa: S101  the caller saw to it
        tuning, metric = row.tuning, metrics.get(row.tuning.metric, MetricInfo(row.tuning.metric, None, ""))
        best, first = tuning.trials[tuning.best], tuning.trials[0]
        test = estimate.value if (estimate := row.estimates.get(metric.name)) else None
        failed = sum(trial.score is None for trial in tuning.trials)
        spent = [t.cost["train_device_seconds"] for t in tuning.trials if "train_device_seconds" in t.cost]
        values: list[Line] = [(Said(name, 40), f" {text.value(value)}") for name, value in best.values.items()]
        scores = [None if of is None else metric.scale * of for of in (first.score, best.score, test)]
        body.append(
            (
                entries.method_entry(row, docs),
                Entry((f"{len(tuning.trials)}{f', {failed} failed' if failed else ''}",), len(tuning.trials)),
                Entry((*joined(values), f" ({'the default' if tuning.best == 0 else f'trial {tuning.best + 1}'})")),
                *(Entry((text.number(score, entries.decimals(group, metric)),), score) for score in scores),
                Entry((text.seconds(sum(spent) if spent else None),), sum(spent)),
            )
        )
    named = entries.header(metrics.get(rows[0].tuning.metric, MetricInfo("score", None, ""))) if rows[0].tuning else ()
    columns = (
        Column(("Method",)),
        Column(("Trials",), right=True),
        Column(("Chosen",)),
        *(Column((head,), right=True) for head in ("Default, validation", "Chosen, validation", "Chosen, test")),
        Column(("Device time of trials",), right=True, better="lower"),
    )
    note: Line = (
        "Every method got the same number of trials, the first with its default settings, under a seed that is not "
        "ranked. The best one by ",
        *named,
        " on the validation split was chosen, and no other was evaluated on the test split. Part of the best score on "
        "the validation split is luck.",
    )
    return Section(
        "tuning", ("Tuning",), table=Table(columns, tuple(body), tuple(map(entries.access, rows))), note=note
    )


def _during(group: Group, metric: MetricInfo) -> Section:
    """Which method is best after each share of the training."""
    places = entries.decimals(group, metric)
    body = []
    for leader in group.leaders:
        verdict: Line = ("not tested: a single seed",)
        if leader.others is not None:
            others: list[Line] = [(Name(label),) for label in leader.others]
            verdict = ("not significantly better than ", *joined(others)) if others else ("significantly the best",)
        body.append(
            (
                Entry((f"{leader.percent} %",), leader.percent),
                Entry((Name(leader.label),)),
                Entry((entries.value(leader.estimate, metric, places),), leader.estimate.value),
                Entry(verdict),
            )
        )
    columns = (
        Column(("Training",), right=True),
        Column(("Best mean",)),
        Column(entries.header(metric), right=True),
        Column(("Among all methods",)),
    )
    note: Line = (
        "The method with the best mean of the models after each share of the training, with the test of the star in "
        "the ranking (multiple comparisons with the best), at each point by itself. A model within a training is not "
        "what a shorter training would give: its learning rate has not decayed.",
    )
    return Section("during", ("During training",), table=Table(columns, tuple(body)), note=note)


def _pairwise(group: Group) -> Section:
    rows, pairs, metric = group.rows, group.pairs, group.primary
    assert pairs is not None and metric is not None  # noqa: S101, PT018
    scale, places = metric.scale, entries.decimals(group, metric)
    every = len(rows) <= ALL_PAIRS
    body = []
    for pair in combinations(range(len(rows)), 2) if every else ((0, k) for k in range(1, len(rows))):
        i, k = pair if pairs.difference[pair] >= 0 else pair[::-1]
        better, p = float(pairs.difference[i, k]), float(pairs.p_holm[i, k])
        half, minimum = pairs.half_width(i, k), pairs.minimum(i, k)
        by, within, least = (text.number(scale * number, places) for number in (better, half, minimum))
        verdict = "win" if p < 1 - LEVEL else "tie"
        body.append(
            (
                Entry((Name(rows[i].label),)),
                Entry((Name(rows[k].label),)),
                Entry((f"{by} ± {within}",), better),
                Entry((Said(text.p(p)),), p),
                Entry((verdict,)),
                Entry((least,), minimum),
            )
        )
    unit: Line = (" (", Said(metric.unit, 20), ")") if metric.unit else ()
    columns = (
        Column(("Better",)),
        Column(("Worse",)),
        Column(("By", *unit), right=True, better="higher"),
        Column(("p (Holm)",), right=True, better="lower"),
        Column(("Verdict",)),
        Column(("MDE",), right=True, better="lower"),
    )
    tests = len(rows) * (len(rows) - 1) // 2
    note = (
        f"{'All pairs' if every else 'Each method against the best'} on ",
        Said(metric.name, 60),
        f". p is adjusted for all {tests} pairs with Holm's method. The interval has the level of the same test, so it "
        "excludes 0 exactly for a win. MDE (minimum detectable difference): a difference of this size is found in "
        "about 80 % of repetitions. A tie does not show that two methods are equal: their difference is probably below "
        "the MDE.",
    )
    return Section("pairs", ("Pairwise comparisons",), table=Table(columns, tuple(body)), note=note)


def _rates(group: Group) -> Iterator[Line]:
    """How learning rates were chosen."""
    untuned = [row for row in group.rows if not row.tuning]
    if shared := sorted({row.lr for row in untuned if row.lr_shared}):
        yield (f"one learning rate for all methods ({_list(f'{lr:g}' for lr in shared)})",)
    if own := [row for row in untuned if not row.lr_shared]:
        yield ("learning rates of their own: ", *joined([(Name(row.label), f" {row.lr:g}") for row in own]))


def _filled(form: str, value: Any) -> Line:
    before, after = form.split("{}")
    return (before, Said(value, 40), after)


def _list(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))
