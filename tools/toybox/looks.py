"""Looks at what is trained while it is trained: a few numbers for the curves, on subjects that serve for nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elite.attention import Conditioning, condition, record_attention
from elite.prompts import TokenizedPrompts, encode_prompts, tokenize
from elite.toybox.identity import IdentityEncoder
from elite.toybox.judge import Judge
from elite.toybox.report_data import to_tensor
from elite.toybox.shapes import training_noise
from elite.toybox.world import (
    ACCESSORIES,
    CLASSES,
    COLORS,
    LIVE,
    PATTERNS,
    SCENES,
    SELECTION_SUBJECTS,
    Picture,
    Subject,
    render,
    write_caption,
)
from tools.toybox.concept_report import EDIT_WEIGHT, PHOTO_PROMPT, PHOTO_WEIGHT, given_picture, identity_scale
from tools.toybox.fit import say

STEPS, GUIDANCE = 25, 5.0
PROMPTS = 96


def prompts_to_look_at(count: int = PROMPTS) -> list[dict[str, str]]:
    """What some prompts say: a class and a scene, and an accessory, a colour or a pattern in turn."""
    draw = random.Random("look")
    said = []
    for number in range(count):
        facts = {"class_name": CLASSES[number % len(CLASSES)], "scene": draw.choice(SCENES)}
        patterns = [pattern for pattern in PATTERNS if pattern != "plain"]
        kind, values = (("accessory", ACCESSORIES), ("color", sorted(COLORS)), ("pattern", patterns))[number % 3]
        if kind == "accessory":
            facts["class_name"] = sorted(LIVE)[number % len(LIVE)]
        said.append(facts | {kind: draw.choice(values)})
    return said


@torch.no_grad()
def drawn(pipeline: Any, prompts: Sequence[str], batch: int = 128, seed: int = 0, **options: Any) -> Tensor:
    """Pictures (P, 3, H, W) in [-1, 1] of prompts, one seed a picture, on the pipeline's device."""
    parts = []
    for first in range(0, len(prompts), batch):
        some = list(prompts[first : first + batch])
        own = {name: value[first : first + batch] if isinstance(value, list) else value for name, value in options.items()}
        generators = [torch.Generator().manual_seed(seed + first + place) for place in range(len(some))]
        images = pipeline(
            some, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="pt", **own
        ).images
        parts.append(images.float() * 2 - 1)
    return torch.cat(parts)


def share_right(answers: Sequence[str], said: Sequence[dict[str, str]], name: str) -> float:
    """Share of the answers that are what the prompt said, among prompts that say it."""
    asked = [answer == facts[name] for answer, facts in zip(answers, said, strict=True) if name in facts]
    return round(sum(asked) / max(1, len(asked)), 3)


