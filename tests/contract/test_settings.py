"""Settings from every source: the protocol's schema, empty values, numbers that are not finite, variables."""

import re
from dataclasses import replace
from pathlib import Path

import click
import pytest
import tiny
from click.testing import CliRunner

import plad_bench
from plad_bench import LaunchOptions, Protocol
from plad_bench.cli.main import cli
from plad_bench.contract import machine
from plad_bench.contract.errors import NothingSelectedError, PladBenchError, UsageError
from plad_bench.contract.params import MethodParams, descriptions, param
from plad_bench.contract.protocol import settings
from plad_bench.plan import boardfile, spec
from plad_bench.plan.chosen import choose
from plad_bench_plugins.launchers.local import room

WRONG = [
    ("precision", "bfloat16"),
    ("steps", 0),
    ("steps", 10.5),
    ("steps", "ten"),
    ("batch", -1),
    ("lr", float("nan")),
    ("lr", float("inf")),
    ("lr", 0.0),
    ("sft_lr", float("inf")),
    ("sample_temperature", float("nan")),
    ("teach_temperature", -0.1),
    ("teacher_logprobs", "top-0"),
    ("split", "train"),
    ("backend", "llama.cpp"),
    ("lora", 1.5),
]


def toml(value):
    return repr(value).replace("'", '"')


def told(arguments, cwd, monkeypatch, **environment):
    """The usage error that a command line ends with."""
    monkeypatch.chdir(cwd)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli, ["plan", "--store", str(cwd / "store"), *arguments], standalone_mode=False)
    error = result.exception
    assert isinstance(error, click.UsageError | PladBenchError), (result.output, error)
    assert error.exit_code == 2
    return error.message if isinstance(error, PladBenchError) else error.format_message()


@pytest.mark.parametrize("source", ["option", "variable", "config", "board.toml", "task", "Python"])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_refused_whatever_its_source(name, value, source, tmp_path, monkeypatch):
    option, text = name.replace("_", "-"), str(value)
    match source:
        case "option":
            message = told([f"--{option}", text], tmp_path, monkeypatch)
        case "variable":
            message = told([], tmp_path, monkeypatch, **{f"PLAD_BENCH_PLAN_{name.upper()}": text})
        case "config":
            (tmp_path / "c.toml").write_text(f"{option} = {toml(value)}\n")
            message = told(["--config", "c.toml"], tmp_path, monkeypatch)
        case "board.toml" | "task":
            (tmp_path / "leaderboards" / "b").mkdir(parents=True)
            table = "protocol" if source == "board.toml" else "tasks.demo"
            (tmp_path / "leaderboards" / "b" / "board.toml").write_text(f"[{table}]\n{name} = {toml(value)}\n")
            message = told(["--board", "b"], tmp_path, monkeypatch)
            assert message.startswith("b/board.toml: ")
        case "Python":
            with pytest.raises(UsageError) as raised:
                spec.build(tiny.registry(), task="demo", methods="sft", overrides={"demo": {name: value}})
            message = str(raised.value)
            for make in (Protocol, lambda **values: replace(Protocol(), **values)):
                with pytest.raises(UsageError, match=name):
                    make(**{name: value})
    assert name in message.replace("-", "_")


@pytest.mark.parametrize(("name", "value"), [("steps", True), ("lr", True), ("lora", False)])
def test_a_truth_value_is_no_number_and_a_number_no_truth_value(name, value, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=name):
        Protocol(**{name: value})
    (tmp_path / "c.toml").write_text(f"{name} = {toml(value).lower()}\n")
    assert name in told(["--config", "c.toml"], tmp_path, monkeypatch)


def test_an_integer_is_a_real_number_and_gives_the_same_key():
    assert repr(Protocol(lr=1)) == repr(Protocol(lr=1.0))
    assert spec.protocol_values(Protocol(teach_temperature=1))["teach_temperature"] == 1.0
    assert boardfile.BoardFile(protocol={"lr": 1}).model_dump_json() == (
        boardfile.BoardFile(protocol={"lr": 1.0}).model_dump_json()
    )


def test_an_unknown_setting_lists_near_matches(tmp_path):
    with pytest.raises(UsageError, match="sft_steps"):
        Protocol(sft_step=3)
    (tmp_path / "board.toml").write_text("[protocol]\nsft_step = 3\n")
    with pytest.raises(UsageError, match="Did you mean sft_steps"):
        boardfile.read(tmp_path / "board.toml")


