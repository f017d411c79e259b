"""ELITE: one picture of a subject becomes words and patch embeddings that a text-to-image model understands.

The public names below load on first use, so that ``import elite`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> the module that defines it
_EXPORTS = {
    "AttentionRecord": "recording",
    "Concept": "concept",
    "Conditioning": "conditioning",
    "EliteAdapter": "adapter",
    "EliteConfig": "adapter",
    "ElitePipeline": "pipeline",
    "GlobalMapper": "mapping",
    "LocalMapper": "mapping",
    "PLACEHOLDER": "prompts",
    "TEMPLATES": "prompts",
    "clip_features": "features",
    "condition": "attention",
    "default_guidance": "backbones",
    "default_layers": "features",
    "encode_prompts": "prompts",
    "global_loss": "losses",
    "guided_noise_prediction": "sampling",
    "load_official": "checkpoints",
    "load_pipeline": "backbones",
    "local_loss": "losses",
    "patch_mask": "features",
    "preprocess": "features",
    "read_image": "images",
    "read_mask": "images",
    "record_attention": "attention",
    "reweight": "attention",
    "sample_lms": "sampling",
    "save_official": "checkpoints",
    "select_words": "prompts",
    "tokenize": "prompts",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'elite' has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
