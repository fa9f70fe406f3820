"""Importing the package stays light."""

import subprocess
import sys


def test_importing_the_package_loads_no_heavy_package() -> None:
    code = "import sys, tf_requant; print(sorted({'tensorflow', 'apache_beam', 'matplotlib', 'jsonschema', 'PIL', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_requantizing_with_a_built_in_target_loads_no_heavy_package() -> None:
    code = (
        "import sys, tf_requant; from tf_requant.sample import model_path; "
        "tf_requant.requantize(model_path(), 'nna_sym8_pow2').model_bytes; "
        "print(sorted({'tensorflow', 'apache_beam', 'matplotlib', 'jsonschema', 'PIL'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    import tf_requant

    assert [name for name in tf_requant.__all__ if getattr(tf_requant, name, None) is None] == []
