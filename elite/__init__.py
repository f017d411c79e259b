"""ELITE: one picture of a subject becomes words and patch embeddings that a text-to-image model understands.

The public names below load on first use, so that ``import elite`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> the module that defines it
_EXPORTS = {
    "AttentionRecord": "recording",
    "Concept": "concept",
    "Conditioning": "attention",
    "EliteAdapter": "adapter",
    "EliteConfig": "adapter",
    "ElitePipeline": "pipeline",
    "GlobalMapper": "mapping",
    "LocalMapper": "mapping",
    "PLACEHOLDER": "prompts",
    "TEMPLATES": "prompts",
    "clip_features": "features",
    "condition": "attention",
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

__all__ = [*_EXPORTS, "__version__"]

if TYPE_CHECKING:
    from .adapter import EliteAdapter, EliteConfig
    from .attention import Conditioning, condition, record_attention, reweight
    from .backbones import load_pipeline
    from .checkpoints import load_official, save_official
    from .concept import Concept
    from .features import clip_features, default_layers, patch_mask, preprocess
    from .images import read_image, read_mask
    from .losses import global_loss, local_loss
    from .mapping import GlobalMapper, LocalMapper
    from .pipeline import ElitePipeline
    from .prompts import PLACEHOLDER, TEMPLATES, encode_prompts, select_words, tokenize
    from .recording import AttentionRecord
    from .sampling import guided_noise_prediction, sample_lms


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'elite' has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
