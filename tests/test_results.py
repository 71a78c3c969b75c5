"""The page of results: its figures and fits against the CSV files, against scipy, and against scikit-learn."""

import csv
import math
import re
import shutil
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from full_spike.utils.draw.card import Canvas
from full_spike.utils.errors import UsageError, UserError
from matplotlib.text import Text
from scipy import optimize, stats
from sklearn.linear_model import LinearRegression
from support.gathered import STUDIES, error, write_results

from studies.figures import FIGURES
from studies.figures.curves import line
from studies.figures.energy import panels
from studies.figures.parts import WITH, points
from studies.fit import fit
from studies.gathering import RESULTS, read_csv, write_csv
from studies.ran import Results
from studies.results import FIGS, PAGE, PLACE, check, make, write
from studies.scaling import FURTHER, fit_table, law, runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page, results of every study and the figures that are drawn of them."""
    folder = tmp_path_factory.mktemp("whole")
    write_results(folder / "results")
    shutil.copy(PAGE, folder / "RESULTS.md")
    (folder / "figs").mkdir()
    assert write(folder / "RESULTS.md", folder / "results", folder / "figs") == 0
    return folder


def wrong(page, results, figs):
    """What the check names as different."""
    with pytest.raises(UserError) as found:
        check(page, results, figs)
    message = str(found.value)
    assert len(message.splitlines()) == 1
    assert message.endswith("run `python scripts/study.py write`")
    places = re.findall(r"the (?:study|figure|fit) \w+", message)
    return {*places, *re.findall(r"results_(\w+)\.svg", message)}


def test_the_page_shows_what_the_csv_files_give(capsys):
    assert check() == 0
    assert "tables and" in capsys.readouterr().out


def test_the_page_has_a_place_for_every_study_and_every_figure():
    found = [(match[2], match[3]) for match in PLACE.finditer(PAGE.read_text())]
    assert len(found) == len(set(found))
    assert {name for kind, name in found if kind == "figure"} == FIGURES.keys()
    assert {name for kind, name in found if kind == "study"} == {path.stem for path in STUDIES}
    assert ("fit", "cifar10_scaling") in found


def test_results_of_every_study_give_every_figure_the_same_each_time(whole):
    text = (whole / "RESULTS.md").read_text()
    assert "No figure yet" not in text
    assert "Not run" not in text
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "x"}):  # one's own settings
        again, figures = make(text, whole / "results")
    assert again == text
    assert {path.name: path.read_text() for path in (whole / "figs").iterdir()} == figures
    assert {file[8:-4] for file in figures} == FIGURES.keys()
    for svg in figures.values():
        assert "dc:date" not in svg
        assert "fill: #ffffff" in svg  # a ground of its own, on dark pages as well
    assert check(whole / "RESULTS.md", whole / "results", whole / "figs") == 0


CHANGES = [  # (file, column, row) -> what is to be named then
    {
        ("cifar10_joins.csv", "final_fsnn", "or_with"): (
            "the study cifar10_joins", "the fit cifar10_scaling", "joins", "energy", "scaling",
        ),
        ("digits_depth_blocks.csv", "gradient_norm", "d101_with"): ("blocks",),
        ("digits.csv", "final_fsnn", "lif"): ("the study digits", "choices"),
        ("digits_spikformer.csv", "final_fsnn", "or_with"): ("the study digits_spikformer", "others"),
        ("cifar10_plain_epochs.csv", "test_output", "resnet"): ("curves",),
        ("speed.csv", "median_ms", "fused"): ("speed",),
    },
    {
        ("cifar10_joins.csv", "trained_mj", "or_with"): ("the study cifar10_joins", "energy"),
        ("cifar10_joins_epochs.csv", "test_aap", "xor_with"): ("curves",),
        ("digits.csv", "final_output", "and_without"): ("the study digits", "joins"),
        ("digits_depth.csv", "final_output", "d34_without"): ("the study digits_depth", "depth"),
        ("events_time_steps_epochs.csv", "test_fsnn", "t8_with"): ("curves_others",),
    },
    {
        ("cifar10_plain.csv", "final_output", "resnet"): ("the study cifar10_plain", "energy"),
        ("cifar10_scaling.csv", "final_fsnn", "width_32"): (
            "the study cifar10_scaling", "the fit cifar10_scaling", "scaling",
        ),
        ("digits_depth_blocks.csv", "firing_rate", "d18_without"): ("blocks",),
    },
    {("cifar10_integers.csv", "integer4", "or_with"): ("the study cifar10_integers", "energy")},
]  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES)
def test_a_changed_value_is_found_in_what_is_made_of_it(whole, tmp_path, changes):
    results = shutil.copytree(whole / "results", tmp_path / "results")
    for file, column, row in changes:
        with (results / file).open() as lines:
            found = list(csv.DictReader(lines))
        changed = next(entry for entry in found if row in (entry.get("row"), entry.get("side")))
        changed[column] = str(0.98 * float(changed[column]))
        write_csv(results / file, found)
    named = {name for names in changes.values() for name in names}
    assert wrong(whole / "RESULTS.md", results, whole / "figs") == named


def test_figures_that_are_missing_changed_or_of_no_runs_are_named(whole, tmp_path):
    page, figs = whole / "RESULTS.md", shutil.copytree(whole / "figs", tmp_path / "figs")
    (figs / "results_joins.svg").unlink()
    (figs / "results_old.svg").write_text("<svg/>")
    text = (figs / "results_blocks.svg").read_text()
    (figs / "results_blocks.svg").write_text(text.replace("#0072b2", "#0072b3"))
    assert wrong(page, whole / "results", figs) == {"joins", "old", "blocks"}
    assert write(page, whole / "results", figs) == 0
    assert not (figs / "results_old.svg").exists()
    assert check(page, whole / "results", figs) == 0


def test_without_results_nothing_is_drawn_or_linked(whole, tmp_path):
    page, figs = shutil.copy(PAGE, tmp_path / "RESULTS.md"), shutil.copytree(whole / "figs", tmp_path / "figs")
    assert write(page, tmp_path / "results", figs) == 0
    text = page.read_text()
    assert list(figs.iterdir()) == []
    assert text.count("*No figure yet*") == len(FIGURES)
    assert text.count("*Not run.*") == len(STUDIES)
    assert "results_" not in text
    assert "*Not fitted*: in 0 runs nothing varies" in text
    assert check(page, tmp_path / "results", figs) == 0


def test_a_single_seed_is_drawn_without_intervals(tmp_path):
    write_results(tmp_path, seeds=1)
    text, figures = make(PAGE.read_text(), tmp_path)
    assert len(figures) == len(FIGURES)
    assert "(one seed: no interval) | open |" in text
    assert "CIFAR-10: 1 seed a row; Digits: 1 seed a row." in text


def test_a_page_that_names_what_there_is_not(tmp_path):
    for kind, known in {"figure": "joins", "study": "digits"}.items():
        with pytest.raises(UsageError, match=f"names the {kind} 'none', which there is not.*{known}"):
            make(f"<!-- {kind}: none -->\n<!-- end -->\n", tmp_path)


# Nothing is clipped, nothing lies on anything else


@pytest.mark.parametrize("seeds", [0, 1, 3, 5])
def test_words_stay_on_their_card_and_apart(tmp_path, monkeypatch, seeds):
    """Of results that were made up, and (0) of those that are there."""
    cards, drawn = [], []

    def draw(text, *given, draw=Text.draw):
        drawn.append(text)
        draw(text, *given)

    def svg(on, svg=Canvas.svg):
        drawn.clear()
        found = svg(on)
        on.figure.set_dpi(100)  # of its pixels; an SVG has 72
        shown = [text for text in drawn if text.get_visible() and text.get_text().strip()]
        cards.append((on, [(text.get_text(), text.get_window_extent()) for text in shown]))
        return found

    monkeypatch.setattr(Text, "draw", draw)
    monkeypatch.setattr(Canvas, "svg", svg)
    if seeds:
        write_results(tmp_path, seeds)
    _, figures = make(PAGE.read_text(), tmp_path if seeds else RESULTS)
    assert len(cards) == len(figures) > 2
    for on, words in cards:
        assert [
            name for name, at in words if not (0 < at.x0 < at.x1 < on.width and 0 < at.y0 < at.y1 < on.height)
        ] == []
        assert [(a, b) for (a, first), (b, second) in combinations(words, 2) if overlap(first, second)] == []


def overlap(first, second):
    """By more than a pixel both ways."""
    wide = min(first.x1, second.x1) - max(first.x0, second.x0)
    return wide > 1 and min(first.y1, second.y1) - max(first.y0, second.y0) > 1


# What is drawn is what the numbers are


def test_marks_are_the_seeds_and_bands_scipys_interval():
    values = [61.2, 58.7, 60.3, 59.9]
    with Canvas(300, 200, "x") as on:
        axes = on.plot(20, 20, 200, 100)
        points(axes, values, 1.0, WITH, 0.2)
        mean, marks = axes.lines
        assert sorted(marks.get_xdata()) == sorted(values)
        assert list(mean.get_xdata()) == pytest.approx([np.mean(values)] * 2)
        (band,) = axes.collections
        ends = band.get_paths()[0].vertices[:, 0]
    interval = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (ends.min(), ends.max()) == pytest.approx(interval)


def test_no_band_of_two_seeds():
    with Canvas(300, 200, "x") as on:
        axes = on.plot(20, 20, 200, 100)
        points(axes, [1.0, 2.0], 1.0, WITH, 0.2)
        assert list(axes.collections) == []


def test_lines_by_hand():
    entries = [{"row": "a", "seed": s, "epoch": e, "x": 10.0 * e + s**2, "y": None} for s in (0, 1, 2) for e in (2, 1)]
    found = line([*entries, {"row": "b", "seed": 0, "epoch": 3, "x": 1.0}], "a", "epoch", ("y", "x"))
    assert (found.xs, found.low, found.high, found.seeds) == ([1, 2], [10, 20], [14, 24], 3)
    assert found.middle == pytest.approx([10 + 5 / 3, 20 + 5 / 3])
    assert line(entries, "a", "epoch", ("x",), np.median).middle == [11, 21]
    assert line(entries, "b", "epoch", ("x",)) is None
    assert line(entries, "a", "epoch", ("y",)) is None


def test_energies_by_hand(whole):
    found = panels(Results(whole / "results"))
    short, longer = (list(points) for points in found.values())
    ac = 8e6 + 1e5 * len("or_with")
    alone = 1e-6 * (0.9 * ac + 4.6 * 1.5e6)
    trunk, kept = (point for point in short if point.of == "or_with")
    assert (trunk.words, trunk.energy, kept.energy) == ("OR", pytest.approx(alone), pytest.approx(alone + 9.2))
    assert kept.mean == pytest.approx(trunk.mean + 1.5)
    (plain,) = (point for point in short if point.of == "resnet")
    assert plain.energy == pytest.approx(4.6 * 9.5)
    eight, four = (point for point in longer if "bits" in point.words)
    assert eight.energy == four.energy == pytest.approx(1e-6 * (0.1 * ac + 0.3 * 1.5e6))
    assert longer[0].mean - eight.mean == pytest.approx(1 / 8)


# Power laws


def noisy(count, seed=0):
    draw = np.random.default_rng(seed)
    places = [dict(zip("abc", draw.uniform(1, 20, 3), strict=True)) for _ in range(count)]
    return [(x, 50 * x["a"] ** -0.5 * x["b"] ** 0.2 * x["c"] ** -0.1 * math.exp(draw.normal(0, 0.1))) for x in places]


def logs(points, factors="abc"):
    return np.log([[x[f] for f in factors] for x, _ in points]), np.log([y for _, y in points])


def test_an_exact_law_is_found():
    points = [({"a": a, "b": b, "c": 3.0}, 7 * a**-0.5 * b**0.25) for a in (1, 2, 5) for b in (1, 4)]
    power = fit(points, "abc")
    assert power.factors == ("a", "b")  # c does not vary
    assert (power.freedom, power.exponent("a")[0], power.exponent("b")[0]) == pytest.approx((3, -0.5, 0.25))
    assert power.at({"a": 100, "b": 2}) == pytest.approx((0.7 * 2**0.25,) * 3)


def test_several_factors_are_as_in_scikit_learn_and_scipy():
    points = noisy(25)
    x, y = logs(points)
    power = fit(points, "abc")
    line = LinearRegression().fit(x, y)
    assert power.coefficients == pytest.approx([line.intercept_, *line.coef_])
    assert power.deviation == pytest.approx(math.sqrt(((y - line.predict(x)) ** 2).sum() / 21))
    _, covariance = optimize.curve_fit(lambda x, a, b, c, d: a + b * x[0] + c * x[1] + d * x[2], x.T, y)
    assert power.covariance == pytest.approx(covariance, rel=1e-4)


def test_one_factor_and_its_intervals_are_the_closed_form():
    points = noisy(9)
    x, y = logs(points, "a")
    x = x[:, 0]
    power, known = fit(points, "a"), stats.linregress(x, y)
    assert power.exponent("a") == pytest.approx((known.slope, known.stderr))
    assert power.freedom == 7
    at = math.log(80.0)
    s = math.sqrt(((y - known.intercept - known.slope * x) ** 2).sum() / 7)
    for one_more in (False, True):
        width = s * math.sqrt(one_more + 1 / 9 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
        middle = known.intercept + known.slope * at
        ends = middle + np.array([0, -1, 1]) * stats.t.ppf(0.975, 7) * width
        assert power.at({"a": 80.0}, one_more=one_more) == pytest.approx(tuple(np.exp(ends)))


def test_prediction_intervals_hold_what_is_measured_later_19_times_of_20():
    held = 0
    for seed in range(400):
        *points, (place, value) = noisy(10, seed)
        _, low, high = fit(points, "abc").at(place, one_more=True)
        held += low < value < high
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([({"a": 1, "b": 1}, 1.0)] * 3, "in 3 runs nothing varies of a, b"),
        ([({"a": 1, "b": 1}, 1.0), ({"a": 2, "b": 1}, 2.0)], "2 runs are too few to tell a apart"),
        ([({"a": i, "b": 2 * i}, 1.0 * i) for i in (1, 2, 3, 4)], "4 runs are too few to tell a, b apart"),
        ([({"a": 1, "b": 1}, 0.0)], "0.0 has no logarithm"),
    ],
)
def test_what_cannot_be_fitted_is_said(points, message):
    with pytest.raises(ValueError, match=message):
        fit(points, "ab")


def test_the_studies_of_scaling_give_their_law(whole):
    rans = Results(whole / "results")
    found = runs(rans)
    rows = rans["cifar10_scaling"].study.rows
    assert len(found) == len(rows) + 3 + 3
    assert sorted(run.options["depth"] for run in found) == [18] * (len(found) - 1) + [34]
    power = law(found)
    assert power.freedom == len(found) - 1 - 4
    for factor, exponent in {"width": -0.3, "T": -0.1, "epochs": -0.2}.items():
        value, deviation = power.exponent(factor)
        assert value == pytest.approx(exponent, abs=3 * deviation)
    truth = error({"model": "dsnn18", **FURTHER[1]}, "", 3)
    _, low, high = power.at(FURTHER[1], one_more=True)
    assert low < truth < high
    assert f"| *extrapolation*: width 64, T = 4, 100 epochs | {power.at(FURTHER[1])[0]:.1f} [{low:.1f}, " in fit_table(
        rans
    )


def test_a_law_of_fewer_runs_says_what_it_cannot(whole, tmp_path):
    results = shutil.copytree(whole / "results", tmp_path / "results")
    scaling = read_csv(results / "cifar10_scaling.csv")
    write_csv(results / "cifar10_scaling.csv", [entry for entry in scaling if "width" not in entry["row"]])
    text = fit_table(Results(results))
    assert "Nothing is said of width, which no run varies yet" in text
    assert "*extrapolation*" not in text
    (results / "cifar10_scaling.csv").unlink()
    assert fit_table(Results(results)) == "*Not fitted*: 6 runs are too few to tell T, epochs apart.\n"


def test_no_figure_of_the_page_is_left_without_a_file():
    linked = set(re.findall(r"\.\./figs/(results_\w+\.svg)", PAGE.read_text()))
    assert linked == {path.name for path in FIGS.glob("results_*.svg")}
