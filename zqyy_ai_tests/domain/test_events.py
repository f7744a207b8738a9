from typing import Any

import pytest

from zqyy_ai.domain.events import APP_CHAINS, EVENT_TYPES, DwsCompleted, EventName, EventType, parse_dws_completed


def test_a_site_is_all_that_a_finished_load_must_name() -> None:
    assert parse_dws_completed({"site_id": 1001}) == DwsCompleted(
        site_id=1001, etl_run_id=None, connector_type="feiqiu", is_forced=False, regenerate=False, only_missing=False
    )


def test_everything_that_a_finished_load_can_name_is_read_and_unknown_fields_are_allowed() -> None:
    payload = {
        "site_id": 7,
        "etl_run_id": 20260401,
        "connector_type": "other",
        "is_forced": True,
        "regenerate": True,
        "only_missing": True,
        "note": "?",
    }
    assert parse_dws_completed(payload) == DwsCompleted(7, "20260401", "other", is_forced=True, regenerate=True, only_missing=True)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (None, "JSON 对象"),
        ([1001], "JSON 对象"),
        ("1001", "JSON 对象"),
        ({}, "缺少 site_id"),
        ({"site_id": None}, "缺少 site_id"),
        ({"site_id": "1001"}, "site_id 必须是正整数"),
        ({"site_id": 1001.0}, "site_id 必须是正整数"),
        ({"site_id": True}, "site_id 必须是正整数"),
        ({"site_id": 0}, "site_id 必须是正整数"),
        ({"site_id": 2**63}, "site_id 必须是正整数"),
        ({"site_id": 1, "etl_run_id": ["a"]}, "etl_run_id 必须是字符串"),
        ({"site_id": 1, "connector_type": False}, "connector_type 必须是字符串"),
        ({"site_id": 1, "is_forced": "yes"}, "is_forced 必须是 true 或 false"),
        ({"site_id": 1, "regenerate": None}, "regenerate 必须是 true 或 false"),
    ],
)
def test_a_payload_that_cannot_be_meant_is_refused_in_words_for_an_operator(payload: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_dws_completed(payload)


def test_each_event_name_has_its_type_and_each_type_its_chain() -> None:
    assert set(EVENT_TYPES) == set(EventName)
    assert EVENT_TYPES[EventName.DWS_COMPLETED] is EventType.DWS_COMPLETED
    assert APP_CHAINS[EventType.CONSUMPTION] == "app3→app8→app7"
    assert set(EVENT_TYPES.values()) == set(APP_CHAINS)
