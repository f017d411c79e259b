"""Concept: the words and patch embeddings of one subject, and what made them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from . import __version__
from .io.tensors import check_finite, read_safetensors, write_safetensors
from .prompts import PLACEHOLDER

FORMAT = "elite-concept"


@dataclass(frozen=True, eq=False)
class Concept:
    """One subject, encoded.

    Attributes:
        words: word embeddings v (N, d); the first is the primary word.
        patch_embeddings: e (p², d), zero outside the subject's mask.
        metadata: what made them, as `EliteAdapter.made_by` says, and from what.

    Raises:
        ValueError: for shapes that do not belong together.
    """

    words: Tensor
    patch_embeddings: Tensor
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.words.ndim != 2 or self.patch_embeddings.ndim != 2:
            raise ValueError(
                "words must be (words, width) and patch_embeddings (patches, width), "
                f"got {tuple(self.words.shape)} and {tuple(self.patch_embeddings.shape)}."
            )
        if self.words.shape[1] != self.patch_embeddings.shape[1]:
            raise ValueError(
                f"words have width {self.words.shape[1]}, patch_embeddings {self.patch_embeddings.shape[1]}: "
                "they must be of one text encoder."
            )

    @property
    def encoder(self) -> str:
        """Fingerprint of the image encoder and mappers that made it; empty when not known."""
        return str(self.metadata.get("encoder", ""))

    def check_encoder(self, encoder: str) -> None:
        """Refuse to be used with another encoder.

        Raises:
            ValueError: when both fingerprints are known and differ.
        """
        if self.encoder and encoder and self.encoder != encoder:
            raise ValueError(
                f"this concept was made by the encoder {self.encoder}, but the pipeline has {encoder}: "
                "encode the picture again with this pipeline."
            )

    def check_makers(self, makers: Mapping[str, str]) -> None:
        """Refuse to be used by others than those who made it.

        Args:
            makers: those of the pipeline, see `EliteAdapter.made_by`. A concept without an adapter's content id, as 0.1
                made them, is held to the fingerprint of image encoder and mappers.

        Raises:
            ValueError: when both sides know the same of their makers, and it differs.
        """
        names = {"adapter": "adapter", "image_encoder": "image encoder"}
        if not (self.metadata.get("adapter") and makers.get("adapter")):
            return self.check_encoder(makers.get("encoder", ""))
        for key, name in names.items():
            mine, theirs = self.metadata.get(key), makers.get(key)
            if mine and theirs and mine != theirs:
                raise ValueError(
                    f"this concept was made by the {name} {mine}, but the pipeline has {theirs}: "
                    "encode the picture again with this pipeline."
                )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Concept:
        """The same concept on another device or in another type."""
        return Concept(
            self.words.to(device=device, dtype=dtype),
            self.patch_embeddings.to(device=device, dtype=dtype),
            self.metadata,
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with the metadata in its header.

        Args:
            path: where; ".safetensors" is added when missing.

        Returns:
            The path.

        Raises:
            OSError: when it cannot be written.
            ValueError: when a value is NaN or infinite.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + ".safetensors")
        tensors = {"words": self.words, "patch_embeddings": self.patch_embeddings}
        check_finite(tensors, "this concept")
        metadata = {"format": FORMAT, "elite_version": __version__, "made": json.dumps(dict(self.metadata))}
        write_safetensors(path, tensors, metadata)
        return path

    @classmethod
    def load(cls, path: str | Path, encoder: str | None = None) -> Concept:
        """Read a concept.

        Args:
            path: a file written by `save`.
            encoder: fingerprint the concept must have; None accepts any (the pipeline checks again when it is used).

        Returns:
            The concept, on the CPU.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is not a concept, holds NaN, or was made by another encoder.
        """
        tensors, metadata = read_safetensors(path)
        if metadata.get("format") != FORMAT or set(tensors) != {"words", "patch_embeddings"}:
            raise ValueError(f"{path} is not an ELITE concept.")
        check_finite(tensors, path)
        concept = cls(tensors["words"], tensors["patch_embeddings"], json.loads(metadata.get("made", "{}")))
        if encoder is not None:
            concept.check_encoder(encoder)
        return concept


def assign_concepts(
    prompts: Sequence[str],
    concept: Concept | Sequence[Concept] | Mapping[str, Concept],
    placeholder: str = PLACEHOLDER,
) -> tuple[list[Concept], list[str]]:
    """Which concept and which placeholder each prompt has.

    Args:
        prompts: the texts.
        concept: one for all prompts; or a list, one for each; or a mapping from placeholders to concepts.
        placeholder: what stands for the concept, unless a mapping says.

    Returns:
        One concept and one placeholder for each prompt.

    Raises:
        ValueError: when a list has another length, or a prompt holds none or several of a mapping's placeholders.
        TypeError: for something that is not a concept.
    """
    if isinstance(concept, Mapping):
        marks = []
        for prompt in prompts:
            present = _present(prompt, concept)
            if not present:
                raise ValueError(f"prompt holds none of the placeholders {sorted(concept)}: {prompt!r}.")
            if len(present) > 1:
                raise ValueError(
                    f"prompt holds the placeholders {present}, but one subject a prompt is what is possible now: "
                    f"{prompt!r}."
                )
            marks.append(present[0])
        chosen = [concept[mark] for mark in marks]
    else:
        chosen = list(concept) if isinstance(concept, (list, tuple)) else [cast(Concept, concept)] * len(prompts)
        marks = [placeholder] * len(prompts)
    if len(chosen) != len(prompts):
        raise ValueError(
            f"concept is a list of {len(chosen)}, but there are {len(prompts)} prompts: give one for each."
        )
    for item in chosen:
        if not isinstance(item, Concept):
            raise TypeError(f"concept must be a Concept, got {type(item).__name__}; encode_concept makes one.")
    if len({(item.words.shape, item.patch_embeddings.shape) for item in chosen}) > 1:
        raise ValueError("the concepts of one batch must have equal shapes: encode them with one pipeline.")
    return chosen, marks


def _present(prompt: str, marks: Iterable[str]) -> list[str]:
    """Which placeholders a prompt holds; the longest are looked for first, so that "S10" does not hold "S1" too."""
    found = []
    for mark in sorted(marks, key=len, reverse=True):
        if mark in prompt:
            found.append(mark)
            prompt = prompt.replace(mark, "\0")  # no character of another placeholder
    return found
