"""What is public is listed, importable, and the same to a type checker and at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import vnet

SOURCE = Path(vnet.__file__)


def names_for_type_checkers() -> set[str]:
    tree = ast.parse(SOURCE.read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_everything_listed_can_be_imported():
    assert vnet.__all__ == sorted(vnet.__all__)
    for name in vnet.__all__:
        assert getattr(vnet, name).__module__.startswith("vnet."), name


def test_type_checkers_see_the_same_names():
    assert names_for_type_checkers() == set(vnet.__all__)
    assert set(dir(vnet)) == set(vnet.__all__)


def test_a_wrong_name_is_an_attribute_error():
    assert not hasattr(vnet, "Labb")


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, vnet; print(*(name for name in ('trio', 'msgspec', 'yaml', 'networkx') if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_importing_the_plugin_imports_nothing_heavy():
    heavy = "('trio', 'msgspec', 'hypothesis')"
    program = f"import sys, vnet.testing.plugin; print(*(name for name in {heavy} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == ""
