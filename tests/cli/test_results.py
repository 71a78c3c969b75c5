"""docs/RESULTS.md: statistics and fits against scipy and scikit-learn, tables and figures against the CSV files."""

import math
import shutil

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy import stats
from sklearn.linear_model import LinearRegression

from full_spike.utils.errors import UserError
from studies.claims import CLAIMS, claims_table, holm
from studies.figures import BLUE, FIGURES, energy_points, joins
from studies.gathering import RESULTS, read_csv, write_csv
from studies.grid import Study
from studies.page import FIGS, PAGE, make
from studies.results import FACTORS, Result, fit, paired, read_results, summary, table
from support.command import ROOT

STUDY = Study("tiny", "a small one", "cifar.train", [0, 1, 2], {"epochs": 1}, {"with": {}, "plain": {}},
              labels={"with": "the pathway, kept"}, pairs={"what": ["with", "plain"]})  # fmt: skip


@pytest.fixture
def result(tmp_path):
    """result(lines): of the study above, with a CSV of these lines."""

    def make_result(lines):
        write_csv(tmp_path / "tiny.csv", lines)
        return Result(STUDY, tmp_path)

    return make_result


def test_the_page_shows_what_the_csv_files_give():
    assert make(write=False) == []
    text = PAGE.read_text()
    assert all(f"../figs/results_{name}.svg" in text for name in FIGURES)
    assert {path.name for path in FIGS.glob("results_*.svg")} == {f"results_{name}.svg" for name in FIGURES}


def test_a_changed_value_is_found_and_written(tmp_path):
    results = shutil.copytree(RESULTS, tmp_path / "results")
    page, figs = shutil.copy(PAGE, tmp_path / "RESULTS.md"), shutil.copytree(FIGS, tmp_path / "figs")
    lines = read_csv(results / "cifar10_joins.csv")
    next(line for line in lines if line["row"] == "or_with")["final_fsnn"] -= 1
    write_csv(results / "cifar10_joins.csv", lines)
    wrong = {
        "the study cifar10_joins",
        "the table claims",
        "the table scaling",
        *(str(figs / f"results_{n}.svg") for n in ("joins", "energy")),
    }
    assert set(make(page, results, figs, write=False)) == wrong
    assert wrong <= set(make(page, results, figs, write=True))
    assert make(page, results, figs, write=False) == []
    page.write_text("<!-- study: none -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="names the study none, which there is not"):
        make(page, results, figs, write=False)


def test_statistics_are_scipys():
    first, second = {0: 71.0, 1: 69.5, 2: 70.4, 5: 1.0}, {0: 70.2, 1: 69.9, 2: 68.8, 4: 2.0}
    found = paired(first, second)
    test = stats.ttest_rel([71.0, 69.5, 70.4], [70.2, 69.9, 68.8])
    assert found.n == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.sd == pytest.approx(np.std([0.8, -0.4, 1.6], ddof=1))
    assert (found.verdict == "not shown") == (test.pvalue > 0.05)
    assert [summary(x).verdict for x in ([3], [3, 3], [3, 3, 3], [-3, -3, -3])] == ["open", "open", "better", "worse"]
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_a_table_by_hand(result):
    with_it = [{"row": "with", "seed": s, "final_fsnn": 50.0 + s, "final_aap": 60.0, "final_sum": 61.0,
                "parameters_detached": 1234, "detached_ac": 2e6, "detached_mac": 1e6, "detached_mj": 0.0064,
                "trained_mj": 0.011, "integer8": 49.5 + s, "integer8_floats": 50.0 + s} for s in range(3)]  # fmt: skip
    plain = [{"row": "plain", "seed": s, "final_output": 49.0, "parameters_detached": 99, "detached_mj": 0.5,
              "trained_mj": 0.5} for s in range(3)]  # fmt: skip
    text = table(result([*with_it, *plain]))
    accuracies = "51.00 ± 1.00 | 60.00 ± 0.00 | 61.00 ± 0.00 | 1,234"
    energies = "2.000 ± 0.000 | 1.000 ± 0.000 | 6.40 ± 0.00 | 11.00 ± 0.00"
    assert f"| the pathway, kept | `with` | 3 | {accuracies} | {energies} | 50.50 ± 1.00 |" in text
    assert "| plain | `plain` | 3 | 49.00 ± 0.00 | - | - | 99 | - | - | 500.00 ± 0.00 | - | - |" in text
    low, high = stats.ttest_1samp([1.0, 2.0, 3.0], 0).confidence_interval(0.95)
    assert f"| what | 3 | +2.00 [{low:+.2f}, {high:+.2f}] | not shown |" in text
    assert "| integers of 8 bits against floats, the pathway, kept | 3 | -0.50 [-0.50, -0.50] | worse |" in text
    text = table(result(with_it[:2]))
    assert "Not run: plain." in text
    assert "compared" not in text
    assert table(Result(STUDY, ROOT / "nowhere")).startswith("*Not run.* a small one. ")


def test_marks_are_the_seeds_and_bars_scipys_interval():
    results = read_results()
    axes = joins(results).axes[0]
    values = list(results["cifar10_joins"].deployed("or_with").values())
    marks, mean = axes.lines[0], axes.lines[1]
    assert (list(marks.get_xdata()), to_hex(marks.get_color())) == (values, BLUE)
    assert mean.get_xdata()[0] == pytest.approx(np.mean(values))
    ends = axes.collections[0].get_segments()[0][:, 0]
    assert ends == pytest.approx(stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values)))


def test_energies_by_hand(result):
    line = {"row": "with", "seed": 0, "final_fsnn": 50.0, "final_sum": 51.5, "detached_mj": 0.01, "trained_mj": 0.02}
    found = [(words, energy, score.mean) for words, energy, score in energy_points(result([line]))]
    assert found == [("the pathway", 10.0, 50.0), ("the pathway, pathway kept", 20.0, 51.5)]


def test_the_power_law_is_scikit_learns_least_squares():
    draw = np.random.default_rng(0)
    places = [dict(zip(FACTORS, draw.uniform(1, 20, 3), strict=True)) for _ in range(25)]
    errors = [
        50 * p["width"] ** -0.5 * p["T"] ** 0.2 * p["epochs"] ** -0.1 * math.exp(draw.normal(0, 0.1)) for p in places
    ]
    found, deviations = fit(list(zip(places, errors, strict=True)))
    x, y = np.log([[p[name] for name in FACTORS] for p in places]), np.log(errors)
    line = LinearRegression().fit(x, y)
    assert found == pytest.approx([line.intercept_, *line.coef_], rel=1e-5)
    design = np.column_stack([np.ones(25), x])
    variance = ((y - line.predict(x)) ** 2).sum() / 21
    assert deviations == pytest.approx(np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design))), rel=1e-4)


def test_p_values_are_scipys_and_holms():
    first, second = [71.0, 69.5, 70.4], [70.2, 69.9, 68.8]
    assert paired(dict(enumerate(first)), dict(enumerate(second))).p == pytest.approx(
        stats.ttest_rel(first, second).pvalue
    )
    # by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then at least as large as the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_claims_say_what_their_study_shows():
    results = read_results()
    lines = claims_table(results).splitlines()[2:]
    assert len(lines) >= 10
    for claim in CLAIMS:
        assert claim.pair in results[claim.study].study.pairs
    for line in lines:
        claim, _, answer, difference, _, p, _ = (cell.strip() for cell in line.strip("|").split("|"))
        sign = "yes" if difference.startswith("+") else "no: worse"
        assert answer == (sign if float(p) < 0.05 else "not shown"), claim
