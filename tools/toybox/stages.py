"""Trains both stages of ELITE on the miniature, with the package's own losses, from what is frozen and computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elite.adapter import EliteAdapter
from elite.prompts import PLACEHOLDER, TEMPLATES, TokenizedPrompts, encode_prompts, tokenize
from elite.training.steps import StageModule
from tools.toybox.fit import Fit
from tools.toybox.objects import Objects
from elite.toybox.shapes import LATENT_SIZE

HIDDEN_DIM = 256
TIGHT = 0.5  # share of targets that are the tight crop


@dataclass(frozen=True)
class Stage:
    """What tells one training of a stage from another; the defaults are the bundled adapter's.

    Attributes:
        name: "global" or "local".
        snr_gamma: γ by which timesteps are drawn; see `elite.losses.min_snr_weights`.
        words: which words are injected, see `elite.prompts.select_words`; the stage's own when left out.
        class_word: put the class word where the primary word would stand, in the local stage (Fig. 17).
        fusion: further settings of `elite.training.steps.StageModule`.
    """

    name: str
    snr_gamma: float
    words: str | None = None
    class_word: bool = False
    fusion: tuple[tuple[str, Any], ...] = ()


class _Prepared(StageModule):
    """The stage with prompts given as numbers of texts that were tokenised before, and object features given."""

    def prepare(self, texts: Sequence[str]) -> None:
        """Tokenise the texts for every number of words that can stand in them."""
        tables = {n: tokenize(self.tokenizer, list(texts), num_words=n) for n in range(1, self.adapter.config.num_words + 1)}
        device = self.unet.device
        self.tables = {n: TokenizedPrompts(*(part.to(device) for part in table)) for n, table in tables.items()}

    def _text(self, prompts: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        table = self.tables[words.shape[1]]
        tokenized = TokenizedPrompts(table.input_ids[prompts], table.word_index[prompts])
        return encode_prompts(self.text_encoder, tokenized, words).to(self.unet.dtype), tokenized.word_index

    def _words_and_object_features(self, batch: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return batch["words"], batch["object_features"]


@torch.no_grad()
def words_of(adapter: EliteAdapter, features: Sequence[Tensor], batch: int = 256) -> Tensor:
    """All words (N, n, d) of the objects' features, as the trained M^g gives them, on its device."""
    device = next(adapter.parameters()).device
    count = len(features[0])
    parts = []
    for first in range(0, count, batch):
        some = [feature[first : first + batch].to(device).float() for feature in features]
        parts.append(adapter.global_mapper(some))
    return torch.cat(parts)


def embedding_scale(text_encoder: Any) -> float:
    """Root mean square of the token embeddings, to two digits: the size that a word of the text encoder has."""
    return round(float(text_encoder.get_input_embeddings().weight.detach().float().square().mean().sqrt()), 2)


def train_stage(
    pipeline: Any,
    stage: Stage,
    objects: Objects,
    words: Tensor | None,
    fitter: Callable[..., Fit],
    attention_lr_scale: float,
    look: Callable[[], dict[str, float]] | None = None,
    looks: int = 0,
) -> None:
    """Train one stage of the adapter that is attached to the pipeline, in place.

    Args:
        pipeline: base model with the adapter attached.
        stage: what to train, and how.
        objects: with features of the reference, or of the masked reference for the local stage.
        words: of the references, (N, n, d), for the local stage.
        fitter: makes the `Fit`.
        attention_lr_scale: rate of the global keys and values over that of the mappers.
        look: measures the adapter, ``looks`` - 1 times on the way and once at the end.
        looks: how often.
    """
    module = _Prepared(pipeline, stage.name, snr_gamma=stage.snr_gamma, words=stage.words, **dict(stage.fusion))
    module.prepare([template.format(PLACEHOLDER) for template in TEMPLATES])
    device = module.unet.device
    chance = module.timestep_weights.to(device).double()
    edges = (chance / chance.sum()).cumsum(0).float()  # a timestep is drawn as often as it would weigh
    adapter, local = module.adapter, stage.name == "local"
    slow = [] if local else [
        weight for p in adapter.processors.values() for weight in (p.to_k_global.weight, p.to_v_global.weight)
    ]  # fmt: skip
    fit = fitter([p for p in module.parameters() if p.requires_grad], slow=slow, slow_scale=attention_lr_scale)
    size, latents = fit.part.batch, objects.latents
    shape = (size, *latents.mean.shape[1:])
    ones = torch.ones(size, device=device)
    everywhere = torch.ones(size, 1, LATENT_SIZE, LATENT_SIZE, device=device)
    count = len(objects.features[0])
    near = objects.features[0].device

    def step() -> dict[str, Tensor]:
        rows = torch.randint(count, (size,), device=device)
        wide = torch.randint(1, max(2, objects.windows), (size,), device=device) % objects.windows
        window = torch.where(torch.rand(size, device=device) < TIGHT, 0, wide)
        luck = (torch.arange(size, device=device) + torch.rand(size, device=device)) / size
        times = torch.searchsorted(edges, luck).clamp(max=len(edges) - 1)
        batch = {
            "latents": latents.draw(rows * objects.windows + window),
            "prompt": torch.randint(len(TEMPLATES), (size,), device=device),
            "sample_weights": ones,
        }
        features = tuple(feature[rows.to(near)].to(device).float() for feature in objects.features)
        if local:
            batch |= {"words": words[rows], "object_features": features, "loss_mask": everywhere}
            batch["mask"] = objects.masks[rows.to(near)].to(device).float()
        else:
            batch["features"] = features
        return module(batch, torch.randn(shape, device=device), times)

    fit.run(step, looks=looks, look=look)
