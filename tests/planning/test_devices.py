"""The table of devices."""

import re

from staff.planning.devices import DEVICES


def test_every_row_is_whole():
    assert len(DEVICES) >= 10
    for name, device in DEVICES.items():
        assert name == device.name == name.lower()
        assert 50e12 < device.flops < 3e15  # dense bfloat16, not the doubled sparse figure
        assert 16e9 <= device.memory < 1e12
        urls = device.source.split()
        assert urls, name
        assert all(re.fullmatch(r"https://[\w.-]+/\S*", url) for url in urls), name
        assert set(device.unconfirmed) <= {"flops", "memory"}, name


def test_the_slower_card_is_not_the_faster_module():
    assert DEVICES["h100-pcie"].flops < 0.8 * DEVICES["h100-80gb"].flops
    assert DEVICES["a100-40gb"].flops == DEVICES["a100-80gb"].flops
