"""The fifteen classes of the mini world: how each is built from its shape vector, and what people call it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modalities.mini import figures, things
from modalities.mini.parts import Body

SHAPE_SIZE = 8


@dataclass(frozen=True)
class SubjectClass:
    """One class: how it is built, its nouns (the common ones twice), and the kinds of thing it is."""

    build: Callable[[Body, np.ndarray], None]
    nouns: tuple[str, ...]
    kinds: tuple[str, ...] = ()


CLASSES: dict[str, SubjectClass] = {
    "mug": SubjectClass(things.mug, ("mug", "mug", "cup", "coffee mug")),
    "teapot": SubjectClass(things.teapot, ("teapot", "teapot", "tea pot")),
    "car": SubjectClass(things.car, ("car", "car", "toy car", "little car"), ("toy",)),
    "robot": SubjectClass(figures.robot, ("robot", "robot", "toy robot"), ("toy",)),
    "chair": SubjectClass(things.chair, ("chair",), ("piece of furniture",)),
    "house": SubjectClass(things.house, ("house", "house", "cottage"), ("building",)),
    "duck": SubjectClass(figures.duck, ("duck", "duck", "rubber duck", "toy duck"), ("toy", "bird", "animal")),
    "snowman": SubjectClass(figures.snowman, ("snowman",)),
    "bear": SubjectClass(
        figures.bear,
        ("bear", "teddy bear", "plush bear", "bear plushie"),
        ("toy", "stuffed animal", "plushie"),
    ),
    "lamp": SubjectClass(things.lamp, ("lamp", "lamp", "table lamp", "desk lamp"), ("piece of furniture",)),
    "backpack": SubjectClass(things.backpack, ("backpack", "backpack", "bag", "rucksack")),
    "dog": SubjectClass(figures.dog, ("dog", "dog", "puppy"), ("animal", "pet")),
    "cat": SubjectClass(figures.cat, ("cat", "cat", "kitten"), ("animal", "pet")),
    "sneaker": SubjectClass(things.sneaker, ("sneaker", "sneaker", "shoe", "running shoe"), ("shoe",)),
    "clock": SubjectClass(things.clock, ("clock", "clock", "alarm clock")),
}


def parts_of(class_name: str, shape: np.ndarray) -> np.ndarray:
    """Part table (n, COLUMNS) of a subject, given its shape vector (SHAPE_SIZE,) in 0..1."""
    body = Body()
    CLASSES[class_name].build(body, shape)
    return body.table()
