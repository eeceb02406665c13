"""Settings of the training loop."""

from typing import Literal

from pydantic import Field

from madx.config import Settings


class SparseSettings(Settings):
    """How the entries of a sparse difference are selected and trained; the defaults are LT-SFT's (Ansell et al. 2022)."""

    selection: str = Field(
        default="magnitude", description="Which entries: magnitude, fisher, svd, random, everything; see madx.training.selections."
    )
    iterations: int = Field(default=1, ge=1, description="Rounds of selecting and training; each adds its share of the entries.")
    full_share: float = Field(
        default=1.0, gt=0, description="Steps of the full phase, in which all weights move before the selection / steps after it."
    )
    full_l1: float | None = Field(
        default=None, ge=0, description="L1 penalty of the full phase on the mean |theta - theta_0|; null: 0.1, of a task 0."
    )
    sparse_l1: float | None = Field(default=None, ge=0, description="The same after the selection.")
    samples: int = Field(default=1024, ge=1, description="Rows that fisher takes gradients of, one by one.")
    kept_rank: float = Field(default=0.5, gt=0, le=1, description="Share of the singular values that svd keeps of each matrix.")


class TrainSettings(Settings):
    """How weights are moved: AdamW, linear warm-up and decay, clipping, precision, and how often to look and to save."""

    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    head_learning_rate: float | None = Field(default=None, gt=0, description="Of a task's head; null: the same.")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="Share of the steps in which the rate rises from 0.")
    schedule: Literal["linear", "constant"] = Field(default="linear", description="After warm-up: to 0, or level.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay of AdamW.")
    clip_norm: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="bf16: the base and products in bfloat16; what trains, optimiser and loss in float32. auto: bf16 where the "
        "machine multiplies it in hardware and the base is 512 wide or more, except for sparse differences.",
    )
    cache_frozen: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Keep the states that enter the lowest layer in training, for each sentence. auto: where it can be; equal "
        "losses to rounding.",
    )
    cache_memory_gb: float = Field(default=2.0, ge=0, description="Of such states, gigabytes in memory at most, for each process;")
    cache_disk_gb: float = Field(default=16.0, ge=0, description="and gigabytes in a file of the run's folder after that.")
    base_dropout: bool = Field(default=False, description="Dropout inside the frozen base while training.")
    evaluate_every: int | None = Field(default=None, ge=1, description="Steps between evaluations; null: 10 in a run.")
    checkpoint_every: int = Field(default=500, ge=1, description="Steps between checkpoints.")
    keep_best: bool = Field(default=True, description="End with the weights of the best evaluation, not the last.")
    tensorboard: bool = Field(default=False, description="Write TensorBoard events into the run's folder.")
    sparse: SparseSettings = Field(default=SparseSettings(), description="Sparse differences alone: their phases.")
    progress: bool = Field(default=True, description="Show a progress bar, or lines when the output is no terminal.")

    def rate(self, step: int, steps: int) -> float:
        """Factor of the learning rate (0..1) at a step counted from 0: (step + 1)/w during the w warm-up steps, then
        falling linearly from 1 towards 0, or level."""
        warm = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < warm:
            return (step + 1) / warm
        return 1.0 if self.schedule == "constant" else (steps - step) / max(1, steps - warm)
