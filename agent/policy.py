"""The policy: a network over the features of a design space, and what is computed with it in batches.

    policy = Policy(space, PolicyNetwork.for_space(space))
    rollout = policy.sample(256, generator)     # actions (n, T) and their log-probability (n,)
    policy.log_prob(space.encode(["SrTiO3"]))   # exact: every material has one trajectory

Rollouts keep a static batch: one feature pass, one matrix product and one uniform number per row and step; rows that
have stopped drop out, and the first step, which is the same for all rows, is evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from envs import DesignSpace

_CONDITION_WIDTH = 64
"""Hidden units between a condition and its modulation."""
_UNKNOWN_ACTION_BIAS = -8.0
"""Start of the logit of an action that a transferred network has never seen: rare, but never impossible."""


class PolicyNetwork(nn.Module):
    """Features (n, F) -> logits (n, A): a residual multilayer perceptron.

    Conditions shift and scale the hidden units (feature-wise linear modulation, Perez et al. 2018), by nothing at
    first: a conditioned copy of a network starts as the same policy under every condition.

    Args:
        feature_names: One name an input; see `DesignSpace.feature_names`.
        action_names: One name an output; see `DesignSpace.action_names`.
        width: Hidden units of each layer.
        depth: Number of residual layers between the input and the output layer.
        condition_names: One name an input of the condition; see `ConditionSpace.feature_names`. None: unconditioned.
    """

    def __init__(
        self,
        feature_names: Sequence[str],
        action_names: Sequence[str],
        width: int = 256,
        depth: int = 2,
        condition_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.feature_names = tuple(feature_names)
        self.action_names = tuple(action_names)
        self.condition_names = tuple(condition_names)
        self.width, self.depth = width, depth
        self.input = nn.Linear(len(self.feature_names), width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.output = nn.Linear(width, len(self.action_names))
        self.dropout = nn.Dropout(0.0)  # switched on by Prior.fit only
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.condition: nn.Sequential | None = None
        if self.condition_names:
            modulation = nn.Linear(_CONDITION_WIDTH, (2 * depth + 1) * width)
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)
            inner = nn.Linear(len(self.condition_names), _CONDITION_WIDTH)
            self.condition = nn.Sequential(inner, nn.ReLU(), modulation)

    @classmethod
    def for_space(cls, space: DesignSpace, width: int = 256, depth: int = 2) -> PolicyNetwork:
        """Return a network that starts as the uniform masked policy of a space."""
        return cls(space.feature_names, space.action_names, width, depth)

    def modulation(self, conditions: Tensor | None) -> Tensor | None:
        """Return how encoded conditions (n, C) shift and scale the hidden units, float (n, (2 depth + 1) width).

        None without conditions, and for a network that knows none.
        """
        if self.condition is None or conditions is None:
            return None
        modulation: Tensor = self.condition(conditions)
        return modulation

    def forward(self, features: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Return the logits of all actions, under the conditions of each row or of all rows where they are given."""
        if modulation is None:
            hidden = self.dropout(torch.relu(self.input(features)))
            for norm, layer in zip(self.norms, self.hidden, strict=True):
                hidden = hidden + self.dropout(torch.relu(layer(norm(hidden))))
        else:
            first, *others = torch.split(modulation, self.width, dim=-1)
            hidden = self.dropout(torch.relu(self.input(features) + first))
            pairs = zip(others[::2], others[1::2], strict=True)
            for norm, layer, (shift, scale) in zip(self.norms, self.hidden, pairs, strict=True):
                hidden = hidden + self.dropout(torch.relu(layer(norm(hidden) * (1 + scale) + shift)))
        logits: Tensor = self.output(hidden)
        return logits

    def conditioned(self, condition_names: Sequence[str]) -> PolicyNetwork:
        """Return a copy that knows conditions, and is the same policy under all of them as yet."""
        network = PolicyNetwork(self.feature_names, self.action_names, self.width, self.depth, condition_names)
        network.load_state_dict(self.state_dict(), strict=not condition_names)
        return network

    @torch.no_grad()
    def transfer(self, feature_names: Sequence[str], action_names: Sequence[str]) -> PolicyNetwork:
        """Return this network for other features and actions, matched by name.

        Features that it does not know get no weight; actions that it does not know start out rare.
        """
        network = PolicyNetwork(feature_names, action_names, self.width, self.depth)
        own = self.state_dict()
        network.load_state_dict(
            {name: value for name, value in own.items() if not name.startswith(("input.weight", "output."))},
            strict=False,
        )
        feature_at = {name: index for index, name in enumerate(self.feature_names)}
        action_at = {name: index for index, name in enumerate(self.action_names)}
        network.input.weight.zero_()
        for column, name in enumerate(network.feature_names):
            if name in feature_at:
                network.input.weight[:, column] = self.input.weight[:, feature_at[name]]
        for row, name in enumerate(network.action_names):
            if name in action_at:
                network.output.weight[row] = self.output.weight[action_at[name]]
                network.output.bias[row] = self.output.bias[action_at[name]]
            else:
                network.output.bias[row] = _UNKNOWN_ACTION_BIAS
        return network


