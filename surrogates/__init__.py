"""What a material is worth: features, property models, oracles, hull, data tables."""

from surrogates.band_gap import BandGapModel
from surrogates.base import Label, Oracle, Prediction, Surrogate
from surrogates.crystal_energy import CrystalEnergyModel
from surrogates.crystal_graph import CrystalGraphModel
from surrogates.datasets import Dataset, load_dataset
from surrogates.distribution import PropertyDistribution
from surrogates.energy import EnergyModel
from surrogates.graph import GraphModel
from surrogates.hull import ReferenceHull
from surrogates.materials_project import load_materials_project
from surrogates.oracle import CHGNetOracle, FunctionOracle, MatGLOracle, RelaxationOracle, TableOracle
from surrogates.properties import PROPERTIES, Property, SurrogateProperty, evaluate_properties
from surrogates.reference_table import ReferenceTable, load_reference_table, read_reference_table
from surrogates.structure_funnel import FunnelOptions, StructureFunnel
from surrogates.volume_scan_oracle import VolumeScanOracle

__all__ = [
    "PROPERTIES",
    "BandGapModel",
    "CHGNetOracle",
    "CrystalEnergyModel",
    "CrystalGraphModel",
    "Dataset",
    "EnergyModel",
    "FunctionOracle",
    "FunnelOptions",
    "GraphModel",
    "Label",
    "MatGLOracle",
    "Oracle",
    "Prediction",
    "Property",
    "PropertyDistribution",
    "ReferenceHull",
    "ReferenceTable",
    "RelaxationOracle",
    "StructureFunnel",
    "Surrogate",
    "SurrogateProperty",
    "TableOracle",
    "VolumeScanOracle",
    "evaluate_properties",
    "load_dataset",
    "load_materials_project",
    "load_reference_table",
    "read_reference_table",
]
