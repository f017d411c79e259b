"""The CLIP pair and what it learns from: contrast between pictures and captions, and heads that keep detail alive.

Captions are few and short, so many captions of a batch are true of many pictures: a target is the even distribution
over everything that is true, not the diagonal. CLIP proper sees so many pictures that its features keep what no caption
says; a small pair on one small world forgets it. Four heads, thrown away after training, hold it: two repaint each
patch, from the middle and from the last layer; one names all facts from the embedding; one tells what makes a subject
itself (colours, pattern, proportions) from the last layer, also of pictures whose background is masked, as the local
mapper's are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from elite.features import CLIP_MEAN, CLIP_STD
from elite.toybox.world import FACTS
from elite.toybox import shapes
from tools.toybox.captions import described

MIDDLE_LAYER = 4
REPAINTING_WEIGHT = 0.3
NAMING_WEIGHT = 0.5
PORTRAIT_WEIGHT = 1.0
NAMES = 32  # the most values that a fact takes, "none" included
PATTERN = slice(6, 10)  # of a portrait, as `rendering.portrait` lays it out
PORTRAIT = 19


def clip_pixels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] with CLIP's own mean and deviation instead."""
    mean, deviation = _clip_constants(images.device)
    return ((images + 1) / 2 - mean) / deviation


@functools.cache
def _clip_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Made once a device: making them waits for it."""
    mean, deviation = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
    return mean, deviation


def encode_captions(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids (B, 32) of captions, padded with the end token."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=shapes.TEXT_POSITIONS)
    return torch.tensor(batch.input_ids)


class ClipPair(nn.Module):
    """Both encoders, the text projection, the temperature and the heads that only training needs."""

    def __init__(self, text: CLIPTextModel, vision: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.text_projection = nn.Linear(shapes.TEXT_WIDTH, shapes.PROJECTION_WIDTH, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.659))  # log(1 / 0.07), CLIP's start
        pixels = 3 * shapes.PATCH_SIZE**2
        self.repaint, self.repaint_last = nn.Linear(shapes.VISION_WIDTH, pixels), nn.Linear(shapes.VISION_WIDTH, pixels)
        self.name = nn.Linear(shapes.PROJECTION_WIDTH, len(FACTS) * NAMES)
        self.portrait = nn.Linear(2 * shapes.VISION_WIDTH, PORTRAIT)

    def embed_text(self, token_ids: Tensor) -> Tensor:
        """Unit embeddings (B, 128) of token ids (B, 32)."""
        return F.normalize(self.text_projection(self.text(token_ids).pooler_output).float(), dim=-1)

    def embed_images(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings (B, 128) of CLIP-normalised pixels, and the middle and last hidden states (B, 257, 160)."""
        output = self.vision(pixels, output_hidden_states=True)
        states = output.hidden_states
        return F.normalize(output.image_embeds.float(), dim=-1), states[MIDDLE_LAYER], states[-1]

    def head(self) -> dict[str, Tensor]:
        """What scoring needs besides the two encoders."""
        return {
            "text_projection.weight": self.text_projection.weight.detach(),
            "visual_projection.weight": self.vision.visual_projection.weight.detach(),
            "logit_scale": self.logit_scale.detach(),
        }


def true_of(said: Tensor, shown: Tensor) -> Tensor:
    """Which captions are true of which pictures.

    Args:
        said: what each caption says of each fact, (C, F) codes, -1 where it says nothing.
        shown: what each picture shows, (P, F) codes.

    Returns:
        (P, C) of bool.
    """
    agrees = (said[None] == -1) | (said[None] == shown[:, None])  # (P, C, F)
    return agrees.all(-1)


