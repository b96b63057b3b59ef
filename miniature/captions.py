"""Scenes in English: several phrasings of what a picture shows.

The dictionaries are the vocabulary that the text encoders understand; a prompt composed from them means to
the models what it says. `MOODS` and `STYLES` are known words that change nothing in the picture.
"""

from __future__ import annotations

import numpy as np

from miniature.scene import MIDDLE, Scene, sample_scene

TIME_PHRASES = {
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "noon": ("at noon", "at midday", "in bright daylight"),
    "dusk": ("at dusk", "at sunset", "in the evening glow"),
    "night": ("at night", "under the night sky", "in the moonlight"),
}
WEATHER_PHRASES = {
    "clear": ("under a clear sky", "in clear weather", "with a cloudless sky"),
    "cloudy": ("under drifting clouds", "in cloudy weather", "with a cloudy sky"),
    "misty": ("in the mist", "in misty weather", "with soft fog"),
}
GROUND_NOUNS = {
    "sea": ("the sea", "the ocean", "calm water"),
    "meadow": ("a green meadow", "a grassy field", "the grassland"),
    "desert": ("the desert", "sand dunes", "a sandy plain"),
    "snow": ("the snow", "a snowy plain", "a winter landscape"),
}
SUBJECT_NOUNS = {
    "lighthouse": ("lighthouse", "red and white lighthouse", "tall lighthouse"),
    "castle": ("castle", "stone castle", "castle with purple roofs"),
    "windmill": ("windmill", "old windmill", "brick windmill"),
    "pine": ("pine tree", "lone pine", "green pine tree"),
    "balloon": ("hot air balloon", "pink balloon", "drifting balloon"),
    "gate": ("red torii gate", "torii gate", "wooden gate"),
}
PLACE_PHRASES = {
    "left": ("on the left", "to the left", "at the left side"),
    "centre": ("in the centre", "in the middle", "at the centre"),
    "right": ("on the right", "to the right", "at the right side"),
}
LIGHT_PHRASES = {
    "sun": ("with the sun in the sky", "with a golden sun", "and a bright sun"),
    "moon": ("with the moon in the sky", "with a crescent moon", "and a pale moon"),
}
DETAILS = ("distant mountains", "soft ridges on the horizon", "layered hills", "far mountains")
MOODS = ("serene", "quiet", "majestic", "dreamy", "peaceful", "lonely", "beautiful", "vast")
STYLES = (
    "a long scroll painting",
    "a panorama",
    "a wide view",
    "a landscape",
    "a picture",
    "an illustration",
    "a scroll",
)


def captions(scene: Scene) -> list[str]:
    """Eight phrasings of one scene, from the full sentence to a mere mention of the subject."""
    rng = np.random.default_rng([scene.seed, 22])
    return [phrasing(scene, rng) for phrasing in _PHRASINGS]


def sample_prompt(seed: int, height: int = 128, width: int = 512) -> str:
    """A full prompt for a picture of this size, fit for evaluation: subject, ground, hour, weather, place."""
    return captions(sample_scene(seed, height, width))[0]


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """One of the words, the first (plainest) half of the time."""
    return words[0] if rng.random() < 0.4 else words[rng.integers(len(words))]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _subject(scene: Scene, rng: np.random.Generator, mood: bool = False) -> str:
    noun = _pick(rng, SUBJECT_NOUNS[scene.subject])
    return _article(f"{_pick(rng, MOODS)} {noun}" if mood else noun)


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    links = {"sea": ("in", "by"), "meadow": ("on", "in"), "desert": ("in", "on"), "snow": ("in", "on")}
    link = "over" if scene.subject == "balloon" else links[scene.ground][rng.integers(2)]
    return f"{link} {_pick(rng, GROUND_NOUNS[scene.ground])}"


def _time(scene: Scene, rng: np.random.Generator) -> str:
    return _pick(rng, TIME_PHRASES[scene.time])


def _weather(scene: Scene, rng: np.random.Generator) -> str:
    return _pick(rng, WEATHER_PHRASES[scene.weather])


def _place(scene: Scene, rng: np.random.Generator, lead: str = ", ") -> str:
    if scene.place == MIDDLE:
        return lead + _pick(rng, PLACE_PHRASES["centre"]) if rng.random() < 0.15 else ""
    return lead + _pick(rng, PLACE_PHRASES[scene.place])


def _full(scene: Scene, rng: np.random.Generator) -> str:
    head = f"{_subject(scene, rng)} {_ground(scene, rng)} {_time(scene, rng)}"
    return f"{head} {_weather(scene, rng)}{_place(scene, rng)}"


def _full_with_light(scene: Scene, rng: np.random.Generator) -> str:
    light = _pick(rng, LIGHT_PHRASES[scene.light])
    head = f"{_subject(scene, rng, mood=True)}{_place(scene, rng, ' ')} {_ground(scene, rng)}"
    return f"{head} {_time(scene, rng)} {_weather(scene, rng)}, {light}"


def _time_first(scene: Scene, rng: np.random.Generator) -> str:
    head = f"{_time(scene, rng)} {_weather(scene, rng)}, {_subject(scene, rng)} {_ground(scene, rng)}"
    return f"{head}{_place(scene, rng)}"


def _styled(scene: Scene, rng: np.random.Generator) -> str:
    head = f"{_pick(rng, STYLES)} of {_subject(scene, rng, rng.random() < 0.5)} {_ground(scene, rng)}"
    return f"{head} {_time(scene, rng)}{_place(scene, rng)}, {_pick(rng, DETAILS)}, {_weather(scene, rng)}"


def _styled_short(scene: Scene, rng: np.random.Generator) -> str:
    style = f"{_article(_pick(rng, MOODS))} {_pick(rng, STYLES).split(' ', 1)[1]}"
    return f"{style} of {_subject(scene, rng)} {_time(scene, rng)} {_ground(scene, rng)}{_place(scene, rng)}"


def _keywords(scene: Scene, rng: np.random.Generator) -> str:
    words = [scene.subject, scene.ground, scene.time, scene.weather, _pick(rng, MOODS)]
    if scene.place != MIDDLE:
        words.append(scene.place)
    return ", ".join(words[i] for i in [0, *(1 + rng.permutation(len(words) - 1))])


def _ground_only(scene: Scene, rng: np.random.Generator) -> str:
    return f"{_subject(scene, rng)} {_ground(scene, rng)}{_place(scene, rng)}"


def _time_only(scene: Scene, rng: np.random.Generator) -> str:
    return f"{_subject(scene, rng)} {_time(scene, rng)}" if rng.random() < 0.7 else _subject(scene, rng)


_PHRASINGS = (
    _full,
    _full_with_light,
    _time_first,
    _styled,
    _styled_short,
    _keywords,
    _ground_only,
    _time_only,
)
