"""One training step of either stage: Eq. 1 with Eq. 4 or Eq. 7, as one module that gives a loss for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elite.attention import Conditioning, check_processors, condition
from elite.features import clip_features, patch_grid, patch_mask
from elite.losses import (
    GLOBAL_WEIGHT,
    LOCAL_WEIGHT,
    LossParts,
    check_mask,
    global_loss_parts,
    local_loss_parts,
    min_snr_weights,
)
from elite.prompts import TokenizedPrompts, encode_prompts, select_words, tokenize

if TYPE_CHECKING:
    from elite.pipeline import ElitePipeline

STAGES = ("global", "local")
CLASS_WORD = "class"  # in place of words: the class's own name stands in the prompt


class StageModule(nn.Module):
    """A pipeline as one stage trains it: everything is frozen except the stage's own weights of the adapter.

    The pipeline's parts are used where they are, not copied: afterwards the pipeline draws with what was trained.

    Args:
        pipeline: base model with an adapter attached.
        stage: "global" trains M^g, K^g, V^g by Eq. 4; "local" trains M^l, K^l, V^l by Eq. 7.
        regularizer_weight: λ_global of Eq. 4 or λ_local of Eq. 7; the paper's when left out.
        words: which words are injected, see `prompts.select_words`; when left out all of them in the global stage and
            "w0" in the local stage, as in the paper. Eq. 4 penalises those that are injected. "class" in the local
            stage injects none: the name of the object's class stands in the prompt, and its map is that of Eq. 8
            (Fig. 17, local mapping without the global one; the adapter's K^g and V^g should be the base model's).
        fusion_weight: λ of Eq. 6 in the local stage.
        reweighting: whether Eq. 8 is in force in the local stage.
        batchwide_maximum: the authors' maximum over the batch in Eq. 8 instead of one for each sample.
        mask_mode: how the object's mask is resized to the patch grid, see `features.patch_mask`.
        snr_gamma: γ of `losses.min_snr_weights`; all timesteps weigh the same when left out, as in the paper.
        gradient_checkpointing: compute the UNet's activations again in the backward pass instead of keeping them.
        frozen_dtype: type of the frozen weights, such as ``torch.bfloat16``; they keep theirs when left out. The
            trained ones become float32, unless they are wider.

    Raises:
        ValueError: for another stage, words that do not exist or that the stage does not learn from, a pipeline
            without adapter, or one that does not predict noise.
        RuntimeError: when the adapter's attention processors were replaced.
    """

    _weights: Tensor

    def __init__(
        self,
        pipeline: ElitePipeline,
        stage: str,
        *,
        regularizer_weight: float | None = None,
        words: str | Sequence[int] | None = None,
        fusion_weight: float = 1.0,
        reweighting: bool = True,
        batchwide_maximum: bool = False,
        mask_mode: str = "nearest",
        snr_gamma: float | None = None,
        gradient_checkpointing: bool = False,
        frozen_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if stage not in STAGES:
            raise ValueError(f'stage must be "global" or "local", got {stage!r}.')
        prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
        if prediction != "epsilon":
            raise ValueError(f'the scheduler\'s prediction_type must be "epsilon" (Eq. 1), got {prediction!r}.')
        self.stage = stage
        self.adapter = pipeline.adapter
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.text_encoder, self.image_encoder = pipeline.text_encoder, pipeline.image_encoder
        self.tokenizer = pipeline.tokenizer
        check_processors(self.unet)
        paper = GLOBAL_WEIGHT if stage == "global" else LOCAL_WEIGHT
        self.regularizer_weight = paper if regularizer_weight is None else regularizer_weight
        self.words = ("all" if stage == "global" else "w0") if words is None else words
        if self.words == CLASS_WORD:
            if stage == "global":
                raise ValueError('words can be "class" in the local stage alone: the global stage learns words.')
        else:
            select_words(torch.empty(self.adapter.config.num_words, 1), self.words)  # raises for those there are not
        self.fusion: dict[str, Any] = {
            "fusion_weight": fusion_weight,
            "reweighting": reweighting,
            "batchwide_maximum": batchwide_maximum,
        }
        self.mask_mode, self.snr_gamma = mask_mode, snr_gamma
        self._schedule = _noise_schedule(pipeline.scheduler)
        self.register_buffer("_weights", self.timestep_weights.to(self.unet.device), persistent=False)
        self._freeze(frozen_dtype)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()
        self.eval()

    def _freeze(self, frozen_dtype: torch.dtype | None) -> None:
        self.requires_grad_(False)
        for parameter in self._stage_parameters():
            parameter.requires_grad_(True)
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        if frozen_dtype is not None:
            for parameter in self.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(frozen_dtype)

    def _stage_parameters(self) -> list[nn.Parameter]:
        return self.adapter.global_parameters() if self.stage == "global" else self.adapter.local_parameters()

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights this stage trains, by their names in the adapter's ``state_dict``."""
        mine = {id(parameter) for parameter in self._stage_parameters()}
        return {name: p for name, p in self.adapter.named_parameters() if id(p) in mine}

    def train(self, mode: bool = True) -> StageModule:
        """Stay in evaluation mode: the frozen parts may have dropout, the trained ones have no modes."""
        return super().train(False)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent at the UNet's own size."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    @property
    def num_train_timesteps(self) -> int:
        """Length of the noise schedule."""
        return self._schedule.config.num_train_timesteps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of Eq. 1, (B, C, h, w), from latents and noise of that shape and timesteps (B,)."""
        return self._schedule.add_noise(latents, noise, timesteps)

    @torch.no_grad()
    def latents(self, batch: Mapping[str, Any], posterior_noise: Tensor | None = None) -> Tensor:
        """Scaled latents z of a batch: its "latents" where it has them, otherwise from its "pixel_values".

        Args:
            batch: see `forward`.
            posterior_noise: (B, C, h, w), standard normal, to draw from the autoencoder's posterior; its mean without.

        Returns:
            (B, C, h, w), on the UNet's device, in float32 (or the UNet's type, if that is wider).
        """
        exact = torch.promote_types(self.unet.dtype, torch.float32)  # noise is added and compared in full precision
        if "latents" in batch:
            return batch["latents"].to(self.unet.device, exact)
        pixels = batch["pixel_values"].to(self.vae.device, self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean
        if posterior_noise is not None:
            latents = latents + posterior.std * posterior_noise.to(latents)
        return (latents * self.vae.config.scaling_factor).to(self.unet.device, exact)

    @torch.no_grad()
    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """CLIP features of pictures (B, 3, s, s): one tensor (B, 1 + p², D) for each of the adapter's layers."""
        encoder = self.image_encoder
        return clip_features(encoder, pixel_values.to(encoder.device, encoder.dtype), self.adapter.config.layers)

    @torch.no_grad()
    def words_of(self, features: Sequence[Tensor]) -> Tensor:
        """All words (B, N, d) of CLIP features, as M^g gives them; without gradient."""
        return self._mapped(self.adapter.global_mapper, features)

    def forward(
        self, batch: Mapping[str, Any], noise: Tensor, timesteps: Tensor, posterior_noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The stage's loss on one batch.

        Args:
            batch: what `elite.data.samples.collate` makes of the stage's samples. These keys replace their source:
                "latents" (B, C, h, w), scaled, for "pixel_values"; "features", a tensor (B, 1 + p², D) per layer, for
                "pixel_values_clip", and "features_object" likewise for "pixel_values_object"; in the local stage also
                "words" (B, N, d), as the frozen M^g gives them;
                "sample_weights" (B,), in place of those of ``snr_gamma``; "input_ids" (B, L) and "word_index" (B,), as
                `tokenize` gives them, for "prompt". With all of a batch on the device, a step never waits for it, and
                can be captured as a CUDA graph.
            noise: ε of Eq. 1, (B, C, h, w).
            timesteps: t of Eq. 1, (B,), long.
            posterior_noise: see `latents`.

        Returns:
            "loss", a scalar with gradient; "diffusion" and "regularizer" (unweighted), scalars for logging.

        Raises:
            ValueError: for shapes that do not fit, a prompt without placeholder, or one too long for the words.
        """
        latents = self.latents(batch, posterior_noise)
        noise, timesteps = noise.to(latents), timesteps.to(latents.device)
        noisy = self.add_noise(latents, noise, timesteps).to(self.unet.dtype)
        step = self._global if self.stage == "global" else self._local
        parts = step(batch, noisy, noise, timesteps)
        return {"loss": parts.loss, "diffusion": parts.diffusion.detach(), "regularizer": parts.regularizer.detach()}

    def _global(self, batch: Mapping, noisy: Tensor, noise: Tensor, timesteps: Tensor) -> LossParts:
        features = batch.get("features") or self.features(batch["pixel_values_clip"])
        words = select_words(self._mapped(self.adapter.global_mapper, features), self.words)  # (B, n, d)
        text, word_index = self._text(batch, words)
        with condition(self.unet, Conditioning(None, word_index), guided=False):
            prediction = self.unet(noisy, timesteps, encoder_hidden_states=text).sample
        weights = self._sample_weights(batch, timesteps)
        return global_loss_parts(prediction, noise, words, self.regularizer_weight, weights)

    def _local(self, batch: Mapping, noisy: Tensor, noise: Tensor, timesteps: Tensor) -> LossParts:
        with torch.no_grad():
            if self.words == CLASS_WORD:
                features, injected = self._object_features(batch), None
            else:
                words, features = self._words_and_object_features(batch)
                injected = select_words(words, self.words)
            text, word_index = self._text(batch, injected)
        mask = patch_mask(batch["mask"].to(features[0].device), patch_grid(self.image_encoder), self.mask_mode)
        patches = self._mapped(self.adapter.local_mapper, features, mask)  # (B, p², d)
        with condition(self.unet, Conditioning(patches, word_index, **self.fusion), guided=False) as active:
            prediction = self.unet(noisy, timesteps, encoder_hidden_states=text).sample
            values = active.local_values()
        check_mask(batch["loss_mask"])  # before it is moved
        counted = batch["loss_mask"].to(noise.device)
        weights = self._sample_weights(batch, timesteps)
        return local_loss_parts(prediction, noise, counted, values, self.regularizer_weight, weights)

    def _sample_weights(self, batch: Mapping, timesteps: Tensor) -> Tensor | None:
        if "sample_weights" in batch:
            return batch["sample_weights"].to(timesteps.device)
        return None if self.snr_gamma is None else self._weights[timesteps]

    @property
    def timestep_weights(self) -> Tensor:
        """The weight that ``snr_gamma`` gives the samples of each timestep, (T,); all 1 without it."""
        every = torch.arange(self.num_train_timesteps)
        if self.snr_gamma is None:
            return torch.ones(len(every))
        return min_snr_weights(self._schedule.alphas_cumprod, every, self.snr_gamma)

    def _words_and_object_features(self, batch: Mapping) -> tuple[Tensor, Sequence[Tensor]]:
        """Words (B, N, d) from the picture's crop, features from the masked one; one call of CLIP for both."""
        if "words" in batch:
            return batch["words"].to(self.unet.device), self._object_features(batch)
        if "features" in batch or "features_object" in batch:
            features = batch.get("features") or self.features(batch["pixel_values_clip"])
            return self.words_of(features), self._object_features(batch)
        both = self.features(torch.cat([batch["pixel_values_clip"], batch["pixel_values_object"]]))
        features, of_object = zip(*(feature.chunk(2) for feature in both), strict=True)
        return self.words_of(features), of_object

    def _object_features(self, batch: Mapping) -> Sequence[Tensor]:
        """CLIP features of the masked pictures, (B, 1 + p², D) each."""
        return batch.get("features_object") or self.features(batch["pixel_values_object"])

    @staticmethod
    def _mapped(mapper: nn.Module, features: Sequence[Tensor], *mask: Tensor) -> Tensor:
        weight = next(mapper.parameters())
        return mapper([feature.to(weight.device, weight.dtype) for feature in features], *mask)

    def tokenize(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> TokenizedPrompts:
        """The prompts' ids (B, L) and word positions (B,), checked for the words that the stage puts there.

        Args:
            prompts: texts with the placeholder.
            class_names: what stands in its place where ``words`` is "class"; its first token has the position.

        Raises:
            ValueError: for a prompt without placeholder, one too long, or class names that are needed and missing.
        """
        mark = self.adapter.config.placeholder
        if self.words != CLASS_WORD:
            count = select_words(torch.empty(self.adapter.config.num_words, 1), self.words).shape[0]
            return tokenize(self.tokenizer, prompts, mark, num_words=count)
        if class_names is None:
            raise ValueError('class_names must be given, one for each prompt, where words is "class".')
        positions = tokenize(self.tokenizer, prompts, mark).word_index  # what stands before is the same
        named = [prompt.replace(mark, name) for prompt, name in zip(prompts, class_names, strict=True)]
        ids = tokenize(self.tokenizer, named, mark, require_placeholder=False).input_ids
        return TokenizedPrompts(ids, positions)

    def _text(self, batch: Mapping, words: Tensor | None) -> tuple[Tensor, Tensor]:
        """Text features (B, L, d) with the words in them, and the position of the first word (B,)."""
        if "input_ids" in batch:
            tokenized = TokenizedPrompts(batch["input_ids"], batch["word_index"])
        else:
            tokenized = self.tokenize(batch["prompt"], batch.get("class_name"))
        text = encode_prompts(self.text_encoder, tokenized, words)
        return text.to(self.unet.dtype), tokenized.word_index


def _noise_schedule(scheduler: Any) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler.config)
