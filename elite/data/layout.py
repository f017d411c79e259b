"""Where Open Images lies: on the servers, and in a folder on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ANNOTATIONS_URL = "https://storage.googleapis.com/openimages"
IMAGES_URL = "https://open-images-dataset.s3.amazonaws.com"
SPLITS = ("test", "validation")
HEX_DIGITS = "0123456789abcdef"

BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
FLAG_COLUMNS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
MASK_COLUMNS = ("MaskPath", "ImageID", "LabelName", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax")


def check_split(split: str) -> str:
    """Return ``split``; raises ValueError for one that is not offered."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {', '.join(SPLITS)}.")
    return split


@dataclass(frozen=True)
class OpenImagesServer:
    """The addresses of Open Images V5, on the public servers or on a mirror with the same layout."""

    split: str = "test"
    annotations_url: str = ANNOTATIONS_URL
    images_url: str = IMAGES_URL

    def __post_init__(self) -> None:
        check_split(self.split)

    @classmethod
    def mirror(cls, base_url: str, split: str = "test") -> OpenImagesServer:
        """One address that serves both ``v5/…`` and ``test/….jpg``."""
        return cls(split=split, annotations_url=base_url.rstrip("/"), images_url=base_url.rstrip("/"))

    @property
    def boxes(self) -> str:
        """Address of the table of boxes."""
        return f"{self.annotations_url}/v5/{self.split}-annotations-bbox.csv"

    @property
    def masks(self) -> str:
        """Address of the table of masks."""
        return f"{self.annotations_url}/v5/{self.split}-annotations-object-segmentation.csv"

    @property
    def classes(self) -> str:
        """Address of the classes' labels and names."""
        return f"{self.annotations_url}/v5/class-descriptions-boxable.csv"

    def mask_archive(self, digit: str) -> str:
        """The zip of the masks whose image id begins with ``digit`` (one hexadecimal digit)."""
        return f"{self.annotations_url}/v5/{self.split}-masks/{self.split}-masks-{digit}.zip"

    def image(self, image_id: str) -> str:
        """Address of a picture."""
        return f"{self.images_url}/{self.split}/{image_id}.jpg"


@dataclass(frozen=True)
class OpenImagesFolder:
    """A downloaded subset: ``annotations/``, ``images/<split>/``, ``masks/<split>/``, ``archives/``."""

    root: Path
    split: str = "test"

    def __post_init__(self) -> None:
        check_split(self.split)
        object.__setattr__(self, "root", Path(self.root))

    @property
    def boxes(self) -> Path:
        """The table of boxes."""
        return self.root / "annotations" / f"{self.split}-annotations-bbox.csv"

    @property
    def masks(self) -> Path:
        """The table of masks."""
        return self.root / "annotations" / f"{self.split}-annotations-object-segmentation.csv"

    @property
    def classes(self) -> Path:
        """The classes' labels and names."""
        return self.root / "annotations" / "class-descriptions-boxable.csv"

    @property
    def images_dir(self) -> Path:
        """The split's pictures."""
        return self.root / "images" / self.split

    @property
    def masks_dir(self) -> Path:
        """The split's masks."""
        return self.root / "masks" / self.split

    def mask_archive(self, digit: str) -> Path:
        """The zip of the masks whose image id begins with ``digit``."""
        return self.root / "archives" / f"{self.split}-masks-{digit}.zip"

    def image(self, image_id: str) -> Path:
        """A picture's file."""
        return self.images_dir / f"{image_id}.jpg"

    def mask(self, name: str) -> Path:
        """A mask's file."""
        return self.masks_dir / name


def files_in(folder: Path, suffix: str) -> dict[str, tuple[int, int]]:
    """Name -> (bytes, modification time in ns) of the files of one folder; empty where there is no folder."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = {e.name: e.stat() for e in entries if e.name.endswith(suffix) and e.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in sorted(found.items())}
