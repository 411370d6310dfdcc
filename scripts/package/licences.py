#!/usr/bin/env python3
"""Collects the licences of everything in a package: crates, ONNX Runtime, libtorch, NVIDIA's libraries.

    licences.py plan|cpu|cuda FOLDER
"""

import json
import pathlib
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = pathlib.Path(sysconfig.get_path("purelib"))
NAMES = ("license", "licence", "copying", "notice", "copyright", "unlicense")


def texts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files in a folder that hold a licence."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(NAMES))


def crates(features: list[str]) -> list[dict]:
    """The packages that are linked into the program."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu", *features]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    wanted, open_ = set(), [told["resolve"]["root"]]
    while open_:
        name = open_.pop()
        if name not in wanted:
            wanted.add(name)
            is_linked = lambda dependency: any(kind["kind"] is None for kind in dependency["dep_kinds"])
            open_ += [dependency["pkg"] for dependency in nodes[name]["deps"] if is_linked(dependency)]
    return sorted((package for package in told["packages"] if package["id"] in wanted), key=lambda package: package["name"])


def of_crates(features: list[str]) -> str:
    parts, kept = [], {}
    for package in crates(features):
        if package["name"] == "gelora":
            continue
        said = package["license"] or f"see {package['license_file']}"
        parts.append(f"{package['name']} {package['version']}: {said}")
        for path in texts(pathlib.Path(package["manifest_path"]).parent):
            text = path.read_text(errors="replace").strip()
            kept.setdefault(text, []).append(f"{package['name']} {package['version']} ({path.name})")
    for text, owners in kept.items():
        parts.append("\n" + "=" * 100 + "\n" + "\n".join(owners) + "\n\n" + text)
    return "\n".join(parts) + "\n"


def main() -> None:
    kind, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    features = ["--no-default-features", "--features", "parquet"] if kind == "plan" else []
    (folder / "crates.txt").write_text(of_crates(features))
    copies = {ROOT / "LICENSE-MIT": "gelora-MIT.txt", ROOT / "LICENSE-APACHE": "gelora-APACHE.txt",
              PACKAGES / "onnxruntime" / "LICENSE": "onnxruntime.txt",
              PACKAGES / "onnxruntime" / "ThirdPartyNotices.txt": "onnxruntime-third-party.txt"}
    if kind != "plan":
        owners = ["torch", "nvidia_cuda_runtime", "nvidia_cuda_cupti"]
        if kind == "cuda":
            owners += sorted({path.name.rsplit("-", 1)[0] for path in PACKAGES.glob("nvidia_*.dist-info")} - set(owners))
        for owner in owners:
            found = sorted(PACKAGES.glob(f"{owner}-*.dist-info"))
            files = [path for info in found for path in sorted(info.rglob("*")) if path.is_file() and path.name.lower().startswith(NAMES)]
            if not files:
                sys.exit(f"licences: no licence of {owner} in {PACKAGES}")
            copies |= {path: f"{owner}-{path.name}{'' if path.suffix else '.txt'}" for path in files}
    for source, name in copies.items():
        if not source.is_file():
            sys.exit(f"licences: {source} is not there: remove .venv and run ./scripts/setup.sh")
        (folder / name).write_bytes(source.read_bytes())


if __name__ == "__main__":
    main()
