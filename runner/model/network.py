"""The generator's network: embedding, dropout, LSTM layers with dropout after each, dense logits.

The weights are exactly Keras's. On the CPU the LSTM layers run on `runner.model.kernels`, on a GPU on Keras's
own layer (cuDNN). Training uses `loss_sums` (or `logits`), which are time-major inside and take dropout keys;
Keras callbacks use `call`, which is batch-major; generation uses `initial_state` and `step`.
"""

# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.errors import ConfigError, CorruptError
from runner.model import kernels
from runner.model.dropout import dropout_mask
from runner.model.objective import loss_sums, loss_sums_by_slot

State = Sequence[tuple[tf.Tensor, tf.Tensor]]
"""Per LSTM layer h and c, each (B, H)."""


class TimeMajorLSTM(keras.layers.LSTM):
    """Keras's LSTM layer over (T, B, d) -> (T, B, H), on the CPU kernels or on Keras's own code."""

    def __init__(self, units: int, *, use_kernels: bool, **arguments: Any) -> None:
        super().__init__(units, return_sequences=True, **arguments)
        self.use_kernels = use_kernels

    def call(self, sequences: tf.Tensor) -> tf.Tensor:
        if self.use_kernels:
            return kernels.lstm(sequences, *self.tensors())
        return tf.transpose(super().call(tf.transpose(sequences, (1, 0, 2))), (1, 0, 2))

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        """x kernel + bias, (n, d) -> (n, 4H): what a step adds to the recurrent product."""
        kernel, _, bias = self.tensors()
        return tf.matmul(x, kernel) + bias

    def step(self, inputs: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One step: `inputs` (B, 4H), state h and c (B, H). Returns the next h and c."""
        return kernels.cell(inputs, h, c, self.tensors()[1])

    def tensors(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The weights as tensors: kernel (d, 4H), recurrent kernel (H, 4H), bias (4H), gates i, f, c, o."""
        return _tensor(self.cell.kernel), _tensor(self.cell.recurrent_kernel), _tensor(self.cell.bias)


class Network(keras.Model):
    """Embedding, LSTM layers with dropout, logits. Initial weights are a pure function of the arguments.

    vocab_size: V. embedding_dim: d. rnn_units: H. layers: number of LSTM layers. dropout_rate: in [0, 1).
    rnn_initializer: name of a Keras initializer, for the LSTM input kernels.
    slots: of a table, how many ids each slot has, in the order of the ids (see `runner.data.schema`): a token is only
    ever one of its slot, and the loss normalises over that. any_order: with each token the network reads the slot
    that is filled next, so that fields may come in any order.
    use_kernels: run the LSTM layers on the CPU kernels; None: if TensorFlow sees no GPU.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        embedding_dim: int,
        rnn_units: int,
        layers: int,
        dropout_rate: float,
        rnn_initializer: str = "glorot_uniform",
        seed: int = 0,
        slots: Sequence[int] | None = None,
        any_order: bool = False,
        use_kernels: bool | None = None,
    ) -> None:
        super().__init__(name="network")
        if slots is not None and sum(slots) != vocab_size:
            raise ValueError(f"slots of {sum(slots)} ids do not make a vocabulary of {vocab_size}")
        if any_order and slots is None:
            raise ValueError("any_order needs slots")
        if use_kernels is None:
            use_kernels = not tf.config.get_visible_devices("GPU")
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.rnn_units = rnn_units
        self.dropout_rate = dropout_rate
        self.rnn_initializer = rnn_initializer
        self.seed = seed
        self.slots = None if slots is None else tuple(slots)
        *others, for_slots = np.random.SeedSequence(seed).generate_state(3 + 2 * layers).tolist()
        seeds = iter(others)
        initializer = _initializer("uniform", next(seeds))
        self.embedding = keras.layers.Embedding(vocab_size, embedding_dim, initializer, name="embedding")
        self.next_slot = None
        if self.slots is not None and any_order:
            initializer = _initializer("uniform", for_slots)
            self.next_slot = keras.layers.Embedding(len(self.slots), embedding_dim, initializer, name="next_slot")
        self.lstms = [
            TimeMajorLSTM(
                rnn_units,
                use_kernels=use_kernels,
                kernel_initializer=_initializer(rnn_initializer, next(seeds)),
                recurrent_initializer=_initializer("orthogonal", next(seeds)),
                name=f"lstm_{index}",
            )
            for index in range(layers)
        ]
        initializer = _initializer("glorot_uniform", next(seeds))
        self.dense = keras.layers.Dense(vocab_size, kernel_initializer=initializer, name="dense")
        self.build((None, None))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights; the constructor calls this, so that they exist from the start."""
        self.embedding.build(input_shape)
        if self.next_slot is not None:
            self.next_slot.build(input_shape)
        width = self.embedding_dim
        for lstm in self.lstms:
            lstm.build((None, None, width))
            width = self.rnn_units
        self.dense.build((None, width))
        self.built = True

    def logits(
        self, ids: tf.Tensor, dropout_keys: tf.Tensor | None = None, targets: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Logits for training, ids (B, T) int32 -> (T*B, V): row t*B + b is position t of example b.

        dropout_keys (B, T) uint32: a random number for each position (see runner.model.dropout); None: no
        dropout. targets (B, T): what follows each id, of which an `any_order` network reads the slot; None: the next
        of `ids`, and the end after the last.
        """
        return self.dense(kernels.flatten_time(self.hidden(ids, dropout_keys, targets)))

    def loss_sums(
        self, ids: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, dropout_keys: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Summed cross-entropy and right predictions of a batch; all arguments (B, T)."""
        sums = loss_sums if self.slots is None else partial(loss_sums_by_slot, self.slots)
        return sums(
            kernels.flatten_time(self.hidden(ids, dropout_keys, targets)),
            _tensor(self.dense.kernel),
            _tensor(self.dense.bias),
            tf.reshape(tf.transpose(targets), [-1]),
            tf.reshape(tf.transpose(weights), [-1]),
        )

    def hidden(
        self, ids: tf.Tensor, dropout_keys: tf.Tensor | None = None, targets: tf.Tensor | None = None
    ) -> tf.Tensor:
        """What the dense layer reads, (T, B, H), after the last dropout; arguments as for `logits`."""
        keys = None if dropout_keys is None else tf.transpose(dropout_keys)
        if targets is None:
            targets = tf.concat([ids[:, 1:], tf.zeros_like(ids[:, :1])], axis=1)
        x = self.embed(tf.transpose(ids), tf.transpose(targets))
        x = self._drop(x, keys, 0, self.embedding_dim)
        for index, lstm in enumerate(self.lstms, start=1):
            x = self._drop(lstm(x), keys, index, self.rnn_units)
        return x

    def embed(self, ids: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """What the first layer reads before dropout: ids and what follows them, (T, B) -> (T, B, d)."""
        x = kernels.embed(_tensor(self.embedding.embeddings), ids)
        if self.next_slot is not None:
            x += kernels.embed(_tensor(self.next_slot.embeddings), tf.gather(self.slots_of_tokens(), targets))
        return x

    def slots_of_tokens(self) -> tf.Tensor:
        """The slot of every token, (V) int32."""
        assert self.slots is not None
        return tf.constant(np.repeat(np.arange(len(self.slots), dtype=np.int32), self.slots))

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:  # noqa: ARG002  Keras passes it
        """Logits (B, T, V) of ids (B, T), batch-major, of all slots. No dropout: it needs keys (see `logits`)."""
        return tf.transpose(self.dense(self.hidden(ids)), (1, 0, 2))

    def initial_state(self, batch_size: int | tf.Tensor) -> State:
        """The state before the first token of `batch_size` records."""
        zero = tf.zeros((batch_size, self.rnn_units), self.compute_dtype)
        return [(zero, zero) for _ in self.lstms]

    def token_inputs(self) -> tf.Tensor:
        """The first layer's inputs for every token, (V, 4H): looked up, they spare a step one product."""
        return self.lstms[0].inputs(_tensor(self.embedding.embeddings))

    def slot_inputs(self) -> tf.Tensor | None:
        """What the slot that is filled next adds to `token_inputs`, (slots, 4H); None: the network does not read it."""
        if self.next_slot is None:
            return None
        return tf.matmul(_tensor(self.next_slot.embeddings), self.lstms[0].tensors()[0])

    def step(
        self,
        ids: tf.Tensor,
        state: State,
        token_inputs: tf.Tensor | None = None,
        next_slots: tf.Tensor | None = None,
        slot_inputs: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, State]:
        """Read one token per record, ids (B): the logits (B, V) of the next token, and the next state.

        next_slots (B): for an `any_order` network, the slots of the next tokens. token_inputs, slot_inputs: the
        tables of these names, for who takes many steps.
        """
        if token_inputs is None:
            inputs = self.lstms[0].inputs(tf.gather(_tensor(self.embedding.embeddings), ids))
        else:
            inputs = tf.gather(token_inputs, ids)
        if self.next_slot is not None:
            inputs += tf.gather(self.slot_inputs() if slot_inputs is None else slot_inputs, next_slots)
        next_state = []
        for index, (lstm, (h, c)) in enumerate(zip(self.lstms, state, strict=True)):
            h, c = lstm.step(inputs if index == 0 else lstm.inputs(next_state[-1][0]), h, c)
            next_state.append((h, c))
        return self.dense(next_state[-1][0]), next_state

    def config(self) -> dict[str, Any]:
        """The constructor arguments that define the network; JSON-able."""
        return {
            "vocab_size": self.vocab_size,
            "embedding_dim": self.embedding_dim,
            "rnn_units": self.rnn_units,
            "layers": len(self.lstms),
            "dropout_rate": self.dropout_rate,
            "rnn_initializer": self.rnn_initializer,
            "seed": self.seed,
            **({} if self.slots is None else {"slots": list(self.slots)}),
            **({} if self.next_slot is None else {"any_order": True}),
        }

    get_config = config

    @classmethod
    def from_config_dict(cls, config: Mapping[str, Any], *, use_kernels: bool | None = None) -> Network:
        """The network that `config()` described, with its initial weights."""
        return cls(**config, use_kernels=use_kernels)

    def masks_of(self, tokens: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """Of each of `trainable_variables`, in a shape that spreads over its own, which weights are of some tokens
        (V,) alone: their embeddings and logits."""
        by_name = {"embedding": tokens[:, np.newaxis], "dense/kernel": tokens[np.newaxis], "dense/bias": tokens}
        return [by_name.get(name, np.zeros(1, bool)) for name in self._named_variables()]

    def weights_dict(self) -> dict[str, np.ndarray]:
        """A copy of every weight by its name: embedding, lstm_0/kernel, ..., dense/kernel, dense/bias."""
        variables = self._named_variables()
        return {name: np.array(keras.ops.convert_to_numpy(value)) for name, value in variables.items()}

    def load_weights_dict(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set every weight. CorruptError if a name, shape or dtype is not the network's; then none is set."""
        variables = self._named_variables()
        if unmatched := sorted(variables.keys() ^ weights.keys()):
            raise _misfit(f"{', '.join(unmatched)} missing or unknown")
        for name, variable in variables.items():
            expected = f"{variable.dtype} {tuple(variable.shape)}"
            found = f"{weights[name].dtype} {weights[name].shape}"
            if found != expected:
                raise _misfit(f"{name} should be {expected}, found {found}")
        for name, variable in variables.items():
            variable.assign(weights[name])

    def _drop(self, x: tf.Tensor, keys: tf.Tensor | None, layer: int, width: int) -> tf.Tensor:
        if keys is None or self.dropout_rate == 0:
            return x
        return x * dropout_mask(keys, layer, width, self.dropout_rate, x.dtype)

    def _named_variables(self) -> dict[str, keras.Variable]:
        named = {"embedding": self.embedding.embeddings}
        if self.next_slot is not None:
            named["next_slot"] = self.next_slot.embeddings
        for lstm in self.lstms:
            named[f"{lstm.name}/kernel"] = lstm.cell.kernel
            named[f"{lstm.name}/recurrent_kernel"] = lstm.cell.recurrent_kernel
            named[f"{lstm.name}/bias"] = lstm.cell.bias
        return {**named, "dense/kernel": self.dense.kernel, "dense/bias": self.dense.bias}


def _tensor(variable: keras.Variable) -> tf.Tensor:
    """The variable's value on this replica, as a tensor that a gradient tape follows."""
    return tf.convert_to_tensor(variable)


def _misfit(what: str) -> CorruptError:
    return CorruptError(f"weights do not fit the model: {what}; use the weights that were saved with the model")


def _initializer(name: str, seed: int) -> Any:
    """A Keras initializer by name, seeded where it is random."""
    try:
        initializer: Any = keras.initializers.get(name)
    except ValueError as error:
        raise ConfigError(
            f"model.rnn_initializer: Keras has no initializer {name!r}; glorot_uniform is the usual one"
        ) from error
    config = initializer.get_config()
    return type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
