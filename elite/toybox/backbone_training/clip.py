"""Trains the CLIP pair by contrast between pictures and captions.

Captions are few and short, so many captions of a batch are true of many pictures: a target is the even distribution
over everything that is true, not the diagonal. Two linear heads help the vision encoder and are thrown away after
training: one repaints each patch from the encoder's middle, which keeps detail alive that no caption names; one names
class, scene, accessory, property and colour from the embedding, which says more of a picture than one caption does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from elite.toybox.backbone_training import options, shapes
from elite.toybox.backbone_training.captions import described
from elite.toybox.backbone_training.fit import Fit, FitSettings
from elite.toybox.backbone_training.matrices import hidden_matrices
from elite.toybox.backbone_training.pictures import PictureSet, to_float
from elite.toybox.world import FACTS

RECONSTRUCTION_LAYER = 4
RECONSTRUCTION_WEIGHT = 0.3
NAMING_WEIGHT = 0.5
NAMES = 32  # the most values that a fact takes, "none" included


def clip_pixels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] with CLIP's own mean and deviation instead."""
    mean = torch.tensor(shapes.CLIP_MEAN).view(1, 3, 1, 1)
    deviation = torch.tensor(shapes.CLIP_STD).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / deviation


def encode_captions(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids (B, 32) of captions, padded with the end token."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=shapes.TEXT_POSITIONS)
    return torch.tensor(batch.input_ids)


class ClipPair(nn.Module):
    """Both encoders, the text projection, the temperature and the two heads that only training needs."""

    def __init__(self, text: CLIPTextModel, vision: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.text_projection = nn.Linear(shapes.TEXT_WIDTH, shapes.PROJECTION_WIDTH, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.659))  # log(1 / 0.07), CLIP's start
        self.repaint = nn.Linear(shapes.VISION_WIDTH, 3 * 8 * 8)
        self.name = nn.Linear(shapes.PROJECTION_WIDTH, len(FACTS) * NAMES)

    def embed_text(self, token_ids: Tensor) -> Tensor:
        """Unit embeddings (B, 128) of token ids (B, 32)."""
        return F.normalize(self.text_projection(self.text(token_ids).pooler_output), dim=-1)

    def embed_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, 128) of CLIP-normalised pixels, and the middle layer's patches (B, 64, 160)."""
        output = self.vision(pixels, output_hidden_states=True)
        return F.normalize(output.image_embeds, dim=-1), output.hidden_states[RECONSTRUCTION_LAYER][:, 1:]

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
    """(B, 3, 64, 64) as 8 x 8 patches, (B, 64, 192), in the order of the vision encoder's tokens."""
    return F.unfold(pixels, 8, stride=8).transpose(1, 2)


def naming_loss(logits: Tensor, shown: Tensor) -> Tensor:
    """Mean cross entropy over the facts.

    Args:
        logits: (B, F * `NAMES`).
        shown: what each picture shows, (B, F) codes below `NAMES`.
    """
    return F.cross_entropy(logits.view(-1, NAMES), shown.reshape(-1))


