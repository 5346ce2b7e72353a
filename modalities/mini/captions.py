"""What people might write under a scene of the mini world: always true, seldom complete."""

import numpy as np

from modalities.mini.motion import CAMERA_MOTIONS, MOTION_PHRASES, Clip
from modalities.mini.shapes import CLASSES
from modalities.mini.world import Companion, Scene, Subject

# Rare words that the base learns to ignore, as large bases do: they are free to be given a meaning later.
IDENTIFIERS = (
    "sks", "zwx", "ohwx", "qxj", "xjy", "vqz", "bnha", "kwtz", "pqrz", "jklx", "wqv", "zyx", "hjx", "qwz",
    "mxq", "tzk", "rvx", "gqz", "lxw", "fzq", "ukj", "ncx", "dwq", "yvb", "sxz", "olis", "asjo", "kibu",
    "nutr", "tovk", "zuku", "rewq", "blorp", "vex", "wug", "dax", "blicket", "toma", "fep", "zib", "kax",
    "mip", "gorp", "tulver", "snarf", "quib", "plim", "trel", "vorn", "xan",
)  # fmt: skip
CONTEXT_PHRASES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "on the beach", "at the beach", "on a sandy beach", "on the sand by the sea"),
    "snow": ("in the snow", "in the snow", "on the snow", "in a snowy landscape", "in winter"),
    "grass": ("on the grass", "in the grass", "on a meadow", "on a lawn", "in a green field"),
    "desert": ("in the desert", "in the desert", "on desert sand", "among the dunes", "in a sandy desert"),
    "city": ("in a city at night", "in the city at night", "at night", "with a night city in the background"),
    "table": (
        "on a wooden table", "on a table", "on a wooden desk", "on top of a wooden table",
        "on a wooden floor",
    ),
    "red studio": ("in a red studio", "on a red background", "in a red room", "with a red background"),
    "blue studio": ("in a blue studio", "on a blue background", "in a blue room", "with a blue background"),
    "forest": (
        "in the forest", "in a forest", "in the woods", "in the jungle", "with trees in the background",
    ),
    "lake": ("on the lake", "on a lake", "on the water", "floating on water", "on top of water"),
    "street": (
        "on the street", "on a cobblestone street", "in the street", "in an old town", "on the pavement",
    ),
    "moon": ("on the moon", "on the moon", "on the surface of the moon", "in space"),
}  # fmt: skip
VIEW_WORDS = {
    "front": ("front view", "seen from the front", "facing the camera"),
    "side": ("side view", "seen from the side"),
    "back": ("back view", "seen from behind", "rear view"),
    "top": ("top view", "seen from above", "overhead view"),
}
STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "cartoon": ("a cartoon of", "a cartoon of", "a cartoon drawing of"),
    "pencil": ("a pencil drawing of", "a pencil drawing of", "a pencil sketch of"),
    "pixel art": ("pixel art of", "pixel art of", "a pixel art picture of"),
    "watercolor": ("a watercolor painting of", "a watercolor painting of", "a watercolor of"),
}
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "on": ("on", "on top of", "standing on"),
    "beside": ("beside", "next to"),
    "in front of": ("in front of",),
    "behind": ("behind",),
    "inside": ("inside", "in"),
}
FINISH_WORDS: dict[str, tuple[str, ...]] = {"shiny": ("glossy", "polished"), "wet": ("wet", "soaked")}
_PLURALS = ("glasses",)
_OPENINGS = (
    "a photo of",
    "a picture of",
    "an image of",
    "a rendering of",
    "a close-up photo of",
    "a good photo of",
)
_FILLERS = ("nice", "cool", "clean", "beautiful", "small", "large", "weird", "new", "old", "cute", "shiny")
_ARTICLES = ("the", "my", "one", "this", "")
_COLOUR_WORDS = {
    "gray": ("gray", "grey"),
    "cyan": ("cyan", "turquoise", "teal"),
    "purple": ("purple", "violet"),
}
_PATTERN_WORDS = {
    "striped": (("striped",), ("stripes", "bands")),
    "dotted": (("dotted", "spotted", "polka dot"), ("dots", "spots", "polka dots")),
    "checkered": (("checkered", "checked"), ("checks", "squares")),
}
# How often the captions name a view that has a name, unless a lesson asks for more.
NAMED_VIEWS = 0.42


