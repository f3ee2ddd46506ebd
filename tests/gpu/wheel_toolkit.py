"""A CUDA toolkit to build with, made from NVIDIA's Python wheels.

    python wheel_toolkit.py FOLDER CUDA_VERSION

Leaves it in FOLDER/nvidia/cu13. What is already there is not fetched again. Three things keep the
wheels from being a toolkit as they come, and are mended here:

- they carry libraries under versioned names only, and the linker asks for plain ones;
- build scripts look in `lib64`, the wheels have `lib`;
- the driver's library, libcuda, is in no wheel. A stub that has its name and its symbols is
  enough to link with; the driver of the running machine brings the real one.
"""

import json
import pathlib
import re
import subprocess
import sys

# The first list carries CUDA's version; cuRAND counts its own.
WHEELS = ["cuda-nvcc", "nvvm", "cuda-crt", "cuda-runtime", "cuda-cccl", "cuda-nvrtc", "cublas"]
CURAND = "nvidia-curand==10.4.*"


def install(folder, version):
    wanted = [f"nvidia-{name}=={version}.*" for name in WHEELS] + [CURAND]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *wanted], check=True)


def link_plain_names(library):
    for versioned in sorted(library.glob("lib*.so.*")):
        plain = library / (versioned.name.split(".so.")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(versioned.name)
    lib64 = library.parent / "lib64"
    if not lib64.exists():
        lib64.symlink_to("lib")


def cudarc_source():
    """The folder of the cudarc crate that Cargo.lock pins; its bindings name the driver's functions."""
    command = ["cargo", "metadata", "--format-version=1", "--features=cuda", "--locked"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    manifest = next(p["manifest_path"] for p in metadata["packages"] if p["name"] == "cudarc")
    return pathlib.Path(manifest).parent


def build_driver_stub(folder):
    bindings = (cudarc_source() / "src/driver/sys/mod.rs").read_text()
    names = sorted(set(re.findall(r"\bfn (cu[A-Z]\w*)\s*\(", bindings)))
    folder.mkdir(exist_ok=True)
    source = folder / "libcuda_stub.c"
    source.write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in names))
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so", source]
    subprocess.run(command, check=True)
    print(f"libcuda stub: {len(names)} functions")


def main():
    folder, version = pathlib.Path(sys.argv[1]), sys.argv[2]
    root = folder / "nvidia" / "cu13"
    if not (root / "bin" / "nvcc").exists():
        install(folder, version)
    link_plain_names(root / "lib")
    if not (root / "lib" / "stubs" / "libcuda.so").exists():
        build_driver_stub(root / "lib" / "stubs")


main()
