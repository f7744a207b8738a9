from datetime import date
from typing import Any

import pytest

from zqyy_ai.domain.apps import AppType
from zqyy_ai.domain.events import (
    CHAINS,
    EVENT_NAMES,
    EVENT_TYPES,
    MEMBER_APPS,
    Event,
    EventName,
    EventType,
    dedup_key,
    dedup_key_on,
    parse_event,
)

CONSUMPTION, NOTE, TASK, LOAD = (
    EventName.CONSUMPTION_SETTLED,
    EventName.NOTE_CREATED,
    EventName.TASK_ASSIGNED,
    EventName.DWS_COMPLETED,
)
OF_A_MEMBER: dict[str, Any] = {"site_id": 1001, "member_id": 7}
# The least that each event must bring.
LEAST: dict[EventName, dict[str, Any]] = {
    CONSUMPTION: OF_A_MEMBER,
    NOTE: OF_A_MEMBER | {"note_content": "喜欢靠窗的台"},
    TASK: OF_A_MEMBER | {"assistant_id": 12},
    LOAD: {"site_id": 1001},
}


def subject(name: EventName, **more: Any) -> str:
    return parse_event(name, LEAST[name] | more).subject


def chain(name: EventName, **more: Any) -> str:
    return parse_event(name, LEAST[name] | more).app_chain


def test_a_site_is_all_that_a_finished_load_must_name() -> None:
    assert parse_event(LOAD, {"site_id": 1001}) == Event(EventType.DWS_COMPLETED, 1001)


def test_a_site_and_a_member_are_all_that_a_consumption_must_name() -> None:
    assert parse_event(CONSUMPTION, OF_A_MEMBER) == Event(EventType.CONSUMPTION, 1001, 7)


def test_everything_that_an_event_can_name_is_read_and_unknown_fields_are_allowed() -> None:
    general = {"connector_type": "other", "is_forced": True, "regenerate": True, "only_missing": True, "anything": {"deep": [1]}}
    assert parse_event(LOAD, LEAST[LOAD] | general | {"etl_run_id": 20260401}) == Event(
        EventType.DWS_COMPLETED, 1001, etl_run_id="20260401", connector_type="other", is_forced=True
    )
    assert parse_event(CONSUMPTION, OF_A_MEMBER | general | {"has_assistant": True, "assistant_id": 12}) == Event(
        EventType.CONSUMPTION, 1001, 7, 12, connector_type="other", is_forced=True
    )
    note = parse_event(NOTE, LEAST[NOTE] | {"note_id": 5, "noted_by_name": "小王", "noted_by_created_at": "2026-04-20T10:00:00+08:00"})
    assert (note.note_id, note.member_id, len(note.note_digest or "")) == ("5", 7, 16)


