"""The plan and the page of the experiments on general talk; the trainings are held by tests/training/test_replay.py."""

from experiments import replay_report
from experiments.documents import ReplayResult, ReplayResults
from experiments.laboratory import REPLAY_PLAN, read_plan
from experiments.recipe import profile_of
from experiments.recipe_report import FIELDS
from ftkit.common.profiles import read_profiles
from ftkit.course.beliefs import FOLDER

LINES = read_plan(REPLAY_PLAN)
ON = {"date": "2026-01-01", "threads": 1, "versions": {}}


def test_the_plan_changes_nothing_but_the_share_and_says_what_was_expected():
    desk = [line for line in LINES if line.group == "desk"]
    assert [line.experiments[0].profile.get("replay", 0) for line in desk] == [0, 0.02, 0.05, 0.1, 0.2]
    assert all([e.seed for e in line.experiments] == [17, 3, 29] for line in desk)
    assert all(line.expected for line in LINES if line.name != "the centre")
    cpu = read_profiles()["cpu"]
    for line in desk:
        for experiment in line.experiments:
            profile = profile_of(experiment)
            assert profile == cpu.with_changes(seed=experiment.seed, replay=profile.replay)


def made(experiment, fields, general, **more):
    rows = dict.fromkeys(FIELDS, fields) | {"exact match": fields}
    english = {"answers": [], "log_probabilities": [], "tokens": []}
    figures = {"steps": 8, "seconds": 9.0, "train_rows": 20, "loss": 0.1, "general": {"right": general, **english}}
    return ReplayResult(experiment=vars(experiment), rows=rows, **figures, **ON, **more)


def test_the_page_pairs_each_share_with_the_same_seeds_without_general_talk(tmp_path):
    none, _, _, tenth, _ = (line for line in LINES if line.group == "desk")
    results = {
        none.experiments[0].key: made(none.experiments[0], "1011", "0000", replay=0),
        tenth.experiments[0].key: made(tenth.experiments[0], "1010", "1110", replay=2),
        tenth.experiments[1].key: ReplayResult(experiment=vars(tenth.experiments[1]), failed="KitError: no room", **ON),
    }
    ReplayResults(results=results).save(tmp_path)
    replay_report.write(tmp_path / "PAGE.md", tmp_path)
    page = (tmp_path / "PAGE.md").read_text(encoding="utf-8")
    assert "| no replay | 20 + 0 | 1 | 8 | 75.0 | 75.0 | 0 of 4 | 9 s |" in page
    assert "| replay 10 % | 20 + 2 | 1 | 8 | 50.0 | 50.0 | 3 of 4 | 9 s |" in page
    (gains,) = (line for line in page.splitlines() if line.startswith(f"| replay 10 % | {tenth.expected} |"))
    assert gains.count("-25.0 (") == 2 and "| +75.0 (" in gains
    assert "Could not be run: KitError: no room" in page and "3 of 17 experiments" in page
    assert "## The desk, a short version" not in page  # nothing of it has run here
    assert "The untouched base answers 36 of the 60 right." in page


def test_the_saved_results_are_of_the_plan_and_the_page_shows_them(tmp_path):
    if not ReplayResults.exists(FOLDER):
        return
    results = ReplayResults.load(FOLDER).results
    keys = {experiment.key: experiment for line in LINES for experiment in line.experiments}
    for key, result in results.items():
        assert result.experiment == vars(keys[key])
        if result.failed is None:
            assert result.general and len(result.general.right) == 60 and len(result.rows["exact match"]) == 156
            assert result.replay == round(profile_of(keys[key]).replay * result.train_rows)
    replay_report.write(tmp_path / "PAGE.md")
    assert (tmp_path / "PAGE.md").read_text(encoding="utf-8") == replay_report.PAGE.read_text(encoding="utf-8")
