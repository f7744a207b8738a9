"""Leases: what a worker process holds (claims, call slots, reservations, jobs, an open event run) and keeps by its heartbeat.

One worker id a process; a renewal that comes too late is not undone: whoever took a lease over has changed the row's owner.
"""

from datetime import timedelta
from uuid import UUID

from zqyy_ai.store.database import Connection
from zqyy_ai.store.queries import named_queries


def renew(connection: Connection, worker_id: UUID, lease: timedelta) -> None:
    """Extends everything that the worker holds by `lease` from now.

    Not in one transaction: it would hold some of the rows while it waits for others, and so do those that it would wait for.
    """
    for statement in ("renew_jobs", "renew_claims", "renew_slots", "renew_reservations", "renew_event_runs"):
        connection.execute(named_queries("leases")[statement], {"worker_id": worker_id, "lease": lease})


def workers_of_run(connection: Connection, run_id: str) -> list[UUID]:
    return [row["worker_id"] for row in connection.execute(named_queries("leases")["workers_of_run"], {"run_id": run_id})]


def free_expired(connection: Connection) -> None:
    """Frees claims and slots whose lease is over, whoever held them: nobody may ever ask for the same target or slot again."""
    connection.execute(named_queries("leases")["drop_expired_claims"])
    connection.execute(named_queries("leases")["free_expired_slots"])


def free_all(connection: Connection, worker_id: UUID) -> None:
    """Frees the claims and slots of a worker that is known to be dead; its reservations are the budget guard's to end."""
    connection.execute(named_queries("leases")["drop_claims"], {"worker_id": worker_id})
    connection.execute(named_queries("leases")["free_slots"], {"worker_id": worker_id})
