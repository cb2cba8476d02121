"""The page says what the files of the runs say, and is whole in itself."""

import base64
import gzip
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from comparison_runs import config, make_run, pairs_of
from report_runs import HOSTILE, make_report_runs

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.contents import build_report
from orpo_lightning.report.page import to_html, write_page


class Page(HTMLParser):
    """The elements of a page, with their text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in ("meta", "input", "wbr", "img", "option"):
            self._open.append(element)

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, text):
        for element in self._open:
            element["text"] += text

    def all(self, tag, **attributes):
        return [
            each
            for each in self.elements
            if each["tag"] == tag and all(each.get(name) == value for name, value in attributes.items())
        ]

    def rows(self, key):
        """The cells of the table under a heading."""
        start = next(i for i, each in enumerate(self.elements) if each.get("id") == key)
        rows = []
        for each in self.elements[start + 1 :]:
            if each["tag"] == "h2":
                break
            if each["tag"] == "tr":
                rows.append([])
            elif each["tag"] in ("th", "td"):
                rows[-1].append(" ".join(each["text"].split()))
        return rows


def page_of(folder, **options):
    return to_html(build_report(read_runs([str(folder)]), **options))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return page_of(make_report_runs(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_fetched_from_anywhere(page):
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; script-src 'sha256-")
    assert not [each for each in page.elements if {"src", "srcset", "background"} & each.keys()]
    assert all(each["href"].startswith("#") for each in page.elements if "href" in each)
    assert not page.all("link")
    style = page.all("style")[0]["text"]
    assert "url(" not in style
    assert "@import" not in style


def test_the_scripts_that_may_run_are_the_pages_own_two(page):
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    allowed = re.findall(r"'sha256-([^']+)'", policy["content"])
    library = gzip.decompress(base64.b64decode(page.all("script", id="library")[0]["text"]))
    own = next(each["text"] for each in page.all("script") if "id" not in each)
    assert allowed == [base64.b64encode(hashlib.sha256(code).digest()).decode() for code in (own.encode(), library)]
    assert b"plotly.js v" in library[:100]


def test_texts_of_a_run_are_never_markup(text, page):
    assert "<script>window" not in text
    assert "<img" not in text
    answers = [each["text"] for each in page.all("div", **{"class": "answer"})]
    assert sum(HOSTILE in answer for answer in answers) == 3


def test_the_same_runs_give_the_same_page(tmp_path):
    folder = make_report_runs(tmp_path)
    assert page_of(folder) == page_of(folder)


def test_the_comparison_has_a_row_of_each_run_with_what_it_took_and_how_it_ended(page):
    header, *rows = page.rows("comparison")
    assert [row[0].split()[-1] for row in rows] == ["a", "b", "c"]
    first = dict(zip(header, rows[0], strict=True))
    assert first["objective"] == "ORPO"
    assert first["strength"] == "lambda 0.1"
    assert first["nll nats/token"].startswith("2.010")
    assert "model" in first
    header, *rows = page.rows("work")
    first = dict(zip(header, rows[0], strict=True))
    assert first["operations 10^12"] == "4"
    assert first["tokens"] == "800"
    assert first["peak memory GB"] == "0.50"
    assert [row[1] for row in rows] == ["complete", "complete", "failed"]
    # why it failed is as long as an error can be: it is in the list above, not in a narrow column
    assert any(each["text"].startswith("c failed after 8 steps: no memory <script>") for each in page.all("li"))


def test_accuracies_have_their_intervals(page):
    header, *rows = page.rows("comparison")
    value, low, _, high = dict(zip(header, rows[0], strict=True))["accuracy %"].split()
    # of 20 pairs with margins (-1)^(j mod 3) * j / 10 + 0.1, 14 are above 0, and one is 0
    margins = [(-1) ** (j % 3) * j / 10 + 0.1 for j in range(20)]
    expected = 100 * sum((margin > 1e-9) + 0.5 * (abs(margin) < 1e-9) for margin in margins) / 20
    assert float(value) == pytest.approx(expected)
    assert float(low) < float(value) < float(high)


def test_paired_tests_and_settings_that_differ_are_there(page):
    header, *rows = page.rows("tests")
    assert [row[0].split()[-1] for row in rows] == ["b"]  # the failed one is not tested
    assert header[-1] == "pairs"
    assert dict(zip(header, rows[0], strict=True))["strength"] == "lambda 0.5"
    assert any(
        "(lambda 0.1)" in each["text"] for each in page.all("h2") + page.all("h3") if "Difference" in each["text"]
    )
    assert {row[-1] for row in rows} == {"20"}
    header, *rows = page.rows("settings")
    assert header == ["run", "model.objective.lambda_"]
    assert [row[1] for row in rows] == ["0.1", "0.5", "1.0"]


def test_the_data_of_runs_that_share_it_is_told_once(page):
    header, *rows = page.rows("data")
    assert len(rows) == 1
    row = dict(zip(header, rows[0], strict=True))
    assert (row["read"], row["kept"], row["dropped"], row["cut"]) == ("12", "10", "2 empty_chosen", "none")


def test_answers_to_one_prompt_stand_together_the_untrained_one_once(page):
    assert [each["text"] for each in page.all("p", **{"class": "prompt"})] == ["Well?"]
    headings = [" ".join(each["text"].split()) for each in page.all("h4")]
    assert headings[0] == "all runs, before training, 10 tokens"
    assert [heading.split(",")[0].split()[-1] for heading in headings[1:]] == ["a", "b", "c"]


def test_every_run_can_be_repeated_from_the_page(page):
    commands = [each["text"] for each in page.all("pre") if each["text"].startswith("orpo-lightning fit")]
    assert len(commands) == 3
    assert "config.yaml" in commands[0]
    assert sum("seed_everything: 0" in each["text"] for each in page.all("pre")) == 3
    assert "1 x cpu · torch 2.13.0" in page.all("details", **{"class": "config"})[0]["text"]


def test_each_plot_has_a_place_a_title_and_a_sentence_on_how_to_read_it(page):
    figures = json.loads(page.all("script", id="figures")[0]["text"])
    assert [f"plot-{figure['key']}" for figure in figures] == [each["id"] for each in page.all("figure")]
    assert all(each["text"].strip().endswith(".") for each in page.all("figcaption"))
    assert len(page.all("h3")) == len(figures)


def test_what_there_is_nothing_of_is_left_out(tmp_path):
    make_run(tmp_path / "a")
    page = Page(page_of(tmp_path))
    assert page.all("figure") == []
    assert [each["id"] for each in page.all("h2")] == ["comparison", "work", "reproduce"]
    assert page.all("script", id="library")[0]["text"] == ""


def test_columns_in_which_no_run_has_anything_are_left_out_as_in_a_terminal(tmp_path):
    make_run(tmp_path / "a", pairs=pairs_of([1.0, -1.0]))
    header, *_ = Page(page_of(tmp_path)).rows("comparison")
    assert header == ["run", "objective", "strength", "model", "accuracy %", "margin nats/token", "nll nats/token"]


def test_a_page_without_validation_says_so_and_explains_none(tmp_path):
    make_run(tmp_path / "a")
    text = page_of(tmp_path)
    assert "1 run · tiny · no validation pairs" in text
    assert "likelier one per token" not in text


def test_what_is_no_number_is_sorted_as_what_was_not_measured(tmp_path):
    make_run(tmp_path / "a", pairs=[replace(pair, rejected_mean=math.nan) for pair in pairs_of([1.0])])
    text = page_of(tmp_path)
    assert 'data-value="nan"' not in text
    assert '<td class="number" data-value="">nan</td>' in text


def test_means_over_seeds_tell_how_many_there_are(tmp_path):
    for seed, margin in enumerate((0.1, 0.2, 0.3)):
        make_run(tmp_path / f"{seed}", pairs=pairs_of([margin] * 10), configuration=config(seed=seed))
    header, row = Page(page_of(tmp_path)).rows("repeats")
    assert dict(zip(header, row, strict=True))["seeds"] == "3"
    assert dict(zip(header, row, strict=True))["margin nats/token"] == "0.200 -0.048 to 0.448"


def test_tests_say_that_their_p_values_are_adjusted_and_their_intervals_are_not(text):
    assert "The paired bootstrap intervals are not adjusted" in text


def test_without_scripts_a_sentence_says_so_and_nothing_dead_is_shown(text):
    style, sentence = re.findall(r"<noscript>(.*?)</noscript>", text, re.S)
    assert ".controls" in style
    assert "Scripts are switched off" in sentence


def test_the_set_that_is_asked_for_is_shown_and_another_one_is_refused(tmp_path):
    make_run(tmp_path / "a", pairs=[*pairs_of([1.0], set="helpful"), *pairs_of([-1.0, 1.0, 1.0, 1.0], set="harmless")])
    assert "1 validation pairs" in page_of(tmp_path)
    assert "4 validation pairs" in page_of(tmp_path, of_set="harmless")
    with pytest.raises(ValueError, match="--set other: no run has"):
        page_of(tmp_path, of_set="other")


def test_the_title_is_what_was_trained_or_what_is_asked_for(tmp_path):
    make_run(tmp_path / "a")
    assert "<h1>ORPO lambda 0.1 tiny</h1>" in page_of(tmp_path)
    assert "<h1>Mine &amp; yours</h1>" in page_of(tmp_path, title="Mine & yours")


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    make_run(tmp_path / "a")
    report, path = build_report(read_runs([str(tmp_path)])), tmp_path / "report.html"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        write_page(report, path)
    assert path.read_text() == "before"
