"""Programs of Debian that tests need, and that pip cannot install."""

import os
import shutil
import subprocess


def installed(program: str, package: str) -> str:
    """Return where a program is, once its package has been installed if need be."""
    path = shutil.which(program)
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_get("update", "-qq")
        _apt_get("install", "-qq", "-y", "--no-install-recommends", package)
        path = shutil.which(program)
    if path is None:
        raise RuntimeError(
            f"{program} was not found, which this test runs; install it: on Debian, "
            f"`apt-get install {package}`"
        )
    return path


def _apt_get(*command: str) -> None:
    done = subprocess.run(
        ["apt-get", *command],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"apt-get {' '.join(command)} failed:\n{done.stdout}")
