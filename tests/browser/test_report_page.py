"""The report in a real browser, offline: nothing is asked for, nothing complained about, nothing sticks out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.report.facade import report_run
from tests.browser.chromium import Browser, chromium
from tests.report_runs import take_run, write_statement, write_synthetic

WIDTHS = (320, 390, 768, 1280)
PRIVATE = {"privacy": {"enabled": True, "noise_multiplier": 1.0}}


def people(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        f"{draw.choice(['anna', 'bernd', 'a' * 200])},{draw.gauss(40, 12):.1f},<script>document.title='owned'</script>,"
        f"{draw.random()},{'w' * draw.randrange(300)}"
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module", params=["fields", "many columns", "private text"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of three kinds of records."""
    folder = tmp_path_factory.mktemp("report")
    target = None
    if request.param == "fields":
        texts, job, target = people(300, 1), {}, "field_1"
    elif request.param == "many columns":
        texts, job = [",".join(f"{a * b % 97}" for b in range(1, 61)) for a in range(200)], {}
    else:
        texts, job = [f"a longer text, number {number} {'of words ' * 30}" for number in range(100)], PRIVATE
        job = {**PRIVATE, "data": {"uri": str(folder / "records")}}
    directory = take_run(folder, texts, **job)
    if job:
        write_statement(directory)
    file = write_synthetic(folder / "synthetic.parquet", texts[::2])
    report_run(directory, target=target, synthetic_uri=file, count=None)
    return folder / "runs" / "demo" / "report.html"


def test_the_page_asks_for_nothing_and_nothing_is_wrong_with_it(browser: Browser, page: Path) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(page, 1280)
    assert browser.requests == [page.as_uri()]
    assert browser.complaints == []
    assert browser.evaluate("document.title") == "demo: quality report"
    assert browser.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_of_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    sticking_out = """
        [...document.querySelectorAll('main *')].filter(part => !part.closest('.scroll, svg')
            && part.getBoundingClientRect().right > innerWidth + 1).map(part => part.outerHTML.slice(0, 80))
    """
    assert browser.evaluate(sticking_out) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(browser: Browser, page: Path, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    browser.open(page, 390, dark=dark)
    faint = """
        (() => {
            const channels = color => color.match(/[\\d.]+/g).map(Number);
            const light = color => channels(color).slice(0, 3).map(c => c / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
            const behind = part => {
                for (; part; part = part.parentElement) {
                    const color = getComputedStyle(part).backgroundColor;
                    if ((channels(color)[3] ?? 1) > 0) return color;
                }
            };
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const found = [];
            while (texts.nextNode()) {
                const part = texts.currentNode.parentElement;
                if (!texts.currentNode.data.trim() || part.closest('title, desc')) continue;
                const style = getComputedStyle(part);
                const pair = [light(part.closest('svg') ? style.fill : style.color), light(behind(part))];
                const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
                if (contrast < 4.5) found.push([texts.currentNode.data.trim(), contrast]);
            }
            return found;
        })()
    """
    assert browser.evaluate(faint) == []
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark


def test_text_in_plots_can_be_read_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, 390)
    sizes = """
        [...document.querySelectorAll('svg')].flatMap(svg => [...svg.querySelectorAll('text')].map(
            text => parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width
                / svg.viewBox.baseVal.width))
    """
    assert min(browser.evaluate(sizes)) >= 8
