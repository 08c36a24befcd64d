"""Where texts alone are trained: gradients of their tokens' embeddings and logits, and norms of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from runner.privacy.clipping import clipped_sum
from tests.unit.test_clipping import VOCAB, draw_records, flat, float64, make_network, reference_gradients

__all__ = ["float64"]
IS_TEXT = np.arange(VOCAB) >= 5
"""Two slots of other fields come first."""


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("layers", [1, 2])
def test_the_clipped_sum_of_texts_is_that_of_their_own_weights_in_float64(layers: int) -> None:
    network, records = make_network(layers, slots=(1, 4, 6)), draw_records()
    weights = records.weights * IS_TEXT[records.targets]
    assert 0 < weights.sum() < records.weights.sum()
    of_texts = type(records)(records.ids, records.targets, weights, records.keys)
    variables = network.trainable_variables
    masks = zip(network.masks_of(IS_TEXT), variables, strict=True)
    trained = np.concatenate([np.broadcast_to(mask, variable.shape).ravel() for mask, variable in masks])
    gradients = reference_gradients(network, of_texts) * trained
    norms = np.linalg.norm(gradients, axis=1)
    clip = float(np.median(norms))
    arguments = (of_texts.ids, of_texts.targets, tf.constant(weights), None)
    found = clipped_sum(network, *arguments, clip=clip, scale=1 / 9, trained=tf.constant(IS_TEXT))
    expected = (gradients * np.minimum(1, clip / np.maximum(norms, 1e-30))[:, None]).sum(axis=0)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(flat(found.gradients), expected, rtol=1e-9, atol=1e-12)
