"""Agreement with transformers' PyTorch models at real sizes: python -m sedtalker_jax.speech.parity [NAME ...]

Random weights, every parameter perturbed; two clips, the second one padded. For each hidden state: relative L2 and largest
difference against the state's largest value; the same clip alone and in the padded batch; the folder written back and loaded
by transformers. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import jax
import numpy as np

from sedtalker_jax.axes import num_speech_frames
from sedtalker_jax.errors import UserError
from sedtalker_jax.speech.config import SpeechEncoderConfig
from sedtalker_jax.speech.encoder import SpeechEncoder
from sedtalker_jax.speech.pretrained import load_pretrained_encoder, save_pretrained_encoder

_LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
_LAYER_NORMED = dict(feat_extract_norm="layer", do_stable_layer_norm=True)

SIZES = {
    "wav2vec2-base": dict(model_type="wav2vec2"),
    "wav2vec2-large-lv60": dict(model_type="wav2vec2", conv_bias=True, **_LARGE, **_LAYER_NORMED),
    "hubert-base": dict(model_type="hubert"),
    "wavlm-base": dict(model_type="wavlm"),
    "wavlm-base-plus": dict(model_type="wavlm", mask_time_prob=0.05, layerdrop=0.05),
    "wavlm-large": dict(model_type="wavlm", **_LARGE, **_LAYER_NORMED),
}
"""Published models by name, as config.json values that differ from transformers' defaults."""


def import_torch():
    """PyTorch, or a UserError that says how to get it."""
    try:
        import torch
    except ImportError:
        raise UserError("this comparison needs PyTorch: pip install torch==2.13.0") from None
    return torch


def random_torch_model(values: dict, seed: int = 0):
    """transformers' model of a config with every parameter drawn or perturbed, in evaluation mode."""
    torch = import_torch()
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    values = dict(values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    # WavLM has only the eager form; for the others the fused one is the faster rival.
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases would otherwise be ones and zeros, which hide mistakes.
            if parameter.ndim < 2 or "gru_rel_pos_const" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def compare(name: str, seconds: float = 3.0) -> dict[str, float]:
    """All differences of one model: worst over hidden states and padding modes."""
    torch = import_torch()
    from transformers import AutoModel

    model = random_torch_model(SIZES[name])
    samples = int(seconds * 16_000)
    lengths = np.array([samples, samples * 2 // 3])
    waveforms = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    waveforms *= np.arange(samples) < lengths[:, None]
    mask = torch.tensor((np.arange(samples) < lengths[:, None]).astype(np.int64))
    result = dict.fromkeys(("relative_l2", "max_over_largest"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/theirs")
        config = SpeechEncoderConfig.from_directory(f"{folder}/theirs")
        _, params = load_pretrained_encoder(f"{folder}/theirs", padding="reference")
        reference = jax.jit(SpeechEncoder(config, padding="reference").apply)
        for ours, theirs in [
            (reference({"params": params}, waveforms[:1]), (waveforms[:1], None)),
            (reference({"params": params}, waveforms, lengths), (waveforms, mask)),
        ]:
            with torch.no_grad():
                output = model(torch.tensor(theirs[0]), attention_mask=theirs[1], output_hidden_states=True)
            valid = np.asarray(ours.frame_mask)
            pairs = zip([*ours.hidden_states, ours.last_hidden_state], [*output.hidden_states, output[0]], strict=True)
            for mine, state in pairs:
                mine, state = np.float64(mine)[valid], np.float64(state.numpy())[valid]
                result["relative_l2"] = max(result["relative_l2"], np.linalg.norm(mine - state) / np.linalg.norm(state))
                result["max_over_largest"] = max(result["max_over_largest"], np.abs(mine - state).max() / np.abs(state).max())
        before = output[0].numpy()
        del model, output
        gc.collect()

        masked = jax.jit(SpeechEncoder(config).apply)
        batch = masked({"params": params}, waveforms, lengths).hidden_states[:, 1, : num_speech_frames(int(lengths[1]))]
        alone = masked({"params": params}, waveforms[1:, : lengths[1]]).hidden_states[:, 0]
        result["batch_invariance"] = float(np.abs(batch - alone).max() / np.abs(alone).max())

        save_pretrained_encoder(Path(folder) / "ours", config, params)
        del params
        again = AutoModel.from_pretrained(f"{folder}/ours").eval()
        with torch.no_grad():
            after = again(torch.tensor(waveforms), attention_mask=mask)[0].numpy()
        result["round_trip"] = float(np.abs(after - before).max())
    return result


def main() -> None:
    """Prints a table; exits with 1 when a bound of the README does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the longer clip")
    arguments = parser.parse_args()
    bounds = dict(relative_l2=1e-5, max_over_largest=1e-4, batch_invariance=1e-5, round_trip=0.0)
    print(f"{'model':<22}" + "".join(f"{name:>18}" for name in bounds), flush=True)
    failed = False
    for name in arguments.names:
        if name not in SIZES:
            parser.error(f"unknown model '{name}'; one of {', '.join(SIZES)}")
        result = compare(name, arguments.seconds)
        failed |= any(result[measure] > bound for measure, bound in bounds.items())
        print(f"{name:<22}" + "".join(f"{result[measure]:>18.2e}" for measure in bounds), flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
