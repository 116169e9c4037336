"""A whole service on the servers that tests share: database, topics, groups and transactions have names of its own."""

from typing import Any
from uuid import uuid4

from service.local.stack import Stack

__all__ = ["SharedStack"]


class SharedStack(Stack):
    """A stack that starts its processes alone; `database_uri` and `kafka_brokers` are among its settings."""

    def __init__(self, overrides: dict[str, Any], **more: Any) -> None:
        name = uuid4().hex[:8]
        own = {
            "alert_topic": f"alerts-{name}", "visit_topic": f"visits-{name}", "ingest_group": f"ingest-{name}",
            "transactional_id": f"relay-{name}",
        }  # fmt: skip
        super().__init__({**own, **overrides}, **more)

    def start_servers(self) -> dict[str, Any]:
        """Start nothing: the servers run."""
        return {}
