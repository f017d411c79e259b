"""Trains the backbone's parts, each as a function of the pictures and a `Fit`: what a step draws, and its losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from elite.losses import min_snr_weights
from elite.toybox.identity import IdentityEncoder
from elite.toybox.judge import NOTHING, QUESTIONS, Judge
from elite.toybox import shapes
from tools.toybox.clip_pair import CaptionTable, ClipPair, clip_losses, clip_pixels, encode_captions, true_of
from tools.toybox.fit import Fit, say
from tools.toybox.looking import looking_loss, watch
from tools.toybox.muon import hidden_matrices
from tools.toybox.pictures import Pictures
from tools.toybox.windows import flipped, moved, soften, to_float

Fitter = Callable[..., Fit]  # (parameters, matrices=...) -> Fit: `train.py` knows folder, lengths and deadline
SUBJECT_WEIGHT = 9.0  # of the squared error of the autoencoder inside a subject's mask
MASKED_SHARE = 4  # one in so many pictures is shown to CLIP a second time, without its background


def train_vae(pictures: Pictures, fitter: Fitter) -> AutoencoderKL:
    """The autoencoder: squared, absolute and edge errors, more inside the mask, and hardly any KL divergence."""
    vae = shapes.build_vae()
    with torch.no_grad():
        vae.quant_conv.bias[shapes.LATENT_CHANNELS :] = -4.0  # begins with little noise on its latents
    vae = vae.to(pictures.device)
    fit = fitter(vae.parameters(), matrices=hidden_matrices(vae))

    def step() -> dict[str, Tensor]:
        rows = pictures.draw(fit.part.batch)
        x, mask = flipped(pictures.images_of(rows), pictures.masks_of(rows))
        posterior = vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        error = vae.decode(latents).sample.float() - x
        weights = 1 + (SUBJECT_WEIGHT - 1) * mask
        weights = weights / weights.mean()
        squared, absolute = (weights * error.square()).mean(), (weights * error.abs()).mean()
        # What differs between neighbours is what looks sharp.
        edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        loss = squared + 0.2 * absolute + 0.1 * edges + 2e-7 * kl
        return {"loss": loss, "mse": error.square().mean(), "kl": kl}

    fit.run(step, before=pictures.refresh)
    return vae.eval()


def train_clip(pictures: Pictures, table: CaptionTable, fitter: Fitter) -> ClipPair:
    """The text and the image encoder."""
    device = pictures.device
    pair = ClipPair(shapes.build_text_encoder(), shapes.build_image_encoder()).to(device)
    fit = fitter(pair.parameters(), matrices=hidden_matrices(pair.text) + hidden_matrices(pair.vision.vision_model))
    choices, ids = table.choices.to(device), table.token_ids.to(device)
    said, shown = table.said.to(device), table.shown.to(device)
    size = fit.part.batch

    def step() -> dict[str, Tensor]:
        rows = pictures.draw(size)
        captions = choices[rows, torch.randint(choices.shape[1], (size,), device=device)]
        both = moved(torch.cat([pictures.images_of(rows), pictures.masks_of(rows)], dim=1), 0.75)
        images, mask = both[:, :3], (both[:, 3:] > 0.5).float()
        alone = max(1, size // MASKED_SHARE)
        masked = (images[:alone] + 1) * mask[:alone] - 1
        truth = true_of(said[captions], shown[rows])
        portraits = pictures.portraits[rows]
        return clip_losses(
            pair, clip_pixels(images), ids[captions], truth, shown[rows], portraits, clip_pixels(masked)
        )

    fit.run(step)
    return pair.eval()


FACT_OF = {"class": "class_name", "scene": "scene", "accessory": "accessory", "color": "color", "pattern": "pattern"}


def judge_targets(judge: Judge, facts: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Positions of the right answers, for each question (N,); -1 where the judge is not to be asked.

    It is not asked for a colour that has no name.
    """
    targets = {}
    for question in QUESTIONS:
        place = {answer: index for index, answer in enumerate(judge.answers(question))}
        targets[question] = torch.tensor([place.get(f[FACT_OF[question]] or NOTHING, -1) for f in facts])
    return targets


