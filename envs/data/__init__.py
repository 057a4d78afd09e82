"""The table that travels with the package; README.md tells where it comes from."""
