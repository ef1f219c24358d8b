"""Environment variables that Kubernetes sets in a pod."""

from __future__ import annotations


def services(*names: str) -> dict[str, str]:
    """The variables for Services with two ports, of which one has a name."""
    variables: dict[str, str] = {}
    for name in names:
        prefix = name.upper().replace("-", "_")
        variables |= {
            f"{prefix}_SERVICE_HOST": "10.0.0.1",
            f"{prefix}_SERVICE_PORT": "9090",
            f"{prefix}_SERVICE_PORT_GCS_SERVER": "6379",
            f"{prefix}_PORT": "tcp://10.0.0.1:9090",
        }
        for port, protocol in ((9090, "TCP"), (53, "UDP")):
            variables |= {
                f"{prefix}_PORT_{port}_{protocol}": f"{protocol.lower()}://10.0.0.1:{port}",
                f"{prefix}_PORT_{port}_{protocol}_PROTO": protocol.lower(),
                f"{prefix}_PORT_{port}_{protocol}_PORT": str(port),
                f"{prefix}_PORT_{port}_{protocol}_ADDR": "10.0.0.1",
            }
    return variables
