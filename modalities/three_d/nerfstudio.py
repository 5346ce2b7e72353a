"""The scene as a method of nerfstudio (Tancik et al., SIGGRAPH 2023): its trainer, viewer, renderer and exporter.

https://arxiv.org/abs/2302.04264. The only file that names nerfstudio; importing it needs the extra `[3d]`. The entry
point `nerfstudio.method_configs` makes every ns-* program import it, so it imports nothing heavy of its own.

nerfstudio's world is z up: ours (x, y, z) is its (x, -z, y). Lengths are the same, half sides of the scene's cube.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from nerfstudio.model_components.ray_samplers import UniformSampler
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, NormalsRenderer, RGBRenderer
from nerfstudio.model_components.scene_colliders import AABBBoxCollider
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification
from torch import Tensor, nn

from modalities.core.device import choose
from modalities.core.errors import PcsError
from modalities.core.files import replacing, write_text
from modalities.three_d.components.nerf import FINE, Nerf
from modalities.three_d.field import PlaceMaps, SceneField
from modalities.three_d.part import part_of
from modalities.three_d.pseudo_views import Z_UP, PseudoViews

if TYPE_CHECKING:
    from modalities.core.studio import Studio
    from modalities.three_d.trainer import SceneTrainer

NAME, EXPERIMENT, STAMP = "pcs", "nerfstudio", "scene"
# Depth where nothing is seen; at the cube's own border the exporter would build walls.
FAR = 10.0

# nerfstudio 1.1.5 calls torch.load without weights_only=False, which newer torch then assumes: what its own
# schedulers leave in checkpoints must be declared safe, or no ns-* program opens one that ns-train wrote.
torch.serialization.add_safe_globals([np.core.multiarray.scalar, np.dtype, type(np.dtype("float64"))])


class SubjectField(Field):
    """A `SceneField` that answers in nerfstudio's world."""

    def __init__(self, scene: SceneField) -> None:
        super().__init__()
        self.scene = scene

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        """Density `(..., 1)` and, as what `get_outputs` takes, colour `(..., 3)`."""
        places = ray_samples.frustums.get_positions()
        if torch.is_grad_enabled() and not places.requires_grad:
            places = places.detach().requires_grad_()
        turned = places @ torch.tensor(Z_UP, dtype=places.dtype, device=places.device)
        density, colour = self.scene(turned.reshape(-1, 3))
        shaped = density.view(*places.shape[:-1], 1)
        self._sample_locations, self._density_before_activation = places, shaped
        return shaped, colour.view(places.shape)

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """Colours in [0, 1]."""
        assert density_embedding is not None
        return {FieldHeadNames.RGB: density_embedding}


@dataclass
class SubjectModelConfig(ModelConfig):
    """The scene's size, as the component `nerf` of a recipe says it, and how it is held to pictures."""

    _target: type = field(default_factory=lambda: SubjectModel)
    resolution: int = 64
    """Cells a side of the encoding's planes."""
    channels: int = 8
    """Products of each plane and its line."""
    appearance: int = 0
    """Further ones for colour alone."""
    blob: float = 5.0
    """Density in the middle before anything is learned."""
    mirror: str | None = None
    """Along which axis its shape is its own mirror image."""
    samples: int = 96
    """Points on a ray."""
    smoothness: float = 0.01
    """Weight of the differences of neighbouring cells, when `ns-train` goes on."""


