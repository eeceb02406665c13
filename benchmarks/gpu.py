"""On a GPU: training a language module in bf16 on 64 x 128 tokens at XLM-R base's shape, and the share of the peak.

    python benchmarks/gpu.py --out gpu.json           says so and measures nothing where there is no GPU

peak: the rate of large bfloat16 matrix products measured on the same card just before.
"""

import time

from common import arguments, make_base, write

ROWS, TOKENS, STEPS = 64, 128, 20


def peak() -> float:
    """Operations per second of an 8192 x 8192 x 8192 product in bfloat16."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(4):
            a @ a
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * 8192**3 / best


def measure(chosen) -> list[dict]:
    """Rows of the table; none without a GPU."""
    import torch
    import train

    if not torch.cuda.is_available():
        print("gpu: no GPU here, nothing measured", flush=True)
        return []
    train.ROWS = ROWS
    found, limit = [], peak()
    for precision in ("bf16", "fp32"):
        base = make_base(chosen.shape)
        base.model.to("cuda")
        way = train.Ours(base, "language", precision, None)
        for _ in range(3):
            way.round()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(STEPS):
            way.round()
        torch.cuda.synchronize()
        step = (time.perf_counter() - began) / STEPS
        forward, head = train.flops(base, ROWS * TOKENS, int(0.15 * ROWS * TOKENS))
        operations = 2 * forward + 2 * head + train.trained(way, ROWS * TOKENS)
        found.append(
            {
                "measure": f"GPU, language module, {ROWS} x {TOKENS}",
                "way": precision,
                "unit": "tokens/s",
                "ours": round(ROWS * TOKENS / step),
                "limit": round(ROWS * TOKENS * limit / operations),
                "share": round(operations / step / limit, 3),
                "gpu": torch.cuda.get_device_name(),
                "peak_tflops": round(limit / 1e12, 1),
                "memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
            }
        )
    return found


if __name__ == "__main__":
    options = arguments(__doc__)
    write(options, measure(options))