def test_an_event_names_only_what_is_its_business() -> None:
    everything = OF_A_MEMBER | {"note_content": "x", "note_id": 5, "etl_run_id": "load-1", "assistant_id": 12, "has_assistant": True}
    load = parse_event(LOAD, everything)
    assert (load.member_id, load.note_id, load.note_digest, load.subject, load.apps) == (None, None, None, "load-1", ())
    assert parse_event(TASK, everything) == Event(EventType.TASK_ASSIGNED, 1001, 7, 12)
    assert parse_event(CONSUMPTION, everything) == Event(EventType.CONSUMPTION, 1001, 7, 12)
    assert parse_event(NOTE, everything).assistant_id is None


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        *((name, payload, "JSON 对象") for name in EventName for payload in (None, [1001], "1001")),
        *((name, LEAST[name] | {"site_id": None}, "缺少 site_id") for name in EventName),
        (LOAD, {"site_id": "1001"}, "site_id 必须是正整数"),
        (LOAD, {"site_id": 1001.0}, "site_id 必须是正整数"),
        (LOAD, {"site_id": True}, "site_id 必须是正整数"),
        (LOAD, {"site_id": 0}, "site_id 必须是正整数"),
        (LOAD, {"site_id": 2**63}, "site_id 必须是正整数"),
        (LOAD, {"site_id": 1, "etl_run_id": ["a"]}, "etl_run_id 必须是字符串"),
        (LOAD, {"site_id": 1, "connector_type": False}, "connector_type 必须是字符串"),
        *((name, LEAST[name] | {"is_forced": "yes"}, "is_forced 必须是 true 或 false") for name in EventName),
        *((name, LEAST[name] | {"regenerate": None}, "regenerate 必须是 true 或 false") for name in EventName),
        (LOAD, {"site_id": 1, "only_missing": 1}, "only_missing 必须是 true 或 false"),
        *((name, LEAST[name] | {"member_id": None}, "缺少 member_id") for name in (CONSUMPTION, NOTE, TASK)),
        *((name, LEAST[name] | {"member_id": -7}, "member_id 必须是正整数") for name in (CONSUMPTION, NOTE, TASK)),
        (CONSUMPTION, OF_A_MEMBER | {"has_assistant": "true"}, "has_assistant 必须是 true 或 false"),
        (CONSUMPTION, OF_A_MEMBER | {"has_assistant": True, "assistant_id": "12"}, "assistant_id 必须是正整数"),
        (TASK, OF_A_MEMBER, "缺少 assistant_id"),
        (NOTE, OF_A_MEMBER, "note_content 必须是非空字符串"),
        (NOTE, OF_A_MEMBER | {"note_content": " \n"}, "note_content 必须是非空字符串"),
        (NOTE, OF_A_MEMBER | {"note_content": ["x"]}, "note_content 必须是非空字符串"),
        (NOTE, LEAST[NOTE] | {"note_id": {}}, "note_id 必须是字符串"),
        (NOTE, LEAST[NOTE] | {"noted_by_name": ["小王"]}, "noted_by_name 必须是字符串"),
    ],
)
def test_a_payload_that_cannot_be_meant_is_refused_in_words_for_an_operator(name: EventName, payload: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_event(name, payload)


@pytest.mark.parametrize("value", ["13800138000", [13800138000], {"phone": 13800138000}, 13800138000.5, -13800138000])
def test_a_refusal_never_repeats_what_stood_in_the_field(value: Any) -> None:
    """It may be somebody's phone number in the wrong place, and refusals go to logs and webhooks."""
    with pytest.raises(ValueError, match="member_id 必须是正整数") as refused:
        parse_event(CONSUMPTION, {"site_id": 1001, "member_id": value})
    assert "138" not in str(refused.value)


def test_each_event_runs_the_chain_of_the_original_system() -> None:
    assert chain(CONSUMPTION) == "app3→app8→app7"
    assert chain(CONSUMPTION, has_assistant=True, assistant_id=12) == "app3→app8→app7→app4→app5"
    assert chain(NOTE) == "app6→app8"
    assert chain(TASK) == "app4→app5"
    assert chain(LOAD) == "app2"


@pytest.mark.parametrize("half", [{"has_assistant": True}, {"assistant_id": 12}, {"has_assistant": False, "assistant_id": 12}])
def test_a_consumption_that_says_only_half_about_an_assistant_has_none(half: dict[str, Any]) -> None:
    event = parse_event(CONSUMPTION, OF_A_MEMBER | half)
    assert (event.assistant_id, event.app_chain) == (None, "app3→app8→app7")


def test_two_notes_are_two_subjects_and_the_same_note_told_twice_is_one() -> None:
    assert subject(NOTE, note_id=5) == subject(NOTE, note_id="5", note_content="改过的话") == "note:5"
    assert subject(NOTE, note_id=5) != subject(NOTE, note_id=6)
    assert subject(NOTE) == subject(NOTE, note_content=" 喜欢靠窗的台\n")
    assert subject(NOTE) != subject(NOTE, note_content="不喜欢靠窗的台")
    assert subject(NOTE, note_content="5") != subject(NOTE, note_id=5)


def test_an_assignment_is_about_its_assistant_a_load_about_its_etl_run_and_a_consumption_about_nobody_else() -> None:
    assert (subject(TASK), subject(TASK, assistant_id=13)) == ("12", "13")
    assert (subject(LOAD), subject(LOAD, etl_run_id="load-1")) == ("-", "load-1")
    assert subject(CONSUMPTION) == subject(CONSUMPTION, has_assistant=True, assistant_id=12) == "-"


def test_a_note_that_no_unicode_encoding_takes_still_has_a_subject() -> None:
    assert subject(NOTE, note_content="\ud800").startswith("text:")


def test_a_dedup_key_names_type_site_member_subject_date_and_mode() -> None:
    day = date(2026, 4, 20)
    assert dedup_key(EventType.CONSUMPTION, 1001, 7, "-", day, "live") == "consumption|1001|7|-|2026-04-20|live"
    assert dedup_key(EventType.DWS_COMPLETED, 1001, None, "-", day, "live") == "dws_completed|1001|-|2026-04-20|live"
    assert dedup_key(EventType.NOTE_CREATED, 1001, 7, "note:a|b", day, "sandbox").rsplit("|", 2)[1:] == ["2026-04-20", "sandbox"]


def test_only_the_date_of_a_dedup_key_moves_whatever_its_subject_holds() -> None:
    day, next_day = date(2026, 4, 20), date(2026, 4, 21)
    for subject in ("-", "note:|2026-04-20|", "note:x|2026-04-20|live"):
        key = dedup_key(EventType.NOTE_CREATED, 1001, 7, subject, day, "live")
        assert dedup_key_on(key, next_day) == dedup_key(EventType.NOTE_CREATED, 1001, 7, subject, next_day, "live")


def test_each_event_name_has_its_type_and_each_type_its_name() -> None:
    assert set(EVENT_TYPES) == set(EventName)
    assert {EVENT_NAMES[event_type] for event_type in EVENT_TYPES.values()} == set(EventName)


def test_every_application_of_a_chain_comes_after_those_whose_answers_it_uses() -> None:
    uses = {
        AppType.CONSOLIDATION: {AppType.CLUE, AppType.NOTE},
        AppType.CUSTOMER: {AppType.CONSOLIDATION},
        AppType.TACTICS: {AppType.ANALYSIS},
    }
    consumption = parse_event(CONSUMPTION, OF_A_MEMBER | {"has_assistant": True, "assistant_id": 12}).apps
    for apps in (MEMBER_APPS, consumption, *CHAINS.values()):
        for place, app in enumerate(apps):
            assert not uses.get(app, set()) & set(apps[place:])
