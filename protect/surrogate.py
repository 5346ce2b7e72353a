"""The models that stand for a copier's: one base, and small named sets of learned weights that take turns in it."""

from __future__ import annotations

from torch import Tensor

from modalities.core.backbone import Posterior
from modalities.core.studio import Studio
from modalities.core.trainer import Trainer

SNAPSHOT = "snapshot"


class Surrogate:
    """Trains and keeps learned weights; the base itself is never copied, and what learns is float32.

    Anti-DreamBooth casts its surrogate to bfloat16, where its learning rate changes under a hundredth of the weights.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.trainer = Trainer(studio)
        self._initial = self._taken()[1]
        self._active = "main"
        self._is_learning = False
        self._kept: dict[str, tuple[int, dict[str, Tensor]]] = {}
        self._turn = 0

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.studio.components)

    def begin(self) -> None:
        """Go back to the untrained base, as for a new group of photos."""
        self._active, self._kept, self._turn = "main", {}, 0
        self._put(0, self._initial)

    def use(self, name: str) -> None:
        """Put the weights of that name in place."""
        if name == self._active:
            return
        self._kept[self._active] = self._taken()
        step, tensors = self._kept.pop(name, (0, self._initial))
        self._put(step, tensors)
        self._active = name

    def fork(self, name: str) -> None:
        """Copy the main weights, moments included, to that name."""
        self.use("main")
        self._kept[name] = self._taken()

    def keep(self, name: str) -> None:
        """Keep a copy of these weights as the next snapshot."""
        self.use(name)
        count = sum(key.startswith(SNAPSHOT) for key in self._kept)
        self._kept[f"{SNAPSHOT} {count}"] = self._taken()

    def recall(self, name: str) -> None:
        """Put a copy of the next snapshot, in turn, in the place of that name."""
        self.use(name)
        snapshots = sorted(key for key in self._kept if key.startswith(SNAPSHOT))
        step, tensors = self._kept[snapshots[self._turn % len(snapshots)]]
        self._turn += 1
        self._put(step, tensors)

    def train(self, name: str, posterior: Posterior) -> float:
        """One training step on encoded views; return its loss."""
        self.use(name)
        if not self._is_learning:
            self.studio.set_learning(self.trainer.phases[-1].learn)
            self._is_learning = True
        self.trainer.posterior = posterior
        return self.trainer.advance()

    def rest(self) -> None:
        """Let nothing learn, so that gradients only go to the pixels."""
        if self._is_learning:
            self.studio.set_learning({})
        self._is_learning = False

    def _taken(self) -> tuple[int, dict[str, Tensor]]:
        """Steps, weights and moments as they are now; the optimizer goes on writing into its own."""
        return self.trainer.step, {name: value.clone() for name, value in self.trainer.state().items()}

    def _put(self, step: int, tensors: dict[str, Tensor]) -> None:
        if self.learns:
            self.trainer.restore(step, {name: value.clone() for name, value in tensors.items()})
            self._is_learning = True
        self.rest()

    # -- its state -------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All weights and moments, and what they are."""
        held = self._kept | {self._active: self._taken()}
        tensors = {f"{name}|{key}": value for name, (_, own) in held.items() for key, value in own.items()}
        steps = {f"steps|{name}": str(step) for name, (step, _) in held.items()}
        return tensors, steps | {"active": self._active, "turn": str(self._turn)}

    def restore(self, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Go to where `state` was taken."""
        held: dict[str, tuple[int, dict[str, Tensor]]] = {
            key.removeprefix("steps|"): (int(step), {}) for key, step in about.items() if key.startswith("steps|")
        }
        for key, value in tensors.items():
            name, _, rest = key.partition("|")
            held[name][1][rest] = value
        self._active, self._turn = about["active"], int(about["turn"])
        step, own = held.pop(self._active)
        self._kept = held
        self._put(step, own)
