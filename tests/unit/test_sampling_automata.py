"""What an automaton does not allow is never drawn, and every record that is begun can end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runner.data.automaton import NEVER, Automaton, Paths
from runner.errors import ConfigError
from runner.model.chooser import Rules, make_chooser
from runner.model.network import Network
from runner.model.sampling import Sampler

END = 0


def draw_automaton(states: int, tokens: int, density: float, seed: int) -> Automaton:
    """Any automaton at all, dead ends and loops included."""
    draw = np.random.default_rng(seed)
    return Automaton(
        draw.random((states, tokens)) < density,
        draw.integers(0, states, (states, tokens)).astype(np.int32),
        start=int(draw.integers(states)),
    )


AUTOMATA = st.builds(
    draw_automaton, st.integers(1, 12), st.integers(2, 200), st.sampled_from([0.01, 0.1, 0.5, 1.0]), st.integers(0, 999)
)
EXTREMES = st.sampled_from([-np.inf, np.inf, np.nan, 1e30, -1e30, 3e38, -3e38, 0.0, 1e-40, 88.0, -104.0])


def distances_by_search(automaton: Automaton) -> list[int]:
    """The oracle: the fewest tokens from every state to one that allows the end, by relaxation."""
    found = [0 if allowed[END] else NEVER for allowed in automaton.allowed]
    for _ in found:
        for state, (allowed, following) in enumerate(zip(automaton.allowed, automaton.following, strict=True)):
            for token in np.flatnonzero(allowed):
                if token != END and found[following[token]] != NEVER:
                    found[state] = min(found[state], found[following[token]] + 1)
    return found


@settings(max_examples=60, deadline=None)
@given(AUTOMATA)
def test_distances_to_the_end_are_those_of_a_search(automaton: Automaton) -> None:
    assert Paths(automaton, END).distances.tolist() == distances_by_search(automaton)


def test_distances_over_a_byte_are_kept() -> None:
    """A chain of 300 states, one token each."""
    states = 300
    allowed = np.zeros((states, 2), bool)
    allowed[:-1, 1] = allowed[-1, END] = True
    following = np.minimum(np.arange(states, dtype=np.int32)[:, None] + 1, states - 1).repeat(2, axis=1)
    paths = Paths(Automaton(allowed, following), END)
    assert paths.distances.tolist() == list(range(states - 1, -1, -1))
    assert paths.left[0].tolist() == [NEVER, states - 2]
    assert paths.shortest([(), (1,), (1,) * 299, (1,) * 300, (0,)]).tolist() == [299, 299, 299, NEVER, NEVER]


@settings(max_examples=150, deadline=None)
@given(AUTOMATA, st.data())
def test_a_token_that_is_not_allowed_is_never_drawn(automaton: Automaton, data: st.DataObject) -> None:
    """Whatever the network makes of its logits, by every setting, up to the last number below 1."""
    states, tokens = automaton.allowed.shape
    paths = Paths(automaton, END)
    places = data.draw(st.lists(st.integers(0, states - 1), min_size=1, max_size=8))
    room = data.draw(st.lists(st.integers(0, 300), min_size=len(places), max_size=len(places)))
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).normal(0, 5, (len(places), tokens))
    for _ in range(data.draw(st.integers(0, 3))):
        value = data.draw(EXTREMES)
        where = data.draw(st.sampled_from(["all", "allowed", "some"]))
        mask = {"all": True, "allowed": automaton.allowed[places], "some": logits > 2}[where]
        logits = np.where(mask, value, logits)
    temperature, top_k, top_p = data.draw(
        st.sampled_from(
            [(1.0, None, 1.0), (0.0, None, 1.0), (1e-6, None, 1.0), (1e6, 3, 1.0), (1.0, None, 0.7), (1, 5, 1e-6)]
        )
    )
    u = data.draw(st.sampled_from([0.0, 0.3, 1 - 2.0**-24]))
    drawn = Rules.of(paths).choose(
        make_chooser(tokens, temperature, top_k, top_p),
        tf.constant(logits, tf.float32),
        tf.fill([len(places)], tf.constant(u, tf.float32)),
        tf.constant(places),
        tf.constant(room),
    )
    distances = distances_by_search(automaton)
    for place, left, token in zip(places, room, drawn.numpy().tolist(), strict=True):
        fit = [
            other
            for other in np.flatnonzero(automaton.allowed[place]).tolist()
            if other == END or distances[automaton.following[place, other]] <= left
        ]
        assert token in fit or not fit


def test_settings_are_about_the_tokens_that_are_allowed() -> None:
    """The two most likely of 300 tokens are not allowed: top_k takes the next, top_p its share of what is left."""
    logits = np.linspace(0, 3, 300)[None].repeat(1000, axis=0)
    allowed = np.full((1, 300), True)
    allowed[0, 298:] = False
    rules = Rules.of(Paths(Automaton(allowed, np.zeros((1, 300), np.int32)), END))
    u = tf.constant((np.arange(1000) + 0.5) / 1000, tf.float32)

    def drawn(temperature: float, top_k: int | None, top_p: float) -> NDArray[Any]:
        choose = make_chooser(300, temperature, top_k, top_p)
        zeros = tf.zeros(1000, tf.int32)
        return np.unique(rules.choose(choose, tf.constant(logits, tf.float32), u, zeros, zeros).numpy())

    assert drawn(0.0, None, 1.0).tolist() == [297]
    assert drawn(1.0, 3, 1.0).tolist() == [295, 296, 297]
    mass = np.exp(logits[0, :298]) / np.exp(logits[0, :298]).sum()
    nucleus = 1 + int(np.searchsorted(np.cumsum(mass[::-1]), 0.5))
    assert drawn(1.0, None, 0.5).tolist() == list(range(298 - nucleus, 298))


VOCAB, SLOTS = 12, (1, 3, 4, 4)


@pytest.fixture(scope="module", params=[False, True])
def network(request: pytest.FixtureRequest) -> Network:
    """Of a table or not; its weights are large, so that records differ."""
    slots = {"slots": SLOTS, "any_order": True} if request.param else {}
    network = Network(vocab_size=VOCAB, embedding_dim=8, rnn_units=8, layers=2, dropout_rate=0.5, seed=3, **slots)
    network.load_weights_dict({name: 4 * value for name, value in network.weights_dict().items()})
    return network


def table() -> Automaton:
    """A token of each slot, the middle one up to four times; then the end."""
    of_tokens = np.repeat(np.arange(4), SLOTS)
    slots = np.array([1, 2, 2, 2, 2, 3, 0], np.int32)
    allowed = of_tokens[None] == slots[:, None]
    following = np.minimum(np.arange(7)[:, None] + 1, 6).repeat(VOCAB, axis=1).astype(np.int32)
    following[1:5, 4] = 5  # the first of the middle slot's tokens is the last of its field
    allowed[4] = np.arange(VOCAB) == 4
    return Automaton(allowed, following, slots=slots)


def loops() -> Automaton:
    """1s and 2s in any number, then 3, 4 and 5: no record has fewer than three tokens."""
    allowed = np.zeros((4, VOCAB), bool)
    allowed[0, 1:4] = allowed[1, 4] = allowed[2, 5] = allowed[3, END] = True
    following = np.zeros((4, VOCAB), np.int32)
    following[0, 3], following[1, 4], following[2, 5] = 1, 2, 3
    return Automaton(allowed, following, slots=np.array([1, 1, 2, 0], np.int32))


def draw(
    network: Network, n: int, automaton: Automaton, *, prompts: Any = ((),), first: int = 0, **options: Any
) -> Any:
    sampler = Sampler(network, **{"end_id": END, "max_length": 8, "automaton": automaton, **options})
    return [record for batch in sampler.batches(n, seed=7, first=first, prompts=prompts) for record in batch]


def is_whole(automaton: Automaton, record: list[int]) -> bool:
    state = automaton.walk(record)
    return state is not None and bool(automaton.allowed[state, END])


@pytest.mark.parametrize("automaton", [table(), loops()])
def test_every_record_is_one_of_the_automaton_and_ends_in_time(network: Network, automaton: Automaton) -> None:
    longest = 9
    records = draw(network, 400, automaton, max_length=longest, temperature=2.0, batch_size=64)
    assert all(is_whole(automaton, record) and len(record) <= longest for record in records)
    assert len({len(record) for record in records}) > 3
    assert len({tuple(record) for record in records}) > 30


def test_a_record_ends_even_where_all_but_the_shortest_are_too_long(network: Network) -> None:
    assert set(map(tuple, draw(network, 20, loops(), max_length=3))) == {(3, 4, 5)}
    assert {len(record) for record in draw(network, 60, loops(), max_length=4, temperature=3.0)} == {3, 4}


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.8}, {"temperature": 0.0}])
def test_records_of_an_automaton_do_not_depend_on_the_batch_size(network: Network, options: Any) -> None:
    records = draw(network, 30, table(), **options)
    assert draw(network, 30, table(), **options, batch_size=7) == records
    assert draw(network, 10, table(), **options, first=20) == records[20:]


def test_tokens_follow_the_networks_probabilities_among_those_allowed(network: Network) -> None:
    """Chi-square over 2 degrees of freedom: below 13.8 with probability 0.999."""
    records = draw(network, 9000, table(), batch_size=1000)
    found = np.bincount([record[0] for record in records], minlength=VOCAB)[1:4]
    slots = None if network.next_slot is None else tf.constant([1])
    logits, _ = network.step(tf.constant([END]), network.initial_state(1), None, slots)
    expected = tf.nn.softmax(logits[0, 1:4]).numpy() * len(records)
    assert ((found - expected) ** 2 / expected).sum() < 13.8


def test_prompts_walk_the_automaton(network: Network) -> None:
    prompts = [[], [2], [3, 5, 6], [1, 4, 11]]
    records = draw(network, 4, table(), prompts=prompts, batch_size=2)
    assert [record[: len(prompt)] for record, prompt in zip(records, prompts, strict=True)] == prompts
    assert all(is_whole(table(), record) for record in records)
    assert records[3] == [1, 4, 11]


@pytest.mark.parametrize(
    ("automaton", "options", "message"),
    [
        (table(), {"prompts": [[], [5]]}, r"no record that begins with the tokens \[5\]"),
        (table(), {"prompts": [[1, 4, 11, 11]]}, "no record that begins"),
        (loops(), {"prompts": [[1] * 6]}, "has 9 tokens or more, but may have 8"),
        (loops(), {"max_length": 2}, "a record has 3 tokens or more, but may have 2"),
        (
            Automaton(np.zeros((1, VOCAB), bool), np.zeros((1, VOCAB), np.int32), slots=np.zeros(1, np.int32)),
            {},
            "no record",
        ),
    ],
)
def test_what_no_record_can_be_is_a_config_error(network: Network, automaton: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(network, 2, automaton, **options)


def test_a_network_that_reads_the_next_slot_is_not_drawn_from_without_an_automaton() -> None:
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "embedding_dim": 8, "rnn_units": 8, "layers": 1, "dropout_rate": 0.0}
    network = Network(**sizes, slots=SLOTS, any_order=True)
    with pytest.raises(ConfigError, match="next slot needs an automaton"):
        Sampler(network, end_id=END, max_length=8)
