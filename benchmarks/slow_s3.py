"""A local S3 server that answers late, as one that is far away, for other benchmarks.

    python -m benchmarks.slow_s3 PORT SECONDS

On loopback, in a process of its own; prints a line once it answers.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

BUCKET = "benchmark"


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    port, late_s = int(sys.argv[1]), float(sys.argv[2])
    app = DomainDispatcherApplication(create_backend_app)

    def late(environ, start_response):
        time.sleep(late_s)
        return app(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", port, late, threaded=True)
    print("listening", flush=True)
    server.serve_forever()


@contextlib.contextmanager
def started(late_s: float) -> Iterator[str]:
    """The place of an empty bucket, which this process finds until the end."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.slow_s3", str(port), str(late_s)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    values = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    values["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    before = dict(os.environ)
    os.environ.update(values)
    try:
        assert server.stdout is not None and server.stdout.readline() == "listening\n"
        urllib.request.urlopen(urllib.request.Request(f"{values['AWS_ENDPOINT_URL']}/{BUCKET}", method="PUT")).close()
        yield f"s3://{BUCKET}/runs"
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
