"""The tables and fitted weights that travel with the package; README.md tells where each comes from."""
