"""The page in a real browser: drawn, quiet, without a network, and doing what its controls say."""

import pytest
from browser import CHROMIUM, Browser
from comparison_runs import config, make_run, pairs_of
from report_runs import make_report_runs

from orpo_lightning.comparison.runs import read_runs
from orpo_lightning.report.contents import build_report
from orpo_lightning.report.page import write_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: the page was opened in no browser")
DRAWN = """
[...document.querySelectorAll("figure")].map(figure => [
  figure.id, [...figure.querySelectorAll(".scatterlayer .trace")].filter(trace =>
    [...trace.querySelectorAll("path.js-line, path.point")].some(path => (path.getAttribute("d") || "").length > 5)
  ).length])
"""
"""How many traces of each plot are there as lines or marks."""
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(read_runs([str(make_report_runs(tmp_path_factory.mktemp("runs")))]))


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(report, path)
    return path


@pytest.fixture
def opened(browser, path):
    browser.resize(1280)
    browser.prefer("light")
    browser.open(path)
    return browser


def test_every_plot_is_drawn_and_nothing_is_asked_of_a_network_or_complained_of(opened, report, path):
    # a front of one point is no line
    expected = {
        f"plot-{plot.key}": sum(trace.kind != "front" or len(trace.y) > 1 for trace in plot.traces)
        for plot in report.plots
    }
    assert dict(opened.evaluate(DRAWN)) == expected
    assert opened.requests == [path.as_uri()]
    assert opened.complaints == []
    assert opened.evaluate("document.getElementById('failure').hidden")


def test_texts_of_the_runs_do_nothing(opened):
    assert opened.evaluate("window.harmed === undefined && document.images.length === 0")
    assert "<script>window.harmed" in opened.evaluate("document.querySelector('main').innerText")


def test_hiding_a_run_hides_it_in_all_plots_and_tables_at_once(opened, report):
    before = dict(opened.evaluate(DRAWN))
    opened.evaluate("document.querySelectorAll('#runs input')[1].click()")
    after = dict(opened.evaluate(DRAWN))
    for plot in report.plots:
        # of two points the front that joins them goes too
        of_the_run = sum(trace.runs == (("b",),) or trace.kind == "front" for trace in plot.traces)
        assert after[f"plot-{plot.key}"] == before[f"plot-{plot.key}"] - of_the_run, plot.key
    shown = opened.evaluate(
        "[...document.querySelectorAll('[data-runs]')].filter(each => each.offsetParent || each.closest('tr'))"
        ".filter(each => getComputedStyle(each).display !== 'none').map(each => each.dataset.runs)"
    )
    assert "1" not in shown
    assert {"0", "2", "0 1 2"} <= set(shown)
    points = "document.querySelectorAll('#plot-orpo_lambda_accuracy path.point').length"
    assert opened.evaluate(points) == 1  # the failed run was none
    opened.evaluate("document.getElementById('all').click()")
    assert dict(opened.evaluate(DRAWN)) == before
    assert opened.evaluate(points) == 2
    opened.evaluate("document.getElementById('none').click()")
    assert set(dict(opened.evaluate(DRAWN)).values()) == {0}


def test_the_front_joins_the_runs_that_are_shown(browser, tmp_path):
    for name, strength, nll, gain in (("a", 0.1, 2.0, 0.0), ("b", 0.2, 2.1, 1.0), ("c", 0.3, 2.2, 0.5)):
        pairs = pairs_of([1.0] * round(10 + 10 * gain) + [-1.0] * 10, nll=nll)
        make_run(tmp_path / name, pairs=pairs, configuration=config(folder=name, lambda_=strength))
    write_page(build_report(read_runs([str(tmp_path)])), tmp_path / "page.html")
    browser.resize(1280)
    browser.open(tmp_path / "page.html")
    places = (
        "(() => { const { x } = document.querySelector('#plot-accuracy_by_nll_response .canvas').data"
        ".find(trace => trace.meta.kind === 'front'); return x; })()"
    )
    assert browser.evaluate(places) == [2.0, 2.1]
    browser.evaluate("document.querySelectorAll('#runs input')[1].click()")
    assert browser.evaluate(places) == [2.0, 2.2]


