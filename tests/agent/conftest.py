"""What holds for all tests of `agent`: torchgfn's imports are silenced, and fast tests have narrow networks."""

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch_geometric, which torchgfn imports, still calls torch.jit.script
    import gfn.gflownet
    import gfn.samplers  # noqa: F401

from agent import PolicyNetwork


@pytest.fixture(autouse=True)
def narrow_networks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents without a prior start with a network of 32 units and one layer instead of 256 and two."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(PolicyNetwork.for_space.__func__, "__defaults__", (32, 1, "mlp"))  # type: ignore[attr-defined]
