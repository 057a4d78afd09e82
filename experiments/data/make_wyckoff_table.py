"""Write `envs/data/wyckoff.json.gz`: Wyckoff positions and normalisers of the 230 space groups.

    python3 -m venv pyxtal_env && pyxtal_env/bin/pip install pyxtal==1.1.5     # the project does not depend on pyxtal
    pyxtal_env/bin/python experiments/data/make_wyckoff_table.py               # two minutes; or with --compare

Positions, site symmetries and operations are pyxtal's, in its standard setting (unique axis b, hexagonal axes, origin
choice 2). The maps of each group's affine normaliser are found here: every change of axes among a few candidates that
maps the point group and the lattice onto themselves, with every shift of origin on a grid of 1/24 that completes it.
`--compare` prints where the permutations of the positions differ from pyxtal's `Group.get_alternatives()`.
The same pyxtal gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
from pymatgen.symmetry.groups import sg_symbol_from_int_number
from pyxtal.symmetry import Group

TABLE = Path(__file__).resolve().parents[2] / "envs" / "data" / "wyckoff.json.gz"
GRID = 24  # every translation in the table is a multiple of 1/24
AXES = ("x", "y", "z")
IDENTITY = np.eye(3, dtype=int)
SHIFTS = np.array(list(product(range(-2, 3), repeat=3)))

Array = np.ndarray
AffineMap = tuple[Array, Array]  # integer matrix (3, 3) and translation (3,) in 1/24


def to_affine(operation: object) -> AffineMap:
    """The integer matrix and the translation in 1/24, not reduced, of a pymatgen operation."""
    matrix = operation.affine_matrix
    rotation, translation = np.rint(matrix[:3, :3]).astype(int), np.rint(matrix[:3, 3] * GRID).astype(int)
    assert np.allclose(matrix[:3, :3], rotation) and np.allclose(matrix[:3, 3] * GRID, translation, atol=1e-3)
    return rotation, translation


def to_text(affine: AffineMap) -> str:
    """Jones-faithful notation: 2x,x,1/4."""
    parts = []
    for row, shift in zip(affine[0], np.mod(affine[1], GRID), strict=True):
        text = ""
        for factor, axis in zip(row, AXES, strict=True):
            if factor:
                sign = "-" if factor < 0 else "+" if text else ""
                text += f"{sign}{abs(factor) if abs(factor) > 1 else ''}{axis}"
        if shift or not text:
            divisor = int(np.gcd(shift, GRID))
            fraction = f"{shift // divisor}/{GRID // divisor}" if shift else "0"
            text += f"{'+' if text else ''}{fraction}"
        parts.append(text)
    return ",".join(parts)


def key(affine: AffineMap, centring: Array) -> bytes:
    """What identifies an affine map up to the translations of the lattice."""
    moved = np.mod(affine[1] + centring, GRID)
    return affine[0].tobytes() + min(row.tobytes() for row in moved)


class Positions:
    """Operations and Wyckoff positions of a group, in order a, b, c, ..., the general position last."""

    def __init__(self, number: int) -> None:
        self.group = Group(number)
        wyckoffs = list(self.group)[::-1]
        every = [to_affine(operation) for operation in wyckoffs[-1].ops]
        self.centring = np.array([t % GRID for r, t in every if np.array_equal(r, IDENTITY)])
        distinct: dict[bytes, AffineMap] = {}
        for operation in every:
            distinct.setdefault(key(operation, self.centring), operation)
        self.operations = list(distinct.values())
        assert len(self.operations) * len(self.centring) == len(every)
        self.letters = "".join(wyckoff.letter for wyckoff in wyckoffs)
        self.degrees_of_freedom = [wyckoff.get_dof() for wyckoff in wyckoffs]
        for wyckoff in wyckoffs:
            wyckoff.get_site_symmetry()  # sets site_symm
        self.site_symmetry = [wyckoff.site_symm for wyckoff in wyckoffs]
        self.representatives = [to_affine(wyckoff.ops[0]) for wyckoff in wyckoffs]
        self.cosets = [self._cosets(representative) for representative in self.representatives]
        assert [len(c) * len(self.centring) for c in self.cosets] == [w.multiplicity for w in wyckoffs]
        self.complements = [  # projections onto what the free parameters of each representative leave fixed
            np.eye(3) - rotation @ np.linalg.pinv(rotation.astype(float)) for rotation, _ in self.representatives
        ]

    def _cosets(self, representative: AffineMap) -> list[int]:
        """One operation for each point of the orbit in the primitive cell."""
        first: dict[bytes, int] = {}
        for i, (rotation, translation) in enumerate(self.operations):
            image = (rotation @ representative[0], rotation @ representative[1] + translation)
            first.setdefault(key(image, self.centring), i)
        return list(first.values())

    def of_image(self, affine: AffineMap, position: int, free: Array) -> int:
        """The position onto which a map of the normaliser takes a position."""
        rotation, translation = self.representatives[position]
        point = affine[0] @ (rotation @ free + translation / GRID) + affine[1] / GRID
        orbit = np.array([r @ point + t / GRID for r, t in self.operations])
        orbit = np.mod(orbit[:, None] + self.centring / GRID, 1.0).reshape(-1, 3)
        for other in range(len(self.letters)):
            same_kind = len(self.cosets[other]) == len(self.cosets[position])
            if not same_kind or self.degrees_of_freedom[other] != self.degrees_of_freedom[position]:
                continue
            offsets = (orbit - self.representatives[other][1] / GRID)[:, None] - SHIFTS
            if (np.abs(offsets @ self.complements[other].T).max(-1) < 1e-6).any():
                return other
        raise AssertionError(f"{self.group.number}: {to_text(affine)} is not in the normaliser")


def candidate_axes(number: int) -> list[Array]:
    """Changes of axes that may map a group of this crystal system onto itself, or that generate those."""
    if number <= 2:
        return integer_matrices(range(-1, 2), tuple(product(range(3), repeat=2)))
    if number <= 15:
        return integer_matrices(range(-2, 3), ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)))
    signed = [
        IDENTITY[list(order)] * np.array(signs)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    if number <= 74 or number >= 195:
        return signed
    if number <= 142:
        return [m for m in signed if m[2, 2]]
    six, two = np.array([[1, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    return [
        s * np.linalg.matrix_power(six, n) @ np.linalg.matrix_power(two, k)
        for s, n, k in product((1, -1), range(6), range(2))
    ]


def integer_matrices(entries: range, where: tuple[tuple[int, int], ...]) -> list[Array]:
    found = []
    for values in product(entries, repeat=len(where)):
        matrix = np.zeros((3, 3), dtype=int)
        matrix[tuple(zip(*where, strict=True))] = values
        if abs(round(np.linalg.det(matrix))) == 1:
            found.append(matrix)
    return found


def generic_metric(number: int) -> Array:
    """A metric tensor that has the crystal system's symmetry and no more."""
    if number <= 2:
        return np.array([[25, 3, 4], [3, 36, 5], [4, 5, 49]])
    if number <= 15:
        return np.array([[25, 0, 4], [0, 36, 0], [4, 0, 49]])
    if number <= 74:
        return np.diag([25, 36, 49])
    if number <= 142:
        return np.diag([25, 25, 49])
    return np.diag([25, 25, 25]) if number >= 195 else np.array([[26, -13, 0], [-13, 26, 0], [0, 0, 49]])