def clip_losses(
    pair: ClipPair, pixels: Tensor, token_ids: Tensor, truth: Tensor, shown: Tensor | None = None
) -> dict[str, Tensor]:
    """Losses of a batch: contrast and repainting, and naming where ``shown`` (B, F) is given."""
    images, middle = pair.embed_images(pixels)
    texts = pair.embed_text(token_ids)
    similarity = pair.logit_scale.clamp(max=4.6052).exp() * images @ texts.T  # at most 100 times, as CLIP
    contrast = contrastive_loss(similarity, truth)
    repainting = F.mse_loss(pair.repaint(middle), patches(pixels))
    right = truth.gather(1, similarity.argmax(1, keepdim=True)).float().mean()
    losses = {"contrast": contrast, "repainting": repainting, "right": right}
    loss = contrast + RECONSTRUCTION_WEIGHT * repainting
    if shown is not None:
        # Scaled up from unit length, or the softmax over the names could not become sharp.
        losses["naming"] = naming_loss(pair.name(images * shapes.PROJECTION_WIDTH**0.5), shown)
        loss = loss + NAMING_WEIGHT * losses["naming"]
    return {"loss": loss, **losses}


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
    """The captions of a picture set as tokens and as codes of what they say.

    Attributes:
        token_ids: of each different caption, (T, 32).
        said: codes of what each different caption says, (T, 5), -1 where it says nothing.
        shown: codes of what each picture shows, (N, 5).
        choices: for each picture, the numbers of its captions.
    """

    def __init__(self, pictures: PictureSet, tokenizer: CLIPTokenizer) -> None:
        captions = [described(facts) for facts in pictures.facts]
        different = sorted({caption for choice in captions for caption in choice}, key=str)
        number = {caption: index for index, caption in enumerate(different)}
        codes = [{None: 0} for _ in FACTS]  # a picture without an accessory shows None; a caption cannot say so
        shown = [
            [code.setdefault(facts[name], len(code)) for name, code in zip(FACTS, codes, strict=True)]
            for facts in pictures.facts
        ]
        said = [
            [-1 if value is None else code[value] for value, code in zip(caption.said, codes, strict=True)]
            for caption in different
        ]
        self.token_ids = encode_captions(tokenizer, [caption.text for caption in different])
        self.said, self.shown = torch.tensor(said), torch.tensor(shown)
        self.choices = [[number[caption] for caption in choice] for choice in captions]

    def draw(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """One caption's number for each of the pictures ``chosen``, (B,)."""
        luck = torch.rand(len(chosen), generator=generator).tolist()
        rows = [self.choices[index] for index in chosen.tolist()]
        return torch.tensor([row[int(part * len(row))] for row, part in zip(rows, luck, strict=True)])


def zoom(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of 75 to 100 % of the sides, the same for the batch, back at full size; left and right are kept."""
    size = images.shape[-1]
    side = int(torch.randint(size * 3 // 4, size + 1, (1,), generator=generator))
    top, left = torch.randint(0, size - side + 1, (2,), generator=generator).tolist()
    part = images[..., top : top + side, left : left + side]
    return F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)


def train_clip(
    data: Path,
    out: Path,
    fit_settings: FitSettings,
    tokenizer: CLIPTokenizer,
    batch: int = 64,
    init_from: Path | None = None,
) -> None:
    """Train on ``data``/train and write the averaged encoders and their head below ``out``."""
    from safetensors.torch import save_file

    train, validation = PictureSet(data / "train"), PictureSet(data / "validation")
    if init_from is not None:
        pair = load_pair(init_from)
    else:
        pair = ClipPair(shapes.build_text_encoder(), shapes.build_image_encoder())
    for encoder in (pair.text, pair.vision):
        encoder.set_attn_implementation("eager")  # short sequences: the fused kernel's backward pass is slower on CPUs
    table, unseen = CaptionTable(train, tokenizer), CaptionTable(validation, tokenizer)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(train), (batch,), generator=generator)
        captions = table.draw(chosen, generator)
        truth = true_of(table.said[captions], table.shown[chosen])
        images = zoom(to_float(train.images[chosen.numpy()]), generator)
        return clip_losses(pair, clip_pixels(images), table.token_ids[captions], truth, table.shown[chosen])

    def save() -> None:
        pair.text.save_pretrained(out / "text_encoder")
        pair.vision.save_pretrained(out / "image_encoder")
        save_file(pair.head(), out / "clip_head.safetensors")

    def evaluate() -> dict[str, float]:
        chosen = torch.arange(min(256, len(validation)))
        captions = unseen.draw(chosen, torch.Generator().manual_seed(1))
        truth = true_of(unseen.said[captions], unseen.shown[chosen])
        pixels = clip_pixels(to_float(validation.images[chosen.numpy()]))
        losses = clip_losses(pair, pixels, unseen.token_ids[captions], truth)
        save()
        return {f"validation_{name}": float(value) for name, value in losses.items()}

    fit = Fit(pair, out, fit_settings, evaluate, hidden_matrices(pair.text) + hidden_matrices(pair.vision.vision_model))
    fit.run(step)
    with fit.averaged():
        save()


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: options.Data,
    out: options.Out,
    tokenizer: Annotated[Path, typer.Option(help="Folder of the tokenizer.")],
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    batch: options.Batch = 64,
    rate: options.Rate = 1.5e-3,
    init_from: options.InitFrom = None,
    stop_file: options.StopFile = None,
    bfloat16: options.BFloat16 = None,
) -> None:
    """Train the CLIP pair."""
    options.start(threads, seed)
    chosen = options.settings(steps, minutes, rate, seed, stop_file, bfloat16, weight_decay=0.05)
    train_clip(data, out, chosen, CLIPTokenizer.from_pretrained(tokenizer), batch, init_from)


if __name__ == "__main__":
    app()
