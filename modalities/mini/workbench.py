"""How a network of the base is trained: once, kept in the cache, resumed where it stopped, alone or by a team."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modalities.core.errors import Interrupted
from modalities.core.files import replacing
from modalities.core.progress import Silent, StopRequest
from modalities.mini import team
from modalities.mini.settings import BuildRecipe, TogetherSettings, VideoSettings
from modalities.mini.stock import Stock
from modalities.mini.training import Stretch, Trainer

Module = TypeVar("Module", bound=nn.Module)


class Workbench(Stock):
    """A stock, and how networks learn from it."""

    def team_for(self, stage: str) -> AbstractContextManager[None]:
        """Other processes that come to the same trainings by asking for the property `stage`."""
        return team.gathered(self.processes, _assist, type(self), self.recipe, self.folder, self.device, stage)

    def once(
        self,
        model: Module,
        folder: Path,
        stretch: Stretch,
        average: float,
        make_loss: Callable[[], Callable[[int], Tensor]],
        begin: Callable[[], Path] | None = None,
        trained_by: str | None = None,
        embedding_rate: float = 1.0,
    ) -> Module:
        """`model` trained over `stretch`, from disk if that was done before.

        begin: gives the state to start from. trained_by: the property that a team of processes may ask for.
        embedding_rate: see `Trainer`.
        """
        path = folder / "finished.safetensors"
        if not path.exists():
            # All that is rendered or encoded for this must be on disk before a team reads it.
            task = make_loss()
            with self.team_for(trained_by) if trained_by else nullcontext():
                start = begin() if begin is not None else None
                self.train(model, task, stretch, folder, average, start, embedding_rate).use_averaged()
                save_weights(model, path)
        model.load_state_dict(load_file(path))
        return model.to(self.device).eval()

    def in_stretches(
        self,
        model: Module,
        folders: tuple[Path, Path],
        settings: TogetherSettings | VideoSettings,
        make_loss: Callable[[], Callable[[int], Tensor]],
        trained_by: str,
        embedding_rate: float = 1.0,
    ) -> Module:
        """`model` trained at a constant rate in the first of `folders`, and then annealed in the second.

        The first may go on for longer later. Else as `once`.
        """
        begun, folder = folders
        rate, last = settings.learning_rate, settings.steps + settings.anneal

        def begin() -> Path:
            reached = begun / f"reached-{settings.steps}.pt"
            if not reached.exists():
                first = Stretch(0, settings.steps, rate, settings.warmup)
                trainer = self.train(model, make_loss(), first, begun, settings.average, None, embedding_rate)
                trainer.path = reached
                trainer.save()
            return reached

        annealed = Stretch(settings.steps, last, rate, anneal=settings.anneal)
        return self.once(model, folder, annealed, settings.average, make_loss, begin, trained_by, embedding_rate)

    def train(
        self,
        module: nn.Module,
        loss: Any,
        stretch: Stretch,
        folder: Path,
        average: float,
        begin: Path | None = None,
        embedding_rate: float = 1.0,
    ) -> Trainer:
        """Train `module` over `stretch` in `folder`, from the state `begin` if this was not begun before."""
        trainer = Trainer(module, folder / "state.pt", average, embedding_rate)
        if begin is not None and not trainer.path.exists():
            trainer.load(begin)
        stage = folder.name.rpartition("-")[0]
        if not trainer.train(loss, stretch, stage, self.progress, self.stop).is_finished:
            self.interrupt(stage)
        return trainer


def seeded(seed: int, make: Any, *arguments: Any) -> Any:
    """Call `make` with torch's random numbers fixed, and leave the caller's alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*arguments)


def _assist(bench: type[Workbench], recipe: BuildRecipe, folder: Path, device: torch.device, stage: str) -> None:
    """Take part, in a process of its own, in the trainings of one stage."""
    # The leader tells when to stop.
    with suppress(Interrupted):
        getattr(bench(recipe, folder, Silent(), StopRequest(), device), stage)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write all weights as safetensors, once for a whole team, and go on when they are written."""
    if team.rank() == 0:
        with replacing(path) as temporary:
            save_file({name: tensor.contiguous().cpu() for name, tensor in module.state_dict().items()}, temporary)
    team.wait()
