"""What the stage `verify` is told of an artifact, in tests."""

from __future__ import annotations

from typing import Any


def asked(**options: Any) -> dict[str, Any]:
    """Of the target `fake_target`, as `options` change it."""
    return {
        "open": "fake_target:open",
        "precision": "fake_target:precision",
        "no_runtime": "",
        "precision_asked": "fp32",
        "layout": None,
        "io": None,
        "narrowed": {},
        "pixels": [],
        "labels": [],
        "explain": "",
        "parity": {},
        **options,
    }
