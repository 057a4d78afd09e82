"""The prior: a policy fitted by maximum likelihood to known materials, the base measure of the target.

prior = Prior.fit(space, ["SrTiO3", "CaTiO3", ...])
prior.report                               # what was used, what lay outside and why, held-out likelihood
prior.policy(space).log_prob(actions)      # exact log-likelihood of any material
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor, nn
from tqdm import tqdm

from agent.element_sharing import fold, share
from agent.network_file import read_tensors, write_tensors
from agent.policy import Architecture, Policy, PolicyNetwork
from agent.substitution import Substitutions
from envs import CompositionSpace, DesignSpace

EMBEDDED_TEMPERATURE = 2.1
"""What the logits of the embedded prior were divided by: as low as 10,000 samples allow of which 99 % are distinct."""
CRYSTAL_SHARPENING = 1.4
"""How much sharper the embedded prior is over the compositions of crystals: it is flattened until its samples differ,
which those of crystals do anyway."""
_LEAST_STEPS = 30
"""Steps of an epoch at least, for with a small table a pass would be a step or two."""


@dataclass(frozen=True)
class PriorReport:
    """How a prior was fitted."""

    n_materials: int
    """Distinct materials that lie inside the space."""
    outside: Mapping[str, int]
    """Materials left out, by the kind of rule that they break."""
    held_out_nats: float
    """Mean negative log-likelihood of the part held out for early stopping, nats a material."""
    uniform_nats: float
    """The same under the uniform masked policy."""
    epochs: int

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} by {kind}" for kind, count in self.outside.items()) or "none"
        return (
            f"{self.n_materials} materials inside the space (outside: {reasons}); held-out "
            f"{self.held_out_nats:.2f} nats a material, uniform policy {self.uniform_nats:.2f}, {self.epochs} epochs"
        )


@dataclass(frozen=True)
class Prior:
    """A fitted network and how it came about; usable in any space, its actions matched by name."""

    network: PolicyNetwork
    report: PriorReport
    _policies: dict[int, Policy] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        space: DesignSpace,
        materials: Iterable[str],
        *,
        seed: int = 0,
        width: int = 256,
        depth: int = 2,
        architecture: Architecture = "mlp",
        max_epochs: int = 16,
        patience: int = 2,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        dropout: float = 0.1,
        substitution_share: float = 0.3,
        temperature: float = 1.5,
        kept: Prior | None = None,
        progress: bool = True,
    ) -> Prior:
        """Fit by maximum likelihood, stopping early on a twentieth held out.

        Args:
            space: The design space whose policy is fitted.
            materials: Known materials; repetitions and those outside the space are left out and counted.
            seed: Source of all randomness.
            width: Hidden units.
            depth: Residual layers, or blocks of a transformer.
            architecture: "mlp", or "transformer", which fits better and takes several times as long.
            max_epochs: Passes over the materials at most; small tables are passed several times an epoch.
            patience: Epochs without a better held-out likelihood before stopping.
            batch_size: Materials a step.
            learning_rate: Of AdamW; falls to a hundredth along a cosine.
            dropout: Share of hidden units left out while fitting.
            substitution_share: Most weight of known compositions with elements exchanged (`agent.substitution`) beside
                the known ones; crystals are fitted without.
            temperature: The fitted logits are divided by it. At 1 a third of the embedded prior's samples would be
                known formulas recited; at 1.5 a sixth, for 0.4 nats of held-out likelihood.
            kept: A prior whose parts stay as they are: one over compositions, while that of structures is fitted.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: Fewer than 20 materials lie inside the space, or `kept` leaves nothing to fit.
        """
        materials = list(materials)
        known, outside = _sort_out(space, materials)
        if len(known) < 20:
            kinds = ", ".join(f"{count} by {kind}" for kind, count in outside.items()) or "none"
            raise ValueError(
                f"a prior needs at least 20 distinct materials inside the space, not {len(known)} (outside: {kinds})"
            )
        generator = torch.Generator().manual_seed(seed)
        actions = known[torch.randperm(len(known), generator=generator)]
        n_held_out = max(len(actions) // 20, 5)
        held_out, training = actions[:n_held_out], actions[n_held_out:]
        uniform_nats = -float(Policy(space, PolicyNetwork.for_space(space)).log_prob_in_chunks(held_out).mean())

        substitutions = None
        if substitution_share and isinstance(space, CompositionSpace):
            substitutions = Substitutions(space, training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # weights and dropout
            network = _with_parts_of(kept, PolicyNetwork.for_space(space, width, depth, architecture), space)
            fitted = [number for number, part in enumerate(network.parts) if part.output.weight.requires_grad]
            if not fitted:
                raise ValueError("kept: the prior knows every part of the space, so nothing is left to fit")
            for number in fitted:
                share(network.parts[number])
            average = deepcopy(network)
            for number in fitted:
                network.parts[number].dropout.p = dropout
            parameters = [parameter for number in fitted for parameter in network.parts[number].parameters()]
            optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
            best, best_nats, best_epoch, step = average.state_dict(), math.inf, 0, 0
            steps_a_pass = math.ceil(len(training) / batch_size)
            passes = math.ceil(_LEAST_STEPS / steps_a_pass)
            horizon = max_epochs * passes * steps_a_pass
            bar = tqdm(range(1, max_epochs + 1), desc="fitting the prior", unit="epoch", disable=not progress)
            for epoch in bar:
                order = [torch.randperm(len(training), generator=generator) for _ in range(passes)]
                for rows in [rows for part in order for rows in torch.split(part, batch_size)]:
                    fall = 0.505 + 0.495 * math.cos(math.pi * step / horizon)
                    optimizer.param_groups[0]["lr"] = learning_rate * fall * min(1.0, (step + 1) / 50)
                    loss = -Policy(space, network).log_prob(training[rows]).mean()
                    exchanged = substitutions.draw(len(rows), generator) if substitutions else training[:0]
                    if len(exchanged):
                        of_exchanged = -Policy(space, network).log_prob(exchanged).mean()
                        share_now = min(substitution_share, len(exchanged) / len(rows))  # few are not worth as much
                        loss = loss.lerp(of_exchanged, share_now)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                    optimizer.step()
                    step += 1
                    _move_average(average, network, decay=min(0.99, step / (step + 20)))
                nats = -float(Policy(space, average).log_prob_in_chunks(held_out).mean())
                bar.set_postfix_str(f"held out {nats:.3f} nats")
                if nats < best_nats:
                    best = {name: value.clone() for name, value in average.state_dict().items()}
                    best_nats, best_epoch = nats, epoch
                elif epoch >= best_epoch + patience:
                    break
            bar.close()
        average.load_state_dict(best)
        with torch.no_grad():
            for part in (average.parts[number] for number in fitted):
                fold(part)
                part.output.weight.div_(temperature)
                part.output.bias.div_(temperature)
        held_out_nats = -float(Policy(space, average).log_prob_in_chunks(held_out).mean())
        return cls(average, PriorReport(len(known), outside, held_out_nats, uniform_nats, best_epoch))

    @classmethod
    @cache
    def default(cls) -> Prior:
        """Return the embedded prior over known compositions; made by `experiments/data/fit_prior.py`."""
        return cls.load(Path(str(resources.files("agent.data") / "prior.safetensors")))

    @classmethod
    @cache
    def default_crystals(cls) -> Prior:
        """Return the embedded prior over crystals: `default`, sharpened, for the composition, and structures.

        Made by `experiments/data/fit_crystal_prior.py`.
        """
        return cls.load(Path(str(resources.files("agent.data") / "crystal_prior.safetensors")))

    def sharpened(self, factor: float) -> Prior:
        """Return a copy with all logits multiplied by a factor."""
        network = deepcopy(self.network)
        with torch.no_grad():
            for part in network.parts:
                part.output.weight.mul_(factor)
                part.output.bias.mul_(factor)
        return Prior(network, self.report)

    def policy(self, space: DesignSpace) -> Policy:
        """Return the frozen prior policy in a space."""
        if id(space) not in self._policies:
            with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
                network = self.network.transfer(space).requires_grad_(False)
            self._policies[id(space)] = Policy(space, network)
        return self._policies[id(space)]

    def log_prob(self, space: DesignSpace, actions: Tensor) -> Tensor:
        """Return the log-probability of action sequences, long (n, T) -> float (n,), without gradient."""
        return self.policy(space).log_prob_in_chunks(actions)

    def perplexity(self, space: DesignSpace, actions: Tensor) -> float:
        """Return the perplexity an action, STOP included, of action sequences, long (n, T).

        Raises:
            ValueError: There is no sequence.
        """
        if not len(actions):
            raise ValueError("perplexity: no materials")
        n_actions = len(actions) + int((actions != space.stop).sum())
        return math.exp(-float(self.log_prob(space, actions).double().sum()) / n_actions)

    def save(self, path: str | Path) -> None:
        """Write weights (half precision) and report to one safetensors file."""
        description = {"kind": "prior", **self.network.describe(), "report": asdict(self.report)}
        write_tensors(path, {name: value.half() for name, value in self.network.state_dict().items()}, description)

    @classmethod
    def load(cls, path: str | Path) -> Prior:
        """Read what `save` wrote.

        Raises:
            ValueError: Not a file of a prior; the message names it.
        """
        tensors, description = read_tensors(path, "prior")
        try:
            with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
                network = PolicyNetwork.restore(description, tensors)
            return cls(network.eval(), PriorReport(**description["report"]))
        except (KeyError, RuntimeError, TypeError) as error:
            reason = shorten(str(error), 160)
            raise ValueError(f"{path}: does not fit this version of MatSmith ({reason})") from None


def _with_parts_of(kept: Prior | None, network: PolicyNetwork, space: DesignSpace) -> PolicyNetwork:
    """The fresh network of a space, with the parts that another prior knows in place and frozen."""
    if kept is None:
        return network
    known = kept.network.transfer(space).parts
    parts = [
        old.requires_grad_(False) if bool(old.output.weight.any()) else new
        for old, new in zip(known, network.parts, strict=True)
    ]
    return PolicyNetwork(parts, network.kinds)


def _sort_out(space: DesignSpace, materials: list[str]) -> tuple[Tensor, dict[str, int]]:
    """Action sequences of the distinct materials inside the space, and how many others break which kind of rule."""
    distinct = list(dict.fromkeys(materials))
    reasons = space.explain(distinct)
    inside = [material for material, reason in zip(distinct, reasons, strict=True) if reason is None]
    kinds = Counter(reason.split(":")[0] for reason in reasons if reason is not None)
    actions = space.encode(inside)
    first = {sequence: row for row, sequence in reversed(list(enumerate(map(tuple, actions.tolist()))))}
    return actions[sorted(first.values())], dict(kinds.most_common())


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for target, source in zip(average.parameters(), network.parameters(), strict=True):
        target.lerp_(source, 1 - decay)
