"""The live stream on a real server over TCP: what is written anywhere comes at once, once, and to whom it belongs."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from zqyy_ai.admin import live
from zqyy_ai.admin.access import CSRF_HEADER, SESSION_COOKIE
from zqyy_ai.admin.routes import live_stream
from zqyy_ai.domain.access import Role
from zqyy_ai.store import api_tokens, live_events
from zqyy_ai.store.alerts import Alert, AlertType, Severity, raise_alert
from zqyy_ai.store.database import Connection, Database
from zqyy_ai_tests.admin.callers import OTHER_SITE, SITE, Api
from zqyy_ai_tests.admin.live_clients import LONG_SECONDS, Server, Stream, open_stream, running_server

PATH = "/api/admin/ai/stream"


@pytest.fixture
def server(api: Api) -> Iterator[Server]:
    with running_server(api.services) as running:
        yield running


@pytest.fixture
def viewer(api: Api) -> str:
    return api.token(Role.VIEWER)


def publish(connection: Connection, number: int, site_id: int | None = SITE, event_type: str = "job_updated", **more: Any) -> None:
    live_events.publish(connection, event_type, site_id, {"number": number, **more})


def nothing_came(stream: Stream, connection: Connection) -> None:
    """Whatever was there came before this one."""
    publish(connection, -1)
    assert stream.next()["payload"] == {"number": -1}


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def end_listener(connection: Connection) -> int:
    """Cuts the hub's connection, as a restart of the database does."""
    return connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'zqyy_ai live'"
    ).rowcount


# What comes


def test_what_any_process_writes_is_there_within_a_second(server: Server, viewer: str, connection: Connection) -> None:
    with open_stream(server, viewer) as stream:
        for number in range(5):
            before = time.monotonic()
            publish(connection, number)
            told = stream.next()
            assert time.monotonic() - before < 1
            assert (told["type"], told["site_id"], told["payload"]) == ("job_updated", SITE, {"number": number})
            written_at = datetime.fromisoformat(told["created_at"])
            assert abs((datetime.now(UTC) - written_at).total_seconds()) < 60
            [row] = connection.execute("SELECT event_type FROM biz.ai_live_events WHERE id = %s", [told["id"]]).fetchall()
            assert row["event_type"] == told["type"]


def test_a_caller_hears_of_their_own_sites_alone(api: Api, server: Server, connection: Connection) -> None:
    with open_stream(server, api.token(Role.VIEWER, [SITE])) as stream:
        publish(connection, 1, OTHER_SITE)
        publish(connection, 2, None)
        publish(connection, 3, SITE)
        assert stream.numbers(1) == [3]
        nothing_came(stream, connection)


def test_one_site_and_some_types_can_be_asked_for(server: Server, viewer: str, connection: Connection) -> None:
    with open_stream(server, viewer, site_id=SITE, types="cache_updated, alert_created") as stream:
        publish(connection, 1)
        publish(connection, 2, OTHER_SITE, "cache_updated")
        publish(connection, 3, SITE, "cache_updated")
        publish(connection, 4, SITE, "alert_created")
        assert stream.numbers(2) == [3, 4]


def test_what_is_committed_late_comes_late_and_once(server: Server, viewer: str, database: Database, connection: Connection) -> None:
    with database.transaction() as slow, open_stream(server, viewer) as stream:
        publish(slow, 1)
        publish(connection, 2)
        assert stream.numbers(1) == [2]
        slow.execute("COMMIT")
        slow.execute("BEGIN")
        assert stream.numbers(1) == [1]
        nothing_came(stream, connection)


def test_who_comes_back_gets_what_they_missed_and_nothing_again(server: Server, viewer: str, connection: Connection) -> None:
    with open_stream(server, viewer) as stream:
        publish(connection, 1)
        assert stream.numbers(1) == [1]
    for number in (2, 3):
        publish(connection, number)
    with open_stream(server, viewer, last_event_id=stream.last_event_id) as again:
        assert again.numbers(2) == [2, 3]
        publish(connection, 4)
        assert again.numbers(1) == [4]


def test_who_comes_back_to_another_server_process_goes_on_there(api: Api, server: Server, viewer: str, connection: Connection) -> None:
    with running_server(api.services) as other:
        with open_stream(server, viewer) as stream:
            publish(connection, 1)
            assert stream.numbers(1) == [1]
        publish(connection, 2)
        with open_stream(other, viewer, last_event_id=stream.last_event_id) as again:
            assert again.numbers(1) == [2]
            nothing_came(again, connection)


