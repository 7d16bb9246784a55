"""What must be there before any work: data, and models that can be loaded. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from plad_bench.contract.errors import MissingError
from plad_bench.contract.records import HubModel
from plad_bench.plan.matrix import Cell


def check(cells: Iterable[Cell]) -> None:
    """Raise MissingError for the first data set or model of these cells that cannot be had."""
    seen: set[object] = set()
    for cell in cells:
        if cell.task.label not in seen:
            seen.add(cell.task.label)
            cell.task.component.require(cell.task.params)
        for chosen in (cell.student, cell.teacher):
            source = chosen.component.model(chosen.params)
            if isinstance(source, HubModel) and source not in seen:
                seen.add(source)
                _check_model(source, chosen.label)


def _check_model(model: HubModel, label: str) -> None:
    path = Path(model.id)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingError(f"{label}: {path.name} has no config.json", "Give a directory in Hugging Face format.")
        if not any(path.glob("*.safetensors")):
            raise MissingError(
                f"{label}: {path.name} has no safetensors file", "Convert it; pickled weights are never loaded."
            )
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(try_to_load_from_cache(model.id, "config.json", revision=model.revision), str):
        return
    what = f"{label}: model {model.id}"
    try:
        info = HfApi().model_info(model.id, revision=model.revision, timeout=10)
    except GatedRepoError:
        raise MissingError(
            f"{what} is gated", "Ask for access on its page, then `hf auth login` (or set HF_TOKEN)."
        ) from None
    except RepositoryNotFoundError:
        raise MissingError(
            f"{what} is not on the hub, or is private", "Check the name; for a private one `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise MissingError(f"{what} has no revision {model.revision}", "Check the revision.") from None
    except Exception as error:  # noqa: BLE001  which HTTP library the hub's client stands on changes with its version
        raise MissingError(
            f"{what} is not in the local cache and the hub cannot be reached ({type(error).__name__})",
            f"Connect to the network, download it elsewhere with `hf download {model.id}`, "
            "or give a directory: 'hf[path=DIR]'.",
        ) from None
    files = [s.rfilename for s in info.siblings or []]
    if files and not any(f.endswith(".safetensors") for f in files):
        raise MissingError(
            f"{what} has no safetensors file", "Choose a revision that has; pickled weights are never loaded."
        )
