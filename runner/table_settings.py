"""Settings for a table without privacy, by its size: what `runner init` writes where it finds one.

    >>> table_settings(24_421)["training"]["batch_size"], table_settings(24_421)["training"]["epochs"]
    (256, 19)

docs/benchmarks.md has how they were chosen, and what comes out for several tables.
"""

from __future__ import annotations

from typing import Any

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024)
ROWS_A_BATCH = 128
"""A batch is larger where there are more rows than so many times its size."""
LEAST_BATCHES = 5
"""Every fifth is for validation."""
STEPS = (800, 1_500)
"""Of a run: at least, and at most unless that would be fewer than the least `EPOCHS`."""
ROWS_A_STEP = 16
EPOCHS = (5, 40)
TIMES_FOR_TEXTS = 2
LARGE_ROWS = 20_480
"""From here on a larger network has something to learn."""
SMALL_ROWS = 2_000
"""Fewer rows are soon known by heart: their network forgets more."""


def table_settings(rows: int, *, has_texts: bool = False) -> dict[str, Any]:
    """The sections `model` and `training` of a job, where they are not the defaults.

    The batch grows with the rows, so that an epoch has about 100 steps or fewer. The rate rises in the first 5% of all
    steps and falls along half a cosine; a moving average of the weights smooths the rest. The epoch with the best
    validation loss is kept. Spelling takes more steps than values: `has_texts`.
    """
    batch_size = next((size for size in BATCH_SIZES if rows <= ROWS_A_BATCH * size), BATCH_SIZES[-1])
    batch_size = max(min(batch_size, rows // LEAST_BATCHES), 1)
    steps_of_epoch = max(rows * (LEAST_BATCHES - 1) // LEAST_BATCHES // batch_size, 1)
    steps = min(max(rows // ROWS_A_STEP, STEPS[0]), STEPS[1])
    steps *= TIMES_FOR_TEXTS if has_texts else 1
    is_large = rows >= LARGE_ROWS or (has_texts and rows >= SMALL_ROWS)
    return {
        "model": {
            "embedding_dim": 64,
            "rnn_units": 192 if is_large else 128,
            "layers": 1,
            "dropout_rate": 0.3 if rows < SMALL_ROWS else 0.2 if is_large else 0.1,
        },
        "training": {
            "epochs": min(max(steps // steps_of_epoch, EPOCHS[0]), EPOCHS[1]),
            "batch_size": batch_size,
            "optimizer": {
                "name": "adam",
                "learning_rate": 0.005 if is_large else 0.008,
                "ema_momentum": 0.99 if is_large else 0.98,
                "schedule": {"name": "cosine", "warmup": 0.05, "final": 0.0},
            },
            # The rate has to fall to its end; the best epoch's weights are kept all the same.
            "early_stopping": {"enabled": False},
        },
    }