def judge_labels(facts: list[dict[str, Any]]) -> list[str]:
    """Every answer that occurs, as ``"question: answer"``, in a fixed order."""
    labels = []
    for question in QUESTIONS:
        answers = {f[FACT_OF[question]] or NOTHING for f in facts}
        answers -= {NOTHING} if question == "color" else set()
        labels += [f"{question}: {answer}" for answer in sorted(answers)]
    return labels


def train_judge(pictures: Pictures, facts: list[dict[str, Any]], fitter: Fitter) -> Judge:
    """The judge, on pictures made a little softer, as drawn ones are."""
    judge = Judge(shapes.build_judge(judge_labels(facts))).to(pictures.device)
    targets = {question: target.to(pictures.device) for question, target in judge_targets(judge, facts).items()}
    fit = fitter(judge.parameters(), buffers=judge.buffers())

    def step() -> dict[str, Tensor]:
        rows = pictures.draw(fit.part.batch)
        return judge.losses(soften(pictures.images_of(rows)), {q: target[rows] for q, target in targets.items()})

    judge.train()
    fit.run(step)
    return judge.eval()


def train_identity(pictures: Pictures, facts: list[dict[str, Any]], fitter: Fitter) -> IdentityEncoder:
    """The identity encoder, by contrast between two views of each subject, half of them of one class."""
    device = pictures.device
    encoder = IdentityEncoder(shapes.build_identity_encoder()).to(device)
    classes: dict[str, list[int]] = {}
    for row in range(0, len(facts) - 1, 2):
        classes.setdefault(facts[row]["class_name"], []).append(row)
    counts = torch.tensor([len(rows) for rows in classes.values()], device=device)
    width = max(len(rows) for rows in classes.values())
    alike = torch.tensor([rows + [0] * (width - len(rows)) for rows in classes.values()], device=device)
    every = torch.tensor([row for rows in classes.values() for row in rows], device=device)
    layers = getattr(encoder.network, "layers", None) or encoder.network.encoder
    fit = fitter(encoder.parameters(), matrices=hidden_matrices(layers))
    half = fit.part.batch // 2
    partner = torch.arange(4 * half, device=device).roll(2 * half)
    own = torch.arange(4 * half, device=device)

    def step() -> dict[str, Tensor]:
        one = torch.randint(len(counts), (1,), device=device).expand(half)
        same_class = alike[one, (torch.rand(half, device=device) * counts[one]).long()]
        rows = torch.cat([same_class, every[torch.randint(len(every), (half,), device=device)]])
        views = [flipped(soften(pictures.images_of(rows + view)))[0] for view in (0, 1)]
        features = encoder(torch.cat(views)).float()
        who = torch.cat([rows, rows])
        # Itself, and a subject that was drawn twice, are no rivals.
        left_out = (who[:, None] == who[None]) & (own[None] != partner[:, None])
        likeness = (features @ features.T / 0.1).masked_fill(left_out, float("-inf"))
        return {"loss": F.cross_entropy(likeness, partner)}

    fit.run(step)
    return encoder.eval()


def noun_positions(tokenizer: CLIPTokenizer, token_ids: Tensor, nouns: set[str]) -> Tensor:
    """Where the class is named in each text, (N,) long; -1 where none of ``nouns`` is a token of it."""
    wanted = torch.tensor([tokenizer.convert_tokens_to_ids(f"{noun}</w>") for noun in sorted(nouns)])
    found = torch.isin(token_ids, wanted)  # (N, 32)
    return found.int().argmax(1).masked_fill(~found.any(1), -1)


