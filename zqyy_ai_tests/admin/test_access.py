"""Tokens, sessions and roles: who gets in, and what a failure tells."""

import psycopg
import pytest

from zqyy_ai.admin.access import CSRF_HEADER, SESSION_COOKIE
from zqyy_ai.domain.access import Role
from zqyy_ai.store import api_tokens
from zqyy_ai.store.database import Connection
from zqyy_ai_tests.admin.callers import SITE, Api


def test_a_token_says_who_it_stands_for(api: Api) -> None:
    answer = api.caller(Role.OPERATOR, [SITE], "值班").get("/api/session")
    assert answer.status_code == 200
    assert answer.json() == {"name": "值班", "role": "operator", "site_ids": [SITE], "csrf_token": "", "expires_at": None}


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Basic eHg6eHg=",
        "Bearer zqyy_0123456789abcdef_" + "A" * 43,
        "Bearer zqyy_0123456789abcdef_" + "A" * 4300,
    ],
)
def test_without_a_valid_token_nobody_gets_in(api: Api, authorization: str | None) -> None:
    answer = api.anonymous.get("/api/session", headers={} if authorization is None else {"Authorization": authorization})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    told = answer.json()
    assert (told["code"], told["status"]) == ("unauthorized", 401)
    assert told["request_id"] == answer.headers["x-request-id"]


def test_a_right_public_id_with_a_wrong_secret_is_refused(api: Api) -> None:
    token = api.token(Role.ADMIN)
    assert api.with_token(token[:-1] + ("A" if token[-1] != "A" else "B")).get("/api/session").status_code == 401


def test_a_revoked_token_and_its_sessions_end_at_once(api: Api, connection: Connection) -> None:
    token = api.token(Role.ADMIN)
    caller = api.with_token(token)
    api.anonymous.post("/api/session", json={"token": token})
    assert caller.get("/api/session").status_code == api.anonymous.get("/api/session").status_code == 200
    [stored] = api_tokens.list_tokens(connection)
    assert api_tokens.revoke(connection, stored.id)
    assert caller.get("/api/session").status_code == api.anonymous.get("/api/session").status_code == 401
    assert not api_tokens.revoke(connection, stored.id)


def test_the_secret_is_stored_nowhere(api: Api, connection: Connection) -> None:
    token = api.token(Role.VIEWER)
    api.with_token(token).get("/api/session")
    secret = token.rpartition("_")[2]
    rows = connection.execute("SELECT t::text AS row FROM biz.ai_api_tokens t").fetchall()
    assert len(rows) == 1
    assert secret not in rows[0]["row"]
    [stored] = api_tokens.list_tokens(connection)
    assert stored.last_used_at is not None


def test_who_guesses_is_slowed_down_and_who_has_a_token_is_not(api: Api) -> None:
    answers = [api.anonymous.get("/api/session", headers={"Authorization": "Bearer x"}) for _ in range(60)]
    assert answers[0].status_code == 401
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    token = api.token(Role.VIEWER)
    assert api.anonymous.get("/api/session", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_the_consoles_login_is_a_cookie_that_no_script_reads_and_no_other_site_sends(api: Api) -> None:
    login = api.anonymous.post("/api/session", json={"token": api.token(Role.ADMIN, name="店长")})
    assert login.status_code == 200
    flags = login.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert api.anonymous.get("/api/session").json()["csrf_token"] == login.json()["csrf_token"]

    assert api.anonymous.delete("/api/session").json()["code"] == "csrf"
    assert api.anonymous.delete("/api/session", headers={CSRF_HEADER: "x"}).status_code == 403
    cookie = api.anonymous.cookies[SESSION_COOKIE]
    assert api.anonymous.delete("/api/session", headers={CSRF_HEADER: login.json()["csrf_token"]}).status_code == 204
    assert api.anonymous.get("/api/session", cookies={SESSION_COOKIE: cookie}).status_code == 401


def test_a_login_with_a_wrong_token_opens_no_session(api: Api, connection: Connection) -> None:
    answer = api.anonymous.post("/api/session", json={"token": "zqyy_x"})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert connection.execute("SELECT FROM biz.ai_sessions").fetchall() == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"token": 1}', b'{"token": "x", "more": 1}', b"\xff\xfe"])
def test_a_malformed_body_is_told_in_chinese_with_its_field(api: Api, body: bytes) -> None:
    answer = api.anonymous.post("/api/session", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_parameters"
    assert answer.json()["errors"]


def test_an_oversized_body_is_refused_whether_its_length_is_told_or_not(api: Api) -> None:
    large = b'{"token": "' + b"x" * 600_000 + b'"}'
    told = api.anonymous.post("/api/session", content=large, headers={"Content-Type": "application/json"})
    streamed = api.anonymous.post(
        "/api/session", content=iter([large[:300_000], large[300_000:]]), headers={"Content-Type": "application/json"}
    )
    assert (told.status_code, streamed.status_code) == (413, 413)
    assert told.json()["code"] == streamed.json()["code"] == "body_too_large"


def test_an_unknown_address_is_a_problem_too(api: Api) -> None:
    answer = api.anonymous.get("/api/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_database_that_is_away_is_said_to_be_for_now(api: Api) -> None:
    caller = api.caller(Role.ADMIN)
    api.services.database.close()
    answer = caller.get("/api/session")
    assert answer.status_code == 503
    assert answer.json()["code"] == "database_unavailable"


# What the role of the API may see, whatever a query asks for


def test_without_named_sites_the_apis_role_sees_nothing(connection: Connection) -> None:
    connection.execute("INSERT INTO biz.ai_cache (cache_type, site_id, target_id) VALUES ('app3_clue', 1001, '7')")
    with connection.transaction():
        connection.execute("SET LOCAL ROLE zqyy_api")
        assert connection.execute("SELECT FROM biz.ai_cache").fetchall() == []
        assert connection.execute("SELECT FROM biz.sites").fetchall() == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("UPDATE biz.ai_audit SET actor = 'x'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("INSERT INTO biz.ai_api_tokens (public_id, secret_hash, name, role) VALUES ('x', '', 'x', 'admin')")
