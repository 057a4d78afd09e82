"""The policy: a network for each feature set of a design space, and what is computed with them in batches.

    policy = Policy(space, PolicyNetwork.for_space(space))
    rollout = policy.sample(256, generator)     # actions (n, T) and their log-probability (n,)
    policy.log_prob(space.encode(["SrTiO3"]))   # exact: every material has one trajectory

Rollouts keep a static batch: per step one feature pass and one matrix product for each kind of action that is due, and
one uniform number per row; rows that have stopped drop out, and the first step, which is the same for all rows, is
evaluated once. In a space with several kinds of action, rows that leave no choice are not judged at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agent.choice import draw_actions, exploring, masked_log_softmax, of_chosen
from agent.part_network import MultilayerPerceptron, PartNetwork
from agent.rollout import Record, Rollout, Visited, Walk, choices, visit
from agent.transformer import Transformer, elements_counted
from envs import DesignSpace
from envs.design_space import ActionKind

Architecture = Literal["mlp", "transformer"]
_ARCHITECTURES: dict[str, type[PartNetwork]] = {kind.architecture: kind for kind in (MultilayerPerceptron, Transformer)}
_CHUNK_ROWS, _CHUNK_STEPS = 4096, 65_536
"""Most trajectories, and most steps of them, that are judged at a time."""


class PolicyNetwork(nn.Module):
    """The networks of a design space, one a feature set, with one head for each kind of action.

    A head is those outputs of its part that belong to the kind; only the head of the kind that is due is computed.

    Args:
        parts: One network a feature set.
        kinds: The kinds of action, in the order of their numbers; the outputs of a part are in the same order.
    """

    def __init__(self, parts: Sequence[PartNetwork], kinds: Sequence[ActionKind]) -> None:
        super().__init__()
        self.parts, self.kinds = tuple(parts), tuple(kinds)
        for number, part in enumerate(parts):
            self.add_module(str(number), part)
        self.register_load_state_dict_pre_hook(_number_only_part)  # type: ignore[no-untyped-call]

    @classmethod
    def for_space(
        cls, space: DesignSpace, width: int = 256, depth: int = 2, architecture: Architecture = "mlp"
    ) -> PolicyNetwork:
        """Return a network that starts as the uniform masked policy of a space.

        A transformer is used where elements are counted; other feature sets have nothing that could be a token.
        """
        names = [(features, space.names_of_part(number)) for number, features in enumerate(space.feature_sets)]
        parts = [
            (_ARCHITECTURES[architecture] if elements_counted(features) else MultilayerPerceptron)(
                features, actions, width, depth
            )
            for features, actions in names
        ]
        return cls(parts, space.kinds)

    @property
    def is_conditioned(self) -> bool:
        """Whether the network knows conditions."""
        return any(part.condition is not None for part in self.parts)

    def under(self, conditions: Tensor | None) -> ConditionedLogits:
        """Return the network under encoded conditions, float (n, C) or (1, C): a condition a trajectory, or for all."""
        heads: dict[int, tuple[Tensor, Tensor]] = {}
        for number, part in enumerate(self.parts):
            mine = {index: kind.size for index, kind in enumerate(self.kinds) if kind.features == number}
            whole, sizes = (part.output.weight, part.output.bias), list(mine.values())
            # split once, so that gradients are put together once
            split = [torch.split(tensor, sizes) if len(mine) > 1 else (tensor,) for tensor in whole]
            heads |= zip(mine, zip(*split, strict=True), strict=True)
        modulations = tuple(part.modulation(conditions) for part in self.parts)
        return ConditionedLogits(self.parts, self.kinds, heads, modulations)

    def logits(self, kind: int, features: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the logits of a kind's actions, float (n, size), for features (n, F) and conditions (n, C)."""
        return self.under(conditions)(kind, features)

    def conditioned(self, condition_names: Sequence[str]) -> PolicyNetwork:
        """Return a copy that knows conditions, and is the same policy under all of them as yet."""
        return PolicyNetwork([part.conditioned(condition_names) for part in self.parts], self.kinds)

    def transfer(self, space: DesignSpace) -> PolicyNetwork:
        """Return this network for another space, part by part, features and actions matched by name.

        Each part goes to the feature set of the space with which it shares most action names. Feature sets that share
        nothing with it start as the uniform masked policy.
        """
        names = [(features, space.names_of_part(number)) for number, features in enumerate(space.feature_sets)]
        shared = {
            (number, own): len(set(actions) & set(part.action_names))
            for number, (features, actions) in enumerate(names)
            for own, part in enumerate(self.parts)
            if not set(features).isdisjoint(part.feature_names)
        }
        origin: dict[int, int] = {}
        for number, own in sorted(shared, key=lambda pair: -shared[pair]):
            if shared[number, own] and number not in origin and own not in origin.values():
                origin[number] = own
        parts = [
            self.parts[origin[number]].transfer(features, actions)
            if number in origin
            else MultilayerPerceptron(features, actions, self.parts[0].width, self.parts[0].depth)
            for number, (features, actions) in enumerate(names)
        ]
        return PolicyNetwork(parts, space.kinds)

    # On disk

    def describe(self) -> dict[str, Any]:
        """Return all but the weights as JSON-compatible values; conditions are not described."""
        shape = ("architecture", "feature_names", "action_names", "width", "depth")
        return {
            "parts": [{name: getattr(part, name) for name in shape} for part in self.parts],
            "kinds": [asdict(kind) for kind in self.kinds],
        }

    @classmethod
    def restore(cls, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> PolicyNetwork:
        """Return the network that was described; older descriptions are those of a single part.

        Raises:
            KeyError, TypeError, RuntimeError: Not what `describe` returned, or weights that do not fit.
        """
        if "parts" in description:
            stored, kinds = description["parts"], [ActionKind(**kind) for kind in description["kinds"]]
        else:
            stored, kinds = [description], [ActionKind("action", 0, len(description["action_names"]), 0)]
        parts = [
            _ARCHITECTURES[p.get("architecture", "mlp")](p["feature_names"], p["action_names"], p["width"], p["depth"])
            for p in stored
        ]
        network = cls(parts, kinds)
        network.load_state_dict({name: value.float() for name, value in weights.items()})
        return network


def _number_only_part(network: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Rename the weights of older files, which knew a single part and gave it no number."""
    for name in list(state_dict):
        own = name.removeprefix(prefix)
        if name.startswith(prefix) and not own[:1].isdigit():
            state_dict[f"{prefix}0.{own}"] = state_dict.pop(name)


@dataclass(frozen=True)
class ConditionedLogits:
    """A network under conditions; what depends on the conditions alone is computed once for many states."""

    parts: tuple[PartNetwork, ...]
    kinds: tuple[ActionKind, ...]
    heads: Mapping[int, tuple[Tensor, Tensor]]
    """Weight (size, width) and bias (size,) of the outputs of each kind."""
    modulations: tuple[Tensor | None, ...]
    """One a part; see `PartNetwork.modulation`."""

    def __call__(self, kind: int, features: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the logits of a kind's actions, float (n, size).

        Args:
            kind: Number of the kind.
            features: Of its feature set, float (n, F); or of one state that is the same for all rows, (1, F).
            rows: Conditions that the states belong to, long (n,); None: all of them in turn.
        """
        part = self.kinds[kind].features
        modulation = self.modulations[part]
        if modulation is not None and len(modulation) > 1 and rows is not None:
            modulation = modulation[rows]
        return nn.functional.linear(self.parts[part].trunk(features, modulation), *self.heads[kind])


@dataclass
class Policy:
    """A network at work in a design space."""

    space: DesignSpace
    network: PolicyNetwork
    condition: Tensor | None = None
    """Encoded condition of all that is sampled or judged, float (1, C), where no other is given."""

    def sample(
        self,
        n: int,
        generator: torch.Generator,
        *,
        conditions: Tensor | None = None,
        temperature: float = 1.0,
        epsilon: float = 0.0,
        reference: PolicyNetwork | None = None,
        keep_states: bool = True,
    ) -> Rollout:
        """Roll out n trajectories.

        Args:
            n: Number of trajectories.
            generator: Source of all randomness.
            conditions: Encoded, one a trajectory, float (n, C).
            temperature: The logits are divided by it while sampling.
            epsilon: Share of actions drawn uniformly from the mask.
            reference: A network that judges the same trajectories on the way, without gradient.
            keep_states: Whether to return the states on the way as well.

        Returns:
            Trajectories whose `log_prob` is that of the untempered, unmixed policy, with gradient where enabled.
        """
        space, n_steps = self.space, self.space.max_steps
        walk, record = Walk(space, n, n_steps, keep_states, by_kind=True), Record()
        actions = torch.full((n, n_steps), space.stop)
        log_reference, log_exploring = torch.zeros(n), torch.zeros(n)
        explores = temperature != 1.0 or epsilon > 0
        differentiable = torch.is_grad_enabled() and any(p.requires_grad for p in self.network.parameters())
        judged_again = differentiable and len(space.kinds) > 1  # long sequences: gradients in one batch a kind
        logits = self.network.under(self.condition if conditions is None else conditions)
        of_reference = None if reference is None else reference.under(None)
        judged: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, steps, log-probabilities
        here = walk.open[:1]  # the same for all
        while len(walk.rows):
            rows, steps = walk.rows, walk.steps
            forced, to_choose = choices(space, here)
            chosen, uniform = forced.expand(len(rows)).clone(), torch.rand(len(rows), generator=generator)
            for choice in to_choose:
                kind, mask, features, mine = choice.kind, choice.mask, choice.features, rows[choice.at]
                with torch.set_grad_enabled(differentiable and not judged_again):
                    log_policy = masked_log_softmax(logits(kind, features, mine), mask)
                with torch.no_grad():
                    weights = exploring(log_policy, mask, temperature, epsilon)
                    picked = draw_actions(weights, uniform[choice.at])
                    if explores:
                        log_exploring[mine] += of_chosen(weights, picked).log()
                    if of_reference is not None:
                        log_of_reference = masked_log_softmax(of_reference(kind, features), mask)
                        log_reference[mine] += of_chosen(log_of_reference, picked)
                chosen[choice.at] = picked + space.kinds[kind].start
                if judged_again:
                    record.add(choice, mine, steps[choice.at])
                else:
                    judged.append((mine, steps[choice.at], of_chosen(log_policy, picked)))
            actions[rows, steps] = chosen
            walk.advance(chosen)
            here = walk.open
        if judged_again:
            visited = Visited(record.groups(), actions, walk.states)
            step_log_prob = self.replay(visited, conditions).step_log_prob
        else:
            step_log_prob = _by_step(actions, judged)
        return Rollout(
            actions,
            walk.states,
            step_log_prob,
            None if reference is None else log_reference,
            log_exploring if explores else None,
        )

    def log_prob(self, actions: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the log-probability of action sequences, long (n, T) -> float (n,), with gradient where enabled."""
        return self.replay(visit(self.space, actions, keep_states=False), conditions).log_prob

    def replay(
        self, visited: Visited, conditions: Tensor | None = None, *, temperature: float = 1.0, epsilon: float = 0.0
    ) -> Rollout:
        """Return given trajectories with this policy's log-probabilities, with gradient where enabled.

        Args:
            visited: The trajectories.
            conditions: Encoded, one a trajectory, float (n, C).
            temperature: Of the exploring policy, whose log-probabilities are returned as well.
            epsilon: The same.
        """
        explores = temperature != 1.0 or epsilon > 0
        log_exploring = torch.zeros(len(visited.actions))
        logits = self.network.under(self.condition if conditions is None else conditions)
        judged = []
        for group in visited.groups:
            log_policy = masked_log_softmax(logits(group.kind, group.features, group.row), group.mask)
            chosen = visited.actions[group.row, group.step] - self.space.kinds[group.kind].start
            judged.append((group.row, group.step, log_policy.gather(1, chosen[:, None]).squeeze(1)))
            if explores:
                with torch.no_grad():
                    weights = exploring(log_policy, group.mask, temperature, epsilon)
                    log_exploring.index_add_(0, group.row, of_chosen(weights, chosen).log())
        step_log_prob = _by_step(visited.actions, judged)
        return Rollout(
            visited.actions, visited.states, step_log_prob, log_exploring=log_exploring if explores else None
        )

    @torch.no_grad()
    def log_prob_in_chunks(self, actions: Tensor, size: int | None = None) -> Tensor:
        """Return the log-probability of any number of action sequences without gradient, float (n,)."""
        size = size or max(1, min(_CHUNK_ROWS, _CHUNK_STEPS // actions.shape[1]))
        return torch.cat([torch.zeros(0), *(self.log_prob(part) for part in _chunks(actions, size))])

    @torch.no_grad()
    def sample_many(self, n: int, generator: torch.Generator, size: int = 2048) -> Rollout:
        """Roll out any number of trajectories without gradient; the states on the way are not kept."""
        starts = range(0, n, size)
        parts = [self.sample(min(size, n - start), generator, keep_states=False) for start in starts]
        return Rollout(
            torch.cat([part.actions for part in parts]),
            torch.cat([part.states for part in parts], dim=1),
            torch.cat([part.step_log_prob for part in parts]),
        )


def _by_step(actions: Tensor, judged: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the values (rows, steps, values) at their places, float (n, T), and 0 where nothing was to choose."""
    step_log_prob = torch.zeros(actions.shape)
    if not judged:
        return step_log_prob
    rows, steps, values = (torch.cat(column) for column in zip(*judged, strict=True))
    return step_log_prob.index_put((rows, steps), values)


def _chunks(tensor: Tensor, size: int) -> Sequence[Tensor]:
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]
