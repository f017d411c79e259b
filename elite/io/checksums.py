"""SHA-256 sums of the bundled weights: written with them, checked once when they are first loaded."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from elite.io.files import replacing

SUMS = "SHA256SUMS"
CARD, REPORT, CURVES = "MODEL_CARD.md", "report.json", "curves"
# What describes the weights and is never loaded into a model; the report is measured after the sums are written.
UNLISTED = {SUMS, CARD, REPORT}


class ChecksumError(RuntimeError):
    """A weights folder whose files are not the ones that its sums were written for."""


def listed_files(folder: Path) -> list[str]:
    """Names, relative to ``folder`` and in order, of the files that the sums cover."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if _is_listed(name))


def _is_listed(name: str) -> bool:
    return name not in UNLISTED and not name.startswith(f"{CURVES}/") and not Path(name).name.startswith(".")


def sha256(path: Path) -> str:
    """The file's sum in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` for everything below ``folder``, in the format of ``sha256sum``."""
    folder = Path(folder)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in listed_files(folder)]
    with replacing(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


@cache
def verify(folder: Path) -> Path:
    """`check_checksums`, once a process; gives the folder.

    Raises:
        ChecksumError: if a file is missing, changed or not listed.
    """
    check_checksums(folder)
    return folder


def check_checksums(folder: Path) -> None:
    """Compare every file of ``folder`` with ``SHA256SUMS``.

    Raises:
        ChecksumError: if the sums are missing, or a file is missing, changed or not listed; it names the file.
    """
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        raise ChecksumError(f"{folder} has no {SUMS}: the weights are not installed; reinstall the package.")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    expected = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(set(expected) | set(listed_files(folder))):
        if name not in expected:
            raise ChecksumError(f"{folder / name} is not listed in {SUMS}: remove it, or reinstall the package.")
        if not (folder / name).is_file():
            raise ChecksumError(f"{folder / name} is missing: reinstall the package.")
        if sha256(folder / name) != expected[name]:
            raise ChecksumError(f"{folder / name} does not match its SHA-256 sum: reinstall the package.")
