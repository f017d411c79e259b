"""The models that metrics look with: the public ones, and the miniature's own.

Public numbers are made with OpenAI's CLIP ViT-B/32 and with DINO ViT-S/16. On the miniature's pictures both see little
but blur, so there the miniature's CLIP pair, its identity encoder in DINO's place, and its judge look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elite.backbones import REVISIONS, best_device
from elite.evaluation.metrics import ImageEncoder, TextEncoder
from elite.features import CLIP_MEAN, CLIP_STD, preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP, DINO = "openai/clip-vit-base-patch32", "facebook/dino-vits16"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 64  # pictures or texts encoded at once
NAMES = ("public", "toybox")

Judge = Callable[[Sequence["Image"]], Mapping[str, list[str]]]  # pictures -> what each shows, by question


@dataclass(frozen=True)
class Encoders:
    """What pictures and texts are scored with.

    Attributes:
        name: "public" or "toybox".
        clip_image, clip_text: into one space; (P, D), any length.
        dino: of the subject's looks, (P, D').
        models: what they are: repositories with their revisions, or files with their digests; kept with every result.
        judge: names what a picture shows, where there is such a model.
    """

    name: str
    clip_image: ImageEncoder
    clip_text: TextEncoder
    dino: ImageEncoder
    models: Mapping[str, str | None] = field(default_factory=dict)
    judge: Judge | None = None


def load_encoders(name: str, device: torch.device | str | None = None) -> Encoders:
    """The encoders of a name.

    Args:
        name: "public" (from the Hub, 430 MB) or "toybox" (bundled).
        device: where to compute; `best_device` when left out.

    Raises:
        ValueError: for another name.
        OSError: when the Hub cannot be reached and the models are not in its cache.
    """
    device = torch.device(best_device() if device is None else device)
    if name == "public":
        return public_encoders(device)
    if name == "toybox":
        return toybox_encoders(device=device)
    raise ValueError(f"encoders must be one of {', '.join(NAMES)}, got {name!r}.")


def cropped_pixels(
    images: Sequence[Image], resize: int, crop: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Pictures with their shorter side resized (bicubic, as PIL smooths it), the middle cut out, and normalised.

    Args:
        images: RGB pictures.
        resize: shorter side in pixels.
        crop: side of the square that is cut out.
        mean, std: of each channel, for values in [0, 1].

    Returns:
        (P, 3, crop, crop), float32.
    """
    from PIL.Image import Resampling

    arrays = []
    for image in images:
        scale = resize / min(image.size)
        width, height = (max(resize, int(side * scale)) for side in image.size)  # cut off, as torchvision does
        left, top = (width - crop) // 2, (height - crop) // 2
        cut = image.resize((width, height), Resampling.BICUBIC).crop((left, top, left + crop, top + crop))
        arrays.append(np.asarray(cut, dtype=np.float32) / 255.0)
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return ((pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)).contiguous()


