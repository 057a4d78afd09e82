"""torchgfn is imported once, with the deprecation warnings of the libraries that it imports in turn silenced."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch_geometric, which torchgfn imports, still calls torch.jit.script
    import gfn.gflownet
    import gfn.samplers  # noqa: F401
