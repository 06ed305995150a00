"""Build the compiled parts: four Cython extensions and the cffi binding of libdevmapper.

Environment read here, nothing else:
  OMA_RELEASE=1   leave the fail-points of the crash tests out of the build
  OMA_SANITIZE=address, OMA_SANITIZE=thread
                  build the extensions under AddressSanitizer and UBSan (`make asan`), or ThreadSanitizer (`make tsan`)
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCE = Path("src/omavol")
RELEASE = bool(os.environ.get("OMA_RELEASE"))
SANITIZERS = {"address": "address,undefined", "thread": "thread"}.get(os.environ.get("OMA_SANITIZE", ""))

# Cython's own boilerplate (casts of METH_ tables, unused utility code) is excused by name;
# every other warning, ours included, is an error.
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-cast-function-type",
    "-Wno-missing-field-initializers",
    "-Wno-sign-compare",
]
SANITIZE = [f"-fsanitize={SANITIZERS}"] if SANITIZERS else []
OPTIMISE = ["-O1", "-g", "-fno-omit-frame-pointer", *SANITIZE] if SANITIZE else ["-O3", "-g1"]
MACROS: list[tuple[str, str | None]] = [
    ("_GNU_SOURCE", None),
    ("XXH_INLINE_ALL", None),
    ("CYTHON_WITHOUT_ASSERTIONS", None),
]
if RELEASE:
    MACROS.append(("OMA_RELEASE", None))


def extension(name: str, *more: str, libraries: tuple[str, ...] = ()) -> Extension:
    return Extension(
        f"omavol.{name}",
        [str(SOURCE / path) for path in (f"{name}.pyx", *more)],
        include_dirs=[str(SOURCE)],
        define_macros=MACROS,
        extra_compile_args=[*OPTIMISE, *WARNINGS, "-pthread"],
        extra_link_args=[*SANITIZE, "-pthread"],
        libraries=list(libraries),
        depends=[
            str(path)
            for pattern in ("*.pxd", "*.h", "wire/*.pxi", "channel/*.pxi", "store/*.pxi", "fastio/*.pxi", "fastio/*.h")
            for path in sorted(SOURCE.glob(pattern))
        ],
    )


EXTENSIONS = [
    extension("_wire"),
    extension("_channel", libraries=("ssl", "crypto")),
    extension("_store"),
    extension("_fastio", "fastio/digest_avx2.c"),
]

setup(
    ext_modules=cythonize(
        EXTENSIONS,
        include_path=["src"],
        nthreads=2,
        compiler_directives={
            "language_level": 3,
            "cdivision": True,
            "embedsignature": False,
            "binding": True,
        },
    ),
    cffi_modules=[f"{SOURCE}/_dm.py:ffibuilder"] if (SOURCE / "_dm.py").exists() else [],
)
