"""Verdicts on changed artifacts, by the vectors of honest ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asked import asked

from crosscast.pipeline.parity.task import Labelled
from crosscast.pipeline.parity.vectors import read_vectors
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Signature
from crosscast.pipeline.stages import reference_to
from crosscast.pipeline.stages.verify import verify
from crosscast.targets import TARGETS


def judged(
    honest: Path,
    artifact: Path,
    target: str = "",
    *,
    labelled: Labelled | None = None,
    **options: Any,
) -> Verdict:
    """The verdict on an artifact by the vectors of the honest one, as that of `target`."""
    manifest = json.loads((honest / "manifest.json").read_text())
    member = TARGETS[target or honest.name]
    return verify(
        artifact=artifact,
        signature=Signature.from_json(manifest),
        vectors=lambda: read_vectors(honest / "vectors.safetensors", manifest["vectors"]["cases"]),
        options=asked_of(member, **options),
        labelled=labelled,
    )


def asked_of(member: Any, **options: Any) -> dict[str, Any]:
    """What `verify` is told of an artifact of a target, as `options` change it."""
    return asked(
        **{
            "open": reference_to(member.open),
            "precision": reference_to(member.precision),
            "no_runtime": member.no_runtime,
            "precision_asked": member.precision_asked,
            **options,
        }
    )
