"""Public names and where they stand: `elite.__getattr__` reads them here, and so do type checkers."""

from .adapter import EliteAdapter as EliteAdapter
from .adapter import EliteConfig as EliteConfig
from .attention import condition as condition
from .attention import record_attention as record_attention
from .attention import reweight as reweight
from .attention.conditioning import Conditioning as Conditioning
from .attention.recording import AttentionRecord as AttentionRecord
from .backbones import default_guidance as default_guidance
from .backbones import load_pipeline as load_pipeline
from .concept import Concept as Concept
from .features import (
    clip_features as clip_features,
)
from .features import (
    default_layers as default_layers,
)
from .features import (
    patch_mask as patch_mask,
)
from .features import (
    preprocess as preprocess,
)
from .io.images import read_image as read_image
from .io.images import read_mask as read_mask
from .losses import global_loss as global_loss
from .losses import local_loss as local_loss
from .mapping import GlobalMapper as GlobalMapper
from .mapping import LocalMapper as LocalMapper
from .official import load_official as load_official
from .official import save_official as save_official
from .pipeline import ElitePipeline as ElitePipeline
from .prompts import (
    PLACEHOLDER as PLACEHOLDER,
)
from .prompts import (
    TEMPLATES as TEMPLATES,
)
from .prompts import (
    encode_prompts as encode_prompts,
)
from .prompts import (
    select_words as select_words,
)
from .prompts import (
    tokenize as tokenize,
)
from .sampling import guided_noise_prediction as guided_noise_prediction
from .sampling import sample_lms as sample_lms

__version__: str
