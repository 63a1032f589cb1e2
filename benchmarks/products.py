"""Matrix products of float32 on a CPU: oneDNN, as training and evaluation here use it, against torch's own.

    python benchmarks/products.py [--repeats 9] [--threads 1]

The shapes are of a pocket backbone's step: a chunk of 512 tokens through the gated MLP, forward and both gradients.
The ratio is of the medians over all three. The last line is JSON.
"""

from __future__ import annotations

import argparse

import _measure

TOKENS, INPUTS, OUTPUTS, CALLS = 512, 128, 896, 300


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    _measure.start(given.threads)
    import torch

    from vlm_backbones.vlm.products import product

    x, weight, grad = (torch.randn(shape) for shape in ((TOKENS, INPUTS), (OUTPUTS, INPUTS), (TOKENS, OUTPUTS)))

    def ours() -> None:
        for _ in range(CALLS):
            product(x, weight)
            product(grad, weight.T)
            product(grad.T, x.T)

    def peer() -> None:
        for _ in range(CALLS):
            _ = x @ weight.T
            _ = grad @ weight
            _ = grad.T @ x

    with torch.inference_mode():
        ours()  # both warm
        peer()
        seconds = _measure.compare({"ours": ours, "peer": peer}, given.repeats)
    _measure.print_result(
        "products", seconds, against="torch's own", count=3 * CALLS, threads=given.threads, unit="products/s"
    )


if __name__ == "__main__":
    main()
