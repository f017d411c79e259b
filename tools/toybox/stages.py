"""Trains both stages of ELITE on the miniature, with the package's own losses, from what is frozen and computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elite.adapter import EliteAdapter
from elite.prompts import PLACEHOLDER, TEMPLATES
from elite.training.steps import CLASS_WORD, StageModule
from tools.toybox.fit import Fit
from tools.toybox.objects import Objects
from elite.toybox.shapes import LATENT_SIZE
from elite.toybox.world import CLASSES

HIDDEN_DIM = 256
TIGHT = 0.5  # share of targets that are the tight crop


@dataclass(frozen=True)
class Stage:
    """What tells one training of a stage from another; the defaults are the bundled adapter's.

    Attributes:
        name: "global" or "local".
        snr_gamma: γ by which timesteps are drawn; see `elite.losses.min_snr_weights`.
        regularizer: λ of Eq. 4 or Eq. 7.
        muon: whether Muon trains the matrices of the mappers and of the local keys and values.
        words: which words are injected, see `elite.training.steps.StageModule`; the stage's own when left out.
        fusion: further settings of `elite.training.steps.StageModule`.
    """

    name: str
    snr_gamma: float
    regularizer: float
    muon: bool = True
    words: str | None = None
    fusion: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class _Texts:
    """Every template as tokens, once for each kind of text; ``kinds`` (N,) says which kind an object has."""

    input_ids: Tensor
    word_index: Tensor
    kinds: Tensor | None


def _texts(module: StageModule, class_names: Sequence[str]) -> _Texts:
    prompts, device = [template.format(PLACEHOLDER) for template in TEMPLATES], module.unet.device
    if module.words != CLASS_WORD:
        ids, index = module.tokenize(prompts)
        return _Texts(ids.to(device), index.to(device), None)
    classes = sorted(set(class_names))
    parts = [module.tokenize(prompts, [name] * len(prompts)) for name in classes]
    ids, index = (torch.cat(several).to(device) for several in zip(*parts, strict=True))
    return _Texts(ids, index, torch.tensor([classes.index(name) for name in class_names], device=device))


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


FRESH_WORD, FRESH_PATCH = 0.6, 0.25  # root mean square of what fresh mappers give, before any scale


@torch.no_grad()
def output_scales(text_encoder: Any, tokenizer: Any) -> dict[str, float]:
    """Scales with which words and patches begin at the size of what they stand beside.

    Returns:
        ``output_scale`` for the root mean square of the embeddings of class words, and ``local_output_scale`` for that
        of text features, each to one digit.
    """
    device = text_encoder.device
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in CLASSES], device=device)
    words = text_encoder.get_input_embeddings()(ids).float().square().mean().sqrt()
    text = tokenizer(["a photo of a dog"], padding="max_length", max_length=tokenizer.model_max_length)
    features = text_encoder(torch.tensor(text.input_ids, device=device)).last_hidden_state.float().square().mean().sqrt()
    scales = {"output_scale": words / FRESH_WORD, "local_output_scale": features / FRESH_PATCH}
    return {name: float(f"{float(scale):.1g}") for name, scale in scales.items()}


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
        words: of the references, (N, n, d), for the local stage, unless the class word is injected.
        fitter: makes the `Fit`.
        attention_lr_scale: rate of the global keys and values over that of the mappers.
        look: measures the adapter, ``looks`` - 1 times on the way and once at the end.
        looks: how often.
    """
    module = StageModule(pipeline, stage.name, snr_gamma=stage.snr_gamma, words=stage.words,
                         regularizer_weight=stage.regularizer, **dict(stage.fusion))
    device = module.unet.device
    texts = _texts(module, objects.class_names)
    chance = module.timestep_weights.to(device).double()
    edges = (chance / chance.sum()).cumsum(0).float()  # a timestep is drawn as often as it would weigh
    adapter, local = module.adapter, stage.name == "local"
    slow = [] if local else [
        weight for p in adapter.processors.values() for weight in (p.to_k_global.weight, p.to_v_global.weight)
    ]  # fmt: skip
    trained = [p for p in module.parameters() if p.requires_grad]
    gentle = {id(weight) for weight in slow}
    matrices = [p for p in trained if stage.muon and p.ndim == 2 and id(p) not in gentle]
    fit = fitter(trained, matrices=matrices, slow=slow, slow_scale=attention_lr_scale)
    size, latents = fit.part.batch, objects.latents
    shape = (size, *latents.mean.shape[1:])
    ones = torch.ones(size, device=device)
    everywhere = torch.ones(size, 1, LATENT_SIZE, LATENT_SIZE, device=device)
    count = len(objects.features[0])
    near = objects.features[0].device

    def step() -> dict[str, Tensor]:
        rows = torch.randint(count, (size,), device=device)
        wide = torch.randint(1, max(2, objects.windows), (size,), device=device) % objects.windows
        window = wide.masked_fill(torch.rand(size, device=device) < TIGHT, 0)
        luck = (torch.arange(size, device=device) + torch.rand(size, device=device)) / size
        times = torch.searchsorted(edges, luck).clamp(max=len(edges) - 1)
        batch = {
            "latents": latents.draw(rows * objects.windows + window),
            "sample_weights": ones,
        }
        text = torch.randint(len(TEMPLATES), (size,), device=device)
        if texts.kinds is not None:
            text = text + len(TEMPLATES) * texts.kinds[rows]
        batch |= {"input_ids": texts.input_ids[text], "word_index": texts.word_index[text]}
        features = tuple(feature[rows.to(near)].to(device).float() for feature in objects.features)
        if local:
            batch |= {"features_object": features, "loss_mask": everywhere}
            batch |= {} if words is None else {"words": words[rows]}
            batch["mask"] = objects.masks[rows.to(near)].to(device).float()
        else:
            batch["features"] = features
        return module(batch, torch.randn(shape, device=device), times)

    fit.run(step, looks=looks, look=look)
