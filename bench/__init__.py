"""Side-by-side measurements: ``python -m bench`` (or ``make bench``) prints them and writes ``bench/results.json``."""
