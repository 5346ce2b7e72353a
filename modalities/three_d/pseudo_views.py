"""Pictures of the subject from known cameras: an ordinary nerfstudio dataset, `transforms.json` beside `images/`."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from modalities.core import media
from modalities.core.errors import PcsError
from modalities.core.files import write_json
from modalities.three_d.cameras import Views

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


# From our world, y up and facing +z, to nerfstudio's, z up and facing -y.
Z_UP = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class PseudoViews:
    """Pictures `(n, 3, side, side)` in [0, 1], their n cameras, and for each the number of the place behind it.

    alphas: `(n, 1, side, side)`, where what is cut out of its picture is, in [0, 1]; None of whole pictures.
    """

    pictures: Float[Tensor, "n 3 side side"]
    views: Views
    places: tuple[int, ...]
    alphas: Float[Tensor, "n 1 side side"] | None = None

    @classmethod
    def read(cls, folder: Path) -> PseudoViews:
        """Read those pictures of a dataset that are still there; its owner may have deleted some.

        Raises:
            PcsError: it is none of ours, or no picture is left.
        """
        import torch

        path = folder / "transforms.json"
        try:
            frames: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["frames"]
            kept = [frame for frame in frames if (folder / frame["file_path"]).is_file()]
            cameras = [frame["pcs"] for frame in kept]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PcsError(f"{path}: is not a dataset of pseudo views ({error}).") from error
        if not kept:
            raise PcsError(f"{folder}: has no pictures left; delete the folder to make them again.")
        columns = [
            torch.tensor([camera[name] for camera in cameras], dtype=torch.float32)
            for name in ("azimuth", "elevation", "distance", "field_of_view")
        ]
        images = [Image.open(folder / frame["file_path"]) for frame in kept]
        pictures = torch.stack([media.to_pixels(image.convert("RGB")) for image in images])
        cut_out = [
            media.to_pixels(image.getchannel("A").convert("RGB"))[:1] for image in images if image.mode == "RGBA"
        ]
        places = tuple(camera["place"] for camera in cameras)
        return cls(pictures, Views(*columns), places, torch.stack(cut_out) if cut_out else None)

    def write(self, folder: Path) -> None:
        """Write the dataset as nerfstudio's dataparser reads it; its world is z up."""
        import torch

        side, frames = self.pictures.shape[-1], list[dict[str, Any]]()
        matrices = torch.block_diag(torch.tensor(Z_UP), torch.ones(1, 1)) @ self.views.matrices()
        for number, picture in enumerate(self.pictures):
            name = f"images/{number:03}.png"
            image = media.to_image(picture)
            if self.alphas is not None:
                image.putalpha(media.to_image(self.alphas[number].expand(3, -1, -1)).getchannel(0))
            media.save_png(image, folder / name)
            camera = {
                key: round(float(getattr(self.views, key)[number]), 6)
                for key in ("azimuth", "elevation", "distance", "field_of_view")
            }
            focal = side / 2 / math.tan(math.radians(camera["field_of_view"]) / 2)
            frames.append(
                {
                    "file_path": name,
                    "transform_matrix": [[round(value, 7) for value in row] for row in matrices[number].tolist()],
                    "fl_x": focal,
                    "fl_y": focal,
                    "pcs": camera | {"place": self.places[number]},
                }
            )
        write_json(
            folder / "transforms.json",
            {
                "camera_model": "PINHOLE",
                "w": side,
                "h": side,
                "cx": side / 2,
                "cy": side / 2,
                "applied_transform": [[*row, 0.0] for row in Z_UP],
                "frames": frames,
            },
        )

    @property
    def digest(self) -> str:
        """Hash of pictures and cameras."""
        tensors = [self.pictures, self.views.matrices(), *([] if self.alphas is None else [self.alphas])]
        parts = [*(one.numpy().tobytes() for one in tensors), str(self.places).encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()
