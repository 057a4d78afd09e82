import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.chemistry import ATOMIC_NUMBERS, SYMBOLS
from envs.formula import CompositionBatch
from surrogates.datasets import read_element_properties
from surrogates.features import (
    STATISTICS,
    composition_features,
    element_property_names,
    element_property_table,
    feature_names,
)

compositions = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 12), min_size=1, max_size=6)


def as_batch(*entries: dict[str, int]) -> CompositionBatch:
    return CompositionBatch.from_formulas("".join(f"{s}{n}" for s, n in entry.items()) for entry in entries)


def brute_force(entry: dict[str, int]) -> np.ndarray:
    table = read_element_properties().to_numpy(dtype=float)
    natural = table[:94]
    table = (table - natural.mean(0)) / natural.std(0, ddof=1)
    amounts = np.array(list(entry.values()), dtype=float)
    fractions = amounts / amounts.sum()
    rows = np.stack([table[ATOMIC_NUMBERS[symbol] - 1] for symbol in entry])
    mean = fractions @ rows
    deviation = fractions @ np.abs(rows - mean)
    norms = [len(entry), (fractions**2).sum() ** 0.5, (fractions**3).sum() ** (1 / 3)]
    dense = np.zeros(len(SYMBOLS))
    for symbol, fraction in zip(entry, fractions, strict=True):
        dense[ATOMIC_NUMBERS[symbol] - 1] = fraction
    return np.concatenate([mean, deviation, rows.min(0), rows.max(0), norms, dense])


@given(st.lists(compositions, min_size=1, max_size=4))
def test_features_equal_the_statistics_computed_one_by_one(entries):
    features = composition_features(as_batch(*entries))
    np.testing.assert_allclose(features.numpy(), np.stack([brute_force(e) for e in entries]), rtol=1e-4, atol=1e-4)


@given(compositions, st.integers(2, 9))
def test_features_do_not_depend_on_order_scale_or_padding(entry, factor):
    turned = {symbol: factor * entry[symbol] for symbol in reversed(entry)}
    wide = dict.fromkeys(SYMBOLS[:9], 1)
    alone = composition_features(as_batch(entry))[0]
    padded = composition_features(as_batch(turned, wide))[0]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_names_belong_to_the_columns():
    names = feature_names()
    batch = as_batch({"Sr": 1, "Ti": 1, "O": 3})
    assert composition_features(batch).shape == (1, len(names))
    assert len(names) == len(set(names))
    assert len(names) == len(STATISTICS) * len(element_property_names()) + 3 + len(SYMBOLS)
    assert composition_features(batch)[0, names.index("fraction O")] == 0.6
    column = element_property_names().index("electronegativity")
    maximum = composition_features(batch)[0, names.index("maximum electronegativity")]
    assert maximum == element_property_table()[ATOMIC_NUMBERS["O"], column]


def test_same_composition_gives_the_same_bits():
    batch = as_batch({"Ga": 1, "As": 1}, {"Fe": 2, "O": 3})
    assert torch.equal(composition_features(batch), composition_features(batch))


def test_an_empty_batch_has_features_of_width_f():
    empty = CompositionBatch(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3))
    assert composition_features(empty).shape == (0, len(feature_names()))
