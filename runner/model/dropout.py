"""Dropout masks that follow the record, not the machine.

Element (b, t, u) of a mask is a hash of (keys[b, t], layer, u), where `keys` holds one random 32-bit number
for each position, made on the host from (seed, step, position in the logical batch, t). So a mask does not
depend on how many replicas, workers or microbatches share the batch, nor on how far its padding was trimmed.

The hash is lowbias32 (two multiply-xorshift rounds, https://github.com/skeeto/hash-prospector) of the key XOR
a pseudo-random constant for the layer and pair of units. One hash decides for two units, 16 bits each, so the
rate is rounded to a multiple of 2^-16 below 1; the scale is that of the rounded rate, and the mask's expectation is
1.
"""

# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np
import tensorflow as tf

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
_GOLDEN_RATIO = 0x9E3779B9  # 2^32 / 1.618..., an odd number: its multiples visit every 32-bit number once
_LEVELS = 1 << 16


def dropout_mask(keys: tf.Tensor, layer: int, units: int, rate: float, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """The mask to multiply activations with: 0 with probability `rate`, else 1 / (1 - rate).

    keys: uint32 of any shape, (T, B) for time-major activations. Returns keys.shape + (units,).
    """
    threshold = min(round(rate * _LEVELS), _LEVELS - 1)
    pairs = (units + 1) // 2
    spread = np.arange(pairs, dtype=np.uint32) * np.uint32(_GOLDEN_RATIO)
    constants = mix_bits(spread + _layer_constant(layer))
    bits = tf.bitcast(_hash_pairs(keys, constants), tf.uint16)  # keys.shape + (pairs, 2)
    bits = tf.reshape(bits, tf.concat([tf.shape(keys), [2 * pairs]], axis=0))[..., :units]
    kept = tf.cast(bits >= tf.constant(threshold, tf.uint16), dtype)
    return tf.ensure_shape(kept * (_LEVELS / (_LEVELS - threshold)), [*keys.shape, units])


def mix_bits(x: np.ndarray) -> np.ndarray:
    """lowbias32: a bijection of the 32-bit numbers; each input bit flips each output bit in half of them."""
    first, second = (np.uint32(m) for m in _MULTIPLIERS)
    x = (x ^ (x >> np.uint32(16))) * first
    x = (x ^ (x >> np.uint32(15))) * second
    return x ^ (x >> np.uint32(16))


def mix_bits_tensor(x: tf.Tensor) -> tf.Tensor:
    """`mix_bits` for a uint32 tensor."""
    return _finish(_xorshift(x, 16))


def _hash_pairs(keys: tf.Tensor, constants: np.ndarray) -> tf.Tensor:
    """mix_bits(key XOR constant) for every key and constant: keys.shape + constants.shape, uint32.

    The first xorshift is linear over XOR, so it runs on keys and constants before they are spread out.
    """
    spread = tf.bitwise.bitwise_xor(
        _xorshift(keys, 16)[..., tf.newaxis], tf.constant(constants ^ (constants >> np.uint32(16)))
    )
    return _finish(spread)


def _finish(x: tf.Tensor) -> tf.Tensor:
    """What lowbias32 does after its first xorshift."""
    first, second = (tf.constant(m, tf.uint32) for m in _MULTIPLIERS)
    return _xorshift(_xorshift(x * first, 15) * second, 16)


def _xorshift(x: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(bits, tf.uint32)))


def _layer_constant(layer: int) -> np.uint32:
    return mix_bits(np.array([layer + 1], dtype=np.uint32))[0]
