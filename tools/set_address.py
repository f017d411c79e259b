"""Write the repository's public address wherever it is needed: ``python tools/set_address.py URL``.

The present address is read from ``pyproject.toml``; every tracked text file that holds it gets the new one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
BADGE = re.compile(r"<!-- (\[!\[Open in Colab\].*?) -->")
PLACES = ("pyproject.toml", "_config.yml", "CITATION.cff", "README.md", "book/*.ipynb", "book/*.md", "elite/**/*.py")


def current(root: Path = ROOT) -> str:
    """The address in ``pyproject.toml``."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def forms(address: str) -> tuple[str, str, str]:
    """How files write an address: whole, as owner/name in those of Colab, and as that of the built book."""
    name = address.removeprefix("https://github.com/")
    return address, name, name.replace("/", ".github.io/", 1)


def places(root: Path = ROOT) -> list[Path]:
    """Files that hold the present address in any form."""
    files = sorted({path for pattern in PLACES for path in root.glob(pattern)})
    names = forms(current(root))
    return [path for path in files if any(name in path.read_text(encoding="utf-8") for name in names)]


def set_address(address: str, root: Path = ROOT) -> list[Path]:
    """Replace the present address everywhere; the Colab badges of the README come out of their comments.

    Args:
        address: such as ``https://github.com/someone/elite-book``.
        root: the checkout.

    Returns:
        The files that changed.

    Raises:
        ValueError: when it is not the address of a GitHub repository.
    """
    address = address.removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"URL must look like https://github.com/OWNER/NAME, got {address!r}.")
    old, new = forms(current(root)), forms(address)
    found = places(root) if old != new else []
    for path in found:
        text = path.read_text(encoding="utf-8")
        for one, other in zip(old[1:], new[1:], strict=True):
            text = text.replace(one, other)
        temporary = path.with_name(path.name + ".part")  # by hand: this runs before the package is installed
        temporary.write_text(BADGE.sub(r"\1", text), encoding="utf-8")
        temporary.replace(path)
    return found


def main() -> None:
    """Run the tool."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/set_address.py https://github.com/OWNER/NAME")
    try:
        changed = set_address(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {error}")
    for path in changed:
        print(path.relative_to(ROOT))
    print(f"{len(changed)} files changed")


if __name__ == "__main__":
    main()
