import json
import re
from pathlib import Path

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims import documents, protocol, report, verdicts
from sedtalker_jax.evaluation.claims.jobs import FINISHED
from sedtalker_jax.evaluation.claims.protocol import CLAIMS, Claim
from sedtalker_jax.evaluation.claims.scores import ArmScores, load_scores
from sedtalker_jax.evaluation.claims.tables import save_table

ROOT = Path(__file__).resolve().parents[3]
CLIPS = tuple(f"clip{index}" for index in range(40))
VOICES = tuple(f"voice{index // 4}" for index in range(40))


def scores(family, arm, seed=0, **measures):
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.05, len(CLIPS))
    values = {name: base + rng.normal(value, 0.01, len(CLIPS)) for name, value in measures.items()}
    return ArmScores(family, arm, seed, CLIPS, VOICES, values)


def claim(name, quantity="difference", **bounds):
    return Claim(
        name, name, "ours", "toy", "ours", "error", "the contrary", "" if quantity == "value" else "other", quantity, **bounds
    )


def judged(claims, ours=1.0, other=1.2):
    table = {("toy", "ours"): [scores("toy", "ours", error=ours)], ("toy", "other"): [scores("toy", "other", error=other)]}
    return {claim["name"]: claim for claim in verdicts.judge(table, claims)}


