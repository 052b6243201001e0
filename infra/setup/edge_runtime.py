"""Fetch onnxruntime-web, with which the console reranks on the device, from npm: `make edge-runtime`.

Its WebAssembly has 14 MB, so it is not in the repository (ADR 29). The package is pinned by npm's own checksum; two of
its files are kept. Nothing is downloaded when the API runs.
"""

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from recsys.files import staged_folder

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
FOLDER = Path(__file__).parents[2] / "serving" / "web" / "vendor" / f"onnxruntime-web-{VERSION}"


def main() -> None:
    if FOLDER.is_dir():
        return
    unpack(download(), FOLDER)


def download() -> bytes:
    """The package as published, by npm, which knows this machine's proxy and mirror. Ends the process without it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            pack = ["npm", "pack", PACKAGE, "--silent", "--fetch-retries=0", "--pack-destination", folder]
            subprocess.run(pack, capture_output=True, text=True, timeout=60, check=True)
            return next(Path(folder).glob("*.tgz")).read_bytes()
        except FileNotFoundError:
            why = "there is no npm here"
        except subprocess.TimeoutExpired:
            why = "npm does not answer"
        except subprocess.CalledProcessError as error:
            why = error.stderr.strip()[-300:]
    sys.exit(f"{PACKAGE} is not downloaded ({why}); without it the console keeps the server's order")


def unpack(package: bytes, folder: Path) -> None:
    """Write `FILES` of the package. Ends the process if it is not the pinned one."""
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != SHA512:
        sys.exit(f"{PACKAGE}: its SHA-512 is not the pinned one; nothing was written")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive, staged_folder(folder) as staging:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # noqa: S101 - the checksum says that it is there
            (staging / name).write_bytes(member.read())


if __name__ == "__main__":
    main()
