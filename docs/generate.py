"""Generates documentation from the code.

methods.md and metrics.md come from the registry, cli.md from the help texts, and the tables of records.md and
recipes.md from the protocol and the recipes. `python docs/generate.py` writes them; with `--check` it writes nothing
and exits with 1 if a page differs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from plad_bench import Method, Metric, PairObjective, Params, Text
from plad_bench.cli.main import cli
from plad_bench.cli.state import State
from plad_bench.contract.params import descriptions, search_of, source_of
from plad_bench.contract.protocol import settings
from plad_bench.contract.registry import Registry, allowed
from plad_bench.contract.suggestions import allowed_values
from plad_bench.plan import matrix, recipes, spec

DOCS = Path(__file__).resolve().parent
HEADER = "<!-- Written by `python docs/generate.py`; do not edit. -->"
WIDTH = 100
"""Columns of a help text, independent of the terminal."""

TEXTS = {
    Text.REFERENCE: "references",
    Text.TEACHER: "teacher responses",
    Text.SAMPLE: "off-policy samples",
    Text.STUDENT: "on-policy text",
    Text.REPLAY: "replay buffer",
    Text.SHUFFLED: "shuffled teacher responses",
}
"""Source of text -> its name on the page of methods."""

METHODS_INTRO = """\
# Methods

In the formulas, p is the distribution of the teacher, q that of the student, q0 that of the reference model (the
student after its SFT initialisation), and m a mixture of p and q. y+ and y- are the chosen and rejected responses of
a pair, |y| is the number of tokens of y including its end token, and s is a scorer. Logarithms are natural. Token
losses are averaged over the response tokens of the global batch, pair losses over its pairs. Parameters are given in
brackets, `kd[temperature=2]`, and `|` separates the values of a sweep, `'kd[temperature=1|2]'`.
[auditing.md](auditing.md) shows how to check a formula on your own tensors.