def caption(scene: Scene, rng: np.random.Generator, motion: str | None = None, named_views: float = NAMED_VIEWS) -> str:
    """Write one sentence about `scene`; colours, pattern, context and view each may or may not be named.

    named_views: how often a view that has a name is named. A style and a motion are always named, an accessory, a
    finish and a companion nearly always: a picture would contradict words that keep silent about them.
    """
    words = _subject_phrase(scene, rng)
    if motion and motion not in CAMERA_MOTIONS:
        words = f"{words} {_one(MOTION_PHRASES[motion], rng)}"
    if scene.companion:
        words = f"{words} {_beside(scene.companion, rng)}"
    place = _one(CONTEXT_PHRASES[scene.context], rng) if rng.random() < 0.88 else ""
    opening = ("a photo of" if rng.random() < 0.7 else _one(_OPENINGS, rng)) if rng.random() < 0.72 else ""
    if scene.style != "photo":
        opening = _one(STYLE_PHRASES[scene.style], rng)
    view = scene.camera.view
    seen = _one(VIEW_WORDS[view], rng) if view and rng.random() < named_views else ""
    if motion in CAMERA_MOTIONS:
        seen = _one(MOTION_PHRASES[motion], rng)
    if opening == "" and place and rng.random() < 0.1:
        return _joined(f"{place}, {words}", seen)
    return _joined(f"{opening} {words} {place}", seen)


def clip_caption(clip: Clip, rng: np.random.Generator) -> str:
    """Write one sentence about a clip, with its motion."""
    said = caption(clip.scene, rng, clip.motion, named_views=0.0)
    for opening in _OPENINGS:
        if said.startswith(opening):
            return f"a video of{said.removeprefix(opening)}" if rng.random() < 0.8 else said
    return said


def with_article(words: str) -> str:
    """`words` after "a" or "an", or alone if they name several things."""
    if words.endswith(_PLURALS):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def all_words() -> list[str]:
    """Every phrase that captions are made of, for the tokenizer."""
    nouns = [noun for kind in CLASSES.values() for noun in (*kind.nouns, *kind.kinds)]
    places = [phrase for phrases in CONTEXT_PHRASES.values() for phrase in phrases]
    views = [phrase for phrases in VIEW_WORDS.values() for phrase in phrases]
    return [*nouns, *places, *views, *IDENTIFIERS, *_OPENINGS, *_FILLERS, *_ARTICLES]


def _subject_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """The subject with what it wears and how it shines."""
    # A pencil drawing shows no colours.
    words = _noun_phrase(scene.subject, rng, is_grey=scene.style == "pencil")
    if scene.finish != "matte" and rng.random() < 0.95:
        article, _, rest = words.partition(" ")
        words = f"{'a' if article == 'an' else article} {_one(FINISH_WORDS[scene.finish], rng)} {rest}"
    if scene.accessory and rng.random() < 0.95:
        words = f"{words} {'wearing' if rng.random() < 0.75 else 'with'} {with_article(scene.accessory)}"
    return words


def _beside(companion: Companion, rng: np.random.Generator) -> str:
    """The relation to a companion, and what that is."""
    other = companion.subject
    noun = CLASSES[other.class_name].nouns[0]
    look = f"{_colour(other.primary, rng)} {noun}" if rng.random() < 0.7 else noun
    return f"{_one(RELATION_PHRASES[companion.relation], rng)} {with_article(look)}"


def _noun_phrase(subject: Subject, rng: np.random.Generator, *, is_grey: bool = False) -> str:
    kind = CLASSES[subject.class_name]
    noun = _one(kind.kinds, rng) if kind.kinds and rng.random() < 0.04 else _one(kind.nouns, rng)
    before, after = ("", "") if is_grey else _look(subject, rng)
    identifier = _one(IDENTIFIERS, rng) if rng.random() < 0.15 else ""
    filler = _one(_FILLERS, rng) if rng.random() < 0.05 else ""
    words = " ".join(part for part in (identifier, filler, before, noun, after) if part)
    if rng.random() < 0.78:
        return with_article(words)
    return f"{_one(_ARTICLES, rng)} {words}".strip()


def _look(subject: Subject, rng: np.random.Generator) -> tuple[str, str]:
    """Colours and pattern in words that go before the noun and after it; both may be empty."""
    if rng.random() < 0.16:
        return "", ""
    first, second = _colour(subject.primary, rng), _colour(subject.secondary, rng)
    if subject.pattern == "plain":
        return _one((first, first, f"{first} and {second}"), rng), ""
    adjectives, nouns = _PATTERN_WORDS[subject.pattern]
    adjective = _one(adjectives, rng)
    choice = rng.random()
    if choice < 0.24:
        return f"{first} and {second} {adjective}", ""
    if choice < 0.44:
        return f"{adjective} {first} and {second}", ""
    if choice < 0.66:
        return first, f"with {second} {_one(nouns, rng)}"
    if choice < 0.78:
        return f"{adjective} {first}", ""
    return (first if choice < 0.9 else adjective), ""


def _colour(name: str, rng: np.random.Generator) -> str:
    words = _COLOUR_WORDS.get(name)
    return name if words is None or rng.random() < 0.6 else _one(words, rng)


def _one(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _joined(sentence: str, view: str) -> str:
    sentence = " ".join(sentence.split())
    return f"{sentence}, {view}" if view else sentence
