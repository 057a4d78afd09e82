import subprocess
import sys


def test_importing_surrogates_loads_no_heavy_package():
    heavy = ("sklearn", "scipy.stats", "matgl", "botorch", "gpytorch", "chgnet", "matcalc")
    code = f"import sys, surrogates; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