def test_who_was_cut_off_within_a_batch_goes_on_in_it(server: Server, viewer: str, database: Database, connection: Connection) -> None:
    with open_stream(server, viewer) as stream:
        with database.transaction() as together:
            for number in (1, 2, 3, 4):
                publish(together, number)
        assert stream.numbers(2) == [1, 2]
    with open_stream(server, viewer, last_event_id=stream.last_event_id) as again:
        assert again.numbers(2) == [3, 4]
        nothing_came(again, connection)


def test_who_heard_nothing_yet_misses_nothing_either(server: Server, viewer: str, connection: Connection) -> None:
    with open_stream(server, viewer) as stream:
        pass
    publish(connection, 1)
    with open_stream(server, viewer, last_event_id=stream.last_event_id) as again:
        assert again.numbers(1) == [1]


@pytest.mark.parametrize("what", ["77", "x" * 20_000, "1@1:1:", "99999999999@1:9223372036854775807:", "{now}@1:9223372036854775807:", "🙂"])
def test_a_position_that_says_nothing_has_the_client_look_again(server: Server, viewer: str, connection: Connection, what: str) -> None:
    position = what.replace("{now}", str(int(time.time()))).encode().decode("latin-1")
    with open_stream(server, viewer, last_event_id=position) as stream:
        assert stream.next() == {"type": "reset"}
        publish(connection, 1)
        assert stream.numbers(1) == [1]


def test_who_missed_too_much_looks_again_and_hears_what_comes_then(
    server: Server, viewer: str, database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_stream, "_MOST_EVENTS_MISSED", 3)
    with open_stream(server, viewer) as stream:
        pass
    with database.transaction() as together:
        for number in range(4):
            publish(together, number)
    with open_stream(server, viewer, last_event_id=stream.last_event_id) as again:
        assert again.next() == {"type": "reset"}
        publish(connection, 5)
        assert again.numbers(1) == [5]
    with open_stream(server, viewer, last_event_id=again.last_event_id) as once_more:
        nothing_came(once_more, connection)


def test_a_burst_of_many_writers_with_clients_coming_and_going_reaches_everyone_once(
    server: Server, viewer: str, database: Database, connection: Connection
) -> None:
    writers, events = 4, 60

    def write(writer: int) -> None:
        for number in range(events):
            with database.transaction() as own:
                publish(own, writer * events + number)
                threading.Event().wait(0.002)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    came: list[int] = []
    with open_stream(server, viewer) as stream:
        position = stream.last_event_id
        for thread in threads:
            thread.start()
    while len(came) < writers * events:
        with open_stream(server, viewer, last_event_id=position) as stream:
            came += stream.numbers(min(17, writers * events - len(came)))
            position = stream.last_event_id
            if len(came) % 3 == 0:
                end_listener(connection)
    for thread in threads:
        thread.join()
    assert sorted(came) == list(range(writers * events))
    with open_stream(server, viewer, last_event_id=position) as stream:
        nothing_came(stream, connection)


# The database goes away


def test_a_lost_connection_costs_no_event(server: Server, viewer: str, connection: Connection) -> None:
    with open_stream(server, viewer) as stream:
        publish(connection, 0)
        assert stream.numbers(1) == [0]
        for number in range(1, 6):
            assert end_listener(connection) >= 1
            publish(connection, number)
            assert stream.numbers(1) == [number]
        nothing_came(stream, connection)


