"""What a material is worth: features, property models, data tables."""

from surrogates.band_gap import BandGapModel
from surrogates.base import Label, Oracle, Prediction, Surrogate
from surrogates.datasets import Dataset, load_dataset
from surrogates.distribution import PropertyDistribution
from surrogates.properties import PROPERTIES, Property, SurrogateProperty, evaluate_properties

__all__ = [
    "PROPERTIES",
    "BandGapModel",
    "Dataset",
    "Label",
    "Oracle",
    "Prediction",
    "Property",
    "PropertyDistribution",
    "Surrogate",
    "SurrogateProperty",
    "evaluate_properties",
    "load_dataset",
]