Methods train on one or more sources of text: *references* of the task, *teacher responses*, *off-policy samples*
(responses of the student after its SFT initialisation, sampled once), *on-policy text* (responses of the student
during training), the *replay buffer* (on-policy responses of earlier steps), *shuffled teacher responses* (responses
to other prompts), or *pairs* from a pair builder (`--pairs`). Every method on off-policy samples, or on pairs of
them, takes `rounds`, which resamples them during training ([pairs.md](pairs.md#rounds)). In the tables of
parameters, *source* is the origin of the default."""

METRICS_INTRO = """\
# Metrics

A metric gives one value per example, or NaN if it is undefined. Boards show the mean, and compute intervals, tests
and ranks from the values. A metric that is not a mean over examples is decomposed into values per example, as its
formula shows. y is the evaluated response, y_T the teacher's response, q the distribution of the student, and p that
of the teacher.

```sh
plad-bench run --metrics 'slot-errors,nll,token-ece,calibration[scorer=slot-errors],preference-accuracy,fidelity'
```

All metrics, pair filters and the search for near-duplicates split text into words in the same way
(`plad_bench/contract/words.py`): at white space or, in scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer,
Burmese), into characters with their marks. ROUGE and the comparison of prompts ignore case and punctuation, and
support letters, marks and digits of all scripts; for English text, their words are those of the rouge-score package.
Two texts are equal if they are equal after Unicode normalisation (NFC), ignoring white space. ROUGE is undefined for
a reference without words, such as one with only emojis; if all references are like that, the metric is absent.

*Needs* lists the inputs of a metric beyond prompt, references and response: `teacher`, the teacher's responses;
`checkpoint`, the evaluated model; `teacher-logits`, the teacher's model; `references`, the task's references;
`scores`, the values of another metric for the same responses. A metric is absent if its inputs are: if the teacher
provides only text, if two tokenizers differ, or if the task has no references. The record and the page state the
reason.

*Success* is the value of a correct response, for metrics that verify responses. With `--evaluate-samples K`, metrics
that read only text also score K sampled responses per prompt: avg@K, and pass@k if they have a success
([protocol.md](protocol.md#sampled-evaluation)).

Any metric with a direction can be used as a *scorer* by other metrics, by methods, and by pair builders (which need
one that reads only text or has its own model). This gives several win rates:

| win rate | selector |
| :-- | :-- |
| by a text metric | `win-teacher[scorer=rouge-l]` |
| by a reward model | `win-teacher[scorer=reward[id=ORG/NAME]]`, `win-teacher[scorer=reward[path=DIR]]` |
| by a language model | `win-judge[model=NAME]`, with the endpoint in `base_url=` and the key in `OPENAI_API_KEY` |
| any of them, controlled for length | `win-lc[scorer=win-judge[model=NAME]]`, which reuses the judgements |

Tasks of lm-eval are available as metrics: `lm-eval[tasks=hellaswag]`, `lm-eval[tasks='arc_easy+boolq',metric=acc]`,
or your own task files with `include_path=DIR`. They use their own documents as examples. Keep the data of a task in
its directory, because the content of the directory is part of the key.

Labels contain no paths: on a board, a directory is shown as its name and a hash. Commands for such a board therefore
need `--metrics`, and it is an error if a file is missing."""

CLI_INTRO = """\
# Command line

Results are printed to stdout and progress to stderr; `--json` prints JSON. Every option can also be set by an
environment variable, `PLAD_BENCH_<COMMAND>_<OPTION>` (such as `PLAD_BENCH_RUN_STEPS=100`), and the options of `run`
and `plan` in a TOML file, given with `--config`, with option names as keys. `PLAD_BENCH_STORE` and
`PLAD_BENCH_BOARDS_DIR` apply to all commands. The command line takes precedence over environment variables, and
these over the file. An empty value (`--student ""`, an empty variable, `plad,,kd`) is an error. Numbers must be
finite.

The settings of the [protocol](records.md#protocol), from `--steps` to `--backend`, default to the board's settings;
for a new board, to the [recipe](recipes.md) of pretrained students, or else to the defaults of the task.

A *selector* is `name` or `name[param=value,...]`. Commas separate selectors, and `|` separates the values of a
sweep. Quote selectors with brackets for the shell. `all` selects all components of a kind.

| exit code | meaning |
| --: | :-- |
| 0 | success, including if all results are cached |
| 1 | a cell or a check failed |
| 2 | usage error: an unknown name or option, a value out of range, a conflict with the board's settings |
| 3 | a prerequisite is missing: model, data, GPU, package, network, disk space |
| 4 | a plugin is broken or malformed |
| 5 | nothing to run: the selection is empty, or none of the methods can run |
| 6 | stopped before `--max-cost` was exceeded; paid responses are kept |
| 130 | interrupted |

`plan` and `run --dry-run` exit with the code that `run` would have before its first stage: 0, 2, 3, 4 or 5. They do
not open the launcher, so they do not check its resources (slots for `--ranks`, the nodes of a Ray cluster)."""


def pages() -> dict[Path, str]:
    """Path -> text of every generated page."""
    return {
        DOCS / "methods.md": methods_page(),
        DOCS / "metrics.md": metrics_page(),
        DOCS / "cli.md": cli_page(),
        DOCS / "records.md": records_page(),
        DOCS / "recipes.md": recipes_page(),
    }


# --------------------------------------------------------------------------------------------------------- methods


def methods_page() -> str:
    """The page of the built-in methods."""
    registry = Registry.load()
    methods: list[Any] = [
        registered.component
        for found in registry.components("method").values()
        for registered in found
        if registered.origin.plugin == "builtin"
    ]
    skipped = _skipped(registry, methods)
    index = [
        [f"[{m.name}](#{anchor(m.name)})", m.access.value, _trains_on(m.objective, m.params()), m.summary, _paper(m)]
        for m in methods
    ]
    head = ["method", "teacher access", "trains on", "summary", "paper"]
    sections = [_section(m, skipped.get(m.name, "")) for m in methods]
    return "\n\n".join([HEADER, METHODS_INTRO, table(head, index), *sections]) + "\n"


def _section(method: Method, skip: str) -> str:
    facts = {
        "Paper": f"{method.title}, {_paper(method)}",
        "Teacher access": method.access.value,
        "Trains on": _variants_of(method, _trains_on),
        "Needs": _variants_of(method, _needs),
        "Control": "a baseline, not ranked; `--controls` adds it to a run, `all` does not" if method.control else "",
        "Step": method.step_cost or "one forward and backward pass of the student",
        "Version": str(method.version),
    }
    if skip:
        facts["Not run yet"] = skip
    parts = [
        f"## {method.name}",
        method.summary,
        f"    {method.equation}",
        "\n".join(f"- {name}: {value}" for name, value in facts.items() if value),
        table(["parameter", "default", "allowed", "tuned over", "source", "meaning"], _tuned(method.params)),
        f"```sh\nplad-bench run --methods {method.name}\n```",
    ]
    return "\n\n".join(parts)


def _parameters(params: type[Params]) -> Iterator[list[str]]:
    told = descriptions(params)
    for name, info in params.model_fields.items():
        bounds, _, _ = allowed(params, name).rpartition("; default ")
        yield [f"`{name}`", _value(info.default), bounds, source_of(params, name), " ".join(told[name].split())]


def _tuned(params: type[Params]) -> Iterator[list[str]]:
    """The parameters of a method, with the range that `--tune` searches."""
    for (name, default, bounds, *rest), key in zip(_parameters(params), params.model_fields, strict=True):
        if key == "rounds":  # which the page explains once for all methods
            continue
        low, high, *scale = search_of(params, key) or ("", "")
        span = f"{low:g} to {high:g}{' by logarithm' if scale else ''}" if high else ""
        yield [name, default, bounds, "a tenth to ten times the usual rate" if key == "lr" else span, *rest]


def _variants_of(method: Method, describe: Any) -> str:
    """A description with default parameters, and those with another choice of one parameter."""
    usual = describe(method.objective, method.params())
    texts = [usual]
    for name, info in method.params.model_fields.items():
        for choice in get_args(info.annotation):
            if isinstance(choice, type) or choice == info.default:
                continue
            other = describe(method.objective, method.params(**{name: choice}))
            if other != usual:
                texts.append(f"{other} with `{name}={_value(choice)}`".lstrip())
    return "; ".join(filter(None, texts))


def _trains_on(objective: Any, params: Params) -> str:
    if isinstance(objective, PairObjective):
        return "pairs"
    return ", ".join(dict.fromkeys(TEXTS[text] for text in objective.texts(params)))


def _needs(objective: Any, params: Params) -> str:
    if isinstance(objective, PairObjective):
        scorer = objective.scorer(params)
        needs = ["log-probabilities under the reference model"] if objective.reference else []
        return ", ".join(needs + ([f"scores by `{scorer}`"] if scorer else []))
    return "the teacher's logits" if objective.teacher_logits else ""


def _skipped(registry: Registry, methods: Sequence[Method]) -> Mapping[str, str]:
    """Name -> why the method cannot run on the demo with default parameters; without methods that can."""
    run = spec.build(registry, task="demo", methods=",".join(m.name for m in methods))
    return {c.method.component.name: c.skip for c in matrix.cells(run, registry) if c.method is not None and c.skip}


def _paper(method: Method) -> str:
    number = re.fullmatch(r"arXiv:(\d{4}\.\d{4,5})", method.paper)
    return f"[{method.paper}](https://arxiv.org/abs/{number[1]})" if number else method.paper


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------------- metrics


def metrics_page() -> str:
    """The page of the built-in metrics."""
    metrics = [
        registered.component
        for found in Registry.load().components("metric").values()
        for registered in found
        if registered.origin.plugin == "builtin"
    ]
    index = [
        [f"[{m.name}](#{anchor(m.name)})", m.better or "none", m.unit, ", ".join(sorted(m.needs)), m.summary]
        for m in metrics
    ]
    head = ["metric", "better", "unit", "needs", "summary"]
    return "\n\n".join([HEADER, METRICS_INTRO, table(head, index), *map(_metric, metrics)]) + "\n"


def _metric(metric: Metric) -> str:
    facts = {
        "Better": metric.better or "reported, not ranked",
        **({"Success": f"{metric.success:g} (pass@k counts these responses)"} if metric.success is not None else {}),
        "Unit": metric.unit or "none",
        "Needs": ", ".join(sorted(metric.needs)) or "text only",
        "Cost": metric.cost,
        "Version": str(metric.version),
    }
    parts = [f"## {metric.name}", metric.summary, f"Value of an example: {metric.formula}."]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    if metric.params.model_fields:
        parts.append(table(["parameter", "default", "allowed", "source", "meaning"], _parameters(metric.params)))
    return "\n\n".join(parts)


# --------------------------------------------------------------------------------------------------------- records


def records_page() -> str:
    """The page of records with the table of protocol settings."""
    rows = [
        [
            f"`{name}`",
            s["unit"],
            f"`{json.dumps(s['default'])}`",
            allowed_values(s, {}).rpartition("; default ")[0],
            _meaning(s),
        ]
        for name, s in settings().items()
    ]
    return with_table("records.md", "settings", table(["key", "unit", "default", "allowed", "meaning"], rows))


def recipes_page() -> str:
    """The page of recipes with the table of their numbers."""
    heads = {
        "lr": "learning rate",
        "epochs": "epochs",
        "batch": "global batch",
        "sft_lr": "SFT learning rate",
        "sft_epochs": "SFT epochs",
        "teacher_lr": "teacher's learning rate",
        "teacher_epochs": "teacher's epochs",
    }
    rows = [
        [recipes.KINDS[r.kind], r.size, *(_figure(getattr(r, name)) for name in heads), f"{r.highest_lr:g}"]
        for r in recipes.RECIPES
    ]
    return with_table("recipes.md", "recipes", table(["training", "parameters", *heads.values(), "highest rate"], rows))


def _figure(value: recipes.Value | None) -> str:
    """A number of a recipe, in bold if it was measured."""
    if value is None:
        return ""
    return f"**{value.number:g}**" if value.source == recipes.MEASURED else f"{value.number:g}"


def with_table(name: str, what: str, written: str, *, by: str = "generate") -> str:
    """A page with a new text between its two marks."""
    page = (DOCS / name).read_text(encoding="utf-8")
    begin, end = f"<!-- {what}: written by `python docs/{by}.py` -->\n", f"<!-- end of {what} -->\n"
    head, rest = page.split(begin)
    return f"{head}{begin}{written}\n{end}{rest.split(end)[1]}"


def _meaning(setting: Mapping[str, Any]) -> str:
    text = " ".join(setting["description"].split())
    return f"{text} Absent at its default value." if setting["unsaid"] else text


# ------------------------------------------------------------------------------------------------------------- cli


def cli_page() -> str:
    """The help of every built-in command."""
    root = click.Context(cli, info_name="plad-bench", terminal_width=WIDTH, **cli.context_settings)
    root.ensure_object(State).extended = True  # commands that plugins add are not ours to document
    helps = list(_helps(cli, root))
    index = "\n".join(f"- [{name}](#{anchor(name)})" for name, _ in helps)
    sections = [f"## {name}\n\n```text\n{text}\n```" for name, text in helps]
    return "\n\n".join([HEADER, CLI_INTRO, index, *sections]) + "\n"


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """(command path, help) of a command and of all below it."""
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is not None:
            yield from _helps(below, click.Context(below, info_name=name, parent=context))


# -------------------------------------------------------------------------------------------------------- markdown


def table(head: Sequence[str], rows: Any) -> str:
    """A markdown table."""
    lines = [head, [":--"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a page differs.")
def main(*, check: bool) -> None:
    """Write the generated pages."""
    differing = 0
    for path, text in pages().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        click.echo(f"{path.name} {'differs: run python docs/generate.py' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    sys.exit(1 if check and differing else 0)


if __name__ == "__main__":
    main()
