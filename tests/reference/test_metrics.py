"""Metrics beside the packages that define them, where these are installed: `lpips` and `torch-fidelity`.

Both need torchvision, and so a PyTorch from PyPI; elsewhere these tests are skipped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.core.cache import Cache
from modalities.core.device import choose
from modalities.core.evaluate import evaluate
from modalities.core.evidence import Evidence, Gallery, Picture, photos_of
from modalities.core.machine import Machine
from modalities.mini.world import Scene, render

COUNT = 60


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Renders of two prompts, and other renders as photos."""
    folder = tmp_path_factory.mktemp("metrics")
    machine = Machine(choose("cpu"), Cache(folder / "cache"), offline=True)
    photos, made = folder / "photos", folder / "made"
    for place, seed in ((photos, 0), (made, 1000)):
        place.mkdir()
        for number in range(COUNT):
            Image.fromarray(render(Scene.random(seed + number), 64).image).save(place / f"{number:02}.png")
    paths = sorted(made.iterdir())
    pictures = tuple(Picture(path, f"prompt {number % 20}") for number, path in enumerate(paths))
    return Evidence(Gallery("made", pictures), machine, photos_of(photos))


def test_lpips_is_what_its_package_says(evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips = pytest.importorskip("lpips")
    # Its trunk comes from the network; an untrained one computes the same formula.
    untrained = partial(lpips.LPIPS, pnet_rand=True)

    def network(**settings: object) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return untrained(**settings)

    monkeypatch.setattr(lpips, "LPIPS", network)
    ours = evaluate(evidence, ["lpips"]).results["lpips"].scores
    theirs = network(net="alex", verbose=False).eval()
    paths = [picture.path for picture in evidence.gallery.pictures]
    for number in (0, 7, 33):
        others = [other for other in range(number % 20, COUNT, 20) if other != number]
        loaded = [lpips.im2tensor(np.asarray(Image.open(paths[one]))) for one in (number, *others)]
        with torch.no_grad():
            expected = np.mean([float(theirs(loaded[0], other)) for other in loaded[1:]])
        assert ours.values[number] == pytest.approx(expected, rel=1e-4)


def test_fid_and_kid_are_what_torch_fidelity_says(evidence: Evidence) -> None:
    pytest.importorskip("torch_fidelity")
    pytest.importorskip("torchmetrics")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    ours = evaluate(evidence, ["fid", "kid"]).results
    made, photos = evidence.features("subject").double(), evidence.references("subject").double()
    statistics = [fid_features_to_statistics(features) for features in (made, photos)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours["fid"].scores.mean == pytest.approx(fid, rel=1e-4)
    kid = kid_features_to_metric(made, photos, kid_subsets=3, kid_subset_size=COUNT, verbose=False)
    assert ours["kid"].scores.mean == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-4)
