"""What an experiment takes from its data beside the batches."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from configs import demo
from sedtalker_jax.data import records
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.training import experiment as experiment_module
from sedtalker_jax.training.experiment import Experiment, RunPlan, label_weights, shared_space, training_subjects


def directory(root, name, train, **fields):
    (root / name).mkdir()
    (root / name / "manifest.json").write_text(
        json.dumps({"splits": {"train": train, "test": {"speakers": ["unseen"]}}} | fields)
    )
    return str(root / name)


def test_subjects_are_the_training_speakers_of_all_corpora_and_the_heads_of_the_world(tmp_path):
    counted = {name: {"clips": 3, "seconds": 9.0} for name in ("bob", "ann")}
    emovoca = directory(tmp_path, "emovoca", {"speakers": counted, "templates": counted}, corpus="emovoca")
    # VOCASET holds the same people: one way of moving each.
    vocaset = directory(tmp_path, "vocaset", {"speakers": {"ann": {}, "cleo": {}}}, corpus="vocaset")
    world = directory(tmp_path, "world", {"speakers": ["voice-0"], "templates": ["head-1", "head-0"]}, world="world-a")
    assert training_subjects([emovoca, vocaset], 3) == ("ann", "bob", "cleo")
    assert training_subjects([world], 512) == ("head-0", "head-1")


def test_too_many_subjects_and_nameless_ones_are_refused(tmp_path):
    two = directory(tmp_path, "two", {"speakers": {"ann": {}, "bob": {}}})
    with pytest.raises(UserError, match="2 subjects in .*two.*num_subjects allows 1"):
        training_subjects([two], 1)
    with pytest.raises(UserError, match="names no subjects"):
        training_subjects([directory(tmp_path, "nameless", {})], 9)


def face_space(folder, names, values, basis=1.0):
    folder.mkdir()
    templates = np.stack([np.full((3, 3), value, np.float32) for value in values])
    FaceSpace(
        "toy", np.array([[0, 1, 2]]), np.full((1, 9), basis, np.float32), names, templates,
        {"lips": np.arange(2), "upper_face": np.arange(1)}, 30.0,
    ).save(folder / "face_space.npz")  # fmt: skip
    return str(folder)


def test_directories_share_a_basis_and_a_name_stands_for_one_face(tmp_path):
    ann = face_space(tmp_path / "emovoca", ("ann", "bob"), (1.0, 2.0))
    both = shared_space([ann, face_space(tmp_path / "vocaset", ("bob", "cleo"), (2.0, 3.0))])
    assert both.template_names == ("ann", "bob", "cleo") and both.templates[:, 0, 0].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match="mine: its template 'bob' is another face"):
        shared_space([ann, face_space(tmp_path / "mine", ("bob",), (2.5,))])
    with pytest.raises(UserError, match="its face space is not that of"):
        shared_space([ann, face_space(tmp_path / "other", ("dan",), (4.0,), basis=2.0)])


def test_rare_labels_weigh_more_and_absent_ones_nothing():
    manifest = {"splits": {"train": {"frames": {"neutral": 400, "happy": 100}}}}
    weights = label_weights(manifest, ("neutral", "happy", "sad"))
    np.testing.assert_allclose(weights, [5 / 6, 5 / 3, 0], rtol=1e-6)
    assert np.average(weights[:2], weights=[400, 100]) == pytest.approx(1.0)
    with pytest.raises(UserError, match="none of the labels calm, bored occurs"):
        label_weights(manifest, ("calm", "bored"))


def smoke(world, **fields):
    config = demo.get_config("smoke").unlock()
    config.data.directory = str(world)
    config.update_from_flattened_dict(fields)
    return config


def test_what_a_run_without_a_checkpoint_left_is_made_anew(tiny_world, smoke_checkpoint, tmp_path):
    first = Experiment(smoke(tiny_world), tmp_path)
    assert first.codec.template_basis.shape[0] == 2 and (tmp_path / "face_statistics.npz").exists()
    assert Experiment(smoke(tiny_world, **{"data.template_code_size": 4}), tmp_path).codec.template_basis.shape[0] == 4
    # With a checkpoint the statistics are those that it was trained with, whatever the config says by now.
    begun = shutil.copytree(smoke_checkpoint, tmp_path / "begun")
    again = Experiment(smoke(tiny_world, **{"data.template_code_size": 4, "data.codec_clips": 3}), begun).codec
    assert again.template_basis.shape[0] == 2
    np.testing.assert_array_equal(again.motion_std, first.codec.motion_std)


@pytest.mark.parametrize("lacking", [{}, {"valid": {"shards": [], "records": 0}}], ids=["absent", "empty"])
def test_records_without_a_validation_split_train_and_say_so_at_the_start(lacking, tiny_world, tmp_path):
    def without_validation(name):
        (tmp_path / name).mkdir()
        for path in tiny_world.iterdir():
            if path.name != records.MANIFEST:
                (tmp_path / name / path.name).symlink_to(path)
        manifest = records.read_manifest(tiny_world)
        del manifest["splits"]["valid"]
        manifest["splits"] |= lacking
        records.write_json(tmp_path / name / records.MANIFEST, manifest)
        return str(tmp_path / name)

    one, both = without_validation("one"), f"{tmp_path / 'one'},{without_validation('other')}"
    for directories in (one, both):
        experiment = Experiment(smoke(directories), tmp_path / "run")
        plan = str(RunPlan.of(experiment)).splitlines()
        assert plan[-1] == f"no validation on {', '.join(directories.split(','))}: no records of a validation split"
        assert experiment.validate(types.SimpleNamespace(ema_params={}, frozen={})) == {}
    assert "no validation" not in str(RunPlan.of(Experiment(smoke(tiny_world), tmp_path / "run")))


COUNTS = (
    "num_steps", "eval_every", "log_every", "accumulation", "checkpoint.every_steps", "checkpoint.keep", "pipeline.batch_size",
    "parallel.fsdp",
)  # fmt: skip


@pytest.mark.parametrize("field", COUNTS)
def test_counts_of_none_are_refused_before_anything_is_compiled(field, tiny_world, tmp_path):
    with pytest.raises(ValueError, match=rf"{field.rpartition('.')[2]}=0.* 1 or more"):
        Experiment(smoke(tiny_world, **{field: 0}), tmp_path)


def test_all_processes_read_what_the_first_one_fitted(tiny_world, tmp_path, monkeypatch):
    fields = {"loss.shown_emotion": 1.0, "data.codec_clips": 12}
    first = Experiment(smoke(tiny_world, **fields), tmp_path)
    # A host that counts otherwise in the last digit.
    fit, mean = FaceCodec.fit, first.codec.motion_mean
    monkeypatch.setattr(
        FaceCodec, "fit", lambda *given: dataclasses.replace(fit(*given), motion_mean=np.nextafter(mean, np.float32(np.inf)))
    )
    fitted = experiment_module.fit_reader
    monkeypatch.setattr(
        experiment_module, "fit_reader", lambda *given, **sizes: dataclasses.replace(fitted(*given, **sizes), scale=2.0)
    )
    met = []
    monkeypatch.setattr(multihost_utils, "sync_global_devices", met.append)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    second = Experiment(smoke(tiny_world, **fields), tmp_path)
    np.testing.assert_array_equal(second.codec.motion_mean, mean)
    assert second.objective.readers["shown_emotion"].scale == first.objective.readers["shown_emotion"].scale != 2.0
    assert met == ["face statistics", "motion readers"]


def test_parameters_narrower_than_their_average_needs_are_refused(tiny_world, tmp_path):
    config = demo.get_config("smoke").unlock()
    config.data.directory = str(tiny_world)
    config.model.precision.params = "bfloat16"
    with pytest.raises(ValueError, match="model.precision.params='bfloat16'"):
        Experiment(config, tmp_path)
