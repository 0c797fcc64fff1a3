"""Starts `tritonserver` with one model of the Python backend."""

import os
import pathlib
import shutil
import sys
import sysconfig
import tempfile

from repository import lay_down
from settings import HOST, from_arguments
from supervisor import answers, supervise

# The version of tritonserver; the package that holds it is numbered in its own way.
VERSION = "2.51.0"
PACKAGES = pathlib.Path(sysconfig.get_path("purelib"))
SERVER = PACKAGES / "pytriton/tritonserver"

REQUESTS_KEPT = 1_024
SHARED_MEMORY_BYTES = 128 << 20


def main() -> None:
    settings = from_arguments("triton", keeps_state=True)
    model, grpc, http = settings.contract.name, settings.port, settings.port + 1
    repository = pathlib.Path(tempfile.mkdtemp(prefix="triton-", dir=pathlib.Path(sys.prefix).parent))
    try:
        lay_down(settings, repository)
        supervise(
            [
                str(SERVER / "bin/tritonserver"),
                f"--model-repository={repository}",
                f"--backend-directory={SERVER / 'backends'}",
                *(f"--grpc-address={HOST}", f"--grpc-port={grpc}"),
                *(f"--http-address={HOST}", f"--http-port={http}"),
                "--allow-metrics=false",
                # Several servers may run side by side, each with its own region of shared memory.
                f"--backend-config=python,shm-region-prefix-name=triton-{grpc}-",
                # More than are ever in flight: what is above the default of 8 is freed after its answer, and with streams some of it is
                # used once more after that, which ends the server with SIGSEGV.
                f"--grpc-infer-allocation-pool-size={REQUESTS_KEPT}",
                # Enough for everything in flight, so that the region never has to grow under load.
                f"--backend-config=python,shm-default-byte-size={SHARED_MEMORY_BYTES}",
                # A stream that a client has left open must not delay the end.
                "--exit-timeout-secs=5",
                "--log-info=false",
            ],
            environment=settings.environment()
            | {
                # The backend takes the environment of the first `python3` that it finds.
                "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
                "LD_LIBRARY_PATH": str(PACKAGES / "nvidia_pytriton.libs"),
            },
            is_ready=lambda: answers(http, f"/v2/models/{model}/ready"),
            ready=f"grpc={HOST}:{grpc} http={HOST}:{http} version={VERSION}",
        )
    finally:
        shutil.rmtree(repository)


if __name__ == "__main__":
    main()
