"""The other optimisers of `pareto.py`, each with the same number of distinct evaluations.

- NSGA-II (Deb et al. 2002; pymoo): genomes are counts by element; only new, valid compositions are evaluated.
- REINFORCE (Williams 1992) with a moving-average baseline and an entropy bonus, at equal weights.
- PPO with masked actions (Schulman et al. 2017, Huang and Ontañón 2022; sb3-contrib), the preference shown to it.

    budget = Budget(space, utilities, 20_000, scalarize=partial(scalarize, method="tchebycheff"))
    nsga2(budget, seed=0)
    budget.archive.utilities    # of all that was evaluated, in order

Each runs until the budget is spent; the same seed leaves the same archive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import Tensor, nn

from agent import Policy, PolicyNetwork
from envs import CompositionBatch, CompositionSpace

BoolArray = npt.NDArray[np.bool_]
Genomes = npt.NDArray[np.int64]
"""Counts by element, (n, E)."""


class BudgetSpent(Exception):  # noqa: N818 it ends a run and is no error
    """All evaluations of a budget are used, or too many materials were asked for."""


@dataclass(frozen=True, eq=False)
class Archive:
    """N distinct materials in the order of their evaluation."""

    states: Tensor
    """Long (N, state_size)."""
    utilities: Tensor
    """Float (N, m)."""


class Budget:
    """Evaluates materials of a space, counts the distinct ones, and keeps all that were evaluated.

    Args:
        space: The materials.
        utilities: Compositions -> utilities in [0, 1], all to be maximised, float (n, m).
        limit: Distinct materials that may be evaluated.
        most_calls: Materials that may be asked for, repetitions included, so that a collapsed optimiser ends; None:
            20 times the limit.
        scalarize: Utilities (n, m) and weights, (m,) or (n, m), -> scores in [0, 1], float (n,).
        n_objectives: m.
    """

    def __init__(
        self,
        space: CompositionSpace,
        utilities: Callable[[CompositionBatch], Tensor],
        limit: int,
        most_calls: int | None = None,
        *,
        scalarize: Callable[[Tensor, Tensor], Tensor],
        n_objectives: int = 3,
    ) -> None:
        self.space = space
        self.limit = limit
        self.most_calls = 20 * limit if most_calls is None else most_calls
        self.n_objectives = n_objectives
        self.n_calls = 0
        self._evaluate, self._scalarize = utilities, scalarize
        self._row: dict[bytes, int] = {}
        self._states = torch.zeros(limit, space.state_size, dtype=torch.long)
        self._utilities = torch.zeros(limit, n_objectives)

    @property
    def n_evaluated(self) -> int:
        """Distinct materials evaluated so far."""
        return len(self._row)

    @property
    def archive(self) -> Archive:
        """All that was evaluated so far."""
        return Archive(self._states[: self.n_evaluated].clone(), self._utilities[: self.n_evaluated].clone())

    def __call__(self, state: Tensor) -> Tensor:
        """Return the utilities of finished states, long (n, state_size) -> float (n, m); known ones cost nothing.

        Raises:
            BudgetSpent: The limit is reached, after what still fits is in the archive, or `most_calls` is exceeded.
            ValueError: A state is not finished, or the utilities have the wrong shape.
        """
        if not bool(self.space.is_finished(state).all()):
            raise ValueError("state: some materials are not finished")
        keys = self._keys(state)
        first = {key: at for at, key in reversed(list(enumerate(keys))) if key not in self._row}
        fitting = sorted(first.values())[: self.limit - self.n_evaluated]
        if fitting:
            self._record(state[fitting], [keys[at] for at in fitting])
        self.n_calls += len(keys)
        if self.n_evaluated >= self.limit or self.n_calls > self.most_calls:
            raise BudgetSpent(f"{self.n_evaluated:,} materials evaluated, {self.n_calls:,} asked for")
        return self._utilities[[self._row[key] for key in keys]]

    def knows(self, state: Tensor) -> BoolArray:
        """Return which finished states have been evaluated, bool (n,)."""
        return np.array([key in self._row for key in self._keys(state)], dtype=np.bool_)

    def score(self, utilities: Tensor, preference: Tensor) -> Tensor:
        """Return the scores of utilities (n, m) under one preference (m,) or one each (n, m), float (n,)."""
        return self._scalarize(utilities, preference)

    def _record(self, state: Tensor, keys: Sequence[bytes]) -> None:
        with torch.random.fork_rng(devices=[]):  # models that load on first use draw from the global generator
            values = self._evaluate(self.space.materials(state))
        if values.shape != (len(state), self.n_objectives):
            raise ValueError(f"utilities: expected ({len(state)}, {self.n_objectives}), not {tuple(values.shape)}")
        rows = slice(self.n_evaluated, self.n_evaluated + len(keys))
        self._states[rows], self._utilities[rows] = state, values
        self._row |= {key: row for row, key in enumerate(keys, start=self.n_evaluated)}

    def _keys(self, state: Tensor) -> list[bytes]:
        """One key a material: its action sequence, of which there is exactly one."""
        return [row.tobytes() for row in self.space.actions_of(state).to(torch.int32).numpy()]


def nsga2(budget: Budget, seed: int, *, population: int = 100) -> None:
    """Run NSGA-II until the budget is spent or the population breeds nothing new."""
    first = budget.space.sample_uniform_policy(population, torch.Generator().manual_seed(seed))
    algorithm = NSGA2(
        pop_size=population,
        sampling=genomes_of(budget.space, first),
        crossover=UniformCrossover(prob=0.9),
        mutation=_Edits(prob=0.5),
        repair=_ReducedFormula(),
        eliminate_duplicates=_OnlyNew(budget),
    )
    algorithm.setup(_CompositionProblem(budget), seed=seed, termination=NoTermination())
    with suppress(BudgetSpent):
        algorithm.run()


def states_of(space: CompositionSpace, genomes: Genomes) -> tuple[Tensor, BoolArray]:
    """Return the finished states of counts by element, and which of them lie inside the space.

    Returns:
        Long (n, state_size), where rows outside the space mean nothing, and bool (n,).
    """
    present = genomes > 0
    elements = np.argsort(~present, axis=1, kind="stable")[:, : space.max_steps - 1]
    counts = np.take_along_axis(genomes, elements, axis=1)
    actions = torch.from_numpy(np.where(counts > 0, elements * _highest_count(space) + counts - 1, space.stop))
    within = (present.sum(1) < space.max_steps) & (genomes.max(1) <= _highest_count(space))
    valid, state = torch.from_numpy(within), space.initial(len(genomes))
    for column in (*actions.T, torch.full((len(genomes),), space.stop)):
        taken = torch.where(valid, column, space.stop)
        valid = valid & space.allowed(state, taken)
        state = space.step(state, torch.where(valid, taken, space.stop))
    return state, valid.numpy()


def genomes_of(space: CompositionSpace, state: Tensor) -> Genomes:
    """Return the counts by element of finished states, (n, E)."""
    taken = torch.zeros(len(state), space.n_actions, dtype=torch.long).scatter_(1, space.actions_of(state), 1)
    by_element = taken[:, :-1].view(len(state), len(space.elements), -1)
    genomes: Genomes = (by_element * torch.arange(1, by_element.shape[2] + 1)).sum(2).numpy()
    return genomes


def _highest_count(space: CompositionSpace) -> int:
    return (space.n_actions - 1) // len(space.elements)


class _CompositionProblem(Problem):
    """Counts by element -> utilities, negated because pymoo minimises."""

    def __init__(self, budget: Budget) -> None:
        self.budget, space = budget, budget.space
        super().__init__(len(space.elements), budget.n_objectives, xl=0, xu=_highest_count(space), vtype=int)

    def _evaluate(self, x: Genomes, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = -self.budget(states_of(self.budget.space, x)[0]).double().numpy()


class _Edits(Mutation):
    """One edit or, with a chance of 1/2 each, more: swap an element, set a count anew, add an element, drop one."""

    def _do(
        self, problem: Problem, X: Genomes, *args: Any, random_state: np.random.Generator, **kwargs: Any
    ) -> Genomes:
        X, n_edits = X.copy(), random_state.geometric(0.5, len(X))
        for edit in range(n_edits.max()):
            rows = np.flatnonzero(n_edits > edit)
            order = random_state.random((len(rows), X.shape[1]))
            present = np.where(X[rows] > 0, order, -1).argmax(1)
            absent = np.where(X[rows] > 0, -1, order).argmax(1)
            kind = random_state.integers(4, size=len(rows))
            anew = random_state.integers(1, problem.xu[0] + 1, size=len(rows))
            before = X[rows, present]
            X[rows, absent] = np.choose(kind, [before, 0, anew, 0])
            X[rows, present] = np.choose(kind, [0, anew, before, 0])
        return X


class _ReducedFormula(Repair):
    """Divides counts by their common divisor."""

    def _do(self, problem: Problem, X: Genomes, **kwargs: Any) -> Genomes:
        return X // np.gcd.reduce(X, axis=1, keepdims=True).clip(1)


class _OnlyNew(DefaultDuplicateElimination):
    """Throws away, besides duplicates, what lies outside the space or has been evaluated before."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def _do(self, pop: Any, other: Any, is_duplicate: BoolArray) -> BoolArray:
        thrown: BoolArray = super()._do(pop, other, is_duplicate)
        if other is None:
            state, valid = states_of(self.budget.space, self.func(pop))
            thrown |= ~valid | self.budget.knows(state)
        return thrown


