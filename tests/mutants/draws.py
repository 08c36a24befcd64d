"""Small faults in runs on draws: what is counted, charged and trained on."""

from __future__ import annotations

from typing import Any

from tests.mutants.mutants import leave_mark, mutant

FILE = "test_draws.py"


@mutant("test_20_counts_take_the_target_and_are_in_every_ledger", file=FILE)
def counts_cost_more_than_the_target() -> None:
    from runner.privacy import marginals

    plan_release = marginals.plan_release

    def faulty(name: str, weights: Any, open_sets: Any, target: float, *rest: Any) -> Any:
        leave_mark()
        return plan_release(name, weights, open_sets, 1.1 * target, *rest)

    marginals.plan_release = faulty


@mutant("test_20_a_run_on_draws_that_is_killed_counts_what_is_left_to_count_and_no_more", file=FILE)
def counts_are_drawn_again_on_resume() -> None:
    from runner.privacy import measured

    released_once = measured.released_once

    def faulty(folder: Any, release: Any, count: Any) -> Any:
        leave_mark()
        if folder.exists(f"{release.name}.json"):
            folder.delete(f"{release.name}.json")
        return released_once(folder, release, count)

    measured.released_once = faulty


@mutant("test_20_a_run_on_draws_that_is_killed_counts_what_is_left_to_count_and_no_more", file=FILE)
def counts_are_charged_after_they_are_drawn() -> None:
    from runner.train import facade

    charge, draw = facade.charge_marginals, facade.draw_tokens

    def faulty(config: Any, directory: Any, schema: Any, records: int) -> None:
        from runner.privacy.ledger import RunLedger
        from runner.privacy.marginals import plan_marginals

        leave_mark()
        ledger = RunLedger.open(directory.folder, writes=True)
        if len(ledger.state.releases) == 1:
            beside = ledger.state.releases
            marginals = plan_marginals(config, schema, ledger.state.delta, records, beside)
            ledger.change(releases=(*beside, *marginals))

    def draws(config: Any, directory: Any, tokens: Any, *rest: Any) -> Any:
        drawn = draw(config, directory, tokens, *rest)
        charge(config, directory, facade.tokenizer_of(tokens).schema, tokens.examples)
        return drawn

    facade.charge_marginals, facade.draw_tokens = faulty, draws


@mutant("test_20_no_other_run_takes_what_is_left_while_a_schema_is_bought", file=FILE)
def nothing_is_reserved_for_counts_to_come() -> None:
    from runner.train import private_run

    def faulty(*_arguments: Any) -> tuple[()]:
        leave_mark()
        return ()

    private_run._counts_to_come = faulty


@mutant("test_20_training_sees_draws_and_no_record", file=FILE)
def training_sees_the_records() -> None:
    from runner.train import facade

    draw = facade.draw_tokens

    def faulty(config: Any, directory: Any, tokens: Any, *rest: Any) -> Any:
        leave_mark()
        draw(config, directory, tokens, *rest)
        return tokens

    facade.draw_tokens = faulty


@mutant("test_20_an_attack_on_counts_of_different_noise_finds_no_more_than_is_claimed", file=FILE)
def the_least_noise_is_accounted_for_as_the_most() -> None:
    from runner.privacy.accountant import Release

    def faulty(release: Release) -> dict[Any, int]:
        leave_mark()
        return {max(each.noise for each in release.histograms): len(release.histograms)}

    Release.noises = property(faulty)  # type: ignore[assignment]


@mutant("test_20_draws_that_are_gone_are_made_again_as_they_were", file=FILE)
def draws_are_others_each_time() -> None:
    import os

    from runner.train import drawn_tokens

    draw_ids = drawn_tokens.draw_ids

    def faulty(measured: Any, *rest: Any) -> Any:
        from dataclasses import replace

        leave_mark()
        return draw_ids(replace(measured, digest=os.urandom(32).hex()), *rest)

    drawn_tokens.draw_ids = faulty


CHOICE = "test_20_the_scores_of_a_table_move_by_one_each_at_most_whatever_record_is_emptied"


@mutant(CHOICE, file="test_choice.py")
def scores_take_the_number_of_records_from_the_records() -> None:
    from runner.privacy import measured

    count_dependence = measured.count_dependence

    def faulty(counted: Any, one: Any, other: Any, _records: int) -> Any:
        leave_mark()
        return count_dependence(counted, one, other, int(counted.sum()))

    measured.count_dependence = faulty


@mutant(CHOICE, file="test_choice.py")
def scores_take_the_shares_from_the_records() -> None:
    from runner.privacy import measured

    count_dependence = measured.count_dependence

    def faulty(counted: Any, _one: Any, _other: Any, records: int) -> Any:
        leave_mark()
        total = max(int(counted.sum()), 1)
        return count_dependence(counted, counted.sum(axis=1) / total, counted.sum(axis=0) / total, records)

    measured.count_dependence = faulty


@mutant("test_20_an_attack_on_the_choice_finds_no_more_than_is_claimed", file="test_choice.py")
def scores_are_twice_as_large() -> None:
    from dataclasses import replace

    from runner.privacy import measured

    count_dependence = measured.count_dependence

    def faulty(*arguments: Any) -> Any:
        leave_mark()
        found = count_dependence(*arguments)
        return replace(found, counts=2 * found.counts)

    measured.count_dependence = faulty


@mutant("test_20_nothing_of_the_records_is_read_after_they_were_counted", file=FILE)
def a_record_is_read_after_the_counts() -> None:
    from runner.train import drawn_tokens

    draw_ids, tokenizer_of = drawn_tokens.draw_ids, drawn_tokens.tokenizer_of
    real: list[Any] = []

    def remembering(tokens: Any) -> Any:
        real.append(tokens)
        return tokenizer_of(tokens)

    def faulty(measured: Any, *rest: Any) -> Any:
        import numpy as np

        from runner.data.examples import Examples

        leave_mark()
        list(Examples(real[0], 1.0).rows(np.arange(1)))
        return draw_ids(measured, *rest)

    drawn_tokens.draw_ids, drawn_tokens.tokenizer_of = faulty, remembering
