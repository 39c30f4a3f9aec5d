"""Files and functions stay small, and modules bear honest names."""

import statistics

import pytest

from tests.house.source_tree import PRODUCT, Function, num_function_lines, sources

FILE_CAP, FUNCTION_CAP, KERNEL_CAP, MEDIAN_CAP = 500, 80, 150, 160
DRAWERS = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "core", "manager", "base", "stuff", "lib"})


def test_no_file_is_long() -> None:
    long = {str(source.path): source.num_lines for source in sources() if source.num_lines > FILE_CAP}
    assert long == {}


def test_no_function_is_long() -> None:
    long = {
        f"{source.path}:{function.name}": num_function_lines(function)
        for source in sources()
        for function in source.functions()
        if num_function_lines(function) > (KERNEL_CAP if source.folder == "kernels" else FUNCTION_CAP)
    }
    assert long == {}


@pytest.mark.parametrize("folders", [("numguard",), ("tests",)])
def test_files_are_short_on_the_whole(folders: tuple[str, ...]) -> None:
    lengths = [source.num_lines for source in sources(*folders) if source.path.name != "__init__.py"]
    assert statistics.median(lengths) <= MEDIAN_CAP


def test_no_module_is_a_drawer() -> None:
    named = [str(source.path) for source in sources() if source.path.stem.strip("_") in DRAWERS]
    drawers = [str(source.path) for source in sources() if DRAWERS.intersection(source.path.parent.parts)]
    assert named + drawers == []


def test_no_module_bears_the_name_of_a_function_in_it() -> None:
    same = [
        str(source.path)
        for source in sources(*PRODUCT)
        if source.path.stem in {node.name for node in source.tree.body if isinstance(node, Function)}
    ]
    assert same == []


def test_no_python_file_lies_directly_in_kernels() -> None:
    """One there makes the folder shadow the distribution of the same name from the repository's root."""
    assert [str(source.path) for source in sources("kernels") if len(source.path.parts) == 2] == []
