"""Looks at what is trained while it is trained: a few numbers for the curves, on subjects that serve for nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elite.toybox.identity import IdentityEncoder
from elite.toybox.judge import Judge
from elite.toybox.world import ACCESSORIES, CLASSES, COLORS, LIVE, PATTERNS, SCENES, SELECTION_SUBJECTS, write_caption
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
