"""Checkpoints of an agent: one safetensors file with all tensors, and everything else as JSON in its metadata.

Training continued from a checkpoint gives bit for bit what uninterrupted training gives on the same machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from smact.screening import ICSD24FilterConfig
from torch import Tensor

from agent.condition_options import ConditionOptions
from agent.network_file import read_tensors, write_tensors
from agent.objective import Objective
from agent.plug_in import describe_failure
from agent.policy import PolicyNetwork
from agent.prior import Prior, PriorReport
from agent.reward import FunctionReward, Reward, RewardFunction, as_reward
from agent.trainer import StepReport
from agent.training_options import TrainingOptions
from envs import CompositionSpace, CrystalSpace, DesignSpace

if TYPE_CHECKING:
    from agent.design_agent import DesignAgent


def save_agent(agent: DesignAgent, path: str | Path) -> None:
    """Write a checkpoint; the file appears whole or not at all."""
    tensors, training = agent.trainer.state_dict()
    tensors["agent.generator"] = agent._generator.get_state()
    description: dict[str, Any] = {
        "kind": "agent",
        "space": {"class": type(agent.space).__name__, **agent.space.identity},
        "reward": _describe_reward(agent.reward),
        "prior_weight": agent.prior_weight,
        "beta": agent.beta,
        "seed": agent.seed,
        "options": asdict(agent.options),
        "conditions": asdict(agent.conditions.options),
        "training": training,
        "history": [list(row.values()) for row in agent.history],
        "prior": None,
    }
    if agent.prior is not None:
        network = agent.prior.network
        tensors |= {f"prior.{name}": value for name, value in network.state_dict().items()}
        description["prior"] = {**network.describe(), "report": asdict(agent.prior.report)}
    write_tensors(path, tensors, description)


def load_agent(
    path: str | Path, space: DesignSpace | None, reward: Reward | FunctionReward | RewardFunction | None
) -> DesignAgent:
    """Read a checkpoint; see `DesignAgent.load`."""
    tensors, description = read_tensors(path, "agent")
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
        try:
            return _restore_agent(tensors, description, path, space, reward)
        except (KeyError, IndexError, RuntimeError, TypeError, AttributeError) as error:
            reason = shorten(describe_failure(error), 160)
            raise ValueError(f"{path}: does not fit this version of MatSmith ({reason})") from None


def _restore_agent(
    tensors: dict[str, Tensor],
    description: dict[str, Any],
    path: str | Path,
    space: DesignSpace | None,
    reward: Reward | FunctionReward | RewardFunction | None,
) -> DesignAgent:
    from agent.design_agent import DesignAgent

    stored = dict(description["space"])
    kind = stored.pop("class")
    if space is None:
        space = _restore_space(kind, stored, path)
    elif type(space).__name__ != kind or space.identity != stored:
        differing = [name for name, value in space.identity.items() if stored.get(name) != value]
        raise ValueError(f"{path}: a checkpoint of another design space (differs in {', '.join(differing) or kind})")
    if reward is None:
        reward = _restore_reward(description["reward"], path)
    elif _differs(_describe_reward(as_reward(reward)), description["reward"]):
        raise ValueError(f"{path}: trained with another reward, by which its replay is weighted")
    prior = _restore_prior(tensors, description["prior"])
    agent = DesignAgent(
        space,
        reward,
        prior,
        description["prior_weight"],
        description["beta"],
        description["seed"],
        TrainingOptions(**description["options"]),
        ConditionOptions(**description["conditions"]),
    )
    agent._generator.set_state(tensors.pop("agent.generator"))
    agent.trainer.load_state_dict(tensors, description["training"])
    names = list(StepReport.__annotations__)
    agent.history = [dict(zip(names, row, strict=True)) for row in description["history"]]
    return agent


def _restore_space(kind: str, stored: dict[str, Any], path: str | Path) -> DesignSpace:
    if kind == "CrystalSpace":
        composition = _restore_space("CompositionSpace", dict(stored.pop("composition")), path)
        assert isinstance(composition, CompositionSpace)
        return CrystalSpace(composition, **stored)
    if kind != "CompositionSpace":
        raise ValueError(f"{path}: belongs to a {kind}; pass that space as space=")
    if stored["icsd24_filter"] is not None:
        stored["icsd24_filter"] = ICSD24FilterConfig(**stored["icsd24_filter"])
    return CompositionSpace(**stored)


def _describe_reward(reward: Reward | FunctionReward) -> dict[str, Any] | None:
    """Objectives over embedded properties as JSON; None for what only the user can bring back."""
    if isinstance(reward, FunctionReward) or any(
        o.model is not None for o in (*reward.objectives, *reward.constraints)
    ):
        return None
    objectives, constraints = (
        [{name: value for name, value in vars(objective).items() if name != "model"} for objective in part]
        for part in (reward.objectives, reward.constraints)
    )
    return {"objectives": objectives, "constraints": constraints, "scalarization": reward.scalarization}


def _differs(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two rewards are known to differ; what is the user's own cannot be compared."""
    return one is not None and other is not None and json.loads(json.dumps(one)) != other


def _restore_reward(stored: dict[str, Any] | None, path: str | Path) -> Reward:
    if stored is None:
        raise ValueError(f"{path}: trained with a reward or property model of your own; pass it as reward=")
    objectives, constraints = ([Objective(**entry) for entry in stored[part]] for part in ("objectives", "constraints"))
    return Reward(list(objectives), stored["scalarization"], list(constraints))


def _restore_prior(tensors: dict[str, Tensor], stored: dict[str, Any] | None) -> Prior | None:
    if stored is None:
        return None
    weights = {name.removeprefix("prior."): tensors.pop(name) for name in list(tensors) if name.startswith("prior.")}
    return Prior(PolicyNetwork.restore(stored, weights), PriorReport(**stored["report"]))
