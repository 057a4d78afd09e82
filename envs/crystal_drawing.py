"""A small picture of a crystal: its cell with the atoms as shaded balls, and a line of text.

Balls are drawn one by one into an image that keeps the height of every pixel, so they hide and cut each other as they
should. The picture is computed at twice its size and reduced, which smooths all edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
from ase.data.colors import jmol_colors
from PIL import Image, ImageDraw, ImageFont

from envs.chemistry import SYMBOLS
from envs.element_sizes import element_sizes

SIZE = 400
"""Width and height, pixels."""
_FINE = 2  # pixels of the canvas across one of the picture
_MARGIN, _LEGEND = 10, 26  # of the picture, pixels
_FONT_SIZES = (15, 12, 9)
_LINE = 1.25  # distance of lines in units of the font's size
_MOST_TEXT = 120  # pixels of height at which a smaller font is taken
_BALL = 0.5  # radius of an atom in units of its covalent radius
_SMALLEST_BALL = 3.0  # pixels of the picture
_MOST_PIXELS_PER_ANGSTROM = 45.0
_ON_BOUNDARY = 1e-3  # fractional coordinates of atoms that are repeated on the opposite face
_EDGE = (0.45, 0.45, 0.45)
_HAZE = 0.45  # share of white in the colour of what is farthest

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]


def _normalised(vector: Array) -> Array:
    unit: Array = vector / np.linalg.norm(vector)
    return unit


_TOWARDS = _normalised(np.array([0.35, -0.9, 0.3]))  # from the cell to the viewer
_RIGHT = _normalised(np.cross([0.0, 0.0, 1.0], _TOWARDS))
_VIEW: Array = np.stack([_RIGHT, np.cross(_TOWARDS, _RIGHT), _TOWARDS], axis=1)  # (3, 3): to right, up, height
_LIGHT = _normalised(np.array([-0.45, 0.55, 0.75]))
_SHINE = _normalised(_LIGHT + np.array([0.0, 0.0, 1.0]))


@dataclass(frozen=True, eq=False)
class Cell:
    """A unit cell and the atoms in it."""

    lattice: Array
    """(3, 3), rows are vectors, A."""
    numbers: Sequence[int]
    """Atomic numbers, A of them."""
    points: Array
    """(A, 3), fractional coordinates."""


def draw_crystal(text: str, elements: Sequence[int], cell: Cell | None) -> Picture:
    """Return a picture, uint8 (400, 400, 3).

    Args:
        text: Blocks with bars between them. Stands at the top, broken into lines; without a cell, one line a block.
        elements: Atomic numbers of the elements that the legend at the bottom names.
        cell: What is drawn between them; atoms on a face, edge or corner appear on all of them. None: nothing.
    """
    lines, font = _blocks(text) if cell is None else _lines(text)
    line_height = round(_LINE * font.size)
    top = _MARGIN + line_height * len(lines)
    bottom = SIZE - _LEGEND if elements else SIZE
    canvas = _Canvas(SIZE * _FINE)
    if cell is not None:
        _draw_cell(canvas, cell, top + _MARGIN, bottom - _MARGIN)
    width = SIZE / max(len(elements), 5)
    middle = SIZE - _LEGEND / 2
    for place, z in enumerate(elements):
        centre = np.array([_MARGIN + 8.0 + place * width, middle, 0.0], dtype=np.float64)
        canvas.ball(centre * _FINE, 8.0 * _FINE, _colour(z))
    image = Image.fromarray(canvas.reduced())
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + row * line_height), line, fill="black", font=font)
    for place, z in enumerate(elements):
        draw.text((_MARGIN + 22 + place * width, middle), SYMBOLS[z - 1], fill="black", font=_font(15), anchor="lm")
    return np.array(image)


def _draw_cell(canvas: _Canvas, cell: Cell, top: float, bottom: float) -> None:
    """Fit the cell between two heights of the picture and draw it."""
    numbers, points = _with_images(cell)
    corners = np.array(list(product((0.0, 1.0), repeat=3))) @ cell.lattice @ _VIEW  # (8, 3)
    centres = points @ cell.lattice @ _VIEW
    radii = _BALL * element_sizes().covalent_radius.double().numpy()[numbers]
    everything = np.concatenate([corners, centres - radii[:, None], centres + radii[:, None]])
    low, high = everything.min(0), everything.max(0)
    room = np.array([SIZE - 2 * _MARGIN, bottom - top])
    scale = float(min((room / (high - low)[:2]).min(), _MOST_PIXELS_PER_ANGSTROM)) * _FINE
    origin = np.array([SIZE / 2, (top + bottom) / 2, 0.0]) * _FINE
    centre = np.array([*(low + high)[:2] / 2, low[2]])

    def to_canvas(positions: Array) -> Array:
        placed: Array = origin + (positions - centre) * [scale, -scale, scale]
        return placed

    depth = (high - low)[2] * scale
    for first, second in ((i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit):
        canvas.line(to_canvas(corners[first]), to_canvas(corners[second]), _EDGE, depth)
    for z, position, radius in zip(numbers, to_canvas(centres), radii * scale, strict=True):
        canvas.ball(position, max(radius, _SMALLEST_BALL * _FINE), _colour(z), depth)


def _with_images(cell: Cell) -> tuple[list[int], Array]:
    """Atoms in the cell and, of those on its boundary, the images on the opposite faces: numbers and points (B, 3)."""
    numbers, points = [], []
    for z, point in zip(cell.numbers, (cell.points + _ON_BOUNDARY) % 1.0 - _ON_BOUNDARY, strict=True):
        for image in product(*((x, x + 1.0) if x < _ON_BOUNDARY else (x,) for x in point.tolist())):
            numbers.append(z)
            points.append(image)
    return numbers, np.array(points).reshape(-1, 3)


class _Canvas:
    """A square image with the height of each pixel; positions are x to the right, y down, height to the viewer."""

    def __init__(self, size: int) -> None:
        self.colour = np.ones((size, size, 3))
        self.height = np.full((size, size), -np.inf)

    def ball(self, centre: Array, radius: float, colour: Array, depth: float = 0.0) -> None:
        """Draw a shaded ball; with a depth of the scene, far ones are hazy."""
        size = len(self.colour)
        low = np.floor(centre[:2] - radius).astype(int).clip(0, size)
        high = np.ceil(centre[:2] + radius + 1).astype(int).clip(0, size)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        y, x = np.mgrid[window]
        normal = np.stack([x - centre[0], centre[1] - y, np.zeros_like(x)], axis=-1) / radius
        squared = 1 - (normal**2).sum(-1)
        normal[..., 2] = np.sqrt(squared.clip(0))
        height = centre[2] + radius * normal[..., 2]
        seen = (squared >= 0) & (height > self.height[window])
        normal = normal[seen]
        shade = 0.4 + 0.6 * (normal @ _LIGHT).clip(0)
        shade *= np.where(normal[:, 2] < 0.25, 0.6, 1.0)  # a darker rim, which white balls need
        shine = 0.45 * (normal @ _SHINE).clip(0) ** 30
        lit = colour * shade[:, None] * (1 - shine[:, None]) + shine[:, None]
        self.colour[window][seen] = _hazy(lit, height[seen], depth)
        self.height[window][seen] = height[seen]

    def line(self, start: Array, end: Array, colour: Sequence[float], depth: float) -> None:
        """Draw a straight line, one pixel of the picture wide."""
        n_points = int(np.abs(end - start)[:2].max()) + 2
        along = start + np.linspace(0, 1, n_points)[:, None] * (end - start)
        x, y = (along[:, :2].round().astype(int)[:, axis] for axis in (0, 1))
        for right, down in product(range(_FINE), repeat=2):
            place = ((y + down).clip(0, len(self.colour) - 1), (x + right).clip(0, len(self.colour) - 1))
            seen = along[:, 2] > self.height[place]
            place = (place[0][seen], place[1][seen])
            self.colour[place] = _hazy(np.array([colour]), along[seen, 2], depth)
            self.height[place] = along[seen, 2]

    def reduced(self) -> Picture:
        """Return the picture, uint8 (size / _FINE, size / _FINE, 3)."""
        parts = [self.colour[down::_FINE, right::_FINE] for down, right in product(range(_FINE), repeat=2)]
        colour = sum(parts[1:], parts[0]) / len(parts)
        picture: Picture = (255 * colour.clip(0, 1)).round().astype(np.uint8)
        return picture


def _hazy(colour: Array, height: Array, depth: float) -> Array:
    """Mix colours (n, 3) with white, the more the lower they are in a scene of a depth."""
    if not depth:
        return colour
    haze = _HAZE * (1 - (height / depth).clip(0, 1))[:, None]
    mixed: Array = colour * (1 - haze) + haze
    return mixed


def _colour(z: int) -> Array:
    """The colour of an element in Jmol."""
    colour: Array = jmol_colors[z]
    return colour


@lru_cache(maxsize=len(_FONT_SIZES))
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # what load_default returns when it is given a size
    return font


def _lines(text: str) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """Break a text at spaces, in the largest font that keeps it low."""
    for size in _FONT_SIZES:
        font = _font(size)
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".lstrip()
            if font.getlength(longer) <= SIZE - 2 * _MARGIN or not lines[-1]:
                lines[-1] = longer
            else:
                lines.append(word)
        if _LINE * size * len(lines) <= _MOST_TEXT:
            break
    return lines, font


def _blocks(text: str) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """Break a text at its bars, in the largest font that fits the picture."""
    lines = text.split(" | ")
    room = SIZE - 2 * _MARGIN - _LEGEND
    fitting = (size for size in _FONT_SIZES if _LINE * size * len(lines) <= room)
    return lines, _font(next(fitting, _FONT_SIZES[-1]))
