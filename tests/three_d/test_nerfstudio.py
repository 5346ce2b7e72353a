"""nerfstudio opens our scenes: same picture, same cameras, every program. `make test-3d` brings what these need."""

from __future__ import annotations

import ast
import importlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from modalities.core import recipe
from modalities.three_d import extra, session
from modalities.three_d.components.nerf import Nerf
from modalities.three_d.outputs import around, pictures, rendered_views
from modalities.three_d.part import part_of
from tests import driver
from tests.conftest import Typed
from tests.three_d.test_distillation import DOG, pseudo, scene

SOURCE = Path(extra.__file__).with_name("nerfstudio.py")
PROGRAMS = Path(sys.executable).parent
IS_THERE = importlib.util.find_spec("nerfstudio") is not None

needs_nerfstudio = pytest.mark.skipif(not IS_THERE, reason="nerfstudio is not installed; `make test-3d` brings it")


def names() -> list[tuple[str, str]]:
    """Every name of nerfstudio that our code takes, with its module."""
    found = [
        (node.module or "", name.name)
        for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nerfstudio")
        for name in node.names
    ]
    assert len(found) > 15
    return found


@needs_nerfstudio
@pytest.mark.parametrize(("module", "name"), names())
def test_nerfstudio_still_has_each_name_that_is_taken_from_it(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_only_one_file_names_nerfstudio() -> None:
    others = [
        path
        for path in SOURCE.parents[2].glob("[mp]*/**/*.py")
        if path != SOURCE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in [getattr(node, "module", None) or node.names[0].name]
        if name.partition(".")[0] == "nerfstudio"
    ]
    assert not others


@pytest.mark.skipif(IS_THERE, reason="nerfstudio is installed here")
def test_without_nerfstudio_one_line_says_how_to_get_it(pcs: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    told: Typed = pcs("3d", "export", "run", "--format", "nerfstudio")
    assert told.code == 2
    assert told.message.startswith('nerfstudio is not installed; get it with `pip install "pcs-cli[3d]"`')
    assert (
        pcs("3d", "export", "run", "--format", "usd").message == '--format is glb, obj, ply or nerfstudio, not "usd".'
    )


@pytest.fixture(scope="module")
def run(base: Path, encoders: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small scene, of a symmetric shape whose colours have factors of their own."""
    folder = tmp_path_factory.mktemp("nerfstudio") / "out"
    chosen = recipe.parse(scene(base).dump(), "test", {"components": {"nerf": {"mirror": "x", "appearance": 3}}})
    session.optimize(chosen, DOG, folder, driver.machine(encoders, folder.parent / "cache"), pseudo=pseudo())
    return folder


@pytest.fixture(scope="module")
def opened(run: Path, encoders: tuple[str, str]) -> Any:
    """The same scene, opened."""
    from modalities.core.artifact import Artifact

    return session.open_scene(Artifact.open(run), driver.machine(encoders, run.parent / "cache"))


@pytest.fixture(scope="module")
def config(run: Path, opened: Any) -> Path:
    """The scene as nerfstudio's run."""
    extra.require_nerfstudio()
    from modalities.three_d.nerfstudio import write_run

    return write_run(opened, rendered_views(opened, 6), run, steps=8)


@needs_nerfstudio
def test_nerfstudio_lists_the_method() -> None:
    from nerfstudio.configs.method_configs import all_methods

    assert all_methods["pcs"].method_name == "pcs"


@needs_nerfstudio
def test_nerfstudio_draws_the_same_picture(config: Path, opened: Any) -> None:
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, step = eval_setup(config)
    assert step == 8
    cameras = pipeline.datamanager.train_dataset.cameras
    ours = pictures(opened, around(opened, 6), opened.resolution)
    for number in range(6):
        seen = pipeline.model.get_outputs_for_camera(cameras[number : number + 1])
        assert (seen["rgb"].permute(2, 0, 1) - ours[number]).abs().max() < 2e-3
        assert seen["accumulation"].max() > 0.5, "something is seen"
        assert (seen["depth"][seen["accumulation"] < 0.5] > 5).all(), "what is nothing is far, not at the cube's wall"
    assert set(seen) == {"rgb", "accumulation", "depth", "normals"}


@needs_nerfstudio
@pytest.mark.parametrize("method", ["pcs", "nerfacto"])
def test_pseudo_views_are_read_as_an_ordinary_dataset(method: str, tmp_path: Path) -> None:
    from nerfstudio.configs.method_configs import all_methods

    views = pseudo(5)
    views.write(tmp_path)
    parser = all_methods[method].pipeline.datamanager.dataparser
    parser.data = tmp_path
    read = parser.setup().get_dataparser_outputs("train")
    if method == "pcs":
        assert len(read.image_filenames) == 5
        back = read.transform_poses_to_original_space(read.cameras.camera_to_worlds)
        assert torch.allclose(back[:, :, 3], views.views.matrices()[:, :3, 3], atol=1e-5), "applied_transform is undone"
    up = read.cameras.camera_to_worlds[:, 2, 1]
    assert (up > 0.9).all(), "upright, whichever way a method turns cameras"


@needs_nerfstudio
def test_its_trainer_goes_on_with_the_scene_and_what_it_writes_opens_again(config: Path, tmp_path: Path) -> None:
    import yaml
    from nerfstudio.utils.eval_utils import eval_setup

    more = yaml.load(config.read_text(), Loader=yaml.Loader)
    # With a schedule, whose state is what torch.load refused.
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    for group in more.optimizers.values():
        group["scheduler"] = ExponentialDecaySchedulerConfig(lr_final=1e-3, max_steps=40)
    more.load_dir, more.output_dir, more.vis = more.get_checkpoint_dir(), tmp_path, "tensorboard"
    more.max_num_iterations = 40
    trainer = more.setup(local_rank=0, world_size=1)
    trainer.setup()
    before = float(trainer.pipeline.get_train_loss_dict(0)[1]["rgb_loss"])
    trainer.train()
    after = float(trainer.pipeline.get_train_loss_dict(0)[1]["rgb_loss"])
    assert after < 0.8 * before
    more.save_config()
    assert eval_setup(more.get_base_dir() / "config.yml")[3] == 48


@needs_nerfstudio
def test_a_scene_of_another_size_on_another_dataset_is_taken(config: Path, opened: Any, tmp_path: Path) -> None:
    from nerfstudio.configs.method_configs import all_methods

    pseudo(2).write(tmp_path)
    fresh = all_methods["pcs"].pipeline
    fresh.datamanager.data = fresh.datamanager.dataparser.data = tmp_path
    pipeline = fresh.setup(device="cpu", test_mode="val")
    learned = list(pipeline.parameters())
    saved = torch.load(next((config.parent / "nerfstudio_models").iterdir()), weights_only=True)
    pipeline.load_pipeline(saved["pipeline"], 8)
    taken = pipeline.model.field.scene
    assert torch.equal(taken.planes, part_of(opened, Nerf).field.planes)
    assert taken.is_mirrored.tolist() == [True, False, False]
    assert len(pipeline.model.surroundings.maps) == 2
    assert all(one is other for one, other in zip(learned, pipeline.parameters(), strict=True)), "for the optimizer"
    assert pipeline.get_train_loss_dict(8)[1]["rgb_loss"] > 0


@needs_nerfstudio
def test_its_trainer_can_distil_by_the_recipe_of_the_run(config: Path, run: Path) -> None:
    import yaml

    more = yaml.load(config.read_text(), Loader=yaml.Loader)
    more.pipeline.run = run
    pipeline = more.pipeline.setup(device="cpu", test_mode="val")
    _, losses, _ = pipeline.get_train_loss_dict(3)
    scene_weights = list(pipeline.model.field.parameters())
    grown = torch.autograd.grad(losses["score_distillation"], scene_weights, retain_graph=True)
    assert all(one.abs().sum() > 0 for one in grown), "score distillation moves nerfstudio's copy of the scene"
    pull = torch.autograd.grad(losses["rgb_loss"], scene_weights)
    norms = [torch.cat([one.flatten() for one in many]).norm() for many in (grown, pull)]
    assert norms[0] == pytest.approx(float(norms[1]), rel=1e-3)
    assert all(name.startswith("_model.") for name in pipeline.state_dict()), "the base is not saved"
    assert "score_distillation" not in more.pipeline.setup(device="cpu", test_mode="test").get_train_loss_dict(3)[1]


@needs_nerfstudio
@pytest.mark.skipif(extra.lacking() != [] and "libusb" in extra.lacking()[0], reason="libusb-1.0 is missing")
def test_its_exporter_makes_points_of_the_scene(config: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.exporter import ExportPointCloud

    points = ExportPointCloud(config, tmp_path, num_points=400, num_rays_per_batch=512, std_ratio=3.0)
    points.main()
    import numpy as np
    import open3d

    cloud = open3d.io.read_point_cloud(str(tmp_path / "point_cloud.ply"))
    places, normals = np.asarray(cloud.points), np.asarray(cloud.normals)
    assert len(places) > 100
    assert np.abs(places).max() < 1, "points of the scene, none of the background"
    assert ((places * normals).sum(1) > 0).mean() > 0.6, "normals that face outwards"


@needs_nerfstudio
def test_its_renderer_makes_a_film(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe
    from nerfstudio.scripts.render import RenderInterpolated

    (tmp_path / "ffmpeg").symlink_to(get_ffmpeg_exe())
    monkeypatch.setenv("PATH", f"{tmp_path}:{PROGRAMS}")
    film = tmp_path / "film.mp4"
    RenderInterpolated(load_config=config, output_path=film, interpolation_steps=1, pose_source="train").main()
    assert film.stat().st_size > 500


@needs_nerfstudio
def test_its_viewer_serves_the_scene(config: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w")
    words = [PROGRAMS / "ns-viewer", "--load-config", config, "--viewer.websocket-port", str(port)]
    viewer = subprocess.Popen([*map(str, words)], stdout=log, stderr=log)
    try:
        for _ in range(240):
            time.sleep(1)
            assert viewer.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://localhost:{port}", timeout=5) as page:
                    assert page.status == 200
                break
            except OSError:
                continue
        else:
            pytest.fail((tmp_path / "log").read_text())
    finally:
        viewer.terminate()
        viewer.wait(timeout=60)


@needs_nerfstudio
def test_the_command_hands_a_run_over(pcs: Any, run: Path, tmp_path: Path) -> None:
    told: Typed = pcs("3d", "export", run, "--format", "nerfstudio", "-o", "there", "--json")
    assert told.code == 0, told.err
    assert Path(told.json["config"]).is_file()
    frames = json.loads((Path(told.json["data"]) / "transforms.json").read_text())["frames"]
    assert len(frames) == len(list((Path(told.json["data"]) / "images").iterdir())) == 24
    assert pcs("3d", "export", run, "--format", "nerfstudio", "-o", "there", "--json").code == 0, "and again"
    (tmp_path / "mine" / "nerfstudio" / "work").mkdir(parents=True)
    told = pcs("3d", "export", run, "--format", "nerfstudio", "-o", "mine")
    assert told.code == 2
    assert "mine/nerfstudio: is there already and is no run that pcs wrote" in told.message
    assert (tmp_path / "mine" / "nerfstudio" / "work").is_dir()