def test_every_claim_says_what_would_refute_it_and_is_told_apart_by_its_digest():
    assert len({claim.name for claim in CLAIMS}) == len({claim.digest for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.refuted_by and claim.source and claim.goal
    assert {claim.family for claim in CLAIMS} == {
        "diarization", "animation", "disentanglement", "identity", "backbone", "editing"
    }  # fmt: skip


def test_a_claim_without_bounds_or_with_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="bounds"):
        claim("unbounded")
    with pytest.raises(ValueError, match="against nothing"):
        Claim("x", "x", "ours", "toy", "ours", "error", "y", "", "ratio", high=1.0)


def test_goals_in_words():
    assert [claim("a", high=0.0).goal, claim("a", low=0.0).goal] == ["below 0", "above 0"]
    assert [claim("a", high=1.1).goal, claim("a", low=0.9).goal] == ["at most 1.1", "at least 0.9"]
    assert claim("a", low=0.8, high=1.25).goal == "0.8 to 1.25"


def test_verdicts_on_effects_that_are_known():
    found = judged(
        [
            claim("lower", high=0.0),
            claim("higher", low=0.0),
            claim("ratio", "ratio", high=0.9),
            claim("small ratio", "ratio", high=0.5),
            claim("near", "value", low=0.99, high=2.0),
        ]
    )
    assert {name: found[name]["verdict"] for name in found} == {
        "lower": "holds", "higher": "does not hold", "ratio": "holds", "small ratio": "does not hold", "near": "does not hold"
    }  # fmt: skip
    assert found["lower"]["effect"]["value"] == pytest.approx(-0.2, abs=0.01)
    assert found["higher"]["remark"] == found["small ratio"]["remark"] == "refuted"
    assert found["near"]["remark"] in ("undecided", "estimate misses")
    assert found["lower"]["effect"]["num_voices"] == 10


def test_a_verdict_needs_more_among_more_claims():
    just_met = judged([claim("a", "value", low=0.0)])["a"]["effect"]["low"] - 1e-4
    alone = judged([claim("a", "value", low=just_met)])["a"]
    assert alone["effect"]["p"] < 0.05 and alone["verdict"] == "holds"
    others = [claim(f"other {index}", "value", low=2.0) for index in range(40)]
    among = judged([claim("a", "value", low=just_met), *others])["a"]
    assert among["effect"] == alone["effect"]
    assert (among["verdict"], among["remark"]) == ("does not hold", "lost to Holm's correction")


def test_what_has_no_scores_is_not_tested_and_costs_the_others_nothing():
    table = {("toy", "ours"): [scores("toy", "ours", error=1.0)], ("toy", "other"): [scores("toy", "other", another=1.0)]}
    (missing,) = verdicts.judge(table, [claim("missing", high=0.0)])
    assert (missing["verdict"], missing["effect"], missing["p_holm"]) == ("not tested", None, None)
    both = verdicts.judge(table, [claim("missing", high=0.0), claim("there", "value", high=2.0)])
    assert both[1]["p_holm"] == both[1]["effect"]["p"]


@pytest.fixture
def run(tmp_path):
    """A directory as a run leaves it: a claim of two arms over two seeds, each scoring job after two training jobs."""
    settings = {"data": "runs/w", "other_data": "", "smoke": False, "world_hash": "a1", "other_world_hash": ""}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    verdicts.keep_protocol(tmp_path)
    for seed in (0, 1):
        required = []
        for arm in ("ours", "window"):
            required.append(f"seed{seed}/diarizer/{arm}")
            finish(tmp_path / required[-1], seconds=60)
        place = tmp_path / f"seed{seed}" / "diarization"
        for arm, error in (("ours", 0.4), ("window", 0.6)):
            scores("diarization", arm, seed, emotion_diarization_error_rate=error).save(place)
        save_table(place, "noise", "EDER by noise", ["clean"], [["ours", 0.4 + seed]])
        (place / "figures").mkdir()
        report.report.save_figure(report.report.new_figure(2, 2), place / "figures" / "curve.png")
        finish(place, seconds=30, requires=required)
    return tmp_path


def finish(place, seconds, requires=()):
    place.mkdir(parents=True, exist_ok=True)
    left = {"seconds": seconds, "requires": list(requires), "commit": "c0ffee", "jax": "0.10.2"}
    (place / FINISHED).write_text(json.dumps(left))


def test_results_name_world_commit_seeds_command_and_cost(run):
    found = verdicts.results(run)
    assert found["info"]["command"] == "python -m sedtalker_jax.evaluation.claims --seeds 2 --data runs/w --other-data ''"
    assert found["info"]["world_hash"] == "a1"
    assert (found["info"]["seeds"], found["info"]["commits"], found["info"]["cost_minutes"]) == ([0, 1], ["c0ffee"], 5.0)
    tested = {claim["name"]: claim for claim in found["claims"] if claim["verdict"] != "not tested"}
    assert list(tested) == ["diarization-vs-window"]
    assert tested["diarization-vs-window"]["cost_minutes"] == 5.0
    assert tested["diarization-vs-window"]["verdict"] == "holds"
    assert tested["diarization-vs-window"]["effect"]["num_seeds"] == 2
    assert set(found["arms"]["diarization"]) == {"ours", "window"}


def test_results_are_the_same_each_time(run):
    assert json.dumps(verdicts.results(run)) == json.dumps(verdicts.results(run))


def test_scores_of_a_job_that_has_not_finished_do_not_count(run):
    (run / "seed1/diarization" / FINISHED).unlink()
    assert list(load_scores(run)) == ["seed0/diarization"]
    assert verdicts.results(run)["info"]["seeds"] == [0]


def test_scores_twice_under_one_seed_are_an_error(run):
    finish(run / "seed0/again", 1)
    scores("diarization", "ours", 0, emotion_diarization_error_rate=0.1).save(run / "seed0/again")
    with pytest.raises(ValueError, match="diarization/ours was scored twice under seed 0"):
        verdicts.results(run)


def test_a_claim_that_was_changed_after_the_start_is_marked(run):
    kept = json.loads((run / verdicts.PROTOCOL).read_text())
    kept["diarization-vs-window"] = "another"
    (run / verdicts.PROTOCOL).write_text(json.dumps(kept))
    verdicts.keep_protocol(run)
    found = verdicts.results(run)
    assert [claim["name"] for claim in found["claims"] if claim["changed_after_start"]] == ["diarization-vs-window"]
    assert "clips of one emotion †" in documents.markdown(found) and "† added or changed" in documents.markdown(found)


def test_the_readme_holds_every_claim_between_its_markers(run, tmp_path):
    found = verdicts.results(run)
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- claims -->\nOUTDATED\n<!-- /claims -->\nafter\n")
    documents.write_readme(path, found)
    first = path.read_text()
    assert first.startswith("before\n") and first.endswith("after\n") and "OUTDATED" not in first
    assert documents.table_in(first) == documents.markdown(found)
    assert first.count("| not tested |") == len(CLAIMS) - 1 and first.count("**holds**") == 1
    assert json.loads((tmp_path / "docs" / "claims.json").read_text()) == json.loads(json.dumps(found))
    documents.write_readme(path, found)
    assert path.read_text() == first


def test_a_readme_without_markers_and_a_smoke_run_are_refused(run, tmp_path):
    found = verdicts.results(run)
    path = tmp_path / "README.md"
    path.write_text("nothing")
    with pytest.raises(UserError, match="add the lines <!-- claims --> and <!-- /claims -->"):
        documents.write_readme(path, found)
    found["info"]["smoke"] = True
    with pytest.raises(UserError, match="--smoke mean nothing"):
        documents.write_readme(path, found)
    assert path.read_text() == "nothing"


def test_the_page_holds_verdicts_effects_tables_and_pictures(run):
    found = verdicts.results(run)
    report.write_page(run / "report.html", run, found)
    page = (run / "report.html").read_text()
    assert "Of 36 claims 1 hold" in page.replace(str(len(CLAIMS)), "36")
    for claim in CLAIMS:
        assert claim.statement.replace("'", "&#x27;") in page
    assert "EDER by noise" in page and "<td>0.9</td>" in page and "Mean of 2 seeds" in page
    assert page.count("data:image/png;base64,") == 3
    assert not re.findall(r"(?:src|href)=['\"]http", page)


def test_tables_of_several_seeds_are_averaged_where_they_agree():
    first = {"title": "t", "columns": ["a", "b"], "rows": [["x", 1, "text"], ["y", 3.0, None]], "note": "n."}
    second = {**first, "rows": [["x", 2, "text"], ["y", 5.0, None]]}
    assert report.combined_table([first, second])["rows"] == [["x", 1.5, "text"], ["y", 4.0, None]]
    other = {**first, "rows": [["z", 2, "text"]]}
    assert report.combined_table([first, other]) == {**first, "note": "n. Of the first seed."}


def test_numbers_are_printed_to_three_figures():
    def printed(value, low, high):
        return documents.effect({"effect": {"value": value, "low": low, "high": high}})

    assert printed(-0.0374, -0.0582, -0.0168) == "-0.0374 [-0.0582, -0.0168]"
    assert printed(123.4, 100.0, 150.0) == "123 [100, 150]"
    assert printed(0.0, 0.0, 0.0) == "0.000 [0.000, 0.000]"
    assert printed(0.5, None, None) == "0.500"
    assert documents.effect({"effect": None}) == ""


def test_the_protocol_lists_every_claim_as_it_is_tested():
    assert documents.table_in((ROOT / "docs" / "claims.md").read_text()) == documents.protocol_markdown()


def test_verdicts_in_the_readme_equal_the_last_runs_json():
    kept, text = ROOT / "docs" / "claims.json", (ROOT / "README.md").read_text()
    if not kept.exists() and documents.START not in text:
        pytest.skip("no run of the claims has been written into the README")
    found = json.loads(kept.read_text())
    assert documents.table_in(text) == documents.markdown(found)
    assert {claim["name"]: claim["digest"] for claim in found["claims"]} == protocol.digests()
