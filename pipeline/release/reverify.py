"""A published release proven again, by the runtimes that are installed now.

Nothing of it is kept: what is asked is what this machine finds today.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.build import verdict_code, verify_by
from crosscast.pipeline.errors import ConfigError, CrosscastError, ParityError, ToolchainError
from crosscast.pipeline.executors.local import LocalExecutor
from crosscast.pipeline.planner import tool_versions
from crosscast.pipeline.release.diff import snrs
from crosscast.pipeline.release.document import RELEASE
from crosscast.pipeline.release.located import Located
from crosscast.pipeline.release.pull import require_target
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store
from crosscast.targets import TARGETS

Status = Literal["passed", "failed", "unverified", "runtime missing", "error"]
"""That of the verdict; or that there is none, since the runtime is not installed here, or since
the worker did not end well."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found of a target.

    code: the exit code that it asks for; 0 as well for what the release allows to be unverified.
    published: its status in the release. allowed: why it may be unverified, or empty.
    changes: numbers that are others than in the release, a line each. tools: distributions of the
    runtime that are others, by name: the versions then and now. verdict: as release.json has one,
    None where there is none.
    """

    target: str
    status: Status
    reason: str
    code: int
    published: str
    allowed: str
    changes: tuple[str, ...] = ()
    tools: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None


def prove(
    found: Located, *, only: Collection[str] = (), store: Store, settings: Settings
) -> Iterator[Proof]:
    """Judge each target of a release, or those in `only`, on its own test vectors.

    All of them are brought and verified first: nothing is run of a release that is damaged.
    Raises RegistryError.
    """
    for target in only:
        require_target(found.release, target)
    wanted = [name for name in found.release.content["artifacts"] if not only or name in only]
    with store.workspace() as workspace, LocalExecutor(cache=store.root) as executor:
        artifacts = {
            name: found.fetch(name, workspace.directory(f"release {name}")) for name in wanted
        }
        for name, artifact in artifacts.items():
            yield _Prover(found, store, settings, executor).proof(name, artifact)


@dataclass(frozen=True)
class _Prover:
    """What judges the targets of a release."""

    found: Located
    store: Store
    settings: Settings
    executor: LocalExecutor

    def proof(self, target: str, artifact: Path) -> Proof:
        """What is found of a target."""
        told = self.found.release.content["artifacts"][target]
        allowed = told.get("allow_unverified") or ""
        seen: dict[str, Any] = {
            "target": target,
            "published": told["verdict"]["status"],
            "allowed": allowed,
        }
        try:
            self._require_own(target, artifact)
            verdict = self._verdict(target, artifact)
        except CrosscastError as error:
            reason = str(error).replace(str(artifact), target)  # where it was brought to is gone
            status, code = _without_verdict(error)
            return Proof(**seen, status=status, reason=reason, code=code)
        unverified = verdict["status"] == "unverified"
        return Proof(
            **seen,
            status=verdict["status"],
            reason=verdict["reason"],
            code=0 if unverified and allowed else verdict_code(verdict),
            changes=tuple(_changes(target, told, verdict)),
            tools=_tools(target, told["tools"]),
            verdict={key: value for key, value in verdict.items() if key != "cases"},
        )

    def _require_own(self, target: str, artifact: Path) -> None:
        """Raise ParityError where the artifact's manifest is not the release's, or of another
        artifact, as which it would be judged.
        """
        release = self.found.release
        path = f"{target}/{manifests.MANIFEST}"
        if path not in [entry.path for entry in release.entries(target)]:
            raise ParityError(f"{RELEASE} does not list its {manifests.MANIFEST}")
        told = manifests.read(artifact)
        its = f"{told['model']} {told['version']} {told['target']}"
        if its != f"{release.model} {release.version} {target}":
            raise ParityError(f"its {manifests.MANIFEST} is of {its}")

    def _verdict(self, target: str, artifact: Path) -> dict[str, Any]:
        release = self.found.release
        return verify_by(
            self.executor,
            artifact,
            store=self.store,
            settings=self.settings,
            scope=f"{self.found.place}/{release.model}@{release.version}/{target}",
        )


def _without_verdict(error: CrosscastError) -> tuple[Status, int]:
    """The status and exit code of a target that there is no verdict on."""
    if isinstance(error, ToolchainError):
        return "runtime missing", error.exit_code
    if isinstance(error, ParityError | ConfigError):  # what was published is no artifact
        return "failed", ParityError.exit_code
    return "error", error.exit_code


def describe(proof: Proof) -> str:
    """A target's proof, for people: the first line is all there is of what is as it was."""
    was = "" if proof.published == proof.status else f" (published: {proof.published})"
    said = list(proof.changes)
    if proof.status == "passed" and not said:
        said = ["as published"]
    if proof.status == "unverified" and proof.code == 0:
        said = [f"allowed: {proof.allowed}", *said]
    tools = ", ".join(f"{name} {then} -> {now}" for name, (then, now) in proof.tools.items())
    told = f": {'; '.join(said)}" if said else ""
    more = f" ({tools})" if tools else ""
    why = proof.reason.splitlines() if proof.status != "passed" else []
    first = f"{proof.target:<20} {proof.status}{was}{told}{more}"
    return "\n".join([first, *(f"  {line}" for line in why)])


def summary(found: Located, proofs: Sequence[Proof]) -> str:
    """How many targets are how, the proven ones first."""
    counts = Counter(proof.status for proof in proofs)
    others = [f"{number} {status}" for status, number in counts.items() if status != "passed"]
    release = found.release
    told = ", ".join([f"{counts['passed']} of {len(proofs)} targets proven", *others])
    return f"{release.model} {release.version}: {told}"


def to_json(found: Located, proofs: Sequence[Proof], *, code: int, signed: bool) -> dict[str, Any]:
    """All of it, JSON-able. signed: whether a key was asked for, and has signed the release."""
    release = found.release
    return {
        "model": release.model,
        "version": release.version,
        "digest": release.digest,
        "registry": found.place,
        "signed": signed,
        "code": code,
        "targets": [asdict(proof) for proof in proofs],
    }


def _changes(
    target: str, published: Mapping[str, Any], verdict: Mapping[str, Any]
) -> Iterator[str]:
    """The numbers that are others than those that were published."""
    now = {"verdict": verdict}
    yield from (
        number.text for number in snrs(target, published, now) if number.before != number.after
    )
    for output, row in verdict["worst"].items():
        was = published["verdict"].get("worst", {}).get(output, row)["numbers"]
        before, after = was.get("mismatch"), row["numbers"]["mismatch"]
        if None not in (before, after) and before != after:
            yield f"'{output}' {before:g} -> {after:g} unequal"


def _tools(target: str, published: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The distributions of the target's runtime whose versions are others now."""
    now = tool_versions([TARGETS[target].runtime])
    return {
        name: (published[name], version)
        for name, version in now.items()
        if published.get(name, version) != version
    }
