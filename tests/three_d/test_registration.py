"""Photos as views of a scene: from where they were taken is found, learns with the scene, and makes it alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from modalities.core.artifact import Artifact
from modalities.core.cache import Cache
from modalities.core.concept import Concept
from modalities.core.device import choose
from modalities.core.machine import Machine
from modalities.core.studio import Studio
from modalities.mini.world import Camera, Scene, Subject, render
from modalities.three_d import registration
from modalities.three_d.cameras import Views, gap
from modalities.three_d.components.nerf import Nerf
from modalities.three_d.components.orbit import Orbit
from modalities.three_d.components.photo_registration import PhotoRegistration
from modalities.three_d.components.view_prompts import ViewPrompts
from modalities.three_d.part import Scene as ScenePart
from modalities.three_d.part import part_of
from modalities.three_d.pseudo_views import PseudoViews
from modalities.three_d.registration import Cutout, Framing, register, view_odds
from modalities.three_d.renderer import Rendering
from modalities.three_d.session import open_scene
from modalities.three_d.trainer import moved
from tests import driver
from tests.three_d.test_command import Pcs, method  # noqa: F401

DUCK = Subject.random(3, "duck", held_out=True)
WORDS = ViewPrompts(front=35, side=35, back=35, overhead=42)


class Rendered(ScenePart):
    """A scene that looks as the world renders the duck."""

    def draw(self, views: Views, side: int, **more: Any) -> Rendering:
        camera = Camera(float(views.azimuth[0]), float(views.elevation[0]), float(views.distance[0]))
        pixels, mask = cut_out(camera, "blue studio", side)
        nothing = torch.zeros(0, 3)
        return Rendering(pixels[None] * mask, mask[None], mask[None], nothing, nothing, nothing[:, 0])


def cut_out(camera: Camera, context: str = "grass", side: int = 64) -> tuple[Tensor, Tensor]:
    """The duck from there, (3, side, side) in [0, 1], and where it is."""
    drawn = render(Scene(DUCK, context, camera), side)
    return torch.from_numpy(drawn.image).permute(2, 0, 1) / 255, torch.from_numpy(drawn.mask) / 255


def a_scene() -> Any:
    orbit = Orbit(distance=(2.7, 3.2), field_of_view=(40, 40))
    return SimpleNamespace(components=[Rendered(), orbit, WORDS])


def test_photos_are_found_wherever_and_however_large_they_show_the_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    even = torch.full((3, 4), 0.25).log()
    monkeypatch.setattr(registration, "view_odds", lambda *_given: even)
    cameras = [Camera(142, 11, 2.95), Camera(266, 58, 2.7), Camera(38, 24, 3.3)]
    taken = [cut_out(camera) for camera in cameras]
    # The first is cropped anew: its subject stands to the left and is smaller.
    grid = torch.nn.functional.affine_grid(torch.tensor([[[1.3, 0, 0.25], [0, 1.3, 0]]]), [1, 4, 64, 64], False)
    whole = torch.cat([taken[0][0], taken[0][1][None]])[None]
    small = torch.nn.functional.grid_sample(whole, grid, align_corners=False)[0]
    taken[0] = small[:3], small[3]
    views = register(a_scene(), SimpleNamespace(), [Cutout(*one) for one in taken], "a duck")  # pyright: ignore
    assert views.alphas is not None
    for number, camera in enumerate(cameras):
        assert gap(float(views.views.azimuth[number]), camera.azimuth_degrees) <= 15
        assert abs(float(views.views.elevation[number]) - camera.elevation_degrees) <= 15
        own = Views(*(part[number : number + 1] for part in vars(views.views).values()))
        seen = Rendered().draw(own, 64).opacity[0]
        alpha = views.alphas[number, 0]
        assert float(torch.minimum(seen, alpha).sum() / torch.maximum(seen, alpha).sum()) > 0.75
        assert Framing.of(views.alphas[number]).size == pytest.approx(Framing.of(seen[None]).size, rel=0.05)


def test_taken_from_the_mean_distance_photos_tell_how_large_the_subject_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "view_odds", lambda *_given: torch.zeros(1, 4).log_softmax(1))
    near = [Cutout(*cut_out(Camera(30, 20, 2.5)))]
    sizes = [
        float(Framing.of(register(a_scene(), SimpleNamespace(), near, "a duck", as_far=far).alphas[:, 0]).size)  # pyright: ignore
        for far in (False, True)
    ]
    assert sizes[1] == pytest.approx(sizes[0] * 2.95 / 2.5, rel=0.06)


def test_words_decide_what_outlines_leave_open(monkeypatch: pytest.MonkeyPatch) -> None:
    # A ball looks the same from all around.
    disc = (torch.cartesian_prod(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48)).norm(dim=1) < 0.5).float()
    ball = disc.view(1, 48, 48)
    seen = Rendering(ball.expand(1, 3, 48, 48), ball, ball, ball[0], ball[0], ball[0, 0])
    monkeypatch.setattr(Rendered, "draw", lambda *_given, **_more: seen)
    for number, (azimuth, name) in enumerate(((0, "front"), (90, "side"), (180, "back"))):
        odds = torch.full((1, 4), -8.0)
        odds[0, number] = 0
        monkeypatch.setattr(registration, "view_odds", lambda *_given, odds=odds: odds)
        views = register(a_scene(), SimpleNamespace(), [Cutout(ball.expand(3, 48, 48), ball[0])], "a ball")  # pyright: ignore
        found = float(views.views.azimuth[0])
        assert min(gap(found, azimuth), gap(found, -azimuth)) <= 15, name


def test_the_base_calls_photos_by_the_words_for_their_views(tmp_path: Path) -> None:
    machine = Machine(choose("cpu"), Cache(tmp_path), offline=True)
    chosen = driver.method(Path("mini"), components=[], phases=[], data={"subject": "duck"})
    concept = Concept("duck", "duck")
    prior = Studio(machine.backbone("mini"), concept, chosen, training=False, cache=machine.cache)
    cameras = (Camera(2, 15), Camera(88, 15), Camera(178, 15), Camera(40, 65))
    odds = view_odds(prior, [Cutout(*cut_out(camera)) for camera in cameras], "a photo of a duck", WORDS)
    assert odds.exp().sum(1).tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert odds.argmax(1).tolist() == [0, 1, 2, 3]


def test_corrected_cameras_keep_their_mean_distance_and_pictures_move() -> None:
    part, none = PhotoRegistration(photos=2), PhotoRegistration()
    for one in (part, none):
        one.prepare(SimpleNamespace(backbone=SimpleNamespace(device=torch.device("cpu"))))  # pyright: ignore
    assert none.parameters() == {}
    with torch.no_grad():
        part.parameters()["corrections"][0] = torch.tensor([0.1, -0.1, 0.2, 0.25, 0.0])
        (views, shift), (other, _) = (part.corrected(Views.of([30, 60]), number) for number in (0, 1))
    assert float(views.azimuth) == pytest.approx(40, abs=1e-4)
    assert float(views.elevation) == pytest.approx(10, abs=1e-4)
    assert float(views.distance * other.distance) == pytest.approx(9, rel=1e-5)
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 4, 2] = 1
    assert moved(picture, shift)[0, 0].argmax() == 4 * 8 + 3, "a quarter of half the side is one pixel"


def test_cut_out_pictures_are_kept_with_their_masks(tmp_path: Path) -> None:
    alphas = (torch.rand(2, 1, 8, 8) > 0.5).float()
    views = PseudoViews(torch.rand(2, 3, 8, 8), Views.of([0, 90]), (0, 0), alphas)
    views.write(tmp_path)
    again = PseudoViews.read(tmp_path)
    assert again.alphas is not None
    assert torch.equal(again.alphas, alphas)
    assert float((again.pictures - views.pictures).abs().max()) < 0.003
    assert again.digest != PseudoViews(again.pictures, again.views, again.places).digest


def test_two_more_stages_hold_a_scene_to_its_photos(
    pcs: Pcs,
    method: Path,  # noqa: F811
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    paths = sorted(path for path in photos.iterdir() if path.suffix == ".png")
    for path in paths:
        Image.new("L", Image.open(path).size, 255).save(masks / path.name)
    whole = json.loads(method.read_text())
    whole["components"][0]["dreambooth"] |= {"full": 0}
    changed = {"orbit": {"elevation": [7, 8]}}
    registering = {"photo_registration": {"masks": str(masks), "components": changed}}
    whole["components"] += [registering]
    whole["phases"] = [{"learn": {"nerf": 0.01, "surroundings": 0.01, "photo_registration": 0.01}, "steps": 4}]
    method.write_text(json.dumps(whole), encoding="utf-8")
    words = ("3d", "dreambooth3d", photos, "--noun", "dog", "-r", method, "-o", "out", "--json")
    planned = pcs(*words[:-1], "--dry-run")
    assert f"03_registered {len(paths)} photos" in " ".join(planned.err.split())
    wrong = pcs(*words, "--set", "components.photo_registration.components.orbit.elevation=high")
    assert wrong.code == 2
    assert "components.orbit.elevation" in wrong.message
    machine = Machine(choose("cpu"), Cache(tmp_path / "cache"), offline=True)
    base, is_bare = machine.backbone(whole["backbone"]).denoiser.state_dict(), list[bool]()

    def spied(studio: Studio, *rest: Any) -> list[Cutout]:
        own = studio.backbone.denoiser.state_dict()
        is_bare.append(own.keys() == base.keys() and all(torch.equal(base[name], own[name]) for name in own))
        return registration.cut_out(studio, *rest)

    monkeypatch.setattr("modalities.three_d.dreambooth3d.cut_out", spied)
    made = pcs(*words)
    assert made.code == 0, made.err
    assert is_bare == [True], "the bare base cuts the subject out"
    out = tmp_path / "out"
    assert list(made.json["stages"]) == ["01_partial", "02_scene", "03_registered", "04_scene"]
    learned = Artifact(out / "04_scene").weights()["photo_registration.corrections"]
    assert learned.shape == (len(paths), 5)
    assert learned.abs().amax() > 1e-3, "cameras learn with the scene"
    assert "photo_registration.corrections" not in Artifact(out / "02_scene").weights()
    elevations = [part_of(Artifact(out / name).recipe(), Orbit).elevation for name in ("02_scene", "04_scene")]
    assert elevations[1] == (7, 8) != elevations[0]
    assert open_scene(Artifact.open(out / "04_scene"), machine).components
    # A scene of a few steps is a ball.
    mirrors = [part_of(Artifact(out / name).recipe(), Nerf).mirror for name in ("02_scene", "04_scene")]
    told = json.loads((out / "04_scene" / "done.json").read_text())["scores"]
    assert mirrors == [None, told["mirror"]]
    assert told["mirror"] in ("x", "z")
    assert "its shape is held symmetric" in made.err

    weights = (out / "04_scene" / "weights.safetensors").read_bytes()
    shutil.rmtree(out / "04_scene")
    assert pcs(*words, "--resume").code == 0
    assert (out / "04_scene" / "weights.safetensors").read_bytes() == weights
    (out / "03_registered" / "images" / "000.png").unlink()
    told = pcs(*words, "--resume")
    assert "04_scene: was made from something else" in told.message
    shutil.rmtree(out / "04_scene")
    assert pcs(*words, "--resume").code == 0, "a photo that was found wrong may be left out"