@dataclass(frozen=True)
class Rollout:
    """n finished trajectories of T steps, short ones padded with STOP."""

    actions: Tensor
    """Long (n, T)."""
    states: Tensor
    """States before each step and after the last one, long (T + 1, n, state_size)."""
    step_log_prob: Tensor
    """Log-probability of each action under the policy itself, exploration left out, float (n, T)."""
    log_reference: Tensor | None = None
    """Log-probability of each trajectory under a reference network, float (n,), where one was given."""

    log_exploring: Tensor | None = None
    """Log-probability of each trajectory under the exploring policy, float (n,), where that is another one."""

    @property
    def log_drawn(self) -> Tensor:
        """Log-probability of each trajectory under the distribution that it was drawn from, float (n,), no gradient."""
        return self.log_prob.detach() if self.log_exploring is None else self.log_exploring

    @property
    def state(self) -> Tensor:
        """The finished states, long (n, state_size)."""
        return self.states[-1]

    @property
    def log_prob(self) -> Tensor:
        """Log-probability of each trajectory under the policy itself, float (n,)."""
        return self.step_log_prob.sum(1)


@dataclass(frozen=True)
class Visited:
    """The M states along n given action sequences where a choice was made, in one batch."""

    features: Tensor
    """Float (M, F)."""
    mask: Tensor
    """Bool (M, A)."""
    row: Tensor
    """Long (M,): the sequence that each belongs to."""
    step: Tensor
    """Long (M,): the position in it."""
    actions: Tensor
    """Long (n, T): the sequences."""
    states: Tensor
    """Long (T + 1, n, state_size): all states."""


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
    ) -> Rollout:
        """Roll out n trajectories.

        Args:
            n: Number of trajectories.
            generator: Source of all randomness.
            conditions: Encoded, one a trajectory, float (n, C).
            temperature: The logits are divided by it while sampling.
            epsilon: Share of actions drawn uniformly from the mask.
            reference: A network that judges the same trajectories on the way, without gradient.

        Returns:
            Trajectories whose `log_prob` is that of the untempered, unmixed policy, with gradient where enabled.
        """
        space = self.space
        states = space.initial(n).repeat(space.max_steps + 1, 1, 1)
        actions = torch.full((n, space.max_steps), space.stop)
        rows = torch.arange(n)
        step_log_prob = torch.zeros(n, space.max_steps)
        log_reference = torch.zeros(n)
        log_exploring = torch.zeros(n)
        explores = temperature != 1.0 or epsilon > 0
        modulation = self.network.modulation(self.condition if conditions is None else conditions)
        for step in range(space.max_steps):
            here = states[step, :1] if step == 0 else states[step, rows]
            mask, features = space.mask(here), space.features(here)
            log_policy = _masked_log_softmax(self.network(features, _rows_of(modulation, rows)), mask)
            with torch.no_grad():
                weights = _exploring(log_policy, mask, temperature, epsilon)
                chosen = _draw(weights, len(rows), generator)
                if explores:
                    log_exploring[rows] += _log_share(weights, chosen)
            taken = _taken(log_policy, chosen)
            step_log_prob = step_log_prob.index_put((rows, torch.tensor(step)), taken)
            if reference is not None:
                with torch.no_grad():
                    log_reference[rows] += _taken(_masked_log_softmax(reference(features), mask), chosen)
            actions[rows, step] = chosen
            following = space.step(states[step, rows], chosen)
            states[step + 1 :, rows] = following
            rows = rows[~space.is_finished(following)]
            if not len(rows):
                break
        return Rollout(
            actions,
            states,
            step_log_prob,
            None if reference is None else log_reference,
            log_exploring if explores else None,
        )

    def log_prob(self, actions: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the log-probability of action sequences, long (n, T) -> float (n,), with gradient where enabled."""
        return self.replay(visit(self.space, actions), conditions).log_prob

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
        modulation = self.network.modulation(self.condition if conditions is None else conditions)
        logits = self.network(visited.features, _rows_of(modulation, visited.row))
        log_policy = _masked_log_softmax(logits, visited.mask)
        chosen = visited.actions[visited.row, visited.step]
        taken = log_policy.gather(1, chosen[:, None]).squeeze(1)
        step_log_prob = torch.zeros(visited.actions.shape).index_put((visited.row, visited.step), taken)
        if temperature == 1.0 and not epsilon:
            return Rollout(visited.actions, visited.states, step_log_prob)
        with torch.no_grad():
            weights = _exploring(log_policy, visited.mask, temperature, epsilon)
            log_exploring = torch.zeros(len(visited.actions))
            log_exploring.index_add_(0, visited.row, _log_share(weights, chosen))
        return Rollout(visited.actions, visited.states, step_log_prob, log_exploring=log_exploring)

    @torch.no_grad()
    def log_prob_in_chunks(self, actions: Tensor, size: int = 4096) -> Tensor:
        """Return the log-probability of any number of action sequences without gradient, float (n,)."""
        return torch.cat([torch.zeros(0), *(self.log_prob(part) for part in _chunks(actions, size))])

    @torch.no_grad()
    def sample_many(self, n: int, generator: torch.Generator, size: int = 2048) -> Rollout:
        """Roll out any number of trajectories without gradient."""
        parts = [self.sample(min(size, n - start), generator) for start in range(0, n, size)]
        return Rollout(
            torch.cat([part.actions for part in parts]),
            torch.cat([part.states for part in parts], dim=1),
            torch.cat([part.step_log_prob for part in parts]),
        )


def visit(space: DesignSpace, actions: Tensor) -> Visited:
    """Walk along action sequences, long (n, T), and collect the states where a choice was made."""
    n, length = actions.shape
    states = space.initial(n).repeat(length + 1, 1, 1)
    features, masks, live, steps = [], [], [], []
    rows = torch.arange(n)
    for step in range(length):
        here = states[step, rows]
        features.append(space.features(here))
        masks.append(space.mask(here))
        live.append(rows)
        steps.append(torch.full_like(rows, step))
        following = space.step(here, actions[rows, step])
        states[step + 1 :, rows] = following
        rows = rows[~space.is_finished(following)]
        if not len(rows):
            break
    return Visited(torch.cat(features), torch.cat(masks), torch.cat(live), torch.cat(steps), actions, states)


def _masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, -torch.inf).log_softmax(dim=1)


def _exploring(log_policy: Tensor, mask: Tensor, temperature: float, epsilon: float) -> Tensor:
    """Return the probabilities of actions while exploring."""
    weights = log_policy.exp() if temperature == 1.0 else (log_policy / temperature).softmax(dim=1)
    if epsilon:
        weights = (1 - epsilon) * weights + epsilon * mask / mask.sum(dim=1, keepdim=True)
    return weights


def _taken(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the value of the action chosen in each row; one row of values serves all."""
    return values[0, chosen] if len(values) == 1 else values.gather(1, chosen[:, None]).squeeze(1)


def _log_share(weights: Tensor, chosen: Tensor) -> Tensor:
    return _taken(weights, chosen).log()


def _rows_of(modulation: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return the modulation of some trajectories; one row serves all."""
    return modulation if modulation is None or len(modulation) == 1 else modulation[rows]


def _draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw one action a row, long (n,), by inverse cumulative distribution; one row of weights serves all."""
    cumulative = weights.cumsum(dim=1)
    uniform = torch.rand(n, generator=generator)
    if len(cumulative) == 1:
        return _first_above(cumulative[0], uniform * cumulative[0, -1], weights)
    return _first_above(cumulative, (uniform * cumulative[:, -1])[:, None], weights).squeeze(1)


def _first_above(cumulative: Tensor, threshold: Tensor, weights: Tensor) -> Tensor:
    """First action whose cumulative weight exceeds the threshold; the likeliest one where rounding leaves none."""
    chosen = torch.searchsorted(cumulative, threshold, right=True)
    beyond = chosen >= weights.shape[1]
    if beyond.any():
        likeliest = weights.argmax(dim=1).reshape(chosen.shape if len(weights) > 1 else (1,))
        chosen = torch.where(beyond, likeliest, chosen)
    return chosen


def _chunks(tensor: Tensor, size: int) -> Sequence[Tensor]:
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]
