"""Encodes the training pictures and their captions once, so that the noise predictor's steps need neither encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.captions import captions_of
from elite.toybox.backbone_training.clip import encode_captions
from elite.toybox.backbone_training.fit import save_atomically
from elite.toybox.backbone_training.pictures import PictureSet, to_float
from elite.toybox.backbone_training.shapes import LATENT_SIZE


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the latents of uint8 pictures, each (N, 8, 16, 16) in half precision."""
    means, deviations = [], []
    for first in range(0, len(images), batch):
        posterior = vae.encode(to_float(images[first : first + batch])).latent_dist
        means.append(posterior.mean.half())
        deviations.append(posterior.std.half())
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def encode_texts(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str], batch: int = 256) -> Tensor:
    """Features (N, 32, 128) of texts in half precision: what Stable Diffusion hands to cross attention."""
    features = []
    for first in range(0, len(texts), batch):
        token_ids = encode_captions(tokenizer, texts[first : first + batch])
        features.append(text_encoder(token_ids).last_hidden_state.half())
    return torch.cat(features)


def noun_positions(tokenizer: CLIPTokenizer, texts: list[str], nouns: set[str]) -> Tensor:
    """Where the class is named in each text, (N,) long; -1 where none of ``nouns`` is a token of it."""
    wanted = torch.tensor([tokenizer.convert_tokens_to_ids(f"{noun}</w>") for noun in sorted(nouns)])
    found = torch.isin(encode_captions(tokenizer, texts), wanted)  # (N, 32)
    return found.int().argmax(1).masked_fill(~found.any(1), -1)


def small_masks(masks: np.ndarray) -> Tensor:
    """Share of each latent cell that the subject covers, times 255: (N, 16, 16) uint8 of masks (N, 64, 64)."""
    pixels = torch.from_numpy(np.ascontiguousarray(masks))
    return pixels.unflatten(1, (LATENT_SIZE, -1)).unflatten(3, (LATENT_SIZE, -1)).float().mean((2, 4)).byte()


def cache_latents(data: Path, weights: Path, out: Path) -> float:
    """Encode both splits of ``data`` with the encoders of ``weights`` into ``out``/train.pt and ``out``/validation.pt.

    Returns:
        The factor that gives the training latents unit variance, which is also set in ``weights``/vae.
    """
    vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).eval()
    text_encoder = CLIPTextModel.from_pretrained(weights / "text_encoder", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")
    factor = 0.0
    for split in ("train", "validation"):
        pictures = PictureSet(data / split)
        means, deviations = encode_pictures(vae, pictures.images)
        choices = [captions_of(facts) for facts in pictures.facts]
        texts = ["", *sorted({text for choice in choices for text in choice})]  # the empty prompt is number 0
        number = {text: index for index, text in enumerate(texts)}
        width = max(len(choice) for choice in choices)
        # Every picture gets the same number of columns: its captions, repeated from the first.
        columns = [[number[choice[i % len(choice)]] for i in range(width)] for choice in choices]
        if split == "train":
            factor = float(1 / means.float().std())
        state = {
            "means": means,
            "deviations": deviations,
            "masks": small_masks(pictures.masks),
            "texts": encode_texts(text_encoder, tokenizer, texts),
            "nouns": noun_positions(tokenizer, texts, {facts["class_name"] for facts in pictures.facts}),
            "captions": torch.tensor(columns),
            "factor": factor,
        }
        save_atomically(state, out / f"{split}.pt")
    return factor


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: options.Data,
    weights: Annotated[Path, typer.Option(help="Weights folder with the encoders.")],
    out: options.Out,
    threads: options.Threads = 1,
) -> None:
    """Cache latents and text features, and print the scaling factor of the latents."""
    options.start(threads, 0)
    typer.echo(f"scaling factor {cache_latents(data, weights, out):.5f}")


if __name__ == "__main__":
    app()