def public_encoders(device: torch.device | str = "cpu", clip: str | Path = CLIP, dino: str | Path = DINO) -> Encoders:
    """OpenAI's ViT-B/32, and DINO's ViT-S/16: class token of a picture resized to 256 and cut to 224.

    The processor of DINO in transformers resizes to 224 and cuts nothing off, which gives other numbers; here it is
    done as DINO's own evaluation does. The weights are said to differ from torch.hub's; that was not measured here.

    Args:
        device: where to compute.
        clip, dino: repositories or folders.
    """
    from transformers import AutoTokenizer, CLIPModel, ViTModel

    pair = CLIPModel.from_pretrained(clip, revision=REVISIONS.get(str(clip))).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(clip, revision=REVISIONS.get(str(clip)))
    network = ViTModel.from_pretrained(dino, revision=REVISIONS.get(str(dino)), add_pooling_layer=False)
    network = network.to(device).eval()
    sides = pair.config.vision_config.image_size, network.config.image_size

    def clip_image(images: Sequence[Image]) -> Tensor:
        out = pair.vision_model(cropped_pixels(images, sides[0], sides[0], CLIP_MEAN, CLIP_STD).to(device))
        return pair.visual_projection(out.pooler_output)

    def clip_text(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
        return pair.text_projection(pair.text_model(**tokens).pooler_output)

    def dino_image(images: Sequence[Image]) -> Tensor:
        resize = round(sides[1] * 256 / 224)
        pixels = cropped_pixels(images, resize, sides[1], IMAGENET_MEAN, IMAGENET_STD).to(device)
        return network(pixels).last_hidden_state[:, 0]

    models = {str(source): REVISIONS.get(str(source)) for source in (clip, dino)}
    return Encoders("public", _batched(clip_image), _batched(clip_text), _batched(dino_image), models)


def toybox_encoders(folder: Path | None = None, device: torch.device | str = "cpu") -> Encoders:
    """The miniature's CLIP pair, its identity encoder in DINO's place, and its judge.

    Args:
        folder: a weights folder; the bundled one when left out.
        device: where to compute.

    Raises:
        FileNotFoundError: when it is no weights folder.
    """
    from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModelWithProjection

    from elite.io.tensors import read_safetensors
    from elite.toybox import load_identity_encoder, load_judge, verify

    root = verify() if folder is None else Path(folder)
    head = read_safetensors(root / "clip_head.safetensors")[0]
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    text = CLIPTextModel.from_pretrained(root / "text_encoder", dtype=torch.float32).to(device).eval()
    vision = CLIPVisionModelWithProjection.from_pretrained(root / "image_encoder", dtype=torch.float32)
    vision = vision.to(device).eval()
    projection = head["text_projection.weight"].float().to(device)  # the vision encoder brings its own
    identity, judge = load_identity_encoder(folder).to(device), load_judge(folder).to(device)

    def clip_image(images: Sequence[Image]) -> Tensor:
        return vision(preprocess(images, vision.config.image_size).to(device)).image_embeds

    def clip_text(texts: Sequence[str]) -> Tensor:
        length = text.config.max_position_embeddings
        ids = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return text(ids.input_ids.to(device)).pooler_output @ projection.T

    def looks(images: Sequence[Image]) -> Tensor:
        return identity(_signed(images, identity.network.config.image_size).to(device))

    side = vision.config.image_size  # the judge has no size of its own; it sees what the image encoder sees

    @torch.no_grad()
    def facts(images: Sequence[Image]) -> dict[str, list[str]]:
        seen: dict[str, list[str]] = {}
        for first in range(0, len(images), BATCH):
            verdict = judge(_signed(images[first : first + BATCH], side).to(device))
            for question, answers in vars(verdict).items():
                seen.setdefault(question, []).extend(answers)
        return seen

    models = {f"toybox/{name}": digest for name, digest in _digests(root).items()}
    return Encoders("toybox", _batched(clip_image), _batched(clip_text), _batched(looks), models, facts)


def _batched(encode: Callable[[Sequence], Tensor]) -> Callable[[Sequence], Tensor]:
    """The same encoder for any number of inputs, some at a time, without gradients; results on the CPU in float32."""

    @torch.no_grad()
    def encode_all(inputs: Sequence) -> Tensor:
        if not len(inputs):
            raise ValueError("there must be at least one picture or text to encode, got none.")
        parts = [encode(inputs[first : first + BATCH]) for first in range(0, len(inputs), BATCH)]
        return torch.cat([F.normalize(part.float(), dim=-1).cpu() for part in parts])

    return encode_all


def _signed(images: Sequence[Image], side: int) -> Tensor:
    """(P, 3, side, side) in [-1, 1]."""
    from PIL.Image import Resampling

    same = [image if image.size == (side, side) else image.resize((side, side), Resampling.BICUBIC) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in same]))
    return (pixels.permute(0, 3, 1, 2) / 127.5 - 1).contiguous()


def _digests(root: Path) -> dict[str, str]:
    """First sixteen digits of the SHA-256 of the files that look, from the folder's own list of sums."""
    looking = ("clip_head", "image_encoder/", "text_encoder/", "tokenizer/", "identity_encoder/", "judge/")
    sums = root / "SHA256SUMS"
    if not sums.is_file():
        return {}
    pairs = (line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines() if "  " in line)
    return {name: digest[:16] for digest, name in pairs if name.startswith(looking) and name.endswith(".safetensors")}
