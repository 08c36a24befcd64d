# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "tensorflow-privacy==0.9.0",
#     # tensorflow-privacy's attacks, which its authors publish apart.
#     "tensorflow-empirical-privacy==0.1.0",
#     # The last TensorFlow that tensorflow-privacy imports under, in its smallest build for each machine.
#     "tensorflow-cpu==2.15.1; sys_platform == 'linux' and platform_machine == 'x86_64'",
#     "tensorflow-cpu-aws==2.15.1; sys_platform == 'linux' and platform_machine == 'aarch64'",
#     "tensorflow==2.15.1; sys_platform == 'darwin'",
#     "numpy==1.26.4",
#     "requests==2.32.5",
#     "scikit-learn==1.3.2",
#     "scipy==1.11.4",
# ]
#
# [tool.uv]
# # The marker that is never true leaves out what these three commands never import.
# override-dependencies = [
#     "tensorflow==2.15.1; sys_platform == 'darwin'",
#     "libclang; python_version < '3'",
#     "matplotlib; python_version < '3'",
#     "tensorboard; python_version < '3'",
#     "tensorflow-estimator; python_version < '3'",
#     "tensorflow-io-gcs-filesystem; python_version < '3'",
#     "tensorflow-probability; python_version < '3'",
#     "tf-models-official; python_version < '3'",
# ]
# ///
"""What tensorflow-privacy says: the clipped sum of a step, the epsilon of a run, the attacks on its losses.

    uv run --locked --script second_opinion.py COMMAND IN OUT

tensorflow-privacy cannot be installed beside the TensorFlow that trains, so this script has its own locked
dependencies and imports nothing of `runner`: it shares no code with what it checks. Commands:

clipped-sum IN.npz OUT.npz   per-record gradients of an LSTM language model, clipped and summed
epsilon IN.json OUT.json     the epsilon of DP-SGD with Poisson sampling
membership IN.npz OUT.json   membership inference and exposure from per-record losses

The functions of the same names say what goes in and comes out. A wrong input is one line on stderr and exit
code 2. After a change of the dependencies above: uv lock --script second_opinion.py
"""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import logging
import math
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The package's own import needs everything it can do; this switch is its authors', for scripts that need less.
sys.skip_tf_privacy_import = True


class InputError(Exception):
    """What was handed in cannot be used."""


