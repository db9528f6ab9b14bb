import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from sedtalker_jax.cli import main
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.study import trials
from sedtalker_jax.evaluation.study.votes import (
    Vote,
    bradley_terry,
    catch_counts,
    krippendorff_alpha,
    left_out,
    read_votes,
    score_votes,
    wilson,
)

SYSTEMS = ("best", "middle", "worst")
STRENGTH = {"best": 0.8, "middle": 0.0, "worst": -0.8}
CLIPS = tuple(f"clip{index}" for index in range(12))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Directory and key of a study of three systems."""
    root = tmp_path_factory.mktemp("study")
    for system, clip in itertools.product(SYSTEMS, CLIPS):
        (root / system).mkdir(exist_ok=True)
        (root / system / f"{clip}.mp4").write_bytes(f"{system} {clip}".encode())
    videos = trials.find_videos({system: root / system for system in SYSTEMS})
    stretches = [trials.Stretch(clip, 0.5, 1.5, "happy", "happy") for clip in CLIPS]
    trials.write_study(root / "out", videos, trials.make_trials(videos, stretches, ["lips"], 8), "Test")
    return root / "out", json.loads((root / "out" / trials.KEY).read_text())


def simulate(key, rater, rng, careful=True, face_right=None):
    """A rater's answers: pairs by Bradley-Terry, the voice is always heard right, the face as often as `face_right` says."""
    face_right = face_right or {"best": 0.9, "middle": 0.6, "worst": 0.2}
    votes = []
    for name, trial in key["trials"].items():
        if trial["kind"] == "catch":
            answer = trial["videos"][0 if careful or rng.random() < 0.2 else 1]
        elif trial["kind"] == "pair":
            first, second = (STRENGTH[system] for system in trial["systems"])
            answer = trial["videos"][int(rng.random() > 1 / (1 + math.exp(second - first)))]
        else:
            right = trial["kind"] == "voice" or rng.random() < face_right[trial["systems"][0]]
            answer = "happy" if right else "sad"
        question = "lips" if trial["kind"] in ("pair", "catch") else trial["kind"]
        votes.append({"trial": name, "question": question, "answer": answer, "left": None, "seconds": 3.0})
    return {"study": key["study"], "rater": rater, "votes": votes}


