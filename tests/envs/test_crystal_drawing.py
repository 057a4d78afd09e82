"""Pictures of crystals: what is drawn where, how large, and what hides what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from envs.chemistry import ATOMIC_NUMBERS
from envs.crystal_drawing import SIZE, Cell, draw_crystal
from envs.element_sizes import element_sizes

CUBE = np.eye(3) * 6.0


def draw(*atoms: tuple[str, list[float]], lattice: npt.NDArray[np.float64] = CUBE) -> npt.NDArray[np.uint8]:
    numbers = [ATOMIC_NUMBERS[symbol] for symbol, _ in atoms]
    return draw_crystal("", [], Cell(lattice, numbers, np.array([point for _, point in atoms]).reshape(-1, 3)))


def red(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Pixels of oxygen."""
    r, g, b = picture.astype(int).transpose(2, 0, 1)
    return (r > g + 50) & (r > b + 50)


def middle(drawn: npt.NDArray[np.bool_]) -> tuple[float, float]:
    rows, columns = drawn.nonzero()
    return (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2


def test_an_atom_in_the_middle_of_the_cell_stands_in_the_middle_of_its_picture() -> None:
    picture = draw(("O", [0.5, 0.5, 0.5]))
    assert ndimage.label(red(picture))[1] == 1
    assert middle(red(picture)) == pytest.approx(middle((picture != 255).any(2)), abs=1.5)


@pytest.mark.parametrize(
    ("point", "n_atoms"),
    [([0.0, 0.0, 0.0], 8), ([0.0, 0.5, 0.0], 4), ([0.5, 1.0, 0.5], 2), ([0.3, -0.4, 0.2], 1), ([1e-6, 1 - 1e-6, 0], 8)],
)
def test_atoms_on_the_boundary_appear_on_every_side_of_it(point: list[float], n_atoms: int) -> None:
    assert ndimage.label(red(draw(("O", point), lattice=np.eye(3) * 9.0)))[1] == n_atoms


def test_balls_are_as_large_as_covalent_radii_say() -> None:
    points = [[0.25, 0.5, 0.5], [0.75, 0.5, 0.5]]
    with_both = draw(("O", points[0]), ("Cs", points[1]))
    without_oxygen, without_caesium = draw(("Cs", points[1])), draw(("O", points[0]))
    area_of_oxygen = (with_both != without_oxygen).any(2).sum()
    area_of_caesium = (with_both != without_caesium).any(2).sum()
    radius = element_sizes().covalent_radius
    ratio = float(radius[ATOMIC_NUMBERS["Cs"]] / radius[ATOMIC_NUMBERS["O"]])
    assert (area_of_caesium / area_of_oxygen) ** 0.5 == pytest.approx(ratio, rel=0.05)


def test_near_atoms_hide_far_ones_whatever_their_order() -> None:
    near, far = [0.65, 0.1, 0.62], [0.35, 0.9, 0.38]  # on one line of sight
    hidden = draw(("O", far), ("Cs", near))
    assert not red(hidden).any()
    assert np.array_equal(hidden, draw(("Cs", near), ("O", far)))
    assert red(draw(("Cs", far), ("O", near))).any()


@pytest.mark.parametrize("lengths", [(3, 3, 400), (400, 3, 3), (2, 2, 2), (3, 90, 90)])
def test_cells_of_any_shape_fit_between_text_and_legend(lengths: tuple[float, float, float]) -> None:
    text = "Sr a 0.1 0.2 0.3 | " * 20
    numbers = [ATOMIC_NUMBERS["Cs"], ATOMIC_NUMBERS["O"]]
    points = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    bare = draw_crystal(text, numbers, Cell(np.diag(lengths), [], np.empty((0, 3))))
    full = draw_crystal(text, numbers, Cell(np.diag(lengths).astype(float), numbers, points))
    drawn = (full != draw_crystal("", [], None)).any(2)
    assert drawn[:, :5].sum() == drawn[:, -5:].sum() == drawn[:5].sum() == drawn[-3:].sum() == 0
    assert (bare[-26:] == full[-26:]).all()  # the legend
    assert (full[150:360] != 255).any()


def test_the_legend_has_a_ball_and_a_name_for_each_element() -> None:
    empty, one, two = (draw_crystal("", elements, None) for elements in ([], [8], [8, 55]))
    assert (empty == 255).all()
    assert red(one)[-26:].any()
    assert not (one[:-26] != 255).any()
    assert (one != two).any(2)[:, SIZE // 5 :].any()
    assert not (one != two).any(2)[:, : SIZE // 5 - 10].any()
