"""transformers and the top-level `kernels` package live side by side."""

import subprocess
import sys


def test_transformers_works_with_our_kernels_package_first_on_the_path():
    program = (
        "import kernels.selective_scan, transformers, numpy as np;"
        "config = transformers.WavLMConfig(hidden_size=32);"
        "extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True);"
        "values = extractor(np.arange(800.0), sampling_rate=16000, return_tensors='np').input_values;"
        "assert config.hidden_size == 32 and values.shape == (1, 800) and abs(float(values.mean())) < 1e-3"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
