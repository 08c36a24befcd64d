"""Settings for a table without privacy, by its size: what `runner init` writes where it finds one.

    >>> table_settings(24_421)["training"]["batch_size"], table_settings(24_421)["training"]["epochs"]
    (256, 13)

Tried on Adult and Bank Marketing, and on tables of 75 to 20,190 rows that statsmodels and vega_datasets ship, half of
the rows of each kept aside: docs/benchmarks.md has the figures.
"""

from __future__ import annotations

from typing import Any

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024)
ROWS_A_BATCH = 128
"""A batch is larger where there are more rows than so many times its size."""
LEAST_BATCHES = 5
"""Every fifth is for validation."""
STEPS = 1_000
"""Of a run, about: what the networks here need to learn a table of a few thousand rows or more."""
EPOCHS = (5, 60)
"""At least, for tables that have more steps than that; and at most, for those that are soon known by heart."""
SMALL_ROWS = 2_000


def table_settings(rows: int) -> dict[str, Any]:
    """The sections `model` and `training` of a job, where they are not the defaults.

    The batch grows with the rows, so that an epoch has 100 steps or so. The rate rises in the first 5% of the steps and
    falls along half a cosine; a moving average of the weights smooths the rest. The epoch with the best validation loss
    is kept.
    """
    batch_size = next((size for size in BATCH_SIZES if rows <= ROWS_A_BATCH * size), BATCH_SIZES[-1])
    batch_size = max(min(batch_size, rows // LEAST_BATCHES), 1)
    steps = max(rows * (LEAST_BATCHES - 1) // LEAST_BATCHES // batch_size, 1)
    return {
        "model": {
            "embedding_dim": 64,
            "rnn_units": 128,
            "layers": 1,
            "dropout_rate": 0.3 if rows < SMALL_ROWS else 0.1,
        },
        "training": {
            "epochs": min(max(STEPS // steps, EPOCHS[0]), EPOCHS[1]),
            "batch_size": batch_size,
            "optimizer": {
                "name": "adam",
                "learning_rate": 0.008,
                "ema_momentum": 0.98,
                "schedule": {"name": "cosine", "warmup": 0.05, "final": 0.0},
            },
            # The rate has to fall to its end; the best epoch's weights are kept all the same.
            "early_stopping": {"enabled": False},
        },
    }
