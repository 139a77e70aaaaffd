"""Config -> Plan. Equal steps, whoever asks for them, become one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from crosscast.pipeline import graph
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.graph import Plan
from crosscast.pipeline.planner.chains import Chains, explainer, runtime_options
from crosscast.pipeline.planner.origin import Origin
from crosscast.pipeline.planner.steps import Steps
from crosscast.pipeline.planner.tools import tool_versions

__all__ = ["explainer", "plan", "runtime_options", "tool_versions"]


def plan(config: Config, *, only: Collection[str] = ()) -> Plan:
    """The steps that build, prove and package the config's targets (or those in `only`).

    Raises ConfigError for a target in `only` that the config does not have, and for a target
    that cannot be made from the source's framework.
    """
    unknown = sorted(set(only) - set(config.targets))
    if unknown:
        raise ConfigError(
            f"{config.path}: no target '{unknown[0]}'",
            fix=f"its targets are {', '.join(config.targets)}",
        )
    found = Steps()
    names = [name for name in config.targets if not only or name in only]
    chains = _chains(config, names, found)
    ends = {name: chain.target(name) for name, chain in chains.items()}
    steps = graph.ordered(found.by_id)
    targets = {
        name: replace(ends[name], explain=chain.explain(name, ends[name].verify))
        for name, chain in chains.items()
    }
    every = graph.ordered(found.by_id)
    return Plan(
        model=config.model,
        version=config.version,
        steps=steps,
        targets=targets,
        spare=tuple(step for step in every if step not in steps),
    )


def _chains(config: Config, names: Collection[str], steps: Steps) -> dict[str, Chains]:
    """By target, what plans it: from the source as it is, or with its preprocessing folded in."""
    origin = Origin(config, steps)
    plain = folding = Chains(config, origin)
    if config.preprocessing():
        folding = Chains(config, Origin(config, steps, plain=origin))
    return {name: folding if plain.asked.folds(name) else plain for name in names}
