"""`python -m relais_common.runtime.probe API_PORT`: checks whether this container's service is ready (HEALTHCHECK).

The images have no curl. The probe requests `/readyz` at the port that the named setting holds, and exits with 0 or 1;
`docker inspect` keeps its output.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence

TIMEOUT_S = 4.0


def probe(arguments: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Return an exit code, and the reason."""
    if len(arguments) != 1 or not env.get(arguments[0], "").isdigit():
        return (
            2,
            "usage: python -m relais_common.runtime.probe SETTING, where SETTING holds the port",
        )
    connection = http.client.HTTPConnection("127.0.0.1", int(env[arguments[0]]), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        said = response.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 1, f"no answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return (0 if response.status == 200 else 1), said


def main() -> None:
    """Ask a health route; exit with 0 if it answers well."""
    code, said = probe(sys.argv[1:], os.environ)
    sys.stdout.write(f"{said}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
