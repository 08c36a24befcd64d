"""Faults in what is a table's own: slots in the clipped sum, and the order of fields."""

from __future__ import annotations

from typing import Any

from tests.mutants.mutants import leave_mark, mutant


@mutant(
    "test_04_emptying_a_row_whose_tokens_share_a_slot_moves_the_sum_by_at_most_the_clip",
    file="test_table_promises.py",
)
def positions_of_one_slot_have_norms_of_their_own() -> None:
    from runner.privacy import products

    squared_norms = products.squared_norms

    def faulty(product: Any) -> Any:
        leave_mark()
        import tensorflow as tf

        if getattr(product, "slots", None) is None:
            return squared_norms(product)
        inputs, deltas = product.grams()
        return tf.linalg.trace(inputs * deltas)

    products.squared_norms = faulty


@mutant("test_04_every_weight_of_a_table_s_network_is_in_the_norm", file="test_table_promises.py")
def the_embedding_of_the_next_slot_is_not_clipped() -> None:
    from runner.privacy.products import Table

    grams = Table.grams

    def faulty(self: Table) -> Any:
        leave_mark()
        return grams(self._replace(ids=self.ids[:1]))

    Table.grams = faulty


@mutant("test_03_an_order_of_fields_depends_on_no_record", file="test_table_promises.py")
def the_order_of_fields_depends_on_what_is_in_the_batch() -> None:
    import numpy as np

    from runner.data import batches

    shuffle_fields = batches.shuffle_fields

    def faulty(ids: Any, fields: Any, order: Any) -> Any:
        leave_mark()
        return shuffle_fields(ids, fields, np.roll(order, np.count_nonzero(ids[:, 1]), axis=1))

    batches.shuffle_fields = faulty