def clipped_sum(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Clip each record's gradient and sum, with tensorflow-privacy's DP-SGD optimizer and its Gaussian query.

    embedding (V, d); for each LSTM layer i kernel_i (d or H, 4H), recurrent_i (H, 4H) and bias_i (4H), gates in
    Keras's order i, f, c, o; dense_kernel (H, V), dense_bias (V); inputs and targets (B, T) integers; weights
    (B, T), 0 on padding; clip, a scalar C. Optional dropout masks, already scaled: mask_0 (B, T, d) on the
    embedding's output and mask_{i+1} (B, T, H) on the output of layer i. Of a table: slots (V,), which slot each token
    is in, so that a target is one of its slot's tokens and of no others; and optional next_slot (S, d), which is added
    to the embedding by the slot of the target.

    With L_b = sum_t weights_bt crossentropy_bt and g_b its gradient over all weights, returns
    sum_b g_b min(1, C / |g_b|) under the weights' names, and `norms` (B,), the |g_b|.
    """
    check_model(arrays)

    from tensorflow_privacy.privacy.dp_query.gaussian_query import GaussianSumQuery
    from tensorflow_privacy.privacy.optimizers.dp_optimizer_keras import GenericDPSGDOptimizer

    norms: list[float] = []

    class WatchedQuery(GaussianSumQuery):
        """The query as it is, with the norm that it finds of each record written down."""

        def preprocess_record(self, params: Any, record: Any) -> Any:
            clipped, norm = self.preprocess_record_impl(params, record)
            norms.append(float(norm))
            return clipped

    variables, record_losses = language_model(arrays)
    optimizer = GenericDPSGDOptimizer(
        dp_sum_query=WatchedQuery(float(arrays["clip"]), stddev=0.0),
        num_microbatches=None,  # As many as there are losses: each record is one.
    )
    means = optimizer._compute_gradients(record_losses, list(variables.values()))
    sums = {name: mean.numpy() * len(norms) for name, (mean, _) in zip(variables, means, strict=True)}
    return {**sums, "norms": np.array(norms, np.float32)}


def language_model(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """A model of Keras's own layers with the arrays of `clipped_sum` for weights.

    Returns its variables by name, and a function that computes the losses of the records (B,).
    """
    import tensorflow as tf

    variables: dict[str, tf.Variable] = {}

    def with_weights(layer: tf.keras.layers.Layer, *names: str) -> tf.keras.layers.Layer:
        layer.build((None, None, len(arrays[names[0]])))
        layer.set_weights([arrays[name] for name in names])
        variables.update(zip(names, layer.trainable_variables, strict=True))
        return layer

    def dropped(x: tf.Tensor, mask: str) -> tf.Tensor:
        return x * tf.constant(arrays[mask], tf.float32) if mask in arrays else x

    vocab_size, width = arrays["embedding"].shape
    units = len(arrays["recurrent_0"])
    embedding = with_weights(tf.keras.layers.Embedding(vocab_size, width), "embedding")
    lstms = [
        with_weights(
            tf.keras.layers.LSTM(units, return_sequences=True),
            *(f"{weight}_{i}" for weight in ("kernel", "recurrent", "bias")),
        )
        for i in range(count_layers(arrays))
    ]
    dense = with_weights(tf.keras.layers.Dense(vocab_size), "dense_kernel", "dense_bias")

    next_slot = None
    if "next_slot" in arrays:
        next_slot = with_weights(tf.keras.layers.Embedding(*arrays["next_slot"].shape), "next_slot")

    def record_losses() -> tf.Tensor:
        targets = tf.constant(arrays["targets"], tf.int32)
        x = embedding(tf.constant(arrays["inputs"], tf.int32))  # (B, T, d)
        if next_slot is not None:
            x += next_slot(tf.gather(tf.constant(arrays["slots"], tf.int32), targets))
        x = dropped(x, "mask_0")
        for i, lstm in enumerate(lstms):
            x = dropped(lstm(x), f"mask_{i + 1}")  # (B, T, H)
        logits = dense(x)  # (B, T, V)
        if "slots" in arrays:
            slots = tf.constant(arrays["slots"], tf.int32)
            inside = tf.gather(slots, targets)[:, :, tf.newaxis] == slots
            logits = tf.where(inside, logits, logits.dtype.min)
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return tf.reduce_sum(tf.constant(arrays["weights"], tf.float32) * entropies, axis=1)  # (B,)

    return variables, record_losses


def count_layers(arrays: Mapping[str, np.ndarray]) -> int:
    """How many LSTM layers the weights make up."""
    return sum(name.startswith("kernel_") for name in arrays)


def check_model(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays for `clipped_sum` that are missing or do not fit together."""
    check_names(arrays, "embedding", "kernel_0", "recurrent_0", "inputs", "clip")
    for name in ("embedding", "recurrent_0", "inputs"):
        if arrays[name].ndim != 2:
            raise InputError(f"{name} has shape {arrays[name].shape}, not two dimensions")
    vocab_size, width = arrays["embedding"].shape
    batch, units = arrays["inputs"].shape, len(arrays["recurrent_0"])
    shapes = {"targets": batch, "weights": batch, "dense_kernel": (units, vocab_size), "dense_bias": (vocab_size,)}
    masks = {"mask_0": (*batch, width)}
    for i in range(count_layers(arrays)):
        shapes |= {f"kernel_{i}": (units if i else width, 4 * units), f"recurrent_{i}": (units, 4 * units)}
        shapes |= {f"bias_{i}": (4 * units,)}
        masks |= {f"mask_{i + 1}": (*batch, units)}
    check_names(arrays, *shapes)
    if "slots" in arrays:
        shapes |= {"slots": (vocab_size,)}
    if "next_slot" in arrays:
        check_names(arrays, "slots")
        shapes |= {"next_slot": (int(arrays["slots"].max()) + 1, width)}
    for name, shape in {**shapes, **{name: masks[name] for name in masks if name in arrays}, "clip": ()}.items():
        if arrays[name].shape != shape:
            raise InputError(f"{name} has shape {arrays[name].shape}, not {shape}")
    for name in ("inputs", "targets"):
        if not np.issubdtype(arrays[name].dtype, np.integer) or arrays[name].min() < 0:
            raise InputError(f"{name} must hold token ids")
        if arrays[name].max() >= vocab_size:
            raise InputError(f"{name} has the id {arrays[name].max()}, but the embedding has {vocab_size} rows")
    if not arrays["clip"] > 0:
        raise InputError(f"clip must be above 0, not {arrays['clip']}")


def epsilon(settings: Mapping[str, Any]) -> dict[str, float]:
    """The epsilon that tensorflow-privacy's statement gives for Poisson sampling, by either of its accountants.

    n: training examples. batch_size: the expected one. noise_multiplier. steps. delta. histograms: optional, counts
    with Gaussian noise that were released beside the steps, or alone where steps is 0 and nothing else is said of them:
    of each its `sigma`, in records, and its `threshold`, a count or null. These are composed by the accountants
    themselves; the statement knows nothing of them.
    """
    histograms, steps = settings.get("histograms", []), settings.get("steps", 0)
    if histograms:
        check_names(settings, "delta")
        if not all(isinstance(each, Mapping) and each.get("sigma", 0) > 0 for each in histograms):
            raise InputError("each of histograms must have a sigma above 0")
        if steps:
            check_steps(settings)
        return composed_epsilon(settings, histograms, steps)
    n, batch_size, noise_multiplier, steps, delta = check_steps(settings)

    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as lib

    q = batch_size / n

    def figure(accountant: lib.AccountantType) -> float:
        return lib._compute_dp_sgd_example_privacy(
            # It takes epochs and rounds up to whole steps: half a step less lands on the right one for certain.
            num_epochs=(steps - 0.5) * q,
            noise_multiplier=noise_multiplier,
            example_delta=delta,
            used_microbatching=False,  # Each record is clipped by itself.
            poisson_subsampling_probability=q,
            accountant_type=accountant,
        )

    return {"epsilon_rdp": figure(lib.AccountantType.RDP), "epsilon_pld": figure(lib.AccountantType.PLD)}


def check_steps(settings: Mapping[str, Any]) -> list[float]:
    """What is said of steps, and delta; refused where it makes no sense."""
    names = ("n", "batch_size", "noise_multiplier", "steps", "delta")
    check_names(settings, *names)
    n, batch_size, noise_multiplier, steps, delta = values = [settings[name] for name in names]
    if not all(isinstance(value, int | float) for value in values):
        raise InputError(f"{', '.join(names)} must be numbers, not {values}")
    if not 1 <= batch_size <= n:
        raise InputError(f"batch_size must be between 1 and n = {n}, not {batch_size}")
    if not (noise_multiplier > 0 and steps >= 1 and 0 < delta < 1):
        raise InputError(
            "noise_multiplier must be above 0, steps at least 1 and delta between 0 and 1, "
            f"not {noise_multiplier}, {steps} and {delta}"
        )
    return values


def composed_epsilon(
    settings: Mapping[str, Any], histograms: Sequence[Mapping[str, Any]], steps: int
) -> dict[str, float]:
    """Of steps and histograms together. A threshold costs the probability that noise takes a count of 1 to it."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    delta = settings["delta"]
    for histogram in histograms:
        if histogram.get("threshold") is not None:
            reach = np.arange(-int(20 * histogram["sigma"]), int(20 * histogram["sigma"]) + 1)
            chances = np.exp(-((reach / histogram["sigma"]) ** 2) / 2)
            delta -= chances[reach >= histogram["threshold"] - 1].sum() / chances.sum()
    if delta <= 0:
        raise InputError("the thresholds take more than delta")

    def figure(accountant: Any) -> float:
        for histogram in histograms:
            accountant.compose(GaussianDpEvent(histogram["sigma"]))
        if steps:
            gaussian = GaussianDpEvent(settings["noise_multiplier"])
            accountant.compose(PoissonSampledDpEvent(settings["batch_size"] / settings["n"], gaussian), steps)
        return float(accountant.get_epsilon(delta))

    return {"epsilon_rdp": figure(RdpAccountant()), "epsilon_pld": figure(PLDAccountant())}


def membership(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How well the losses tell records that were trained on from records that were not.

    loss_train (n1,), loss_validation (n2,): mean loss of each record.

    Returns, for the attack that sets a threshold on the loss, its `auc` (0.5 for a guess) and `advantage` (max of
    |true - false positive rate|). Then exposure in bits (Carlini et al. 2019, "The Secret Sharer", by rank): how far
    down among the validation losses a training record's loss is, log2(n2) at most; `exposure_of_chance` is what a
    record that was not trained on has on average.
    """
    check_names(arrays, "loss_train", "loss_validation")
    train, validation = arrays["loss_train"], arrays["loss_validation"]
    for name, losses in (("loss_train", train), ("loss_validation", validation)):
        if losses.ndim != 1 or len(losses) < 2 or not np.isfinite(losses).all():
            raise InputError(f"{name} must be one row of at least 2 finite losses")

    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import membership_inference_attack
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack.data_structures import (
        AttackInputData,
        AttackType,
    )
    from tensorflow_privacy.privacy.privacy_tests.secret_sharer.exposures import compute_exposure_interpolation

    # No trained attack: one that sees only the loss learns a threshold too, and where n1 and n2 differ it scores the
    # surplus by one of its folds alone: 4,000 against 1,000 losses drawn alike gave it an advantage of 0.13.
    attack = membership_inference_attack.run_attacks(
        AttackInputData(loss_train=train, loss_test=validation), attack_types=[AttackType.THRESHOLD_ATTACK]
    ).single_attack_results[0]
    exposures = compute_exposure_interpolation({"train": train}, validation)["train"]
    # A record like those of validation has each rank from 1 to n2 + 1 among them with the same probability.
    ranks = np.arange(1, len(validation) + 2)
    return {
        "attack": attack.attack_type.name.lower(),
        "auc": float(attack.get_auc()),
        "advantage": float(attack.get_attacker_advantage()),
        "exposure_mean": float(exposures.mean()),
        "exposure_max": float(exposures.max()),
        "exposure_median": float(np.median(exposures)),
        "exposure_of_chance": float(math.log2(len(validation)) - np.log2(ranks).mean()),
    }


def check_names(given: Mapping[str, Any], *names: str) -> None:
    """Refuse an input that lacks one of the names."""
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")


def read(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file or the values of a .json file."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return json.loads(path.read_text())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def write(path: Path, answer: dict[str, Any]) -> None:
    """Write arrays to an .npz file or values to a .json file."""
    try:
        if path.suffix == ".npz":
            np.savez(path, **answer)
        else:
            path.write_text(json.dumps(answer, indent=1))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error


COMMANDS = {"clipped-sum": clipped_sum, "epsilon": epsilon, "membership": membership}


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    # TensorFlow's notes on the processor, and on what the locked dependencies leave out, are no news to anyone.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    logging.disable(logging.WARNING)
    if len(arguments) != 3 or arguments[0] not in COMMANDS:
        print(f"usage: second_opinion.py {{{','.join(COMMANDS)}}} IN OUT", file=sys.stderr)
        return 2
    command, question, answer = arguments[0], Path(arguments[1]), Path(arguments[2])
    try:
        write(answer, COMMANDS[command](read(question)))
    except InputError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
