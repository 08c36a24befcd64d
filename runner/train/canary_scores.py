"""The canaries of a private run: which there are, and what its model shows of which were in.

examples = WithCanaries(examples, make_canaries(config, tokens), toss_coins(ledger.key, config.privacy.canaries))
measure_run(config, directory, loop, network)       # at the end: for the privacy statement
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.canaries import WithCanaries, random_rows, random_texts
from runner.data.examples import TokenSet
from runner.model.network import Network
from runner.privacy.ledger import RunLedger
from runner.privacy.one_run import measure_canaries, toss_coins
from runner.run_directory import RunDirectory
from runner.train.audit import mean_losses
from runner.train.drawn_tokens import tokenizer_of
from runner.train.loop import TrainingLoop
from runner.train.series import first_weights


def make_canaries(config: JobConfig, tokens: TokenSet) -> list[NDArray[np.int32]]:
    """Their ids, a function of the vocabulary alone."""
    count = config.privacy.canaries
    if tokens.slots is None:
        return random_texts(count, tokens.vocab_size, tokens.end_id, tokens.seq_length)
    return random_rows(count, tokenizer_of(tokens).automaton(), tokens.end_id, tokens.seq_length)


def measure_run(
    config: JobConfig, directory: RunDirectory, loop: TrainingLoop, network: Network
) -> dict[str, Any] | None:
    """What the weights that the run keeps show of the canaries' coins; None without canaries, or without weights.

    A canary's score is how far its mean loss is below that of the weights that `network` begins with; these are public.
    """
    if not config.privacy.canaries or loop.kept_weights is None:
        return None
    ledger = RunLedger.open(directory.folder)
    coins = toss_coins(ledger.key, config.privacy.canaries)
    tokens = loop.feed.examples.tokens
    all_in = WithCanaries(loop.feed.examples, make_canaries(config, tokens), np.ones(coins.size, bool))
    if (weights := first_weights(config, directory)) is not None:
        network.load_weights_dict(weights)
    first = mean_losses(network, all_in, all_in.canary_positions)
    network.load_weights_dict(loop.kept_weights)
    fallen = first - mean_losses(network, all_in, all_in.canary_positions)
    return asdict(measure_canaries(fallen, coins, ledger.state.delta))
