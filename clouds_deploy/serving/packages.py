"""The packages that serving needs beside the others."""

from __future__ import annotations

from importlib.util import find_spec

from clouds_deploy.errors import CloudsError

PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""What each module is called on PyPI."""


def require_packages() -> None:
    """Check that they are installed; Starlette itself misses one of them only when a form comes in.

    Raises:
        CloudsError: One is not.
    """
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise CloudsError(f"serving needs {', '.join(missing)}", 'pip install "clouds-deploy[serve]"')
