"""The launcher `ray`: with a stand-in for Ray, and under Ray itself where it is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch
from launching import run, training
from waiting import wait_for

from plad_bench import LaunchOptions
from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.execute import provenance
from plad_bench_plugins.launchers import ray as of_ray

# ------------------------------------------------------------------------------------------------- with a stand-in


class StandIn(types.ModuleType):
    """As much of ray as the launcher uses. A task is done at once, as `outcomes` says, or by its function."""

    def __init__(self, nodes):
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))
        for name in ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "TaskUnschedulableError"):
            setattr(self.exceptions, name, type(name, (self.exceptions.RayError,), {}))
        self.there = nodes
        self.answer, self.outcomes, self.asked, self.cancelled, self.open = None, [], [], [], False
        self.groups = []
        self.util = types.SimpleNamespace(
            placement_group=lambda bundles, strategy: self.groups.append(bundles) or "group",
            remove_placement_group=lambda group: self.groups.clear(),
        )

    def init(self, **given):
        self.open, self.given = True, given
        if given["address"] == "nowhere:1":
            raise ConnectionError("could not be reached")

    def shutdown(self):
        self.open = False

    def nodes(self):
        return [
            {"Alive": True, "NodeID": str(i), "NodeManagerHostname": f"n{i}", "Resources": n}
            for i, n in enumerate(self.there)
        ]

    def remote(self, function):
        def submit(*arguments):
            if function.__name__ == "probe":
                answer = self.answer or function
                return answer(*arguments)
            return self.outcomes.pop(0)

        def options(**given):
            self.asked.append(given)
            return types.SimpleNamespace(remote=submit)

        return types.SimpleNamespace(options=options)

    def wait(self, tasks, timeout):
        return [t for t in tasks if t is not None], [t for t in tasks if t is None]

    def get(self, task, timeout=None):
        if isinstance(task, Exception):
            raise task
        return task

    def cancel(self, task, force):
        self.cancelled.append(force)


@pytest.fixture
def ray(monkeypatch):
    """(resources of each node) -> a ray with them."""
    strategies = types.ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node
    strategies.PlacementGroupSchedulingStrategy = lambda group, placement_group_bundle_index: (
        group,
        placement_group_bundle_index,
    )

    def made(*nodes):
        module = StandIn(nodes)
        for name, value in {"ray": module, "ray.util": module.util, strategies.__name__: strategies}.items():
            monkeypatch.setitem(sys.modules, name, value)
        return module

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return made


def opened(tmp_path, *, workers=None, threads=1, **params):
    options = LaunchOptions(workers=workers, threads=threads, gpus=(), store=tmp_path)
    return of_ray.RaySession(of_ray.RayParams(**{"address": "head:1", **params}), options)


@pytest.mark.parametrize(
    ("nodes", "given", "slots", "device"),
    [
        ([{"CPU": 4}, {"CPU": 3}], {}, 7, "cpu"),
        ([{"CPU": 4}, {"CPU": 3}], {"threads": 2}, 3, "cpu"),  # a slot does not span nodes
        ([{"CPU": 4}, {"CPU": 3}], {"workers": 5}, 5, "cpu"),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 1, "GPU": 4}, {"CPU": 9}], {}, 3, "cuda:0"),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 9}], {"gpus": 0}, 17, "cpu"),
        ([{"CPU": 8, "GPU": 2}], {"workers": 1}, 2, "cuda:0"),
    ],
)
def test_slots_are_what_nodes_have_room_for(ray, tmp_path, nodes, given, slots, device):
    module = ray(*nodes)
    module.answer = lambda path: (Path(path).read_text(), provenance.code_hash())
    session = opened(tmp_path, **given)
    assert (session.slots, session.device) == (slots, device)
    assert list(tmp_path.iterdir()) == []
    session.close()
    assert not module.open


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"resource": "fast"}, r"too few resources for 1 x \(CPU 1, fast 1\): its nodes declare CPU 4, fast 0"),
        ({"gpus": 2}, r"too few resources for 2 x \(CPU 1, GPU 1\)"),
        ({"threads": 5}, r"too few resources for 1 x \(CPU 5\)"),
    ],
)
def test_what_would_be_waited_for_for_ever_is_refused(ray, tmp_path, params, says):
    module = ray({"CPU": 4})
    with pytest.raises(MissingError, match=says):
        opened(tmp_path, **params)
    assert (module.asked, module.open) == ([], False)


def test_nodes_that_left_are_not_waited_for(ray, tmp_path):
    module = ray({"CPU": 1}, {"CPU": 1})
    module.answer = lambda path: (Path(path).read_text(), provenance.code_hash())
    session = opened(tmp_path)
    module.there = module.there[:1]
    with pytest.raises(MissingError, match="too few resources for 2"):
        session.start(tmp_path / "job", tmp_path / "log", [0, 1])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (("", "0123456789abcdef"), "n0 cannot access the store"),
        ((None, "0123456789abcdef"), "n0 has another version of plad-bench"),
        ((None, "ModuleNotFoundError: No module named 'plad_bench'"), r"has no plad-bench \(ModuleNotFoundError"),
    ],
)
def test_a_node_that_could_not_do_its_part_is_named_at_the_start(ray, tmp_path, answer, says):
    module = ray({"CPU": 1})
    module.answer = lambda path: (Path(path).read_text() if answer[0] is None else answer[0], answer[1])
    with pytest.raises(MissingError, match=says):
        opened(tmp_path)
    assert (list(tmp_path.iterdir()), module.open) == ([], False)


def test_a_node_is_asked_for_what_it_sees_by_the_python_of_its_tasks(tmp_path):
    (tmp_path / "probe").write_text("token")
    assert of_ray._prober()(str(tmp_path / "probe")) == ("token", provenance.code_hash())
    assert of_ray._prober()(str(tmp_path / "gone"))[0] == ""


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        *((0, 0), (75, 75), (-11, -11), ("TaskUnschedulableError", 1)),
        *((name, -9) for name in ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")),
    ],
)
def test_what_takes_a_task_down_is_a_kill_and_ray_retries_nothing(ray, tmp_path, outcome, code):
    module = ray({"CPU": 2, "fast": 2})
    module.answer = lambda path: (Path(path).read_text(), provenance.code_hash())
    session = opened(tmp_path, resource="fast")
    error = isinstance(outcome, str)
    module.outcomes = [getattr(module.exceptions, outcome)("node n0 is gone") if error else outcome]
    assert session.start(tmp_path / "job", tmp_path / "log", [0]).poll() == code
    assert module.asked[-1] == {"num_cpus": 1, "num_gpus": 0, "resources": {"fast": 1}, "max_retries": 0}
    assert (tmp_path / "log").exists() == error


def test_ranks_have_one_reservation_that_is_given_back(ray, tmp_path):
    module = ray({"CPU": 1}, {"CPU": 1})
    module.answer = lambda path: (Path(path).read_text(), provenance.code_hash())
    session = opened(tmp_path)
    module.outcomes = [None, None]
    process = session.start(tmp_path / "job", tmp_path / "log", [0, 1])
    assert module.groups == [[{"CPU": 1}, {"CPU": 1}]]
    assert [given["scheduling_strategy"] for given in module.asked[-2:]] == [("group", 0), ("group", 1)]
    assert process.poll() is None
    session.close()
    assert (module.cancelled, module.groups, module.open) == ([True, True], [], False)


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("ray://head:1", UsageError, "Ray Client"),
        ("nowhere:1", MissingError, "cannot connect to Ray at nowhere:1: could not"),
    ],
)
def test_a_ray_that_cannot_be_driven(ray, tmp_path, address, error, says):
    ray({"CPU": 1})
    with pytest.raises(error, match=says):
        opened(tmp_path, address=address)


def test_a_ray_of_its_own_has_what_the_options_give(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    module = ray({"CPU": 4, "GPU": 1})
    module.answer = lambda path: (Path(path).read_text(), provenance.code_hash())
    of_ray.RaySession(of_ray.RayParams(), LaunchOptions(workers=None, threads=4, gpus=(1,), store=tmp_path))
    assert (module.given["address"], module.given["num_cpus"], module.given["num_gpus"]) == ("local", 4, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"


def test_without_the_package_there_is_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match=r"plad-bench\[ray\]"):
        opened(tmp_path)


def test_no_address_of_a_cluster_enters_a_record():
    assert (
        provenance.command(["run", "--launcher", "ray[address=head:1]", "--ranks", "2"]) == "plad-bench run --ranks 2"
    )


# ------------------------------------------------------------------------------------------------------ ray itself


def _tasks():
    """Processes in which Ray runs stages of ours."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=False).stdout
    return sorted(int(line.split()[0]) for line in listed.splitlines() if line.split()[1:2] == ["ray::_work"])


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray (tox -e ray)")
def test_under_ray_a_stage_comes_to_the_same_and_a_task_that_is_killed_is_retried(store, undisturbed, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it would leave a token in the user's home
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = LaunchOptions(workers=2, threads=1, gpus=(), store=store.root)
    stage, before, killed = training(steps=120), _tasks(), []

    def kill_one():
        checkpoint = store.partial(stage.key) / "checkpoint.pt"
        while not checkpoint.exists():
            time.sleep(0.001)
        killed.append([pid for pid in _tasks() if pid not in before][1])
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    found = run(store, stage, session=lambda: of_ray.RaySession(of_ray.RayParams(), options)).artifacts[stage.key]
    assert killed
    assert found.manifest["provenance"]["ranks"] == 2
    torch.testing.assert_close(tiny.weights(found), tiny.weights(undisturbed), rtol=0, atol=0)
    wait_for(lambda: not [pid for pid in _tasks() if pid not in before], 30)
