"""The toybox: a trained miniature of Stable Diffusion, bundled with the package, and the picture world it knows.

``WEIGHTS`` is an ordinary Stable Diffusion pipeline folder; beside the pipeline's parts it holds the image encoder, the
identity encoder and the judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from elite.io import checksums
from elite.io.checksums import ChecksumError

if TYPE_CHECKING:
    from elite.toybox.identity import IdentityEncoder
    from elite.toybox.judge import Judge

__all__ = ["WEIGHTS", "ChecksumError", "load_identity_encoder", "load_judge", "verify"]

WEIGHTS = Path(__file__).parent / "weights"


def verify(folder: Path = WEIGHTS) -> Path:
    """Check the weights against their SHA-256 sums, once a process, and give their folder.

    Raises:
        ChecksumError: if a file is missing, changed or not listed.
    """
    return checksums.verify(folder)


def load_identity_encoder(folder: Path | None = None) -> IdentityEncoder:
    """The encoder that tells subjects apart (it plays DINO's part in DINO-I), of the bundled or another folder."""
    from elite.toybox.identity import IdentityEncoder

    return IdentityEncoder.from_pretrained((folder or verify()) / "identity_encoder")


def load_judge(folder: Path | None = None) -> Judge:
    """The classifier of class, scene and accessory, of the bundled or another folder."""
    from elite.toybox.judge import Judge

    return Judge.from_pretrained((folder or verify()) / "judge")
