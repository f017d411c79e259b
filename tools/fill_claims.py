"""Print the numbers of the result files into ``book/claims.yml``: ``python tools/fill_claims.py``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
from claims_check import filled
from claims_ledger import read_ledger, write_ledger


def main() -> None:
    try:
        entries = tuple(filled(read_ledger()))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    write_ledger(entries)
    for verdict, times in Counter(entry.verdict for entry in entries).most_common():
        print(f"{times:4} {verdict}")


if __name__ == "__main__":
    main()
