"""How people name a release."""

from __future__ import annotations

import pytest

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.release.reference import Reference, parse


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("m", ("", "m", "")),
        ("m@1.0.0", ("", "m", "1.0.0")),
        ("./shelf/m@stable", ("./shelf", "m", "stable")),
        ("/srv/models/m", ("/srv/models", "m", "")),
        ("oci://host:5000/a/b/m@1.0.0-rc.1+x", ("oci://host:5000/a/b", "m", "1.0.0-rc.1+x")),
        ("s3://bucket/m", ("s3://bucket", "m", "")),
    ],
)
def test_a_reference_has_three_parts(text: str, parts: tuple[str, str, str]) -> None:
    registry, model, name = parts
    assert parse(text) == Reference(registry=registry, model=model, name=name)


@pytest.mark.parametrize("text", ["", "m@", "@1.0.0", "..", "a/", "s3://m", "M", "a/../@x"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no release"):
        parse(text)
