"""Write what is made from the code.

methods.md and metrics.md come from the registry, cli.md from the help, and tables of records.md and recipes.md from the
protocol and the recipes.

`python docs/generate.py` writes them; with `--check` it writes nothing and exits with 1 if a page differs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from plad_bench import Method, Metric, PairObjective, Params
from plad_bench.cli.main import cli
from plad_bench.cli.state import State
from plad_bench.contract.params import source_of
from plad_bench.contract.protocol import settings
from plad_bench.contract.registry import Registry, allowed
from plad_bench.contract.suggestions import allowed_values
from plad_bench.plan import matrix, recipes, spec

DOCS = Path(__file__).resolve().parent
HEADER = "<!-- Written by `python docs/generate.py`; do not edit. -->"
WIDTH = 100
"""Columns of a help text, whatever the terminal."""

METHODS_INTRO = """\
# Methods

p is the teacher's distribution, q the student's, q0 that of the frozen initialised student, m a mixture of p and q.
y+ and y- are the chosen and the rejected response of a pair, |y| the number of tokens of y with its end token, s a
scorer. Logarithms are natural. Token losses are averaged over the response tokens of the global batch, pair losses over
its pairs. Parameters are given in brackets, `kd[temperature=2]`, and `|` separates values to sweep,
`'kd[temperature=1|2]'`. [auditing.md](auditing.md) shows how to check any of the formulas on tensors of your own.

A method trains on the text named here: *reference* is the task's references, *teacher* the teacher's responses,
*sample* responses of the frozen initialised student, *student* fresh responses of the student in training, *replay*
earlier ones of those, *shuffled* the teacher's responses to other prompts, and *pairs* what the pair builder
(`--pairs`) makes. *Source* says where a default comes from."""

METRICS_INTRO = """\
# Metrics

A metric gives one value per example, NaN where an example has none; a board shows their mean, and its intervals, tests
and ranks rest on the values. What is no mean over examples is taken apart so that it is one, and its formula says how.
y is the evaluated response, y_T the teacher's, q the student's distribution, p the teacher's.

```sh
plad-bench run --metrics 'slot-errors,nll,token-ece,calibration[scorer=slot-errors],preference-accuracy,fidelity'
```

All metrics, pair filters and the search for near-duplicates divide text into words in the same way
(`plad_bench/contract/words.py`): a word is what stands between white space; in scripts without spaces (Chinese,
Japanese, Thai, Lao, Khmer, Burmese) it is each character with its marks. ROUGE and comparisons of prompts ignore case
and punctuation, and read letters, marks and digits of every script; in English text they see the words that the
rouge-score package sees. Two texts are equal if they are so once normalised (Unicode NFC), white space aside. ROUGE
gives no number for a reference without a word, such as emojis alone; if all references are so, the metric is absent.

*Needs* names what a metric reads beside prompt, references and response: `teacher`, the teacher's responses;
`checkpoint`, the evaluated model; `teacher-logits`, the teacher's model; `references`, those of the task; `scores`, the
values of another metric for the same responses. Where a teacher gives text alone, two tokenizers differ, or a task has
no references, the metric is absent: the record and the page say why, and the cell counts.

Any metric with a direction can be a *scorer*: of another metric, of a method, of a pair builder (there, one that reads
text alone or brings its own model). So win rates are made of parts:

| win rate | selector |
| :-- | :-- |
| by a text metric | `win-teacher[scorer=rouge-l]` |
| by a reward model | `win-teacher[scorer=reward[id=ORG/NAME]]`, `win-teacher[scorer=reward[path=DIR]]` |
| by a language model | `win-judge[model=NAME]`; `base_url=` says where, `OPENAI_API_KEY` holds the key |
| any of them at equal length | `win-lc[scorer=win-judge[model=NAME]]`, which judges nothing twice |

lm-eval's tasks are metrics as well: `lm-eval[tasks=hellaswag]`, `lm-eval[tasks='arc_easy+boolq',metric=acc]`, or task
files of your own with `include_path=DIR`. Their documents are examples of their own; keep a task's data in its
directory, whose content is keyed.

A label holds no path: on a board a directory is its name and a hash. So a board with such a metric needs `--metrics` in
each command, and a file that is gone is an error."""

CLI_INTRO = """\
# Command line

stdout is data, stderr is progress. `--json` prints JSON. Every option can also come from the environment, as
`PLAD_BENCH_<COMMAND>_<OPTION>` (`PLAD_BENCH_RUN_STEPS=100`), and those of `run` and `plan` from a TOML file given with
`--config`, whose keys are the option names. `PLAD_BENCH_STORE` and `PLAD_BENCH_BOARDS_DIR` hold for all commands. The
command line wins over the environment, and the environment over the file. An option that is left out takes its
default; an empty value (`--student ""`, an empty variable, `plad,,kd`) is an error. Numbers are finite.

