# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["opacus==1.6.0", "torch==2.15.0"]
#
# # PyPI's torch for Linux is the CUDA build, and its libraries have to be there when it is imported. These need not.
# [tool.uv]
# override-dependencies = [
#     "cuda-bindings; python_version < '3'",
#     "nvidia-cusolver; python_version < '3'",
#     "nvidia-nvtx; python_version < '3'",
#     "triton; python_version < '3'",
# ]
# ///
# pyright: basic, reportMissingImports=false
"""Opacus's private step and torch's own plain one, run when asked: one side of bench_peers.py.

    echo private | uv run --locked --script benchmarks/peers/opacus_step.py

After two warm-up steps of each mode it prints one JSON line; then it reads one mode a line from standard input, runs
one step of it and prints its seconds. It computes nothing while it waits, and ends with its input. Both modes train
embedding, two LSTM layers and a dense layer, dropout before each of the last three, by plain SGD on the CPU. The
private one takes gradients per example (Opacus's DPLSTM), clips them to norm 1 and adds noise of multiplier 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import opacus
import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer
from protocol import parse_arguments, serve

LEARNING_RATE = 0.01
L2_NORM_CLIP = 1.0
NOISE_MULTIPLIER = 1.0


def main() -> None:
    sizes = parse_arguments(__doc__)
    torch.manual_seed(0)
    steps = {"plain": plain_step(sizes), "private": private_step(sizes)}
    versions = {"opacus": opacus.__version__, "torch": torch.__version__}
    serve(steps, versions)


def plain_step(sizes: argparse.Namespace) -> Callable[[], float]:
    model = TextModel(sizes, torch.nn.LSTM)
    return training_step(sizes, model, torch.optim.SGD(model.parameters(), LEARNING_RATE))


def private_step(sizes: argparse.Namespace) -> Callable[[], float]:
    model = GradSampleModule(TextModel(sizes, DPLSTM), loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), LEARNING_RATE),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=L2_NORM_CLIP,
        expected_batch_size=sizes.batch,
        loss_reduction="mean",
    )
    return training_step(sizes, model, optimizer)


class TextModel(torch.nn.Module):
    """Next-token logits (B, T, V) of token ids (B, T); `lstm` is torch's LSTM class or Opacus's."""

    def __init__(self, sizes: argparse.Namespace, lstm: Callable[..., torch.nn.Module]) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(sizes.vocab, sizes.embedding)
        self.lower = lstm(sizes.embedding, sizes.units, batch_first=True)
        self.upper = lstm(sizes.units, sizes.units, batch_first=True)
        self.dense = torch.nn.Linear(sizes.units, sizes.vocab)
        self.dropout = torch.nn.Dropout(sizes.dropout)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.lower(self.dropout(self.embedding(ids)))
        outputs, _ = self.upper(self.dropout(outputs))
        return self.dense(self.dropout(outputs))


def training_step(
    sizes: argparse.Namespace, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[], float]:
    """A function that runs one step on one made-up batch and returns its loss."""
    random = np.random.default_rng(0)
    shape = (sizes.batch, sizes.length)
    ids = torch.from_numpy(random.zipf(1.3, shape) % sizes.vocab)
    targets = torch.from_numpy(random.integers(0, sizes.vocab, shape))
    model.train()

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