def test_the_curves_can_be_drawn_over_tokens(opened):
    title = "document.querySelector('#plot-margin .xtitle').textContent"
    assert opened.evaluate(title) == "optimizer steps"
    opened.evaluate(
        "(() => { const select = document.getElementById('progress'); select.selectedIndex = 1;"
        "select.dispatchEvent(new Event('change')); })()"
    )
    assert opened.evaluate(title).startswith("training tokens")
    assert opened.evaluate("Math.max(...document.querySelector('#plot-margin .canvas').data[1].x)") == 800


def test_the_theme_is_that_of_the_system_until_one_is_chosen_and_that_is_remembered(opened, path):
    back = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.querySelector('#plot-margin .xtitle')).fill"
    light = opened.evaluate(back), opened.evaluate(text)
    opened.prefer("dark")
    dark = opened.evaluate(back), opened.evaluate(text)
    assert light == ("rgb(255, 255, 255)", "rgb(27, 31, 36)")
    assert dark == ("rgb(20, 23, 26)", "rgb(227, 230, 234)")

    def choose(theme):
        opened.evaluate(
            f"(() => {{ const select = document.getElementById('theme'); select.value = '{theme}';"
            "select.dispatchEvent(new Event('change')); })()"
        )

    choose("light")
    assert opened.evaluate(back) == light[0]
    opened.open(path)
    assert opened.evaluate(back) == light[0]
    choose("system")
    assert opened.evaluate(back) == dark[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_a_table_is_wider_than_the_screen(opened, width):
    opened.resize(width)
    opened.evaluate("new Promise(done => setTimeout(done, 500))")  # the plots follow
    content, screen = opened.evaluate(WIDTHS)
    assert content <= screen
    inside = (
        "[...document.querySelectorAll('figure')].every(figure => [...figure.querySelectorAll('.main-svg')]"
        ".every(svg => svg.getBoundingClientRect().right <= figure.getBoundingClientRect().right + 1))"
    )
    assert opened.evaluate(inside)


def test_the_first_tables_fit_a_screen_and_no_row_is_high(opened):
    opened.resize(1280)
    widths = "['comparison', 'work', 'tests'].map(key => document.querySelector(`#${key} ~ .scroll`))"
    assert opened.evaluate(f"{widths}.every(each => each.scrollWidth <= each.clientWidth)")
    highest = "Math.max(...[...document.querySelectorAll('#work ~ .scroll tr')].map(row => row.clientHeight))"
    assert opened.evaluate(highest) < 60


def test_a_table_is_sorted_by_the_heading_that_is_clicked(opened):
    names = (
        "[...document.querySelectorAll('#comparison ~ .scroll tbody th')].map(cell => cell.innerText.trim().slice(-1))"
    )
    header = "[...document.querySelectorAll('#comparison ~ .scroll thead button')].at(2)"
    assert opened.evaluate(names) == ["a", "b", "c"]
    opened.evaluate(f"{header}.click()")
    assert opened.evaluate(names) == ["a", "b", "c"]
    opened.evaluate(f"{header}.click()")
    assert opened.evaluate(names) == ["c", "b", "a"]


def test_on_paper_it_is_light_and_its_plots_are_whole(opened):
    opened.prefer("dark")
    printed = opened.printed()
    assert printed.startswith(b"%PDF")
    # the plots have the width of a column while it is printed, and their own after it
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widths = "[...document.querySelectorAll('.canvas > .plot-container .main-svg')].map(svg => svg.clientWidth)"
    assert set(opened.evaluate(widths)) == {336}
    opened_details = "[...document.querySelectorAll('details')].map(each => each.open)"
    assert all(opened.evaluate(opened_details))
    opened.call("Emulation.setEmulatedMedia", media="")
    opened.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert min(opened.evaluate(widths)) > 400
    assert opened.evaluate(opened_details) == [True, False, False, False]  # the runs, and their configurations