def reinforce(budget: Budget, seed: int, *, learning_rate: float = 3e-3, entropy_bonus: float = 0.04) -> None:
    """Maximise the score at equal weights plus the entropy of the policy over materials.

    The bonus enters as -entropy_bonus * log-probability of a trajectory, whose mean is that entropy.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(budget.space, PolicyNetwork.for_space(budget.space))
    optimizer = torch.optim.Adam(policy.network.parameters(), learning_rate)
    preference = torch.full((budget.n_objectives,), 1 / budget.n_objectives)
    baseline: Tensor | None = None
    with suppress(BudgetSpent):
        while True:
            rollout = policy.sample(256, generator)
            score = budget.score(budget(rollout.state), preference)
            value = score - entropy_bonus * rollout.log_prob.detach()
            baseline = value.mean() if baseline is None else baseline
            optimizer.zero_grad()
            ((baseline - value) * rollout.log_prob).mean().backward()
            nn.utils.clip_grad_norm_(policy.network.parameters(), 1.0)
            optimizer.step()
            baseline = 0.9 * baseline + 0.1 * value.mean()


def maskable_ppo(budget: Budget, seed: int, *, learning_rate: float = 1e-3, entropy_bonus: float = 0.15) -> None:
    """Maximise the score under random preferences; seeds the global generators, as Stable-Baselines3 does."""
    model = MaskablePPO(
        "MlpPolicy",
        _PreferenceVecEnv(budget, 128, seed),
        learning_rate=learning_rate,
        n_steps=8,
        batch_size=256,
        n_epochs=4,
        gamma=1.0,
        ent_coef=entropy_bonus,
        policy_kwargs={"net_arch": [256, 256], "activation_fn": nn.ReLU},
        seed=seed,
        device="cpu",
    )
    with suppress(BudgetSpent):
        model.learn(total_timesteps=budget.most_calls * budget.space.max_steps)


class _PreferenceVecEnv(VecEnv):
    """Builds `num_envs` compositions at once; each episode has a preference drawn from Dirichlet(1).

    Observations are the features of the space and the preference; the score under it is paid at the end.
    """

    render_mode = None

    def __init__(self, budget: Budget, num_envs: int, seed: int) -> None:
        self.budget, self.space = budget, budget.space
        self._generator = torch.Generator().manual_seed(seed)
        low, high = self.space.feature_bounds
        zeros, ones = torch.zeros(budget.n_objectives), torch.ones(budget.n_objectives)
        observations = spaces.Box(torch.cat([low, zeros]).numpy(), torch.cat([high, ones]).numpy(), dtype=np.float32)
        super().__init__(num_envs, observations, spaces.Discrete(self.space.n_actions))

    def reset(self) -> npt.NDArray[np.float32]:
        self._state, self._preference = self.space.initial(self.num_envs), self._draw(self.num_envs)
        return self._observations()

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        self._actions = torch.from_numpy(actions)

    def step_wait(self) -> VecEnvStepReturn:
        self._state = self.space.step(self._state, self._actions)
        done, rewards = self.space.is_finished(self._state), torch.zeros(self.num_envs)
        if done.any():
            rewards[done] = self.budget.score(self.budget(self._state[done]), self._preference[done])
            n = int(done.sum())
            self._state[done], self._preference[done] = self.space.initial(n), self._draw(n)
        return self._observations(), rewards.numpy(), done.numpy(), [{} for _ in range(self.num_envs)]

    def action_masks(self) -> BoolArray:
        masks: BoolArray = self.space.mask(self._state).numpy()
        return masks

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return list(getattr(self, method_name)(*args, **kwargs))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None:
        pass

    def _draw(self, n: int) -> Tensor:
        weights = torch.empty(n, self.budget.n_objectives).exponential_(generator=self._generator)
        return weights / weights.sum(1, keepdim=True)

    def _observations(self) -> npt.NDArray[np.float32]:
        seen: npt.NDArray[np.float32] = torch.cat([self.space.features(self._state), self._preference], 1).numpy()
        return seen
