"""Settings of the training loop."""

from typing import Literal

from pydantic import Field, model_validator

from madx.config import Settings


class SparseSettings(Settings):
    """Selection and training of the entries of a sparse weight delta; the defaults are those of LT-SFT."""

    selection: str = Field(
        default="magnitude",
        description="The rule that selects entries: magnitude, fisher, svd, diff_pruning, drop_and_grow, lape, "
        "random, everything; see madx.training.sparse.selections.",
    )
    iterations: int = Field(
        default=1, ge=1, description="Rounds of selecting and training; each adds its share of the entries."
    )
    full_share: float = Field(
        default=1.0,
        gt=0,
        description="Steps of the full phase, in which all selectable weights are trained / steps after the selection.",
    )
    full_l1: float | None = Field(
        default=None,
        ge=0,
        description="L1 penalty of the full phase on the mean |theta - theta_0|; null: 0.1, but 0 for a task and with "
        "all entries.",
    )
    sparse_l1: float | None = Field(
        default=None, ge=0, description="L1 penalty of the sparse phase, after the selection; null: as for full_l1."
    )
    samples: int = Field(default=1024, ge=1, description="fisher: rows whose gradients are taken, one row at a time.")
    kept_rank: float = Field(
        default=0.5, gt=0, le=1, description="svd: share of the singular values that is kept of each matrix."
    )
    lape_texts: dict[str, str] = Field(
        default={}, description="lape: a source of text for each language, that of the module among them."
    )
    lape_tokens: int = Field(default=100_000, ge=1, description="lape: tokens of each text whose activations count.")
    lape_quantile: float = Field(
        default=0.95, ge=0, lt=1, description="lape: nodes active above this quantile of all shares come first."
    )
    gate_penalty: float = Field(
        default=1.25e-7, ge=0, description="diff_pruning: weight of the expected number of open gates in the loss."
    )
    gate_start: float = Field(default=5.0, description="diff_pruning: log-odds of a gate at the beginning.")
    gate_learning_rate: float = Field(default=0.1, gt=0, description="diff_pruning: peak learning rate of the gates.")
    gate_groups: bool = Field(
        default=False, description="diff_pruning: also a gate for each parameter as a whole (structured)."
    )
    growth: Literal["gradients", "momentum"] = Field(
        default="gradients",
        description="drop_and_grow: entries grow by accumulated gradients, or by estimates from rows and columns.",
    )
    reselect_every: int = Field(default=20, ge=2, description="drop_and_grow: steps between two regrowths of entries.")
    accumulate: int = Field(
        default=5, ge=1, description="drop_and_grow: steps over which the gradients of candidates are summed."
    )
    replaced: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="drop_and_grow: share of the entries that is replaced, falling to 0; the first time all are.",
    )

    @model_validator(mode="after")
    def _windows(self) -> "SparseSettings":
        if self.accumulate >= self.reselect_every:
            raise ValueError(
                f"accumulate {self.accumulate} needs fewer steps than reselect_every {self.reselect_every}"
            )
        return self


class TrainSettings(Settings):
    """The training loop: AdamW, warm-up and decay, clipping, precision; how often to evaluate and to save."""

    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate of a task's head; null: learning_rate."
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises from 0."
    )
    schedule: Literal["linear", "constant"] = Field(
        default="linear", description="The learning rate after the warm-up: falls linearly to 0, or stays."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay of AdamW.")
    clip_norm: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="bf16: the base and products in bfloat16; trainable parameters, optimiser, loss in float32. auto: "
        "bf16 where the machine multiplies it in hardware and the base is 512 or more wide; not for weight deltas.",
    )
    cache_frozen: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Activation cache: keep the states that enter the lowest trained layer, for each sentence. auto: "
        "where it is possible; losses are equal to rounding.",
    )
    cache_memory_gb: float = Field(
        default=2.0, ge=0, description="Activation cache: gigabytes in memory at most, for each process."
    )
    cache_disk_gb: float = Field(
        default=16.0,
        ge=0,
        description="Activation cache: gigabytes beyond the memory, in a file of the run's folder.",
    )
    base_dropout: bool = Field(default=False, description="Dropout inside the frozen base during training.")
    evaluate_every: int | None = Field(
        default=None, ge=1, description="Steps between evaluations; null: a tenth of the run."
    )
    checkpoint_every: int = Field(default=500, ge=1, description="Steps between checkpoints.")
    keep_best: bool = Field(default=True, description="End with the weights of the best evaluation, not the last.")
    average_last: int = Field(
        default=1,
        ge=1,
        description="End with the mean of the weights at the last n evaluations, instead of the best; 1: off.",
    )
    stop_diverged: bool = Field(
        default=True,
        description="Stop a run whose loss rises above that of its first steps, or whose score stays 0 for half of it.",
    )
    tensorboard: bool = Field(default=False, description="Write TensorBoard events into the run's folder.")
    sparse: SparseSettings = Field(default=SparseSettings(), description="The phases of a sparse weight delta.")
    progress: bool = Field(default=True, description="Show a progress bar, or lines when the output is no terminal.")

    def rate(self, step: int, steps: int) -> float:
        """The factor (0..1) of the learning rate at a step counted from 0.

        It is (step + 1) / w during the w steps of warm-up; then it falls linearly from 1 towards 0, or stays 1.
        """
        warm = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < warm:
            return (step + 1) / warm
        return 1.0 if self.schedule == "constant" else (steps - step) / max(1, steps - warm)
