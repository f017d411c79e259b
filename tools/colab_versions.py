"""Write the versions in Colab's image of what this package asks for into ``tools/colab.txt``.

python tools/colab_versions.py pip-freeze.txt        a file, or an address, with lines such as ``torch==2.11.0+cu128``
"""

from __future__ import annotations

import argparse
import re
import tomllib
import urllib.request
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tools" / "colab.txt"
HEADER = "# What Google Colab's image brings. The weekly workflow reads the newest list instead.\n"


def wanted() -> set[str]:
    """Names of everything that pyproject.toml asks for, normalised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = chain(project["dependencies"], *project["optional-dependencies"].values())
    return {normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in requirements}


def normal(name: str) -> str:
    """A package's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(freeze: str) -> list[str]:
    """Lines ``name==version`` of a list as ``pip freeze`` writes it, of `wanted` alone, without local versions."""
    found = re.findall(r"^([\w.-]+)==([^+\s;]+)", freeze, flags=re.MULTILINE)
    names = wanted()
    return sorted(f"{normal(name)}=={version}" for name, version in found if normal(name) in names)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write tools/colab.txt from a list of Colab's packages.")
    parser.add_argument("source", help="file or address of the list")
    source = parser.parse_args(arguments).source
    if re.match(r"https?://", source):
        with urllib.request.urlopen(source, timeout=60) as answer:
            freeze = answer.read().decode()
    else:
        freeze = Path(source).read_text(encoding="utf-8")
    lines = constraints(freeze)
    if not any(line.startswith("torch==") for line in lines):
        parser.error(f"{source} is not a list of Colab's packages: it holds no line torch==…")
    TARGET.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
