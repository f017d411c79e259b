"""Timing side by side, and peak memory in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

Contestants = Mapping[str, Callable[[], object]]


def interleaved(contestants: Contestants, repeats: int) -> dict[str, list[float]]:
    """Seconds of each contestant, in turns, after one run of each that does not count.

    Taking turns puts a disturbance of the machine on all contestants alike; every second round goes backwards, so that
    what drifts favours nobody.
    """
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for turn in range(repeats):
        for name, run in order if turn % 2 == 0 else reversed(order):
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds of one contestant's time divided by another's in the same round."""
    return median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def peak_memory_mb(name: str) -> float:
    """Peak memory of one contestant, run once in a fresh process, in MB."""
    command = [sys.executable, "-m", "bench", "--alone", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def own_peak_mb() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux passes the parent's ru_maxrss on to a child; VmHWM starts anew with the program
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def import_ms(repeats: int) -> float:
    """Median milliseconds of ``import elite`` in a fresh interpreter."""
    code = "from time import perf_counter as now; t = now(); import elite; print(1e3 * (now() - t))"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)
    ]
    return median(float(done.stdout) for done in runs)