def best_iou(word_map: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of maps and masks, at each map's best threshold.

    Args:
        word_map: (B, h, w), any scale.
        mask: (B, h, w) of bool.

    Returns:
        (B,) in [0, 1].
    """
    scaled = word_map.flatten(1) / word_map.flatten(1).amax(1, keepdim=True).clamp_min(1e-12)
    inside = mask.flatten(1).to(scaled.device)
    best = torch.zeros(len(mask), device=scaled.device)
    for threshold in torch.linspace(0.05, 0.95, 19).tolist():
        found = scaled > threshold
        overlap = (found & inside).sum(1) / (found | inside).sum(1).clamp(min=1)
        best = torch.maximum(best, overlap.float())
    return best


@torch.no_grad()
def word_map_iou(pipeline: Any, subjects: Sequence[Subject], inputs: Sequence[Picture], timestep: int = 500) -> Tensor:
    """How well the primary word's map lies on the subject, (B,): `best_iou` with the mask of a noisy known picture.

    Args:
        pipeline: with the adapter.
        subjects: one rendered in a scene for each.
        inputs: what their words are encoded from.
        timestep: how noisy the pictures are.
    """
    device, unet = pipeline.unet.device, pipeline.unet
    scenes = [SCENES[(3 * row) % len(SCENES)] for row in range(len(subjects))]
    shown = [render(s, scene=scene, seed=row) for row, (s, scene) in enumerate(zip(subjects, scenes, strict=True))]
    concepts = pipeline.encode_concepts([p.image for p in inputs], [p.mask for p in inputs])
    words = torch.stack([concept.words for concept in concepts])[:, :1].to(device)
    tokenized = tokenize(pipeline.tokenizer, [f"a S* {scene}" for scene in scenes])
    tokenized = TokenizedPrompts(*(part.to(device) for part in tokenized))
    text = encode_prompts(pipeline.text_encoder, tokenized, words)
    pixels = torch.stack([to_tensor(picture.image) for picture in shown]).to(device)
    latents = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
    noisy = training_noise().add_noise(latents, noise, torch.full((len(latents),), timestep, device=device))
    with record_attention(unet) as record, condition(unet, Conditioning(None, tokenized.word_index)):
        unet(noisy, timestep, encoder_hidden_states=text)
    masks = torch.stack([torch.from_numpy(np.array(picture.mask)) for picture in shown])
    size = latents.shape[-1]
    cells = F.adaptive_avg_pool2d(masks[:, None].float() / 255, size)[:, 0] > 0.5
    return best_iou(record.word_map(tokenized.word_index, size), cells).cpu()


class UNetLook:
    """Draws some prompts with a noise predictor and asks the judge."""

    def __init__(self, make_pipeline: Any, judge: Judge) -> None:
        self.make_pipeline, self.judge = make_pipeline, judge
        self.said = prompts_to_look_at()

    def __call__(self, unet: nn.Module) -> dict[str, float]:
        """Share right of class, scene, accessory, colour and pattern."""
        pipeline = self.make_pipeline(unet)
        images = drawn(pipeline, [write_caption("{}", facts) for facts in self.said])
        verdict = self.judge(images)
        names = ("class_name", "scene", "accessory", "color", "pattern")
        return {f"right_{name}": share_right(getattr(verdict, name), self.said, name) for name in names}


class ConceptLook:
    """Draws the selection subjects and measures identity and scenes."""

    def __init__(self, encoder: IdentityEncoder, judge: Judge, subjects: int = 40) -> None:
        self.encoder, self.judge = encoder, judge
        self.subjects = SELECTION_SUBJECTS[:subjects]
        device = next(encoder.parameters()).device
        self.scale = identity_scale(lambda x: encoder(x.to(device)).float().cpu(), self.subjects, seed=1)
        self.inputs = [given_picture(subject, f"look:{row}") for row, subject in enumerate(self.subjects)]

    @torch.no_grad()
    def __call__(self, pipeline: Any, local: bool = True) -> dict[str, float]:
        """Identity of photos at λ 0.8 and of edits at 0.6, and scenes kept; of w0 and of all words without local."""
        concepts = pipeline.encode_concepts([p.image for p in self.inputs], [p.mask for p in self.inputs])
        rows = list(range(len(self.subjects)))
        scenes = [SCENES[(3 * row) % len(SCENES)] for row in rows]
        edits = [f"a S* {scene}" for scene in scenes]
        kinds = {"words": (edits, {"fusion_weight": 0.0}), "all_words": (edits, {"fusion_weight": 0.0, "words": "all"})}
        if local:
            kinds = {"edit": (edits, {"fusion_weight": EDIT_WEIGHT}), **kinds}
            kinds = {"photo": ([PHOTO_PROMPT] * len(rows), {"fusion_weight": PHOTO_WEIGHT}), **kinds}
        numbers: dict[str, float] = {}
        for kind, (prompts, options) in kinds.items():
            images = drawn(pipeline, prompts, concept=list(concepts), seed=1000, **options)
            numbers[f"{kind}_identity"] = round(self.scale(self.encoder(images).float().cpu(), rows), 3)
            if kind != "photo":
                right = [a == b for a, b in zip(self.judge(images).scene, scenes, strict=True)]
                numbers[f"{kind}_scenes"] = round(sum(right) / len(right), 3)
        say("concepts:", numbers)
        return numbers

    @torch.no_grad()
    def reweighting(self, pipeline: Any) -> dict[str, float]:
        """Scenes kept at λ 1, with Eq. 8 and without it."""
        concepts = pipeline.encode_concepts([p.image for p in self.inputs], [p.mask for p in self.inputs])
        scenes = [SCENES[(3 * row) % len(SCENES)] for row in range(len(self.subjects))]
        numbers = {}
        for name, reweighting in (("lambda1_scenes", True), ("lambda1_scenes_without_reweighting", False)):
            prompts = [f"a S* {scene}" for scene in scenes]
            images = drawn(pipeline, prompts, concept=concepts, seed=1000, fusion_weight=1.0, reweighting=reweighting)
            right = [a == b for a, b in zip(self.judge(images).scene, scenes, strict=True)]
            numbers[name] = round(sum(right) / len(right), 3)
        return numbers

    def word_map_iou(self, pipeline: Any) -> float:
        """`word_map_iou` of the subjects, each in a scene of its own."""
        return round(float(word_map_iou(pipeline, self.subjects, self.inputs).mean()), 3)