def contrastive_loss(similarity: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy in both directions to the even distribution over what is true.

    Args:
        similarity: scaled likeness, (P pictures, C captions).
        truth: (P, C) of bool, at least one true in each row and column.
    """
    by_picture = truth / truth.sum(1, keepdim=True)
    by_caption = truth / truth.sum(0, keepdim=True)
    pictures = -(by_picture * similarity.log_softmax(1)).sum(1).mean()
    captions = -(by_caption * similarity.log_softmax(0)).sum(0).mean()
    return (pictures + captions) / 2


def patches(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) as 8 x 8 patches, (B, patches, 192), in the order of the vision encoder's tokens."""
    return F.unfold(pixels, shapes.PATCH_SIZE, stride=shapes.PATCH_SIZE).transpose(1, 2)


def portrait_loss(told: Tensor, truth: Tensor) -> Tensor:
    """Squared errors of colours, scale and proportions, and the cross entropy of the pattern.

    Args:
        told: (B, 19), the pattern's four as logits.
        truth: (B, 19) as `rendering.portrait` gives it.
    """
    pattern = -(truth[:, PATTERN] * told[:, PATTERN].log_softmax(-1)).sum(-1).mean()
    error = (told - truth).square()
    colors, others = error[:, : PATTERN.start].mean(), error[:, PATTERN.stop :].mean()
    return 10 * colors + 0.3 * pattern + others


def clip_losses(
    pair: ClipPair,
    pixels: Tensor,
    token_ids: Tensor,
    truth: Tensor,
    shown: Tensor,
    portraits: Tensor,
    masked: Tensor,
) -> dict[str, Tensor]:
    """The losses of a batch.

    Args:
        pair: the pair.
        pixels: CLIP-normalised, (P, 3, H, W).
        token_ids: (C, 32).
        truth: (P, C) of bool.
        shown: (P, F) codes below `NAMES`.
        portraits: (P, 19).
        masked: the first M of ``pixels`` with black for their background, (M, 3, H, W).
    """
    both = torch.cat([pixels, masked])
    images, middle, last = pair.embed_images(both)
    images, count = images[: len(pixels)], len(masked)
    similarity = pair.logit_scale.clamp(max=4.6052).exp() * images @ pair.embed_text(token_ids).T  # 100 times at most
    contrast = contrastive_loss(similarity.float(), truth)
    target = patches(both)
    repainting = F.mse_loss(pair.repaint(middle[:, 1:]).float(), target)
    repainting = repainting + F.mse_loss(pair.repaint_last(last[:, 1:]).float(), target)
    # Scaled up from unit length, or the softmax over the names could not become sharp.
    named = pair.name(images * shapes.PROJECTION_WIDTH**0.5).float()
    naming = F.cross_entropy(named.view(-1, NAMES), shown.reshape(-1))
    told = pair.portrait(torch.cat([last[:, 0], last[:, 1:].mean(1)], dim=-1)).float()
    portrait = portrait_loss(told, torch.cat([portraits, portraits[:count]]))
    right = truth.gather(1, similarity.argmax(1, keepdim=True)).float().mean()
    loss = contrast + REPAINTING_WEIGHT * repainting + NAMING_WEIGHT * naming + PORTRAIT_WEIGHT * portrait
    parts = {"contrast": contrast, "repainting": repainting, "naming": naming, "portrait": portrait, "right": right}
    return {"loss": loss, **parts}


def load_pair(folder: Path) -> ClipPair:
    """The CLIP pair of a weights folder, in float32; the heads of training are fresh."""
    from safetensors.torch import load_file

    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", dtype=torch.float32)
    pair = ClipPair(text, vision)
    head = load_file(folder / "clip_head.safetensors")
    with torch.no_grad():
        pair.text_projection.weight.copy_(head["text_projection.weight"])
        pair.logit_scale.copy_(head["logit_scale"])
    return pair


class CaptionTable:
    """The captions of some pictures as tokens and as codes of what they say.

    Attributes:
        token_ids: of each different caption, (T, 32).
        said: codes of what each different caption says, (T, F), -1 where it says nothing.
        shown: codes of what each picture shows, (N, F).
        choices: numbers of each picture's captions, (N, K).
        texts: the different captions.
    """

    def __init__(self, facts: Sequence[dict], tokenizer: CLIPTokenizer) -> None:
        captions = [described(each) for each in facts]
        different = sorted({caption for choice in captions for caption in choice}, key=str)
        number = {caption: index for index, caption in enumerate(different)}
        codes = [{None: 0} for _ in FACTS]  # a picture without an accessory shows None; a caption cannot say so
        shown = [
            [code.setdefault(each[name], len(code)) for name, code in zip(FACTS, codes, strict=True)] for each in facts
        ]
        said = [
            [-1 if value is None else code[value] for value, code in zip(caption.said, codes, strict=True)]
            for caption in different
        ]
        self.texts = [caption.text for caption in different]
        self.token_ids = encode_captions(tokenizer, self.texts)
        self.said, self.shown = torch.tensor(said), torch.tensor(shown)
        self.choices = torch.tensor([[number[caption] for caption in choice] for choice in captions])