@torch.no_grad()
def text_features(text_encoder: CLIPTextModel, token_ids: Tensor, batch: int = 1024) -> Tensor:
    """What Stable Diffusion hands to cross attention, (N, 32, 128) in half precision, on the encoder's device."""
    device = text_encoder.device
    return torch.cat([text_encoder(part.to(device)).last_hidden_state.half() for part in token_ids.split(batch)])


class Texts:
    """The captions of the training pictures as the noise predictor reads them; number 0 is the empty text.

    Attributes:
        features: (T + 1, 32, 128), half precision, on the device.
        columns: numbers of each picture's captions, (N, K).
        nouns: position of the noun in each text, (T + 1,), -1 where there is none.
    """

    def __init__(
        self, table: CaptionTable, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, classes: set[str]
    ) -> None:
        device = text_encoder.device
        ids = torch.cat([encode_captions(tokenizer, [""]), table.token_ids])
        self.features = text_features(text_encoder, ids)
        self.columns = (table.choices + 1).to(device)
        self.nouns = noun_positions(tokenizer, ids, classes).to(device)


def noisy_batch(size: int, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Timesteps (B,), one of each stretch of the schedule, and ᾱ of each (B, 1, 1, 1)."""
    device = alphas.device
    luck = (torch.arange(size, device=device) + torch.rand(size, device=device)) / size
    times = (luck * len(alphas)).long().clamp(max=len(alphas) - 1)
    return times, alphas[times].view(-1, 1, 1, 1)


def train_unet(
    pictures: Pictures,
    texts: Texts,
    fitter: Fitter,
    looking: float,
    snr_gamma: float,
    look: Callable[[nn.Module], dict[str, float]] | None = None,
    looks: int = 0,
    start: dict[str, Tensor] | None = None,
) -> UNet2DConditionModel:
    """The noise predictor: Eq. 1 with min-SNR weights, and the loss that turns a noun's attention to its subject.

    Args:
        pictures: with latents.
        texts: their captions.
        fitter: makes the `Fit`.
        looking: weight of the second loss; 0 leaves it out.
        snr_gamma: γ of the weights.
        look: measures the noise predictor, ``looks`` - 1 times on the way and once at the end.
        looks: how often.
        start: weights to begin with, in place of random ones.
    """
    device, latents = pictures.device, pictures.latents
    unet = shapes.build_unet().to(device)
    if start is not None:
        unet.load_state_dict(start)
    if device.type == "cuda":
        unet = unet.to(memory_format=torch.channels_last)
    plain = dict(unet.attn_processors)
    watched = watch(unet)  # also without the loss: what is compared differs in the loss alone
    alphas = shapes.training_noise().alphas_cumprod.to(device)
    weights = min_snr_weights(alphas, torch.arange(len(alphas), device=device), snr_gamma)
    fit = fitter(unet.parameters())
    size = fit.part.batch

    def step() -> dict[str, Tensor]:
        rows = pictures.draw(size)
        clean = latents.draw(rows)
        chosen = texts.columns[rows, torch.randint(texts.columns.shape[1], (size,), device=device)]
        chosen = chosen.masked_fill(torch.rand(size, device=device) < 0.1, 0)  # the empty text, for guidance
        noise = torch.randn_like(clean)
        times, alpha = noisy_batch(size, alphas)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        if device.type == "cuda":
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        predicted = unet(noisy, times, encoder_hidden_states=texts.features[chosen].float(), return_dict=False)[0]
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        losses = {"loss": (error * weights[times]).mean(), "error": error.mean()}
        cells = pictures.cells[rows].float()
        looks = torch.stack([looking_loss(w.scores, texts.nouns[chosen], cells) for w in watched]).mean()
        if looking:
            losses["loss"] = losses["loss"] + looking * looks
        return losses | {"looking": looks}

    fit.run(step, looks=looks, look=(lambda: look(unet)) if look else None)
    unet.set_attn_processor(plain)
    say("noise predictor: done")
    return unet.to(memory_format=torch.contiguous_format).eval()
