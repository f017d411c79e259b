"""Cross attention with ELITE's two branches (Eq. 2, 6, 8), as diffusers attention processors.

`install_processors` puts one `EliteAttnProcessor` in every cross attention layer of a UNet. Alone it changes nothing;
within `condition(unet, Conditioning(...))` the layers use the global and local keys and values. What a call needs
travels with its text features, so it survives gradient checkpointing and two UNets never disturb each other.
"""

from .active import Active
from .conditioning import Conditioning
from .context import LayerAttention, condition, cross_attention, local_values, record_attention
from .equations import FusedAttention, attention_probs, fused_attention, relative_map, reweight
from .install import (
    check_processors,
    cross_attention_layers,
    install_processors,
    remove_processors,
    restore_processors,
)
from .processor import EliteAttnProcessor
from .recording import AttentionRecord

__all__ = [
    "Active",
    "AttentionRecord",
    "Conditioning",
    "EliteAttnProcessor",
    "FusedAttention",
    "LayerAttention",
    "attention_probs",
    "check_processors",
    "condition",
    "cross_attention",
    "cross_attention_layers",
    "fused_attention",
    "install_processors",
    "local_values",
    "record_attention",
    "relative_map",
    "remove_processors",
    "restore_processors",
    "reweight",
]