class SubjectModel(Model):
    """The scene over white, as `pcs 3d render` draws it; in training before a learned background for each picture."""

    config: SubjectModelConfig

    def populate_modules(self) -> None:
        """Make the field, the background of each picture, and nerfstudio's sampler and renderers."""
        super().populate_modules()
        config = self.config
        size = {name: getattr(config, name) for name in ("resolution", "channels", "appearance", "blob", "mirror")}
        self.field = SubjectField(SceneField(**size))
        self.surroundings = PlaceMaps(self.num_train_data)
        self.collider = AABBBoxCollider(self.scene_box, near_plane=1e-3)
        self.sampler = UniformSampler(num_samples=config.samples, single_jitter=True)
        self.renderer_rgb = RGBRenderer(background_color="white")
        self.renderer_accumulation = AccumulationRenderer()
        self.renderer_depth = DepthRenderer(method="expected")
        self.renderer_normals = NormalsRenderer()

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """What the optimizers of the method learn."""
        return {"fields": list(self.field.parameters()), "surroundings": list(self.surroundings.parameters())}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """rgb, accumulation, depth, and normals outside of training, each `(rays, ...)`."""
        samples = self.sampler(ray_bundle)
        found = self.field(samples, compute_normals=not self.training)
        found = found if self.training else {name: value.detach() for name, value in found.items()}
        weights = samples.get_weights(found[FieldHeadNames.DENSITY])
        behind = self._behind(ray_bundle) if self.training else None
        opacity, depth = self.renderer_accumulation(weights), self.renderer_depth(weights, samples)
        outputs = {
            "rgb": self.renderer_rgb(found[FieldHeadNames.RGB], weights, background_color=behind),
            "accumulation": opacity,
            "depth": torch.where(opacity > 0.5, depth, FAR),
        }
        if not self.training:
            normals = self.renderer_normals(found[FieldHeadNames.NORMALS], weights)
            # As colours, which is what the viewer shows and the exporter undoes.
            outputs["normals"] = ((normals + 1) / 2).clamp(0, 1)
        return outputs

    def _behind(self, rays: RayBundle) -> Tensor:
        """What each ray sees behind the scene, `(rays, 3)`."""
        assert rays.camera_indices is not None
        directions = rays.directions @ torch.tensor(Z_UP, device=rays.directions.device)
        numbers, behind = rays.camera_indices.view(-1), torch.zeros_like(directions)
        for number in numbers.unique().tolist():
            chosen = numbers == number
            behind[chosen] = self.surroundings(directions[chosen], number)
        return behind

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """The scene without its white background, `(..., 4)`: by this the exporter tells what is nothing."""
        opacity = outputs["accumulation"]
        own = (outputs[output_name] - (1 - opacity)) / opacity.clamp(min=1e-6)
        return torch.cat([own.clamp(0, 1), opacity], dim=-1)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of the rays, in dB."""
        wanted = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        return {"psnr": -10 * (outputs["rgb"] - wanted).square().mean().clamp(min=1e-10).log10()}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """How far the rays are from the pictures, and how rough the scene is."""
        wanted = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        return {
            "rgb_loss": (outputs["rgb"] - wanted).abs().mean(),
            "smoothness": self.config.smoothness * self.field.scene.roughness(),
        }

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR in dB, and wanted and seen picture beside each other."""
        wanted = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        psnr = self.get_metrics_dict(outputs, batch)["psnr"]
        return {"psnr": float(psnr)}, {"img": torch.cat([wanted, outputs["rgb"]], dim=1)}


@dataclass
class SubjectPipelineConfig(VanillaPipelineConfig):
    """Views to be held to, and a run to distil from."""

    _target: type = field(default_factory=lambda: SubjectPipeline)
    run: Path | None = None
    """A finished scene of `pcs 3d` of the same size: score distillation goes on by its recipe, beside the views."""
    prior: Path | None = None
    """The run of `pcs train image` that knows its subject; a run of all stages brings its own."""


class SubjectPipeline(VanillaPipeline):
    """nerfstudio's own steps on the views; with `run`, each also a step of score distillation."""

    config: SubjectPipelineConfig

    def __init__(self, config: SubjectPipelineConfig, device: str, test_mode: str = "val", **more: Any) -> None:
        super().__init__(config, device, test_mode, **more)
        # Only ns-train says "val"; who looks at a run needs no base.
        self._scene = self._opened(config.run, device) if config.run and test_mode == "val" else None
        self._balance: float | None = None

    def _opened(self, run: Path, device: str) -> SceneTrainer:
        """The trainer of a run, at work on nerfstudio's copy of the scene; the base is no part of the checkpoints."""
        from modalities.core.artifact import Artifact
        from modalities.core.cache import Cache
        from modalities.core.machine import Machine
        from modalities.three_d.dreambooth3d import last_scene, prior_of
        from modalities.three_d.session import prior_in_place
        from modalities.three_d.trainer import SceneTrainer

        last = last_scene(run)
        scene = Artifact.open(last)
        known = self.config.prior if last == run else prior_of(last)
        machine = Machine(choose(torch.device(device).type), Cache(run / "cache"), offline=True)
        prior = Artifact.open(known) if known else None
        self._prior = prior_in_place(prior, scene.recipe(), scene.concept(), machine, None)
        studio = self._prior.__enter__()
        studio.load(scene.weights())
        part_of(studio, Nerf).take(self.model.field.scene)
        return SceneTrainer(studio)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Take a checkpoint of a scene of any size; backgrounds of another dataset begin anew."""
        own, taken = self.state_dict(), dict(loaded_state)
        for name, value in self.named_parameters():
            if name in taken and taken[name].shape != value.shape:
                if name.startswith("_model.field."):
                    value.data = torch.empty_like(taken[name], device=value.device)
                else:
                    taken[name] = own[name]
        super().load_pipeline(taken, step)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the views, and of score distillation where there is a run; both pull alike at first."""
        from modalities.three_d.trainer import gradient_norm

        outputs, losses, metrics = super().get_train_loss_dict(step)
        if self._scene is not None:
            self._scene.step = step
            score = self._scene.loss(self._scene.batch())
            if self._balance is None:
                learned = list(self.model.field.parameters())
                self._balance = gradient_norm(score, learned) / max(gradient_norm(losses["rgb_loss"], learned), 1e-12)
            losses["rgb_loss"] = self._balance * losses["rgb_loss"]
            losses["score_distillation"] = score
        return outputs, losses, metrics


