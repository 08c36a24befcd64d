"""The report's page: what it says of which run, whatever the records hold."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import DataError, RunNotFoundError
from runner.privacy.report import NOT_COVERED
from runner.report.facade import report_run
from runner.run_directory import RunDirectory
from tests.report_runs import take_run, write_statement, write_synthetic

PRIVATE = {"privacy": {"enabled": True, "noise_multiplier": 1.0}}


def people(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [
        f"{draw.choice(['anna', 'bernd', 'clara'])},{draw.gauss(40, 12):.1f},{draw.choice(['yes', 'no'])}"
        for _ in range(count)
    ]


class Text(HTMLParser):
    """What a page says, and which elements it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def report_of(directory: RunDirectory, **options: Any) -> tuple[dict[str, Any], str]:
    """A run's answer, and its page."""
    answer, _ = report_run(directory, **({"target": None, "synthetic_uri": None, "count": None} | options))
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    return answer, directory.folder.read("report.html").decode()


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page says the same of a small model as of a large one."""
    monkeypatch.setattr("runner.report.discriminator.TREES", 5)


Compare = Callable[..., tuple[dict[str, Any], Text]]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Reports a run on some texts against others."""

    def compare(texts: Sequence[str | None], synthetic: Sequence[str], *, target: str | None = None, **job: Any) -> Any:
        file = write_synthetic(tmp_path / "synthetic.parquet", synthetic)
        directory = take_run(tmp_path, texts, storage={"uri": str(tmp_path / "runs"), "overwrite": True}, **job)
        answer, page = report_of(directory, target=target, synthetic_uri=file)
        return answer, Text(page)

    return compare


# What the page says


def test_figures_are_those_of_the_records(compare: Compare) -> None:
    texts = people(400)
    answer, page = compare(texts, [*texts[:50], "clara,not a number,no", "only,two"])
    quality = answer["quality"]
    assert quality["right_number_of_fields"] == 51 / 52
    assert [column["name"] for column in quality["columns"]] == ["field_1", "field_2", "field_3"]
    assert [column["kind"] for column in quality["columns"]] == ["category", "number", "category"]
    assert 0.5 < quality["exact_copies"] < 1, "some of the copies are of holdout records"
    assert quality["exact_copies_of_holdout"] < 0.3
    assert "51" not in page.said
    assert page.tags.count("svg") == 3 + 3 + 1 + 1, "curves, columns, pairs, distances"
    assert "400" not in page.said


def test_fidelity_is_on_top_and_in_the_figures(compare: Compare) -> None:
    answer, page = compare(people(400), people(400, 1))
    accuracy = answer["quality"]["accuracy"]
    levels = [accuracy[level] for level in ("univariate", "bivariate", "trivariate")]
    for key in ("synthetic", "most", "holdout"):
        assert accuracy["overall"][key] == pytest.approx(sum(level[key] for level in levels) / 3)
        assert accuracy["univariate"][key] == pytest.approx(sum(column[key] for column in accuracy["columns"]) / 3)
        assert accuracy["bivariate"][key] == pytest.approx(sum(pair[key] for pair in accuracy["pairs"]) / 3)
    assert [pair["names"] for pair in accuracy["pairs"]] == [["field_1", other] for other in ("field_2", "field_3")] + [
        ["field_2", "field_3"]
    ]
    shown = [f"{100 * accuracy['overall'][key]:.1f}%" for key in ("synthetic", "holdout", "most")]
    assert f"Accuracy {shown[0]} of distributions of one, two and three columns" in page.text
    assert f"another sample of the same source: {shown[2]}" in page.text
    assert f"Accuracy {' '.join(shown)} the mean of the three below" in page.text
    quality = answer["quality"]
    assert abs(quality["discriminator_auc"] - 0.5) < 2 * quality["discriminator_auc_by_chance"][1]
    assert quality["nearest_neighbor_distance_ratio"]["ratio"] == pytest.approx(1, abs=0.2)
    inference = quality["attribute_inference"]
    assert inference["guessed_of_training"] == pytest.approx(inference["guessed_of_holdout"], abs=0.15)
    for name in ("Told from real records", "Closer to training", "Closest beside second closest", "Exact copies",
                 "Guessed from the rest", "Least accurate pairs", "Most at risk to be guessed"):  # fmt: skip
        assert name in page.text


def test_a_rare_value_that_came_through_is_named(compare: Compare) -> None:
    texts = [*people(395), *["duchess,40.0,yes"] * 5]
    _, clean = compare(texts, people(200, 1))
    assert "Rare values that came through" not in clean.text
    answer, page = compare(texts, [*people(200, 1), "duchess,41.5,no"])
    rare = answer["quality"]["rare_values"]
    assert rare["values"] == [
        {"column": "field_1", "value": "duchess", "training": rare["values"][0]["training"], "synthetic": 1}
    ]
    assert 1 <= rare["values"][0]["training"] <= 5
    assert "duchess field_1" in page.text