The settings of the [protocol](records.md#protocol), from `--steps` to `--backend`, default to what the board fixes,
else for pretrained students to their [recipe](recipes.md), else to what the task declares.

A *selector* is `name` or `name[param=value,...]`; commas separate selectors and `|` separates the values of a sweep.
Put selectors with brackets in quotes, for the shell's sake. `all` selects everything of a kind.

| exit code | meaning |
| --: | :-- |
| 0 | everything asked for is done, or was already |
| 1 | a cell failed, or a check is negative |
| 2 | usage: an unknown name or option, a value out of range, a board that says otherwise |
| 3 | a prerequisite is missing: model, data, GPU, package, network, disk space |
| 4 | a plugin is broken or malformed |
| 5 | nothing to run: nothing is selected, or none of the methods can run |
| 6 | stopped before `--max-cost` was exceeded; what was bought is kept |
| 130 | interrupted |

`plan`, and `run --dry-run`, end with the code that `run` would have had before its first stage: 0, 2, 3, 4 or 5.
They open no launcher, so what only that knows (slots for `--ranks`, the nodes of a Ray) is for `run` to find."""


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
    """The page of all methods that come with plad-bench."""
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
    head = ["method", "teacher gives", "trains on", "what", "paper"]
    sections = [_section(m, skipped.get(m.name, "")) for m in methods]
    return "\n\n".join([HEADER, METHODS_INTRO, table(head, index), *sections]) + "\n"


def _section(method: Method, skip: str) -> str:
    facts = {
        "Paper": f"{method.title}, {_paper(method)}",
        "Teacher gives": method.access.value,
        "Trains on": _variants_of(method, _trains_on),
        "Needs": _variants_of(method, _needs),
        "Control": "a baseline, never ranked; `--controls` adds it to a run, `all` does not" if method.control else "",
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
        table(["parameter", "default", "allowed", "source", "what"], _parameters(method.params)),
        f"```sh\nplad-bench run --methods {method.name}\n```",
    ]
    return "\n\n".join(parts)


def _parameters(params: type[Params]) -> Iterator[list[str]]:
    for name, info in params.model_fields.items():
        bounds, _, _ = allowed(params, name).rpartition("; default ")
        description = " ".join((info.description or "").split())
        yield [f"`{name}`", _value(info.default), bounds, source_of(params, name), description]


def _variants_of(method: Method, describe: Any) -> str:
    """What holds with default parameters, and what changes with another choice of one of them."""
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
    return " and ".join(dict.fromkeys(text.value for text in objective.texts(params)))


def _needs(objective: Any, params: Params) -> str:
    if isinstance(objective, PairObjective):
        scorer = objective.scorer(params)
        needs = ["log-probabilities under q0"] if objective.reference else []
        return ", ".join(needs + ([f"scores by `{scorer}`"] if scorer else []))
    return "the teacher's logits" if objective.teacher_logits else ""


def _skipped(registry: Registry, methods: Sequence[Method]) -> Mapping[str, str]:
    """Why a method with default parameters cannot run on the demo, by name; those that can are not in it."""
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
    """The page of all metrics that come with plad-bench."""
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
    head = ["metric", "better", "unit", "needs", "what"]
    return "\n\n".join([HEADER, METRICS_INTRO, table(head, index), *map(_metric, metrics)]) + "\n"


def _metric(metric: Metric) -> str:
    facts = {
        "Better": metric.better or "reported and never ranked",
        "Unit": metric.unit or "a plain number",
        "Needs": ", ".join(sorted(metric.needs)) or "nothing more than text",
        "Cost": metric.cost,
        "Version": str(metric.version),
    }
    parts = [f"## {metric.name}", metric.summary, f"Value of an example: {metric.formula}."]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    if metric.params.model_fields:
        parts.append(table(["parameter", "default", "allowed", "source", "what"], _parameters(metric.params)))
    return "\n\n".join(parts)


# --------------------------------------------------------------------------------------------------------- records


def records_page() -> str:
    """The page of records as it is, with the table of protocol settings as they are declared."""
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
    return _with_table("records.md", "settings", table(["key", "unit", "default", "allowed", "meaning"], rows))


def recipes_page() -> str:
    """The page of recipes as it is, with the table of their numbers."""
    heads = {
        "lr": "learning rate",
        "steps": "steps",
        "batch": "batch",
        "sft_lr": "SFT learning rate",
        "sft_steps": "SFT steps",
        "teacher_lr": "teacher's learning rate",
        "teacher_steps": "teacher's steps",
    }
    rows = [
        [recipes.KINDS[r.kind], r.size, *(_figure(getattr(r, name)) for name in heads), f"{r.highest_lr:g}"]
        for r in recipes.RECIPES
    ]
    return _with_table(
        "recipes.md", "recipes", table(["training", "parameters", *heads.values(), "highest rate"], rows)
    )


def _figure(value: recipes.Value | None) -> str:
    """A number of a recipe; one that was measured is in bold."""
    if value is None:
        return ""
    return f"**{value.number:g}**" if value.source == recipes.MEASURED else f"{value.number:g}"


def _with_table(name: str, what: str, written: str) -> str:
    """A page as it is, with a table written anew between its two marks."""
    page = (DOCS / name).read_text(encoding="utf-8")
    begin, end = f"<!-- {what}: written by `python docs/generate.py` -->\n", f"<!-- end of {what} -->\n"
    head, rest = page.split(begin)
    return f"{head}{begin}{written}\n{end}{rest.split(end)[1]}"


def _meaning(setting: Mapping[str, Any]) -> str:
    text = " ".join(setting["description"].split())
    return f"{text} Absent where it has its default." if setting["unsaid"] else text


# ------------------------------------------------------------------------------------------------------------- cli


def cli_page() -> str:
    """The help of every command that comes with plad-bench."""
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
