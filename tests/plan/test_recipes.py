"""What a run does by default follows from what its models are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from plad_bench import HubModel
from plad_bench.cli.main import cli
from plad_bench.contract.errors import UsageError
from plad_bench.contract.protocol import Protocol
from plad_bench.plan import defaults, matrix, recipes, spec
from plad_bench.plan.chosen import choose
from plad_bench.plan.published import is_instruct, parameters

REGISTRY = tiny.registry()


def build(**options):
    return spec.build(REGISTRY, **{"task": "demo", "methods": "kd", **options})


def model(directory, *, template=None):
    """A directory with a model of a few thousand parameters."""
    tiny.llama().save_pretrained(directory)
    tiny.tokenizer(template=template).save_pretrained(directory)
    return directory


def plan(tmp_path, *options):
    arguments = ["plan", "--gpus", "none", "--boards-dir", str(tmp_path / "b"), "--store", str(tmp_path / "s")]
    return CliRunner().invoke(cli, [*arguments, *options], standalone_mode=False)


def test_students_from_scratch_have_the_settings_of_their_task():
    run = build(student="tiny,scratch")
    assert run.recipes == {"demo": None}
    assert run.protocols == {"demo": Protocol(max_new_tokens=80)}


@pytest.mark.parametrize("student", ["smollm-135m", "llama-1b", "qwen-7b", "pruned[id=HuggingFaceTB/SmolLM2-135M]"])
def test_a_pretrained_student_has_those_of_its_recipe(student):
    run = build(student=student)
    recipe = run.recipes["demo"]
    assert run.protocols["demo"] == replace(Protocol(max_new_tokens=80), **recipe.values())
    assert run.protocols["demo"].lr < Protocol().lr


def test_what_the_user_or_the_board_says_goes_before_a_recipe():
    said = {"steps": 7, "lr": None, "sft_lr": 2e-4}
    run = build(student="smollm-135m", overrides={"demo": said})
    protocol, recipe = run.protocols["demo"], run.recipes["demo"]
    assert (protocol.steps, protocol.sft_lr, protocol.lr) == (7, 2e-4, recipe.lr.number)


def test_adapters_and_pruned_models_have_recipes_of_their_own():
    whole, pruned, adapted = (
        build(student="smollm-135m"),
        build(student="pruned[id=HuggingFaceTB/SmolLM2-135M]"),
        build(student="smollm-135m", overrides={"demo": {"lora": 8}}),
    )
    assert [run.recipes["demo"].kind for run in (whole, pruned, adapted)] == ["full", "pruned", "lora"]
    assert len({run.protocols["demo"].lr for run in (whole, pruned, adapted)}) == 3


def test_students_that_share_a_protocol_share_the_most_careful_recipe():
    assert build(student="smollm-135m,llama-3b,tiny").recipes == build(student="llama-3b").recipes


def test_there_is_a_recipe_for_every_kind_and_size_and_none_is_refused_by_itself():
    assert [(r.kind, r.size) for r in recipes.RECIPES] == [(k, s) for k in recipes.KINDS for s in recipes.SIZES]
    for recipe in recipes.RECIPES:
        rates = [value.number for value in (recipe.lr, recipe.sft_lr, recipe.teacher_lr) if value]
        assert max(rates) <= recipe.highest_lr


@pytest.mark.parametrize(
    ("id_", "size"),
    [
        ("meta-llama/Llama-3.2-1B", 1e9),
        ("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", 1.1e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("mistralai/Mixtral-8x7B-v0.1", 56e9),
        ("meta-llama/Llama-2-7b-hf", 7e9),
        ("openai-community/gpt2", None),
        ("org/v2.3-beta", None),
    ],
)
def test_the_id_of_a_model_says_its_size(id_, size):
    assert parameters(HubModel(id=id_)) == size


def test_every_short_name_has_a_size():
    every = [*REGISTRY.components("student"), *REGISTRY.components("teacher")]
    found = {
        name: recipes.published(chosen)
        for kind in ("student", "teacher")
        for name in REGISTRY.components(kind)
        if name not in {"hf", "pruned", "vllm", "recorded", "openai"}
        for chosen in choose(REGISTRY, kind, name)
    }
    assert every
    assert [name for name, m in found.items() if m is not None and parameters(m) is None] == []


def test_a_directory_says_its_size_and_whether_it_is_for_chats(tmp_path):
    base, chat = (
        HubModel(id=str(model(tmp_path / "m"))),
        HubModel(id=str(model(tmp_path / "c", template="{{ messages }}"))),
    )
    assert parameters(base) == sum(p.numel() for p in tiny.llama().parameters())
    assert [is_instruct(m) for m in (base, chat)] == [False, True]
    named = ["google/gemma-2-2b-it", "Qwen/Qwen2.5-7B-Instruct", "org/Chat-1B", "google/gemma-2-2b", "org/bitnet-2b"]
    assert [is_instruct(HubModel(id=name)) for name in named] == [True, True, True, False, False]
    (Path(base.id) / "model.safetensors").write_bytes(b"\xff" * 40)
    assert parameters(base) is None


@pytest.fixture
def as_small(monkeypatch):
    """Count the tiny models of tests to the next size class, whose base teachers are fine-tuned."""
    monkeypatch.setitem(recipes.SIZES, "below 20 M", 0)


def teachers(**options):
    return {cell.teacher.label for cell in matrix.cells(build(**options), REGISTRY)}


def test_a_base_teacher_is_fine_tuned_and_an_instruct_teacher_used_as_it_is():
    assert teachers(student="smollm-135m") == {"smollm-1.7b[steps=500,lr=2e-05,select=best]"}
    assert teachers(student="smollm-135m", teacher="qwen-7b-instruct") == {"qwen-7b-instruct"}
    assert teachers(student="smollm-135m", teacher="llama-8b[steps=0]") == {"llama-8b[steps=0]"}
    assert teachers(student="smollm-135m", teacher="llama-8b[steps=9]") == {"llama-8b[steps=9,lr=0.0001,lora=16]"}
    found = teachers(student="smollm-135m", teacher="llama-8b[lr=3e-5]")
    assert found == {"llama-8b[steps=500,lr=3e-05,lora=16,select=best]"}
    found = teachers(student="smollm-135m", teacher="llama-8b[select=last]")
    assert found == {"llama-8b[steps=500,lr=0.0001,lora=16,select=last]"}
    assert teachers(student="tiny") == {"small"}


def teacher_stage(**options):
    (cell,) = [cell for cell in matrix.cells(build(**options), REGISTRY) if cell.row == "teacher"]
    return cell.plan.teacher_model


def test_the_best_checkpoint_is_chosen_by_the_first_metric_that_compares_text_with_references():
    select = {"student": "tiny", "teacher": "small[select=best]", "methods": "seqkd"}
    assert "select" not in teacher_stage(student="tiny", methods="seqkd").spec
    chosen = {task: teacher_stage(task=task, **select).spec["select"] for task in ("demo", "hh", "gsm8k")}
    assert {task: spec["metric"]["name"] for task, spec in chosen.items()} == {
        "demo": "slot-errors",
        "hh": "rouge-l",
        "gsm8k": "final-answer",
    }
    assert {spec["points"] for spec in chosen.values()} == {4}
    assert teacher_stage(metrics="length", **select).key == teacher_stage(**select).key
    task = replace(choose(REGISTRY, "task", "demo")[0].component, metrics=("length",))
    plan_ = next(iter(matrix.cells(build(**select), REGISTRY))).plan
    with pytest.raises(UsageError, match=r"small\[select=best\]: no metric of demo compares"):
        _ = replace(
            plan_, validation=matrix.validation_metric(with_component(plan_.task, task), REGISTRY)
        ).teacher_model


def with_component(chosen, component):
    return replace(chosen, registered=replace(chosen.registered, component=component))


def test_task_and_board_of_a_run_that_names_none():
    def names(task, students):
        chosen = choose(REGISTRY, "student", students)
        tasks = choose(REGISTRY, "task", task or defaults.task(chosen))
        return defaults.board(tasks, chosen, trial=False)

    assert names("", "tiny") == "quickstart"
    assert names("", "llama-1b") == "tldr-llama-1b"
    assert names("demo", "hf[id=org/Mine-1B]") == "demo-mine-1b"
    assert names("tldr", "tiny,llama-1b") == "tldr-tiny-llama-1b"
    assert names("", "pruned[id=HuggingFaceTB/SmolLM2-135M,layers=12]") == "tldr-smollm2-135m-12-layers"
    tasks, students = choose(REGISTRY, "task", "tldr"), choose(REGISTRY, "student", "llama-1b")
    assert defaults.board(tasks, students, trial=True) == "trial"


@pytest.mark.usefixtures("as_small")
def test_plan_says_the_settings_and_who_chose_them(tmp_path):
    base, options = model(tmp_path / "base"), ("--task", "demo", "--methods", "kd", "--steps", "7")
    named = ("--student", f"hf[path={base}]", "--teacher", f"hf[path={base}]")
    shown = plan(tmp_path, *options, *named)
    assert shown.exception is None
    assert "recipe: full fine-tuning, 20 M to 0.3 B parameters (in brackets: who set them):" in shown.stderr
    assert (
        "  methods: steps 7 (option), learning rate 0.0001 (recipe), batch 8 (recipe), precision float32 (task)\n"
        "  SFT initialisation: steps 500 (recipe: its maximum, 1.4 epochs of 2,915 prompts at batch 8), "
        "learning rate 0.0003 (recipe)\n"
    ) in shown.stderr
    taught = "steps 274 (recipe: 3 epochs of 2,915 prompts at batch 32), learning rate 0.0001 (recipe), "
    taught += "checkpoint best (recipe)\n"
    assert taught in shown.stderr
    (board,) = [tmp_path / "b" / "demo-base"]
    board.mkdir(parents=True)
    (board / "board.toml").write_text("[protocol]\nlr = 3e-4\n")
    told = json.loads(plan(tmp_path, *options, *named, "--json").stdout)["settings"]
    assert told[0]["settings"]["lr"] == {"value": 3e-4, "origin": "board"}


@pytest.mark.parametrize(
    ("epochs", "prompts", "batch", "steps", "words"),
    [
        (3, 2915, 32, 274, "3 epochs of 2,915 prompts at batch 32"),
        (3, 116_722, 32, 500, "its maximum, 0.14 epochs of 116,722 prompts at batch 32"),
        (3, 72, 32, 50, "its minimum, 22 epochs of 72 prompts at batch 32"),
        (1, None, 32, 500, "its maximum, as the data is not here"),
    ],
)
def test_steps_follow_from_epochs_within_bounds(epochs, prompts, batch, steps, words):
    assert recipes.steps(epochs, prompts, batch) == steps
    assert recipes.in_words(epochs, prompts, batch) == words


def test_the_steps_of_a_recipe_follow_from_the_data_and_the_batch(tmp_path):
    rows = [json.dumps({"prompt": f"walk {i} by river {7 * i}", "response": f"{i} is long"}) for i in range(400)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    base = model(tmp_path / "base")
    options = (
        "--task",
        f"jsonl[path={tmp_path / 'mine.jsonl'}]",
        "--methods",
        "seqkd",
        "--teacher",
        f"hf[path={base}]",
    )

    def steps(*more):
        shown = json.loads(plan(tmp_path, *options, "--student", f"hf[path={base}]", "--json", *more).stdout)
        (told,) = shown["settings"]
        (counts,) = shown["data"].values()
        made = told["settings"]["steps"]
        return made["value"], made["origin"], told["epochs"].get("steps"), int(counts["train_prompts"])

    value, origin, why, prompts = steps("--batch", "8")
    assert (value, origin) == (-(-3 * prompts // 8), "recipe")
    assert why == f"3 epochs of {prompts} prompts at batch 8"
    assert steps("--batch", "8", "--limit", "200")[0] == 75
    assert steps("--steps", "7")[:3] == (7, "option", None)


def test_plan_of_the_demo_says_that_its_task_chose(tmp_path):
    shown = plan(tmp_path, "--methods", "none").stderr
    assert "Settings for task demo, student tiny (in brackets: who set them):\n" in shown
    assert "steps 300 (task), learning rate 0.001 (task), batch 32 (task)" in shown
    assert "teacher small: fine-tuned on the references first, steps 1500 (teacher)" in shown


def refusal(tmp_path, *options):
    """What plan says that run would stop for, if it is a setting that --force lets through."""
    shown = plan(tmp_path, *options)
    forced = plan(tmp_path, *options, "--force")
    assert forced.return_value == 0, forced.stderr
    assert (shown.return_value == 2) == ("run would stop" in shown.stderr)
    return shown.stderr.partition("run would stop: ")[2].partition("Settings for")[0]


@pytest.mark.slow
@pytest.mark.usefixtures("as_small")
def test_a_base_teacher_that_has_not_learnt_the_task_is_refused(tmp_path):
    base, chat = model(tmp_path / "base"), model(tmp_path / "chat", template="{{ messages }}")
    options = ("--task", "demo", "--methods", "seqkd", "--student", f"hf[path={base}]", "--teacher")
    said = refusal(tmp_path, *options, f"hf[path={base},steps=0]")
    assert "is a base model that is not fine-tuned on demo" in said
    assert "Leave steps= of hf out to fine-tune it on the task's references, or choose an instruct teacher" in said
    for taught in (f"hf[path={base}]", f"hf[path={base},steps=3]", f"hf[path={chat}]", "small"):
        assert refusal(tmp_path, *options, taught) == ""


@pytest.mark.usefixtures("as_small")
def test_a_base_teacher_cannot_learn_a_task_without_references(tmp_path):
    base = model(tmp_path / "base")
    rows = [json.dumps({"prompt": tiny.sentence(i, 9)}) for i in range(60)]
    (tmp_path / "p.jsonl").write_text("\n".join(rows))
    options = ("--task", f"jsonl[path={tmp_path / 'p.jsonl'},response=]", "--methods", "seqkd", "--student", "tiny")
    said = refusal(tmp_path, *options, "--teacher", f"hf[path={base}]", "--max-new-tokens", "8")
    assert "Choose an instruct teacher: the task has no references for fine-tuning." in said


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--lr", "3e-2"], "a learning rate of 0.03 (--lr)"),
        (["--sft-lr", "3e-2"], "a learning rate of 0.03 (--sft-lr)"),
        (["--methods", "kd[lr=0.1]"], "a learning rate of 0.1 (lr of kd)"),
        (["--sft-lr", "3e-2", "--sft-steps", "0"], ""),
        (["--lr", "2e-2", "--sft-lr", "2e-2"], ""),
        (["--lr", "1e-2", "--lora", "2"], ""),
    ],
)
def test_pretrained_weights_at_a_rate_for_random_ones_are_refused(tmp_path, given, what):
    options = ("--task", "demo", "--methods", "kd", "--student", f"hf[path={model(tmp_path / 'base')}]")
    said = refusal(tmp_path, *options, "--teacher", f"hf[path={tmp_path / 'base'}]", *given)
    assert what in said
    assert bool(said) == bool(what)
    if what:
        assert "Use a lower rate or the recipe's default" in said


@pytest.mark.slow
def test_a_teachers_rate_is_looked_at_and_random_weights_take_any(tmp_path):
    base = model(tmp_path / "base")
    said = refusal(
        tmp_path, "--task", "demo", "--methods", "kd", "--student", f"hf[path={base}]",
        "--teacher", f"hf[path={base},steps=3,lr=0.1]",
    )  # fmt: skip
    assert "a learning rate of 0.1 (the teacher's lr)" in said
    assert refusal(tmp_path, "--methods", "kd", "--lr", "0.1", "--sft-lr", "0.1") == ""


def test_a_forced_run_says_so_in_the_line_that_repeats_it(tmp_path):
    from plad_bench.cli.plan import plan as command
    from plad_bench.cli.state import State
    from plad_bench.running.setup import prepare

    place = ["--boards-dir", str(tmp_path / "b"), "--store", str(tmp_path / "s")]
    lines = [
        prepare(State().registry, command.make_context("plan", [*place, *more]).params, ()).commands["demo"]
        for more in ([], ["--force"])
    ]
    assert ["--force" in line for line in lines] == [False, True]