def test_holdout_records_that_repeat_show_as_the_base_of_copies(compare: Compare) -> None:
    answer, page = compare(["a,1", "b,2"] * 200, ["a,1"] * 30)
    assert answer["quality"]["exact_copies"] == answer["quality"]["exact_copies_of_holdout"] == 1.0
    assert "of the holdout records, which the model never saw, 100.00% do" in page.text


def test_markup_in_records_and_names_is_text(compare: Compare) -> None:
    attack = '<script>alert(1)</script><img src=x onerror="a()">'
    texts = [f"{attack},{number % 3},\"'&" for number in range(200)]
    _, page = compare(texts, texts)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert f"{attack},0,\"'&" in " ".join(page.said)


def test_nothing_on_the_page_points_elsewhere(compare: Compare) -> None:
    _, page = compare(people(200), people(200, 1))
    links = [value for name, value in page.attributes if name in ("href", "src", "srcset", "action") and value]
    assert links
    assert all(link.startswith(("#", "data:,")) for link in links)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    directory = take_run(tmp_path, people(300))
    file = write_synthetic(tmp_path / "s.parquet", people(300, 1))
    first = report_of(directory, synthetic_uri=file, target="field_3")
    assert report_of(directory, synthetic_uri=file, target="field_3") == first


def test_a_target_is_scored_on_synthetic_and_on_real_records(compare: Compare) -> None:
    texts = [f"{number % 4},{'even' if number % 2 == 0 else 'odd'},{number * 37 % 100}" for number in range(400)]
    answer, page = compare(texts, texts[:100], target="field_2")
    useful = answer["quality"]["usefulness"]
    assert useful["synthetic"]["accuracy"] == useful["real"]["accuracy"] == 1.0
    assert useful["ratio"] == 1.0
    assert "A model that predicts field_2 from the other columns" in page.text


def test_without_a_target_the_page_says_how_to_choose_one(compare: Compare) -> None:
    answer, page = compare(people(100), people(50))
    assert answer["quality"]["usefulness"] is None
    assert "runner report RUN --target COLUMN" in page.text


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ({"training": {"batch_size": 10, "validation_split": False, "early_stopping": {"metric": "loss"}}}, "is off"),
        ({"examples": {"packing": "stream"}}, "windows of a stream do not hold whole records"),
    ],
)
def test_without_a_holdout_the_page_says_so_instead_of_a_figure(
    compare: Compare, job: dict[str, Any], why: str
) -> None:
    answer, page = compare(people(100), people(50), target="field_3", **job)
    quality = answer["quality"]
    assert quality["exact_copies_of_holdout"] is None
    assert quality["closer_to_training"] is None
    assert quality["usefulness"] is None
    assert quality["attribute_inference"] is None
    assert quality["discriminator_auc_of_holdout"] is None
    assert quality["accuracy"]["overall"]["holdout"] is None
    assert quality["accuracy"]["overall"]["most"] > 0.5
    assert "This run has no holdout" in page.text
    assert "this run has no holdout to compare with" in page.text
    assert why in page.text


def test_plain_texts_are_compared_by_lengths_characters_and_words(compare: Compare) -> None:
    draw = random.Random(1)
    texts = [
        " ".join(draw.choices(["the", "cat", "sat", "on", "a", "mat"], k=draw.randrange(3, 9))) for _ in range(300)
    ]
    answer, page = compare(texts, ["日本 " * 4000, *texts[:20]])
    assert [column["name"] for column in answer["quality"]["columns"]] == [
        "length in characters",
        "characters",
        "words",
    ]
    assert "The records are plain text" in page.text
    assert answer["quality"]["right_number_of_fields"] is None
    assert answer["quality"]["accuracy"] is None
    assert answer["quality"]["discriminator_auc"] is None
    assert "Fidelity and memory" not in page.text


def test_a_private_run_s_page_has_the_claim_and_says_that_it_is_not_covered(tmp_path: Path) -> None:
    directory = take_run(tmp_path, people(200), **PRIVATE)
    file = write_synthetic(tmp_path / "s.parquet", people(100, 1))
    _, before = report_of(directory, synthetic_uri=file)
    assert "Its statement is written when the run ends" in Text(before).text
    write_statement(directory)
    answer, page = report_of(directory, synthetic_uri=file)
    assert answer["epsilon"] == 1.5
    text = Text(page).text
    assert "emptying one record would change the probability of that conclusion by a factor of at most 4.49" in text
    assert "which the run's epsilon does not cover" in text
    assert (
        "this page: its losses, accuracies and comparisons were measured on the private records without noise" in text
    )
    assert "Epsilon, spent by the end of an epoch" in text
    assert any(what.startswith("report.html") for what in NOT_COVERED)
    assert not directory.folder.child("model").list()


