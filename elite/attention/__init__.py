"""Cross attention with ELITE's two branches (Eq. 2, 6, 8), as diffusers attention processors.

`install_processors` puts one `EliteAttnProcessor` in every cross attention layer of a UNet. Alone it changes nothing;
within `condition(unet, Conditioning(...))` the layers use the global and local keys and values. What a call needs
travels with its text features, so it survives gradient checkpointing and two UNets never disturb each other.
"""

from .conditioning import Conditioning
from .install import (
    check_processors,
    condition,
    cross_attention_layers,
    install_processors,
    local_values,
    record_attention,
    remove_processors,
    restore_processors,
)
from .processor import EliteAttnProcessor, relative_map, reweight
from .recording import AttentionRecord

__all__ = [
    "AttentionRecord",
    "Conditioning",
    "EliteAttnProcessor",
    "check_processors",
    "condition",
    "cross_attention_layers",
    "install_processors",
    "local_values",
    "record_attention",
    "relative_map",
    "remove_processors",
    "restore_processors",
    "reweight",
]
