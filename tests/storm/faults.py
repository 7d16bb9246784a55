"""What a storm does to a run. A fault is a function (world, seconds, random) that leaves a place in which the command
has to be run again; it returns what was finished before, and which artifacts it destroyed itself."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from world import StormError


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    strike: Callable
    matrices: tuple[str, ...]
    """On which it is tried."""
    needs_root: bool = False


def moment(seconds, random):
    """A moment of an undisturbed run; the start of the interpreter, in which nothing can be lost, is hit less often."""
    return seconds * (random.uniform(0, 0.25) if random.random() < 0.15 else random.uniform(0.25, 1.05))


def _until(driver, delay):
    """Wait for a moment; whether the command still runs."""
    deadline = time.monotonic() + delay
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return driver.poll() is None


def _kill(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# ------------------------------------------------------------------------------------------------------------- kills


def driver_gets(number):
    """A signal to the driver alone; its workers must end by themselves."""

    def strike(world, seconds, random):
        driver = world.start()
        _until(driver, moment(seconds, random))
        _kill(driver.pid, number)
        world.wait(driver)
        return world.finished(), ()

    return strike


def keyboard_interrupt(world, seconds, random):
    """Ctrl-C as a terminal sends it: to the driver and to all that is in its session."""
    driver = world.start()
    _until(driver, moment(seconds, random))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGINT)
    world.wait(driver)
    return world.finished(), ()


def everything_is_killed(world, seconds, random):
    """As when the machine is restarted."""
    driver = world.start()
    _until(driver, moment(seconds, random))
    world.end_all()
    world.wait(driver)
    return world.finished(), ()


def worker_gets(number, every=False):
    """A signal to a worker; the run goes on, and the terminal says so."""

    def strike(world, seconds, random):
        driver = world.start("--retries", "3")
        alive = _until(driver, moment(seconds, random))
        hit = []
        while alive and not hit and driver.poll() is None:
            hit = world.workers(driver)
        for pid in hit if every else hit[:1]:
            _kill(pid, number)
        if (code := world.wait(driver)) != 0:
            raise StormError(f"the run did not survive a killed worker, but ended with {code}: {world.told()}")
        return world.finished(), ()

    return strike


def fork_server_is_killed(world, seconds, random):
    driver = world.start("--retries", "3")
    _until(driver, moment(seconds, random))
    if (pid := world.fork_server(driver)) is not None:
        _kill(pid, signal.SIGKILL)
    world.wait(driver)
    return world.finished(), ()


def two_drivers(world, seconds, random):
    """The same command twice at once; one of them may be killed."""
    first = world.start()
    _until(first, random.uniform(0, seconds))
    second = world.start()
    if random.random() < 0.5:
        _until(second, moment(seconds, random))
        _kill(random.choice([first, second]).pid, signal.SIGKILL)
    codes = [world.wait(driver) for driver in (first, second)]
    if any(code not in {0, -signal.SIGKILL} for code in codes):
        raise StormError(f"two drivers in one place ended with {codes}: {world.told()}")
    return world.finished(), ()


# ------------------------------------------------------------------------------------------------------- the system


def too_many_open_files(world, seconds, random):
    """For half a second some processes of the run get no more file descriptors."""
    driver = world.start("--retries", "3")
    if _until(driver, moment(seconds, random)):
        before = {}
        for pid in [driver.pid, *world.workers(driver)]:
            with contextlib.suppress(OSError):
                before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                there = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (there + random.randrange(4), before[pid][1]))
        time.sleep(0.5)
        for pid, limits in before.items():
            with contextlib.suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    world.wait(driver)
    return world.finished(), ()


def _mounted(world, options):
    world.store.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", world.store], check=True)


def _remount(world, options):
    subprocess.run(["mount", "-o", f"remount,{options}", world.store], check=True)


def disk_full(world, seconds, random):
    """A store on a file system that is too small, and grows before the command is run again."""
    _mounted(world, f"size={random.randrange(16, 640)}k")
    code = world.wait(world.start())
    if code not in {0, 1, 3}:
        raise StormError(f"a full disk ended the command with {code}: {world.told()}")
    if code and "No space left" not in world.told():
        raise StormError(f"a full disk is not named: {world.told()}")
    _remount(world, "size=64m")
    return world.finished(), ()


def read_only_store(world, seconds, random):
    """The store's file system becomes read-only in the middle, as after an error of the disk."""
    _mounted(world, "size=64m")
    driver = world.start()
    if _until(driver, moment(seconds, random)):
        for _ in range(50):  # while a file is open for writing it is refused
            if (
                subprocess.run(["mount", "-o", "remount,ro", world.store], capture_output=True, check=False).returncode
                == 0
            ):
                break
            time.sleep(0.01)
    world.wait(driver)
    _remount(world, "rw")
    return world.finished(), ()


def clock_jumps(world, seconds, random):
    """The clock of every process jumps by up to a year, forwards or backwards, again and again; the driver may die."""
    jump = random.choice([-1, 1]) * random.choice([3600, 86400, 31536000])
    driver = world.start(STORM_CLOCK=str(jump))
    if random.random() < 0.5:
        _until(driver, moment(seconds, random))
        _kill(driver.pid, signal.SIGKILL)
    world.wait(driver)
    return world.finished(), ()


# -------------------------------------------------------------------------------------------------------------- files