def origin_shifts(group: Positions, axes: Array) -> Array:
    """Shifts (n, 3) in 1/24 that make a change of axes map the group onto itself; none for most.

    Along an axis on which the origin is free (polar groups) only 0 is tried: any other shift takes every position to
    itself, if anywhere.
    """
    inverse = np.rint(np.linalg.inv(axes)).astype(int)
    index = {rotation.tobytes(): i for i, (rotation, _) in enumerate(group.operations)}
    images = [index.get((axes @ rotation @ inverse).tobytes()) for rotation, _ in group.operations]
    centring = {tuple(t) for t in group.centring}
    if None in images or {tuple(np.mod(axes @ t, GRID)) for t in group.centring} != centring:
        return np.empty((0, 3), dtype=int)
    rotations = np.array([rotation for rotation, _ in group.operations])
    polar = (rotations == IDENTITY).all(axis=(0, 1))
    shifts = np.array(list(product(*([0] if free else range(GRID) for free in polar))))
    for (_, translation), image in zip(group.operations, images, strict=True):
        rotation, wanted = group.operations[image]
        residual = axes @ translation + shifts @ (IDENTITY - rotation).T - wanted
        residual = np.mod(residual[:, None] + group.centring, GRID)
        shifts = shifts[(residual == 0).all(-1).any(-1)]
    return shifts


