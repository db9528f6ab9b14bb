"""Devices are known by the names that they give themselves."""

import pytest

from kernels.selective_scan import roofline


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", None),  # another memory
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("cpu", None),
    ],
)
def test_a_device_is_known_by_its_kind(kind, name):
    device = roofline.device_named(kind)
    assert (device.name if device else None) == name