def saved(folder, contents):
    folder.mkdir(exist_ok=True)
    paths = []
    for content in contents:
        paths.append(folder / f"{content['rater']}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


@pytest.fixture(scope="module")
def scored(study, tmp_path_factory):
    rng = np.random.default_rng(0)
    contents = [simulate(study[1], f"rater{index}", rng) for index in range(20)]
    contents.append(simulate(study[1], "careless", rng, careful=False))
    votes = read_votes(saved(tmp_path_factory.mktemp("votes"), contents), study[1])
    return score_votes(votes, study[1])


def test_strengths_of_simulated_raters_are_found_within_their_intervals(scored):
    (table,) = [table for table in scored[0] if table.title == "Strength"]
    (row,) = table.rows
    for system, true in STRENGTH.items():
        found = row.values[system]
        assert found.low < true < found.high
        assert 0.1 < found.high - found.low < 0.9
        assert found.num_speakers == 20


def test_preferences_are_those_that_the_strengths_imply(scored):
    (table,) = [table for table in scored[0] if table.title.startswith("Share")]
    for row in table.rows:
        first, second = row.metric.split(" over ")
        found = row.values["lips"]
        assert found.num_clips == 20 * len(CLIPS)
        assert found.value == pytest.approx(1 / (1 + math.exp(STRENGTH[second] - STRENGTH[first])), abs=0.1)


def test_emotions_are_recognised_as_often_as_simulated(scored):
    (table,) = [table for table in scored[0] if table.title.startswith("Emotions")]
    labelled, as_voice = table.rows
    assert labelled.values["voice"].value == 1.0
    for system, share in (("best", 0.9), ("middle", 0.6), ("worst", 0.2)):
        assert labelled.values[system].value == pytest.approx(share, abs=0.08)
        assert as_voice.values[system] == labelled.values[system]


def agreement(tables):
    (table,) = [table for table in tables if "alpha" in table.title]
    return {row.metric: row.values["alpha"] for row in table.rows}


def test_agreement_is_perfect_on_voices_and_little_on_faces(scored):
    alpha = agreement(scored[0])
    assert math.isnan(alpha["voice"])
    # Two raters agree on a pair with p^2 + (1 - p)^2: 0.57, 0.57, and 0.72 for the best beside the worst; by chance with 0.5.
    assert alpha["lips"] == pytest.approx(2 * (0.571 + 0.571 + 0.722) / 3 - 1, abs=0.08)
    assert 0.1 < alpha["face"] < 0.6


def test_raters_who_guess_do_not_agree_however_many_systems_there_are(study):
    rng = np.random.default_rng(7)
    pairs = {name: trial for name, trial in study[1]["trials"].items() if trial["kind"] == "pair"}
    votes = [
        Vote(f"rater{r}", name, "lips", trial["systems"][rng.integers(2)]) for r in range(10) for name, trial in pairs.items()
    ]
    assert agreement(score_votes(votes, study[1])[0])["lips"] == pytest.approx(0, abs=0.05)


def test_honest_raters_pass_catch_trials_whatever_else_is_asked(tmp_path):
    videos = {clip: {system: tmp_path / f"{system}{clip}.mp4" for system in SYSTEMS} for clip in CLIPS}
    made = trials.make_trials(videos, [], ["natural", "lips"], 4)
    key = {"trials": {str(number): trial for number, trial in enumerate(made)}}
    caught = [name for name, trial in key["trials"].items() if trial["kind"] == "catch"]
    votes = [
        Vote("ann", name, question, answer) for name in caught for question, answer in (("natural", "wrong"), ("lips", "right"))
    ]
    assert catch_counts(votes, key) == {"ann": (4, 4)}


def test_a_face_is_compared_with_the_voice_of_its_own_stretch(study):
    stretches = [trials.Stretch("clip0", 0.0, 1.0), trials.Stretch("clip0", 0.0)]
    videos = {clip: dict.fromkeys(SYSTEMS) for clip in CLIPS}
    made = [trial for trial in trials.make_trials(videos, stretches, ["lips"], 0) if trial["kind"] != "pair"]
    key = {"study": "s", "trials": {str(number): trial for number, trial in enumerate(made)}}
    # What is heard in the first second is another emotion than in the whole, and every face shows just that.
    votes = [
        Vote("ann", name, trial["kind"], "happy" if trial["end"] == 1.0 else "sad") for name, trial in key["trials"].items()
    ]
    (table,) = [table for table in score_votes(votes, key)[0] if table.title.startswith("Emotions")]
    (row,) = table.rows
    assert {value.value for value in row.values.values()} == {1.0}


def test_a_careless_rater_is_left_out_and_named(scored):
    facts = scored[1]
    assert facts["left_out"] == ["careless"]
    assert len(facts["raters"]) == 20
    assert facts["catch_trials"]["rater0"] == {"right": 8, "asked": 8}


def test_left_out_below_three_quarters():
    assert left_out({"a": (3, 4), "b": (2, 4), "c": (0, 0)}) == ["b"]


def test_wilson_is_the_textbook_interval():
    found = wilson(8, 10, 3)
    z, n, p = stats.norm.ppf(0.975), 10, 0.8
    middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, middle - half, middle + half))
    assert math.isnan(wilson(0, 0, 0).value)


