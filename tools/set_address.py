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
PLACES = ("pyproject.toml", "_config.yml", "CITATION.cff", "README.md", "book/*.ipynb", "book/*.md", "elite/**/*.py")


def current(root: Path = ROOT) -> str:
    """The address in ``pyproject.toml``."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def forms(address: str) -> tuple[str, str]:
    """How files write an address: whole, and as owner/name in the addresses of Colab."""
    return address, address.removeprefix("https://github.com/")


def places(root: Path = ROOT) -> list[Path]:
    """Files that hold the present address in either form."""
    files = sorted({path for pattern in PLACES for path in root.glob(pattern)})
    name = forms(current(root))[1]
    return [path for path in files if name in path.read_text(encoding="utf-8")]


def set_address(address: str, root: Path = ROOT) -> list[Path]:
    """Replace the present address everywhere.

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
    old, new = forms(current(root))[1], forms(address)[1]
    found = places(root) if old != new else []
    for path in found:
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
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
