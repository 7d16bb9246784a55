"""Croissant metadata (JSON-LD) of a data set in JSON Lines, by which data catalogues and loaders find and read it.

The format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FILE = "croissant.json"
_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
"""The terms that Croissant adds to those of schema.org."""
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}
_FIELDS = {
    "id": "The prompt's id: a hash of its words.",
    "prompt": "The prompt.",
    "references": "The reference responses.",
}


@dataclass(frozen=True)
class DataSet:
    """What describes a data set beside its files."""

    name: str
    description: str
    licence: str
    """An SPDX identifier, or in words."""
    version: str
    """Semantic version."""


def metadata(data: DataSet, files: Mapping[str, bytes]) -> str:
    """The metadata of a data set.

    Args:
        data: what the files contain.
        files: split -> content of the file `<split>.jsonl`, each line with id, prompt and references.
    """
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": data.name,
        "description": data.description,
        "license": _licence(data.licence),
        "version": data.version,
        "distribution": [_file(split, content) for split, content in files.items()],
        "recordSet": [_records(split) for split in files],
    }
    return json.dumps(document, indent=2) + "\n"


def _licence(licence: str) -> str:
    """The address of an SPDX licence; otherwise the licence as it is given."""
    return f"https://spdx.org/licenses/{licence}.html" if re.fullmatch(r"[A-Za-z0-9.+-]+", licence) else licence


def _file(split: str, content: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": f"{split}.jsonl",
        "name": f"{split}.jsonl",
        "contentUrl": f"{split}.jsonl",
        "contentSize": f"{len(content)} B",
        "encodingFormat": "application/jsonlines",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _records(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "key": {"@id": f"{split}/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{name}",
                "name": name,
                "description": what,
                "dataType": "sc:Text",
                **({"repeated": True} if name == "references" else {}),
                "source": {"fileObject": {"@id": f"{split}.jsonl"}, "extract": {"column": name}},
            }
            for name, what in _FIELDS.items()
        ],
    }