def test_bradley_terry_is_the_maximum_of_its_likelihood():
    wins = np.random.default_rng(1).integers(3, 30, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)
    strength = bradley_terry(wins)
    assert strength.mean() == pytest.approx(0, abs=1e-9)
    held = wins + 0.5 * (1 - np.eye(4))
    expected = held + held.T
    share = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    # Where the likelihood is largest, every system has as many wins as its strength predicts.
    np.testing.assert_allclose((expected * share).sum(axis=1), held.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(bradley_terry(np.stack([wins, wins.T])), [strength, -strength], atol=1e-6)


def test_two_systems_differ_by_the_logit_of_their_votes():
    low, high = bradley_terry(np.array([[0.0, 9.5], [29.5, 0.0]]))
    assert high - low == pytest.approx(math.log(30 / 10))


def test_a_system_that_never_lost_has_a_finite_strength():
    assert np.isfinite(bradley_terry(np.array([[0.0, 5.0], [0.0, 0.0]]))).all()


def test_alpha_of_the_published_example():
    # Nominal data with missing values, "Computing Krippendorff's alpha-reliability" (2011), section C: alpha = 0.743.
    rows = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    table = [row.split() for row in rows]
    units = [{f"rater{r}": table[r][u] for r in range(4) if table[r][u] != "."} for u in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_perfect_and_of_random_ratings():
    assert krippendorff_alpha([{"a": "x", "b": "x"}, {"a": "y", "b": "y"}]) == 1.0
    assert math.isnan(krippendorff_alpha([{"a": "x", "b": "x"}]))
    rng = np.random.default_rng(2)
    units = [{f"{r}": str(rng.integers(3)) for r in range(6)} for _ in range(400)]
    assert krippendorff_alpha(units) == pytest.approx(0, abs=0.03)


def test_the_last_answer_of_a_rater_counts(study, tmp_path):
    content = simulate(study[1], "x", np.random.default_rng(3))
    pair = next(vote for vote in content["votes"] if study[1]["trials"][vote["trial"]]["kind"] == "pair")
    videos = study[1]["trials"][pair["trial"]]["videos"]
    content["votes"] += [{**pair, "answer": videos[0]}, {**pair, "answer": videos[1]}]
    votes = read_votes(saved(tmp_path, [content]), study[1])
    assert len(votes) == len(study[1]["trials"])
    (last,) = [vote for vote in votes if vote.trial == pair["trial"]]
    assert last.answer == study[1]["trials"][pair["trial"]]["systems"][1]


def test_catch_trials_are_judged_by_whose_words_they_are(study, tmp_path):
    content = simulate(study[1], "x", np.random.default_rng(4), careful=False)
    counts = catch_counts(read_votes(saved(tmp_path, [content]), study[1]), study[1])
    right = [v for v in content["votes"] if v["answer"] == study[1]["trials"][v["trial"]].get("videos", [None])[0]]
    caught = [vote for vote in right if study[1]["trials"][vote["trial"]]["kind"] == "catch"]
    assert counts == {"x": (len(caught), 8)}


def test_votes_that_do_not_belong_here_are_refused(study, tmp_path):
    content = simulate(study[1], "x", np.random.default_rng(5))
    (other,) = saved(tmp_path / "a", [{**content, "study": "another"}])
    with pytest.raises(UserError, match="votes of study another"):
        read_votes([other], study[1])
    (strange,) = saved(
        tmp_path / "b", [{**content, "votes": [{**content["votes"][0], "answer": "videos/x.mp4", "trial": "?"}]}]
    )
    with pytest.raises(UserError, match="none of the study's"):
        read_votes([strange], study[1])
    voice = next(vote for vote in content["votes"] if study[1]["trials"][vote["trial"]]["kind"] == "voice")
    pair = next(vote for vote in content["votes"] if study[1]["trials"][vote["trial"]]["kind"] == "pair")
    for wrong in ({**voice, "answer": "merry"}, {**voice, "question": "face"}, {**pair, "question": "natural"}):
        (strange,) = saved(tmp_path / "b", [{**content, "votes": [wrong]}])
        with pytest.raises(UserError, match="none of the study's"):
            read_votes([strange], study[1])
    with pytest.raises(UserError, match="no votes in these files"):
        score_votes(read_votes(saved(tmp_path / "b", [{**content, "votes": []}]), study[1]), study[1])
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(UserError, match="not a file that the study's page saved"):
        read_votes([tmp_path / "c.json"], study[1])


def test_the_command_scores_a_folder_of_votes(study, tmp_path, capsys):
    rng = np.random.default_rng(6)
    saved(tmp_path / "votes", [simulate(study[1], f"rater{index}", rng) for index in range(4)])
    out = tmp_path / "votes.json"
    assert main(["study", "score", str(tmp_path / "votes"), "--study", str(study[0]), "--out", str(out)]) == 0
    assert "Strength" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["raters"] == [f"rater{index}" for index in range(4)]
    assert set(content["tables"]["Strength"]["lips"]["systems"]) == set(SYSTEMS)


def test_the_command_names_what_is_missing(study, tmp_path, capsys):
    (tmp_path / "votes").mkdir()
    assert main(["study", "score", str(tmp_path / "votes"), "--study", str(study[0])]) == 2
    assert "holds no .json files" in capsys.readouterr().err
    assert main(["study", "score", str(tmp_path / "votes"), "--study", str(tmp_path)]) == 2
    assert "no key of a study" in capsys.readouterr().err