def normaliser(group: Positions) -> list[tuple[AffineMap, tuple[int, ...], bool]]:
    """Maps whose permutations generate those of the normaliser; those that keep every lattice of the system first.

    Each with its permutation (position i goes to position permutation[i]) and whether it keeps the lattice.
    """
    number = group.group.number
    metric = generic_metric(number)
    free = np.array([0.1234, 0.3713, 0.2197])
    maps: list[tuple[AffineMap, bool]] = [((IDENTITY, shift), True) for shift in origin_shifts(group, IDENTITY)]
    for axes in candidate_axes(number):
        shifts = origin_shifts(group, axes)
        if len(shifts):
            maps.append(((axes, shifts[0]), np.array_equal(axes.T @ metric @ axes, metric)))
    generators: list[tuple[AffineMap, tuple[int, ...], bool]] = []
    known = {tuple(range(len(group.letters)))}
    for affine, keeps_lattice in sorted(maps, key=lambda found: not found[1]):
        image = tuple(group.of_image(affine, i, free) for i in range(len(group.letters)))
        assert sorted(image) == list(range(len(group.letters)))
        if image not in known:
            generators.append((affine, image, keeps_lattice))
            known = closure([permutation for _, permutation, _ in generators])
    return generators


def closure(generators: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """The permutation group with these generators."""
    found = new = {tuple(range(len(generators[0])))} if generators else set()
    while new:
        new = {tuple(g[i] for i in known) for g in generators for known in new} - found
        found = found | new
    return found


def compare(group: Positions, generators: list[tuple[AffineMap, tuple[int, ...], bool]]) -> None:
    """Print where pyxtal's permutations of the positions and ours differ."""
    ours = {"".join(group.letters[i] for i in p) for p in closure([p for _, p, _ in generators])} or {group.letters}
    theirs = {text.replace(" ", "") for text in group.group.get_alternatives()["Transformed WP"]}
    if ours != theirs:
        only = f"only here {len(ours - theirs)}, only in pyxtal {len(theirs - ours)}"
        print(f"{group.group.number} {group.group.symbol}: {only}")


def main() -> None:
    table = []
    for number in range(1, 231):
        group = Positions(number)
        generators = normaliser(group)
        if "--compare" in sys.argv:
            compare(group, generators)
        table.append(
            {
                "symbol": sg_symbol_from_int_number(number),
                "hall_number": group.group.hall_number,
                "operations": [to_text(operation) for operation in group.operations],
                "letters": group.letters,
                "site_symmetry": group.site_symmetry,
                "representatives": [to_text(representative) for representative in group.representatives],
                "cosets": group.cosets,
                "normaliser": [
                    {
                        "map": to_text(affine),
                        "letters": "".join(group.letters[i] for i in image),
                        "keeps_lattice": keeps,
                    }
                    for affine, image, keeps in generators
                ],
            }
        )
    content = json.dumps(table, separators=(",", ":")).encode()
    TABLE.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    print(f"{TABLE.name}: {sum(len(g['letters']) for g in table):,} positions, {TABLE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
