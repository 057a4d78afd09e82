"""A small GPT-2 over strings of atoms, trained from nothing as the materials transformers were; see `recovery.py`.

Fu et al., Mach. Learn.: Sci. Technol. 4, 015001 (2023), train language models of `transformers` on formulas written as
element symbols in ascending electronegativity, each repeated by its count. Nothing makes their samples valid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from recovery_baselines import Likelihood
from recovery_data import AtomStrings, without_a_twentieth
from torch import Tensor, nn
from tqdm import tqdm

from agent.choice import draw_actions
from envs import CompositionBatch, CompositionSpace

_CHUNK = 2048
_PARTS = 4
"""Parts of a batch, by length, whose gradients are added up."""


@dataclass(frozen=True)
class GptSettings:
    """Size and training of the GPT-2."""

    layers: int = 4
    heads: int = 4
    width: int = 160
    dropout: float = 0.1
    max_epochs: int = 16
    """The learning rate falls to zero along a cosine over so many."""
    patience: int = 4
    """Epochs without a better held-out likelihood before stopping."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1


class Gpt:
    """A fitted GPT-2."""

    may_be_invalid = True

    def __init__(self, strings: AtomStrings, model: nn.Module) -> None:
        self._strings, self._model = strings, model
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.note = ""

    @classmethod
    def fit(cls, space: CompositionSpace, training: Sequence[str], seed: int, settings: GptSettings) -> Gpt:
        """Fit by maximum likelihood; the weights of the best epoch by a twentieth held out are kept."""
        from transformers import GPT2Config, GPT2LMHeadModel

        strings = AtomStrings(space)
        tokens = strings.encode(training)
        kept, held_out = (tokens[rows] for rows in without_a_twentieth(len(tokens), seed))
        config = GPT2Config(  # padding stands behind the end, where a causal model does not see it
            vocab_size=strings.n_tokens,
            n_positions=strings.length,
            n_embd=settings.width,
            n_layer=settings.layers,
            n_head=settings.heads,
            resid_pdrop=settings.dropout,
            embd_pdrop=settings.dropout,
            attn_pdrop=settings.dropout,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one operation
            bos_token_id=strings.begin,
            eos_token_id=strings.end,
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # weights and dropout
            gpt = cls(strings, GPT2LMHeadModel(config))
            gpt._train(kept, held_out, settings, generator)
        return gpt

    def _train(self, kept: Tensor, held_out: Tensor, settings: GptSettings, generator: torch.Generator) -> None:
        model = self._model
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        steps_an_epoch = math.ceil(len(kept) / settings.batch_size)
        horizon, warm_up = settings.max_epochs * steps_an_epoch, min(100, steps_an_epoch)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * min(step / horizon, 1.0))),
        )
        best, best_nats, best_epoch = model.state_dict(), math.inf, 0
        bar = tqdm(range(1, settings.max_epochs + 1), desc="fitting the GPT-2", unit="epoch", disable=None)
        for epoch in bar:
            model.train()
            for rows in torch.randperm(len(kept), generator=generator).split(settings.batch_size):
                n_tokens = (kept[rows] != self._strings.padding).sum()
                optimizer.zero_grad()
                for part in self._by_length(kept[rows], _PARTS):
                    (-self._log_prob(part).sum() / n_tokens).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            nats = self._nats(held_out)
            bar.set_postfix_str(f"held out {nats:.3f} nats")
            if nats < best_nats:
                best = {name: value.clone() for name, value in model.state_dict().items()}
                best_nats, best_epoch = nats, epoch
            elif epoch >= best_epoch + settings.patience:
                break
        model.load_state_dict(best)
        model.eval().requires_grad_(False)
        self.note = f"best of {epoch} epochs: {best_epoch}, {best_nats:.3f} nats on its own twentieth"

    def _by_length(self, tokens: Tensor, parts: int) -> list[Tensor]:
        """Strings in parts of similar length, so that there is little padding; together they are the same batch."""
        length = (tokens != self._strings.padding).sum(1)
        return list(tokens[length.argsort(stable=True)].chunk(parts))

    def _log_prob(self, tokens: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of strings, float (n,), with gradient where enabled."""
        strings = self._strings
        longest = int((tokens != strings.padding).sum(1).max())
        tokens = tokens[:, :longest]
        begin = torch.full((len(tokens), 1), strings.begin)
        logits = self._model(input_ids=torch.cat([begin, tokens[:, :-1]], dim=1), use_cache=False).logits
        log_probs = (logits[..., : strings.n_outcomes] / temperature).log_softmax(-1)
        real = tokens != strings.padding
        chosen = torch.where(real, tokens, 0)[..., None]
        return (log_probs.gather(2, chosen).squeeze(2) * real).sum(1)

    @torch.no_grad()
    def _nats(self, tokens: Tensor, temperature: float = 1.0) -> float:
        self._model.eval()
        parts = self._by_length(tokens, math.ceil(len(tokens) / _CHUNK) * _PARTS)
        return -float(torch.cat([self._log_prob(part, temperature) for part in parts]).mean())

    def likelihood(self, formulas: Sequence[str], temperature: float = 1.0) -> Likelihood:
        """Return the likelihood of strings in the order of electronegativity."""
        tokens = self._strings.encode(formulas)
        n_tokens = int((tokens != self._strings.padding).sum())
        return Likelihood.of(self._nats(tokens, temperature), n_tokens / len(tokens), "atom or end")

    @torch.inference_mode()
    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> CompositionBatch:
        """Return n samples by ancestral sampling; see `Contestant`."""
        return self._strings.decode(self._draw(n, generator, temperature))

    def _draw(self, n: int, generator: torch.Generator, temperature: float) -> Tensor:
        """Tokens of n samples, long (n, length).

        Samples that begin alike share one evaluation of the model, in half precision (bfloat16); keys and values of
        earlier atoms are kept.
        """
        strings, model = self._strings, deepcopy(self._model).bfloat16()
        tokens = torch.full((n, strings.length), strings.padding)
        rows, prefix = torch.arange(n), torch.zeros(n, dtype=torch.long)  # of the samples that have not ended
        following, cache = torch.tensor([[strings.begin]]), None
        for step in range(strings.length):
            output = model(input_ids=following, cache=cache, use_cache=True)
            cache = output.cache
            weights = (output.logits[:, -1, : strings.n_outcomes].float() / temperature).softmax(1)
            uniform = torch.rand(len(rows), generator=generator)
            parts = zip(prefix.split(_CHUNK), uniform.split(_CHUNK), strict=True)
            chosen = torch.cat([draw_actions(weights[of_part], numbers) for of_part, numbers in parts])
            tokens[rows, step] = chosen
            going = chosen != strings.end
            if not going.any():
                break
            rows, longer = rows[going], prefix[going] * strings.n_outcomes + chosen[going]
            distinct, prefix = longer.unique(return_inverse=True)
            cache.batch_select_indices(distinct // strings.n_outcomes)
            following = distinct[:, None] % strings.n_outcomes
        return tokens
