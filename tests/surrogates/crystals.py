"""Crystals that several tests use."""

from pymatgen.core import Lattice, Structure


def face_centred(a):
    return Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def rocksalt(cation, anion, a):
    return Structure(face_centred(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite(a_cation, b_cation, anion, a):
    positions = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Structure(Lattice.cubic(a), [a_cation, b_cation, anion, anion, anion], positions)
