"""What `recovery.py` compares: the contestants' protocol, policies over the actions of the space, and an n-gram.

Tokens of the n-gram and the GPT-2 are atoms, those of a policy are actions (an element with its count, or STOP), so
that nats a formula can be compared between all of them and perplexities among the like only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from recovery_data import AtomStrings, without_a_twentieth
from torch import Tensor

from agent.policy import Policy, PolicyNetwork
from agent.prior import Prior
from agent.rollout import visit
from envs import CompositionBatch, CompositionSpace

_CHUNK = 2048


@dataclass(frozen=True)
class Likelihood:
    """How likely a model holds formulas."""

    nats: float
    """Mean negative log-likelihood, nats a formula."""
    perplexity: float
    """A token."""
    token: str
    """What a token is."""

    @classmethod
    def of(cls, nats: float, tokens: float, token: str) -> Likelihood:
        """Return it for so many tokens a formula."""
        return cls(nats, math.exp(nats / tokens), token)


class Contestant(Protocol):
    """A fitted generator of compositions."""

    parameters: int
    """Fitted numbers."""
    may_be_invalid: bool
    """Whether samples can lie outside the space."""
    note: str
    """What its fit settled on, or nothing."""

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> CompositionBatch:
        """Return n samples in the order of drawing; those that are no composition have no element."""
        ...

    def likelihood(self, formulas: Sequence[str], temperature: float = 1.0) -> Likelihood | None:
        """Return the likelihood of formulas inside the space, or None where the model has none."""
        ...


class PolicyContestant:
    """A policy over the actions of the space: a prior."""

    may_be_invalid = False

    def __init__(self, policy: Policy, note: str = "") -> None:
        self.policy, self.note = policy, note
        self.parameters = sum(parameter.numel() for parameter in policy.network.parameters())

    @classmethod
    def fit(
        cls, space: CompositionSpace, training: Sequence[str], seed: int, settings: Mapping[str, Any]
    ) -> Contestant:
        """Fit a prior with settings of `Prior.fit`; it is sampled as fitted, at temperature 1."""
        prior = Prior.fit(space, training, seed=seed, temperature=1.0, progress=False, **settings)
        return cls(prior.policy(space), str(prior.report))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> CompositionBatch:
        """Return n samples; see `Contestant`."""
        states = [
            self.policy.sample(min(_CHUNK, n - start), generator, temperature=temperature, keep_states=False).state
            for start in range(0, n, _CHUNK)
        ]
        return self.policy.space.materials(torch.cat(states))

    @torch.no_grad()
    def likelihood(self, formulas: Sequence[str], temperature: float = 1.0) -> Likelihood:
        """Return the likelihood of formulas; see `Contestant`."""
        space = self.policy.space
        actions = space.encode(formulas)
        log_prob = [
            self.policy.replay(visit(space, part, keep_states=False), temperature=temperature).log_drawn
            for part in actions.split(_CHUNK)
        ]
        n_actions = int((actions != space.stop).sum()) + len(actions)
        return Likelihood.of(-float(torch.cat(log_prob).mean()), n_actions / len(actions), "action")


class UniformValid(PolicyContestant):
    """The policy that chooses uniformly among the allowed actions at each step."""

    def __init__(self, space: CompositionSpace) -> None:
        super().__init__(Policy(space, PolicyNetwork.for_space(space)))
        self.parameters = 0

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> CompositionBatch:
        """Return n samples; see `Contestant`."""
        return self.policy.space.materials(self.policy.space.sample_uniform_policy(n, generator))


class Ngram:
    """An interpolated n-gram over strings of atoms with Witten-Bell weights.

    P(w|h) = (c(h w) + T(h) P(w|h')) / (c(h) + T(h)), where h' is the context h without its first token, c counts and
    T(h) is the number of different tokens seen after h (Witten and Bell, IEEE Trans. Inf. Theory 37, 1085 (1991)).
    Below the empty context lies the uniform distribution; of a context never seen the longest seen end is taken.

    Args:
        strings: How formulas are written.
        tokens: Strings to count in, long (n, length).
        order: Tokens that count together, at least 1.
    """

    may_be_invalid = True

    def __init__(self, strings: AtomStrings, tokens: Tensor, order: int) -> None:
        self._strings, self._base = strings, strings.n_tokens
        self.order, self.parameters, self.note = order, 0, f"order {order}"
        self._contexts: list[np.ndarray] = []
        """Per length, codes of the contexts seen, ascending."""
        self._offsets: list[int] = []
        """Per length, the row of the first of them in the table."""
        parts, rows = [], 0
        real = (tokens != strings.padding).numpy()
        following = tokens.numpy()[real]
        codes = self._context_codes(tokens)[real]
        for length in range(order):
            ends = codes % self._base**length
            contexts, of_context = np.unique(ends, return_inverse=True)
            counted = np.bincount(
                of_context * strings.n_outcomes + following, minlength=len(contexts) * strings.n_outcomes
            ).reshape(len(contexts), -1)
            kinds, total = (counted > 0).sum(1, keepdims=True), counted.sum(1, keepdims=True)
            self.parameters += int(kinds.sum())
            if length:
                shorter = contexts % self._base ** (length - 1)
                lower = parts[-1][np.searchsorted(self._contexts[-1], shorter)]
            else:
                lower = np.full((1, strings.n_outcomes), 1 / strings.n_outcomes)
            parts.append((counted + kinds * lower) / (total + kinds))
            self._contexts.append(contexts)
            self._offsets.append(rows)
            rows += len(contexts)
        self._table = np.concatenate(parts)
        """P(w|h), a row a context of any length, float (rows, outcomes)."""
        self._at_temperature = lru_cache(maxsize=1)(self._tempered)

    @classmethod
    def fit(cls, space: CompositionSpace, training: Sequence[str], seed: int, orders: Sequence[int]) -> Ngram:
        """Choose the order by the likelihood of a twentieth held out, then count in all formulas."""
        strings = AtomStrings(space)
        tokens = strings.encode(training)
        kept, held_out = (tokens[rows] for rows in without_a_twentieth(len(tokens), seed))
        nats = {order: -cls(strings, kept, order).log_prob(held_out).mean() for order in orders}
        best = cls(strings, tokens, min(nats, key=nats.__getitem__))
        best.note = "held-out nats by order: " + ", ".join(f"{order} {value:.2f}" for order, value in nats.items())
        return best

    def probabilities(self, context: Sequence[int]) -> np.ndarray:
        """Return the probabilities of what follows tokens from the beginning of a string, float (outcomes,)."""
        code = self._first_code()
        for token in context:
            code = self._next_code(code, np.array([token]))
        return self._table[self._rows(code)][0]

    def log_prob(self, tokens: Tensor, temperature: float = 1.0) -> np.ndarray:
        """Return the log-probabilities of strings, float (n,)."""
        real = (tokens != self._strings.padding).numpy()
        rows = self._rows(self._context_codes(tokens)[real])
        result = np.zeros(real.shape)
        result[real] = np.log(self._at_temperature(temperature)[0][rows, tokens.numpy()[real]])
        return result.sum(1)

    def likelihood(self, formulas: Sequence[str], temperature: float = 1.0) -> Likelihood:
        """Return the likelihood of strings in the order of electronegativity."""
        tokens = self._strings.encode(formulas)
        n_tokens = int((tokens != self._strings.padding).sum())
        return Likelihood.of(-self.log_prob(tokens, temperature).mean(), n_tokens / len(tokens), "atom or end")

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> CompositionBatch:
        """Return n samples; see `Contestant`."""
        strings, cumulative = self._strings, self._at_temperature(temperature)[1]
        tokens = np.full((n, strings.length), strings.padding)
        rows, code = np.arange(n), self._first_code().repeat(n)
        for step in range(strings.length):
            uniform = torch.rand(len(rows), generator=generator, dtype=torch.double).numpy()
            chosen = (cumulative[self._rows(code)] <= uniform[:, None]).sum(1)
            tokens[rows, step] = chosen
            going = chosen != strings.end
            rows, code = rows[going], self._next_code(code[going], chosen[going])
        return strings.decode(torch.from_numpy(tokens))

    def _tempered(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """The table at a temperature, and its rows added up; the last entry of a row is 1."""
        table = self._table
        if temperature != 1.0:
            table = table ** (1 / temperature)
            table /= table.sum(1, keepdims=True)
        cumulative = table.cumsum(1)
        cumulative[:, -1] = 1.0
        return table, cumulative

    def _first_code(self) -> np.ndarray:
        return np.array([sum(self._strings.begin * self._base**place for place in range(self.order - 1))])

    def _next_code(self, code: np.ndarray, token: np.ndarray) -> np.ndarray:
        """A context is the number whose digits are its tokens, the latest one last."""
        return (code * self._base + token) % self._base ** (self.order - 1)

    def _context_codes(self, tokens: Tensor) -> np.ndarray:
        """The context of each token, int64 (n, length)."""
        code, codes = self._first_code().repeat(len(tokens)), []
        for column in tokens.numpy().T:
            codes.append(code)
            code = self._next_code(code, column)
        return np.stack(codes, axis=1)

    def _rows(self, code: np.ndarray) -> np.ndarray:
        """The row of the longest end of each context that was seen."""
        rows = np.zeros(len(code), np.int64)
        for length, (contexts, offset) in enumerate(zip(self._contexts, self._offsets, strict=True)):
            end = code % self._base**length
            place = np.searchsorted(contexts, end).clip(max=len(contexts) - 1)
            rows = np.where(contexts[place] == end, offset + place, rows)
        return rows