def flipped_byte(world, seconds, random):
    """A byte of a finished artifact is altered, and a record is lost, so that the artifact is needed again."""
    if world.wait(world.start()) != 0:
        raise StormError(world.told())
    files = [path for path in sorted(world.store.glob("artifacts/??/*/**/*")) if path.is_file() and path.stat().st_size]
    victim = random.choice(files)
    data = bytearray(victim.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    victim.write_bytes(data)
    _forget_records(world)
    key = victim.relative_to(world.store / "artifacts").parts[1]
    return world.finished(), (key,)


def damaged_record(world, seconds, random):
    """A record, or a file beside it, is altered or cut."""
    if world.wait(world.start()) != 0:
        raise StormError(world.told())
    kept = world.finished()
    victim = random.choice(sorted([*world.cells.rglob("*.json"), *world.cells.rglob("*.parquet")]))
    data = victim.read_bytes()
    victim.write_bytes(data[: random.randrange(len(data))])
    return kept, ()


def _forget_records(world):
    for path in world.cells.rglob("*.json"):
        path.unlink()


def torn_checkpoint(world, seconds, random):
    """The driver is killed while something trains, and the checkpoint is cut or altered."""
    driver = world.start()
    _until(driver, moment(seconds, random))
    world.end_all()
    world.wait(driver)
    kept = world.finished()
    for path in world.store.glob("partial/*/checkpoint.pt"):
        data = bytearray(path.read_bytes())
        if random.random() < 0.5:
            data = data[: random.randrange(len(data))]
        else:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(data)
    return kept, ()


def stale_locks(world, seconds, random):
    """A killed run's lock files, and its half-written ones, in every place where the program has such."""
    driver = world.start()
    _until(driver, moment(seconds, random))
    world.end_all()
    world.wait(driver)
    kept = world.finished()
    for path in world.store.glob("artifacts/??/*"):
        (world.store / "locks" / f"{path.name}.lock").write_text("1")
        manifest = path / "manifest.json"
        if manifest.is_file() and json.loads(manifest.read_text())["document"]["stage"] == "score":
            # As if the kill had come just before it was in place.
            manifest.unlink()
            path.rename(path.with_name(f".{path.name[:16]}-0badc0de.tmp"))
            kept.pop(path.name)
    for path in world.place.glob("boards/**/seed-*.json"):
        path.with_name(f".{path.name}.lock").write_text("1")
        path.with_name(f".{path.name}.tmp").write_text("{")
        path.unlink()
    board = world.place / "boards" / "storm"
    if board.is_dir():
        (board / ".board.toml.lock").write_text("1")
        (board / "board.toml").unlink(missing_ok=True)
        (board / ".board.toml.tmp").write_text("title = ")
        (board.parent / ".pages.lock").write_text("1")
    return kept, ()


# ----------------------------------------------------------------------------------------------------------- endpoint


def endpoint_misbehaves(world, seconds, random):
    """Answers hang, are cut off, garbled, refused for a while; the driver may be killed meanwhile."""
    server = world.matrix.endpoint
    kinds = [
        "hang",
        "cut",
        "garbage",
        (503, {"Retry-After": "0"}, "busy"),
        (429, {"Retry-After": "0"}, "slow down"),
        (500, {}, ""),
    ]
    share = random.uniform(0.05, 0.4)
    chosen = {}

    def faults(prompt, nth):
        if nth > 2:
            return None
        return chosen.setdefault((prompt, nth), random.choice(kinds) if random.random() < share else None)

    server.faults = faults
    driver = world.start()
    if random.random() < 0.5:
        _until(driver, moment(seconds, random))
        _kill(driver.pid, signal.SIGKILL)
    world.wait(driver)
    server.faults = lambda prompt, nth: None
    return world.finished(), ()


KILLS = (
    Fault("driver: SIGKILL", driver_gets(signal.SIGKILL), ("fake", "paid", "real-1", "real-2")),
    Fault("driver: SIGTERM", driver_gets(signal.SIGTERM), ("fake", "paid", "real-1")),
    Fault("ctrl-C", keyboard_interrupt, ("fake", "paid", "real-1")),
    Fault("all processes: SIGKILL", everything_is_killed, ("fake", "paid", "real-1", "real-2")),
    Fault("worker: SIGKILL", worker_gets(signal.SIGKILL), ("fake", "paid", "real-1", "real-2")),
    Fault("worker: SIGTERM", worker_gets(signal.SIGTERM), ("fake", "paid", "real-1")),
    Fault("all ranks: SIGKILL", worker_gets(signal.SIGKILL, every=True), ("real-2",)),
    Fault("fork server: SIGKILL", fork_server_is_killed, ("fake", "real-1")),
)
OTHERS = (
    Fault("two drivers at once", two_drivers, ("fake", "paid", "real-1")),
    Fault("too many open files", too_many_open_files, ("fake", "paid")),
    Fault("disk full", disk_full, ("fake",), needs_root=True),
    Fault("store becomes read-only", read_only_store, ("fake", "paid"), needs_root=True),
    Fault("clock jumps", clock_jumps, ("fake",)),
    Fault("flipped byte", flipped_byte, ("fake", "paid", "real-1")),
    Fault("damaged record", damaged_record, ("fake",)),
    Fault("torn checkpoint", torn_checkpoint, ("fake", "real-1")),
    Fault("stale locks and half-written files", stale_locks, ("fake",)),
    Fault("endpoint hangs, cuts, garbles, refuses", endpoint_misbehaves, ("paid",)),
)
FAULTS = {fault.name: fault for fault in (*KILLS, *OTHERS)}