def test_a_run_without_a_model_has_its_curves_and_says_why_no_more(tmp_path: Path) -> None:
    directory = take_run(tmp_path, people(100))
    answer, page = report_of(directory)
    assert answer["quality"] is None
    assert Text(page).tags.count("svg") == 3
    assert "No records are compared" in Text(page).text
    assert "no model here" in Text(page).text
    for asked in ({"target": "field_1"}, {"count": 5}):
        with pytest.raises(RunNotFoundError, match="no model here"):
            report_of(directory, **asked)


def test_records_that_are_gone_leave_curves_and_statement(tmp_path: Path) -> None:
    directory = take_run(tmp_path, people(100), **PRIVATE)
    write_statement(directory)
    (tmp_path / "records" / "a.parquet").unlink()
    answer, page = report_of(directory)
    assert (answer["epsilon"], answer["quality"]) == (1.5, None)
    assert "no Parquet files" in Text(page).text
    with pytest.raises(DataError):
        report_of(directory, target="field_1")


def test_a_run_without_an_epoch_has_nothing_to_report(tmp_path: Path) -> None:
    directory = take_run(tmp_path, people(100), epochs=0)
    with pytest.raises(RunNotFoundError, match="nothing to report yet: no epoch is done"):
        report_of(directory)
    assert not directory.folder.exists("report.html")


def test_a_hundred_columns_are_all_in_the_table_and_some_are_drawn(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.report.fidelity.MOST_PAIRS", 300)
    monkeypatch.setattr("runner.report.fidelity.MOST_TRIPLES", 500)
    draw = random.Random(2)
    texts = [",".join(f"{draw.gauss(0, 1):.2f}" for _ in range(100)) for _ in range(120)]
    answer, page = compare(texts, texts[:60])
    assert len(answer["quality"]["columns"]) == 100
    assert page.tags.count("svg") == 3 + 24 + 1 + 1
    assert "The first 30 columns are looked at" in page.text
    assert answer["quality"]["accuracy"]["triples_of_all"] == [500, 161_700]
    assert "300 of 4,950 pairs" in page.text
    assert "500 of 161,700 triples, drawn at random" in page.text


def test_more_columns_take_no_more_time_and_the_page_says_what_is_left_out(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.report.compare.MOST_CELLS", 60 * 120)
    monkeypatch.setattr("runner.report.compare.FEWEST_RECORDS", 10)
    monkeypatch.setattr("runner.report.compare.LARGEST_MAP", 3)
    monkeypatch.setattr("runner.report.page.MOST_DRAWN", 1)
    draw = random.Random(2)
    texts = [",".join(f"{draw.gauss(0, 1):.2f}" for _ in range(120)) for _ in range(200)]
    answer, page = compare(texts, texts[:90], target="field_1")
    assert "against 60 of the training records, and 40 holdout records" in page.text
    assert "Of the synthetic records, too, 60 evenly spaced ones are compared" in page.text
    assert "and 100 of the 120 columns, evenly spaced" in page.text
    assert "from the 100 of the 119 other columns that have most to do with it in the training records" in page.text
    assert "The first 3 columns are looked at" in page.text
    assert answer["quality"]["right_number_of_fields"] == 1.0
    assert answer["quality"]["synthetic_records"] == 90
    assert answer["quality"]["usefulness"]["trained_on"] == 60


def test_fields_of_a_text_column_have_the_names_that_the_job_gives_them(tmp_path: Path) -> None:
    """`runner generate` writes such columns, and `--target` takes the names."""
    names = ["name", "age", "answer"]
    directory = take_run(tmp_path, people(200), generation={"fields": names})
    file = tmp_path / "synthetic.csv"
    file.write_text("\n".join([",".join(names), *people(80, 5)]) + "\n")
    answer, page = report_of(directory, target="age", synthetic_uri=str(file))
    assert [column["name"] for column in answer["quality"]["columns"]] == names
    assert answer["quality"]["usefulness"]["target"] == "age"
    assert "field_1" not in page


FIELD = st.one_of(
    st.sampled_from(
        ["", " ", "0", "-0.0", "1e308", "-1e308", "nan", "inf", "<b>", "ü", "\x00", "\u202e", "日本", "y" * 3000]
    ),
    st.floats().map(repr),
    st.text(st.characters(codec="utf-8", exclude_characters=","), max_size=8),
)
TEXTS = st.lists(st.lists(FIELD, min_size=1, max_size=4).map(",".join), min_size=50, max_size=90)
RECORDS = TEXTS.filter(any)  # Empty ones alone are refused before training.


@settings(max_examples=12, deadline=None, suppress_health_check=[*HealthCheck])
@given(texts=RECORDS, synthetic=TEXTS)
def test_whatever_records_hold_the_page_is_written_without_a_figure_that_is_none(
    compare: Compare, texts: list[str], synthetic: list[str]
) -> None:
    _, page = compare(texts, synthetic)
    cells = [said.strip() for said in page.said]
    assert not [cell for cell in cells if re.fullmatch(r"-?(nan|inf)%?", cell) and cell not in ("nan", "inf", "-inf")]
    assert "None" not in cells
