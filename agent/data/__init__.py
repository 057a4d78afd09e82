"""Files that travel with the package: the default prior and the template of the report."""