@pytest.mark.parametrize("text", ["[protocl]\nsteps = 3\n", "seed_asked = 3\n", "metric = []\n", 'seeds_asked = "5"\n'])
def test_a_mistyped_key_of_a_board_is_refused_and_one_of_its_owner_is_kept(text, tmp_path):
    file = tmp_path / "board.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=text.split(" ")[0].split("]")[0].strip("[")):
        boardfile.read(file)
    file.write_text('owner = "me"\n')
    assert boardfile.read(file).model_extra == {"owner": "me"}


class Documented(MethodParams):
    """With text below one of its fields, over two lines."""

    size: int = 3
    """How big
    it is."""
    bare: float = 0.5
    told: str = param("", description="In the declaration.")
    """Not this."""


class Overriding(Documented):
    bare: float = 0.1
    """Now it has text."""
    size: int = 4


def test_a_parameter_is_described_by_the_text_below_it():
    of = descriptions(Documented)
    assert list(of) == ["lr", "rounds", "size", "bare", "told"]
    assert of["lr"].startswith("Peak learning rate")
    assert (of["size"], of["bare"], of["told"]) == ("How big\nit is.", "", "In the declaration.")
    assert {"size": "", "bare": "Now it has text."}.items() <= descriptions(Overriding).items()
    assert descriptions(type("Made", (Documented,), {"__module__": "nowhere"})) == of


def test_every_setting_is_an_option_and_is_described():
    for command in ("run", "plan"):
        context = click.Context(cli)
        options = {p.name: p for p in cli.get_command(context, command).params}
        for name, setting in settings().items():
            assert options[name].default is None
            assert options[name].help == " ".join(setting["description"].split())


def test_options_and_pages_name_no_setting_that_is_declared_elsewhere():
    """A setting that is added needs no line in them; effective.py shows a few, and api.py types all."""
    root = Path(plad_bench.__file__).parent
    distinct = re.compile(r"\b(lora|top_k|teach_temperature|sample_temperature)\b")
    naming = [
        p.name
        for part in ("cli", "running", "records", "leaderboard", "render")
        for p in (root / part).rglob("*.py")
        if distinct.search(p.read_text())
    ]
    assert sorted(naming) == ["api.py", "effective.py"]


def test_more_threads_than_processors_are_refused_and_others_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "processors", lambda: 2)
    assert "2 processors" in told(["--threads", "1000"], tmp_path, monkeypatch)
    arguments = ["plan", "--store", str(tmp_path / "store"), "--gpus", "none", "--methods", "none"]
    result = CliRunner().invoke(cli, [*arguments, "--threads", "2"])
    assert result.exit_code == 0
    assert "not reused" in result.stderr
    assert "not reused" not in CliRunner().invoke(cli, arguments).stderr
    assert room(LaunchOptions(workers=None, threads=1, gpus=(), store=tmp_path)) == 2


# ----------------------------------------------------------------------------------------- all options of all commands


def every_command(command=cli, path=()):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        context.ensure_object(dict)
        names = [n for n in command.list_commands(click.Context(cli)) if path or n in BUILT_IN]
        for name in names:
            yield from every_command(command.get_command(context, name), (*path, name))


BUILT_IN = (
    *("run", "plan", "status", "plugins", "leaderboard", "show", "compare", "export"),
    *("new-plugin", "check-plugin", "doctor", "cache"),
)
OPTIONS = [
    pytest.param(path, parameter, id=" ".join((*path, parameter.opts[-1])))
    for path, command in every_command()
    if path
    for parameter in command.params
    if isinstance(parameter, click.Option) and not parameter.is_flag
]


def usage_error(arguments):
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert isinstance(result.exception, click.UsageError), (result.output, result.exception)
    return result.exception.format_message()


@pytest.mark.parametrize(("path", "option"), OPTIONS)
def test_no_option_takes_an_empty_value(path, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = option.opts[-1]
    for given in ([name, ""], [name, "  "], [f"{name}="]):
        assert f"{name} is empty" in usage_error([*path, *given])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "option"), [p for p in OPTIONS if isinstance(p.values[1].type, click.types.FloatParamType)]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_no_option_takes_a_number_that_is_not_finite(path, option, value):
    assert "not a finite number" in usage_error([*path, option.opts[-1], value])


def test_an_empty_argument_is_refused():
    assert "an argument is empty" in usage_error(["show", ""])
    assert "an argument is empty" in usage_error(["leaderboard", "demo", ""])


@pytest.mark.parametrize("value", ["plad,,kd", "plad, ,", ",plad"])
def test_a_selector_list_has_no_empty_part(value, tmp_path, monkeypatch):
    assert "empty part" in told(["--methods", value], tmp_path, monkeypatch)
    for name in ("task", "student", "teacher", "pairs", "metrics"):
        with pytest.raises(UsageError, match="empty part"):
            spec.build(tiny.registry(), **{"task": "demo", "methods": "sft", name: f"{value},demo"})
        with pytest.raises(NothingSelectedError):
            spec.build(tiny.registry(), **{"task": "demo", "methods": "sft", name: ","})
    (tmp_path / "c.toml").write_text('methods = ["plad", "", "kd"]\n')
    assert "empty part" in told(["--config", "c.toml"], tmp_path, monkeypatch)


@pytest.mark.parametrize("text", ['student = ""', "student = []", 'boards-dir = " "', 'force = "yes"', "lr = {}"])
def test_a_config_file_has_values_of_the_right_kind(text, tmp_path, monkeypatch):
    (tmp_path / "c.toml").write_text(text)
    assert f"c.toml: {text.split()[0]}: " in told(["--config", "c.toml"], tmp_path, monkeypatch)


def test_an_empty_variable_is_refused(monkeypatch):
    monkeypatch.setenv("PLAD_BENCH_RUN_STUDENT", "")
    assert "PLAD_BENCH_RUN_STUDENT is empty" in usage_error(["status"])


def test_an_empty_path_is_not_the_working_directory():
    with pytest.raises(UsageError, match="the path is empty"):
        choose(tiny.registry(), "task", "jsonl[path=]")


def test_a_variable_in_other_letters_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PLAD_BENCH_run_STEPS", "3")
    result = CliRunner().invoke(cli, ["status", "--store", str(tmp_path)], standalone_mode=False)
    assert "unknown environment variable PLAD_BENCH_run_STEPS. Did you mean PLAD_BENCH_RUN_STEPS" in result.stderr