def test_what_was_written_while_nobody_listened_comes_with_the_next_connection(
    server: Server, viewer: str, database: Database, connection: Connection
) -> None:
    name = database.url.rpartition("/")[2]
    with open_stream(server, viewer) as stream, psycopg.connect(database.url.rpartition("/")[0] + "/postgres", autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        try:
            end_listener(connection)
            for number in range(3):
                publish(connection, number)
        finally:
            other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
        assert stream.numbers(3) == [0, 1, 2]
        nothing_came(stream, connection)


def test_numbers_that_a_crash_gave_to_others_are_looked_at_again(server: Server, viewer: str, connection: Connection) -> None:
    """The crash itself is played: rows appear under a transaction that the hub's last snapshot counts among the seen."""
    with open_stream(server, viewer) as stream:
        publish(connection, 1)
        told = stream.next()
        connection.execute(
            "INSERT INTO biz.ai_live_events (event_type, site_id, payload, transaction_id)"
            " SELECT event_type, site_id, '{\"number\": 2}', transaction_id FROM biz.ai_live_events WHERE id = %s",
            [told["id"]],
        )
        end_listener(connection)
        assert stream.numbers(1) == [2]
        nothing_came(stream, connection)


# Who watches


def test_without_a_token_there_is_no_stream(api: Api) -> None:
    for params in ({}, {"ticket": "x"}):
        answer = api.anonymous.get(PATH, params=params)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("role", [Role.READER, Role.INTERNAL])
def test_who_may_not_look_may_not_watch(api: Api, role: Role) -> None:
    assert api.caller(role).get(PATH).status_code == 403
    assert api.caller(role).post(f"{PATH}/ticket").status_code == 403


def test_another_site_is_not_there(api: Api) -> None:
    caller = api.caller(Role.VIEWER, [SITE])
    assert caller.get(PATH, params={"site_id": OTHER_SITE}).status_code == 404
    assert caller.get(PATH, params={"site_id": OTHER_SITE}).json()["code"] == caller.get(PATH, params={"site_id": 99}).json()["code"]


@pytest.mark.parametrize("params", [{"types": "x"}, {"types": ""}, {"types": "job_updated,"}, {"site_id": 0}, {"site_id": 2**63}])
def test_what_cannot_be_asked_for_is_said(api: Api, params: dict[str, Any]) -> None:
    answer = api.caller(Role.VIEWER).get(PATH, params=params)
    assert answer.status_code == 422
    if params.get("types") == "x":
        assert "prewarm_progress" in answer.json()["detail"]


def test_a_ticket_opens_one_stream(api: Api, server: Server, connection: Connection) -> None:
    issued = api.caller(Role.VIEWER, [SITE]).post(f"{PATH}/ticket").json()
    lifetime = datetime.fromisoformat(issued["expires_at"]) - datetime.now(UTC)
    assert 50 < lifetime.total_seconds() <= 61
    assert all(issued["ticket"] not in row["row"] for row in connection.execute("SELECT t::text AS row FROM biz.ai_stream_tickets t"))
    with open_stream(server, ticket=issued["ticket"]) as stream:
        publish(connection, 1, OTHER_SITE)
        publish(connection, 2)
        assert stream.numbers(1) == [2]
    assert api.anonymous.get(PATH, params={"ticket": issued["ticket"]}).status_code == 401


def test_a_ticket_that_is_over_or_whose_token_was_revoked_opens_none(api: Api, connection: Connection) -> None:
    caller = api.caller(Role.VIEWER)
    over, revoked = (caller.post(f"{PATH}/ticket").json()["ticket"] for _ in range(2))
    connection.execute(
        "UPDATE biz.ai_stream_tickets SET expires_at = clock_timestamp() WHERE ticket_hash = sha256(%s::bytea)", [over.encode()]
    )
    assert api.anonymous.get(PATH, params={"ticket": over}).status_code == 401
    connection.execute("UPDATE biz.ai_api_tokens SET revoked_at = now()")
    assert api.anonymous.get(PATH, params={"ticket": revoked}).status_code == 401


def test_the_consoles_cookie_opens_a_stream_which_ends_with_the_login(
    api: Api, server: Server, viewer: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_CREDENTIALS_SECONDS", 0.1)
    login = api.anonymous.post("/api/session", json={"token": viewer}).json()
    cookie = api.anonymous.cookies[SESSION_COOKIE]
    issued = api.anonymous.post(f"{PATH}/ticket", headers={CSRF_HEADER: login["csrf_token"]}).json()
    headers = {"Cookie": f"{SESSION_COOKIE}={cookie}", "Origin": server.url}
    with (
        open_stream(server, ticket=issued["ticket"]) as by_ticket,
        connect(f"{server.websocket_url}/ws/ai-alerts/{SITE}", additional_headers=headers) as by_cookie,
        open_stream(server, viewer) as by_token,
    ):
        api.anonymous.delete("/api/session", headers={CSRF_HEADER: login["csrf_token"]})
        by_ticket.wait_for_end()
        with pytest.raises(ConnectionClosed):
            by_cookie.recv(LONG_SECONDS)
        nothing_came(by_token, connection)


def test_a_revoked_tokens_streams_end(
    api: Api, server: Server, viewer: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert live._CREDENTIALS_SECONDS + live._FALLBACK_SECONDS < 60
    monkeypatch.setattr(live, "_CREDENTIALS_SECONDS", 0.1)
    other = api.token(Role.VIEWER, name="小王")
    with open_stream(server, viewer) as stream, open_stream(server, other) as others, alerts_of(server, viewer) as alerts:
        [stored] = [stored for stored in api_tokens.list_tokens(connection) if stored.name == "小李"]
        api_tokens.revoke(connection, stored.id)
        stream.wait_for_end()
        with pytest.raises(ConnectionClosed) as closed:
            alerts.recv(LONG_SECONDS)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
        nothing_came(others, connection)
    wait_until(lambda: server.hub.streams == 0)


# Who does not read


def _open_and_never_read(server: Server, token: str, path: str, headers: str = "") -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n".encode())
    assert client.recv(12) in {b"HTTP/1.1 200", b"HTTP/1.1 101"}
    return client


WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"


@pytest.mark.parametrize(
    ("path", "headers", "most_waiting"), [(PATH, "", 2_000), (PATH, "", 40), (f"/ws/ai-alerts/{SITE}", WEBSOCKET, 2_000)]
)
def test_a_client_that_never_reads_is_let_go_and_delays_nobody(
    server: Server, viewer: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, path: str, headers: str, most_waiting: int
) -> None:
    """By what it leaves unread on the wire, or by what waits for it."""
    monkeypatch.setattr(live_stream, "_SEND_SECONDS", 0.5 if most_waiting == 2_000 else 60.0)
    monkeypatch.setattr(live, "_MOST_EVENTS_WAITING", most_waiting)
    with _open_and_never_read(server, viewer, path, headers), open_stream(server, viewer) as reader:
        wait_until(lambda: server.hub.streams == 2)
        slowest = 0.0
        for number in range(1_000):
            before = time.monotonic()
            publish(connection, number, SITE, "alert_created", text="x" * 8_000)
            assert reader.numbers(1) == [number]
            slowest = max(slowest, time.monotonic() - before)
            if server.hub.streams == 1:
                break
        assert slowest < 1
        wait_until(lambda: server.hub.streams == 1)


def test_a_client_that_leaves_is_forgotten(server: Server, viewer: str) -> None:
    with open_stream(server, viewer), alerts_of(server, viewer):
        assert server.hub.streams == 2
    wait_until(lambda: server.hub.streams == 0)


def test_streams_are_bounded(server: Server, viewer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST_STREAMS", 1)
    with open_stream(server, viewer), pytest.raises(AssertionError, match="too_many_streams"), open_stream(server, viewer):
        pass


# Alerts over a WebSocket


def alerts_of(server: Server, token: str | None, site_id: object = SITE, query: str = "", **headers: str) -> ClientConnection:
    given = ({"Authorization": f"Bearer {token}"} if token else {}) | headers
    return connect(f"{server.websocket_url}/ws/ai-alerts/{site_id}{query}", additional_headers=given)


def test_a_sites_alerts_come_as_the_front_end_knows_them(server: Server, viewer: str, connection: Connection) -> None:
    with alerts_of(server, viewer) as alerts:
        publish(connection, 1)
        publish(connection, 2, OTHER_SITE, "alert_created")
        alert = Alert(AlertType.FAILED, "App3 调用失败", SITE, "app3_clue", log_id=77)
        raise_alert(connection, alert)
        raise_alert(connection, replace(alert, severity=Severity.CRITICAL))
        created, updated = (json.loads(alerts.recv(LONG_SECONDS)) for _ in range(2))
        assert (created["type"], created["site_id"]) == ("alert_created", SITE)
        payload = created["payload"]
        assert (payload["app_type"], payload["alert_type"], payload["message"], payload["log_id"]) == (
            "app3_clue",
            "failed",
            "App3 调用失败",
            77,
        )
        assert (updated["type"], updated["payload"]["alert_id"]) == ("alert_updated", payload["alert_id"])


@pytest.mark.parametrize(
    ("token", "site_id", "query", "status"),
    [
        (None, SITE, "", 401),
        ("zqyy_x", SITE, "", 401),
        (None, SITE, "?ticket=x", 401),
        ("of one site", OTHER_SITE, "", 404),
        ("of one site", 2**63, "", 403),
        ("of one site", "x", "", 403),
        ("reader", SITE, "", 403),
    ],
)
def test_who_may_not_is_refused_before_the_handshake(
    api: Api, server: Server, token: str | None, site_id: object, query: str, status: int
) -> None:
    tokens = {"of one site": api.token(Role.VIEWER, [SITE]), "reader": api.token(Role.READER)}
    with pytest.raises(InvalidStatus) as refused:
        alerts_of(server, tokens.get(token, token) if token else None, site_id, query)
    assert refused.value.response.status_code == status


def test_a_ticket_opens_one_websocket(api: Api, server: Server, connection: Connection) -> None:
    ticket = api.caller(Role.VIEWER).post(f"{PATH}/ticket").json()["ticket"]
    with alerts_of(server, None, query=f"?ticket={ticket}") as alerts:
        publish(connection, 1, SITE, "alert_created")
        assert '"number": 1' in str(alerts.recv(LONG_SECONDS))
    with pytest.raises(InvalidStatus):
        alerts_of(server, None, query=f"?ticket={ticket}")


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_cannot_use_the_consoles_cookie(api: Api, server: Server, viewer: str, origin: str | None) -> None:
    api.anonymous.post("/api/session", json={"token": viewer})
    headers = {"Cookie": f"{SESSION_COOKIE}={api.anonymous.cookies[SESSION_COOKIE]}"} | ({"Origin": origin} if origin else {})
    with pytest.raises(InvalidStatus) as refused:
        alerts_of(server, None, **headers)
    assert refused.value.response.status_code == 401
