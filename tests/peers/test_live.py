"""A live parity test with AdapterHub's `adapters`, in one process, where it is installed (transformers 4.57).

Adapters of random configs are built in the peer, saved, read here and compared, and modules of madx are read there.
`round_trip.py` does it at length.
"""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of the peer


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("adapters", reason="AdapterHub's adapters is not installed beside madx (make test-peers)")
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    import round_trip

    return round_trip


def test_random_adapters_give_the_same_here_and_there(peer):
    worst = peer.compare(configs=2 * len(peer.LAYOUTS), seed=1)
    assert {what for what, _ in worst} == {
        "in, one",
        "in, stack",
        "in, head",
        "in, setup",
        "in, fusion",
        "out, one",
        "out, head",
        "out, setup",
        "out, fusion",
    }
    for (what, model_type), (count, largest) in worst.items():
        assert count and largest < peer.TOLERANCE, f"{what}, {model_type}: {largest:.1e}"


def test_types_that_are_not_read_are_refused_by_name(peer, tmp_path):
    assert peer.refused(peer.Twins("xlm-roberta"), tmp_path) == []
