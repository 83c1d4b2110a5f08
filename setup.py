"""Builds the extension: CMake configures, ninja compiles, CMake installs into the package.

pip calls this; `make` calls `python setup.py build_ext --inplace`. The build directory is kept, so
a second build compiles only what changed. Environment:
  ACCEL_BUILD_DIR    the build directory (default: build/cmake)
  ACCEL_BUILD_TESTS  1 builds the C++ tests as well
  MAX_JOBS           how many compilers at once (default: the number of cores)
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# CMake asks Python where torch is; importing it must not load an older build of this very package.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
# With paths relative to the source tree, ccache serves another clone too; the sloppiness is what it
# needs to work with precompiled headers.
os.environ.setdefault("CCACHE_BASEDIR", str(ROOT))
os.environ.setdefault("CCACHE_NOHASHDIR", "1")
os.environ.setdefault("CCACHE_SLOPPINESS", "pch_defines,time_macros")


def build_directory() -> Path:
    if "ACCEL_BUILD_DIR" in os.environ:
        return Path(os.environ["ACCEL_BUILD_DIR"]).resolve()
    # Under build isolation torch's headers lie in a temporary folder: every command line changes,
    # and one directory for both kinds of build would rebuild everything each time.
    import torch

    isolated = not Path(torch.__file__).is_relative_to(sys.prefix)
    return ROOT / "build" / ("isolated" if isolated else "cmake")


class CMakeBuild(build_ext):
    """Installs torch_accel/_C and the library it needs, whatever setuptools asks for."""

    def build_extension(self, extension: Extension) -> None:
        import pybind11

        package = Path(self.get_ext_fullpath(extension.name)).resolve().parent
        directory = build_directory()
        tests = os.environ.get("ACCEL_BUILD_TESTS") == "1"
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        cmake = shutil.which("cmake")
        if cmake is None:
            sys.exit("torch_accel: CMake 3.22 or newer is needed and was not found")

        def run(*command: str) -> None:
            subprocess.run(command, check=True)

        run(
            *(cmake, "-S", str(ROOT), "-B", str(directory), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_MAKE_PROGRAM={ninja()}",
            f"-DACCEL_BUILD_TESTS={'ON' if tests else 'OFF'}",
        )
        targets = ["all"] if tests else ["accel", "_C"]
        run(cmake, "--build", str(directory), "--parallel", jobs, "--target", *targets)
        run(cmake, "--install", str(directory), "--prefix", str(package.parent))

    def copy_extensions_to_source(self) -> None:
        """For --inplace: setuptools copies the module, but not the library that it needs."""
        super().copy_extensions_to_source()
        library = Path("torch_accel") / "libtorch_accel.so"
        (ROOT / library).unlink(missing_ok=True)  # a process may have the old one mapped
        shutil.copy2(Path(self.build_lib) / library, ROOT / library)


def ninja() -> str:
    """PyPI's ninja where it is installed, else the system's."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        return shutil.which("ninja") or sys.exit("torch_accel: ninja is needed: pip install ninja")
    return str(Path(BIN_DIR) / "ninja")


setup(
    ext_modules=[Extension("torch_accel._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=[] if shutil.which("cmake") else ["cmake>=3.22"],
)