def trainer_config(model: SubjectModelConfig | None = None, data: Path = Path()) -> TrainerConfig:
    """The settings by which ns-* programs train and open a scene on the dataset `data`."""
    # Cameras stand where they stand: nothing is turned, centred or scaled, and no picture is set aside.
    parser = NerfstudioDataParserConfig(
        data=data, orientation_method="none", center_method="none", auto_scale_poses=False, eval_mode="all"
    )
    return TrainerConfig(
        method_name=NAME,
        experiment_name=None,
        steps_per_save=500,
        steps_per_eval_batch=0,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        max_num_iterations=1000,
        pipeline=SubjectPipelineConfig(
            datamanager=VanillaDataManagerConfig(
                data=data, dataparser=parser, train_num_rays_per_batch=1024, eval_num_rays_per_batch=1024
            ),
            model=model or SubjectModelConfig(),
        ),
        # Without a schedule, so that their checkpoints hold plain numbers only.
        optimizers={
            group: {"optimizer": AdamOptimizerConfig(lr=rate), "scheduler": None}
            for group, rate in (("fields", 1e-2), ("surroundings", 5e-2))
        },
        viewer=ViewerConfig(num_rays_per_chunk=4096),
        vis="viewer",
        machine=MachineConfig(device_type=choose().kind),
    )


method = MethodSpecification(
    config=trainer_config(), description="A subject's scene from `pcs 3d`, on views that `pcs 3d` wrote."
)


def write_run(scene: Studio, views: PseudoViews, folder: Path, *, steps: int) -> Path:
    """Write a finished scene as a run that every ns-* program opens; return its config.yml.

    The paths in it are absolute: who moves the folder writes the run again.

    Args:
        scene: opened by `open_scene`.
        views: pictures of it, or of the subject, from known cameras; they become the run's dataset.
        folder: run folder; what was written before into `nerfstudio` in it is replaced.
        steps: how many steps were taken.

    Raises:
        PcsError: `nerfstudio` in it is something else.
    """
    home, nerf = folder.resolve() / EXPERIMENT, part_of(scene, Nerf)
    _make_room(home)
    views.write(home / "data")
    config = trainer_config(SubjectModelConfig(**nerf.size, samples=FINE), home / "data")
    config.output_dir, config.experiment_name, config.timestamp = folder.resolve(), EXPERIMENT, STAMP
    model = model_of(config.pipeline.model, nerf.field, len(views.places))
    state = {f"_model.{name}": value.cpu() for name, value in model.state_dict().items()}
    with replacing(config.get_checkpoint_dir() / f"step-{steps:09}.ckpt") as temporary:
        torch.save({"step": steps, "pipeline": state, "optimizers": {}, "schedulers": {}, "scalers": {}}, temporary)
    path = config.get_base_dir() / "config.yml"
    write_text(path, yaml.dump(config))
    return path


def _make_room(home: Path) -> None:
    """Delete what `write_run` wrote before, and nothing else."""
    earlier = home / NAME / STAMP
    if home.exists() and not (earlier / "config.yml").is_file():
        raise PcsError(f"{home}: is there already and is no run that pcs wrote; choose another --out.")
    for part in (earlier, home / "data"):
        shutil.rmtree(part, ignore_errors=True)


def model_of(config: ModelConfig, scene: SceneField, pictures: int) -> SubjectModel:
    """`scene` as nerfstudio's model, for a dataset of so many pictures."""
    box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    model = config.setup(scene_box=box, num_train_data=pictures)
    model.field.scene.load_state_dict(scene.state_dict())
    return model.eval()
