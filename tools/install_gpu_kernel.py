"""Install a Jupyter kernel named ``elite-cuda`` that runs the chapters on the GPU.

After ``python tools/install_gpu_kernel.py``, ``pytest --nbval --nbval-kernel-name elite-cuda book/`` uses it.
"""

from __future__ import annotations

import argparse
import sys

from ipykernel.kernelspec import install


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Install a Jupyter kernel that runs the chapters on a chosen device.")
    parser.add_argument("--name", default="elite-cuda", help="name of the kernel")
    parser.add_argument("--device", default="cuda", help="what ELITE_DEVICE is set to in it")
    parser.add_argument("--prefix", default=sys.prefix, help="where it is installed; this environment by default")
    options = parser.parse_args(arguments)
    place = install(
        prefix=options.prefix,
        kernel_name=options.name,
        display_name=f"ELITE on {options.device}",
        env={"ELITE_DEVICE": options.device},
    )
    print(f"installed kernel {options.name} in {place}")


if __name__ == "__main__":
    main()
