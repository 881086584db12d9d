"""What the build adds to the package: the library in C++, built by CMake (rarememory/native).

An editable install gets it in the folder of the sources, where `make native` builds it too.
"""

import os
import shutil
import subprocess
import tempfile
from typing import Any

from scikit_build_core.hatch.plugin import ScikitBuildHook


class NativeHook(ScikitBuildHook):
    """Builds the library for a wheel, or in place for an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel" and version == "editable":
            # scikit-build-core's own editable install hides a package that PYTHONPATH names.
            self.build_in_place()
        else:
            super().initialize(version, build_data)

    def build_in_place(self) -> None:
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        with tempfile.TemporaryDirectory() as folder:
            for command in (
                ["cmake", "-S", "rarememory/native", "-B", folder, *generator],
                ["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1)],
                ["cmake", "--install", folder, "--prefix", "."],
            ):
                subprocess.run(command, cwd=self.root, check=True)


def get_build_hook() -> type[NativeHook]:
    """The one of the two hooks in this file that is meant."""
    return NativeHook
