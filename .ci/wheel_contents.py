"""Says whether a wheel holds packages and plugin whole and nothing else: ``wheel_contents.py numguard_torch-….whl``."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = "_numguard_pytest_plugin.py"


def main(wheel: str) -> int:
    """Compare a wheel with the work tree and return the exit code."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {PLUGIN}
    for root, name in ((ROOT, "numguard"), (ROOT / "kernels", "numguard_kernels")):
        files = (path for path in (root / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted |= {path.relative_to(root).as_posix() for path in files}
    for name in sorted(wanted - inside):
        print(f"not in the wheel: {name}")
    for name in sorted(inside - wanted):
        print(f"in the wheel, not in the package: {name}")
    print(f"{Path(wheel).name}: {len(inside)} files")
    return int(inside != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
