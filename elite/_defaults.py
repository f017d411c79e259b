"""Values that stand in signatures in several places; without imports, for the command line's sake."""

FUSION_WEIGHT = 0.8  # λ: the paper's for "a photo of a S*"; it takes 0.6 for editing prompts
