"""Members' chains from the event to the cache and the clues: order and lineage, what is reused, and what is written beside an answer."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from zqyy_ai.domain.apps import APPS, AppType
from zqyy_ai.domain.business_clock import SHANGHAI, SystemClock
from zqyy_ai.domain.events import MEMBER_APPS, EventType, chain_text, dedup_key
from zqyy_ai.domain.member_answers import ConsolidationAnswer
from zqyy_ai.domain.runtime_context import LIVE
from zqyy_ai.engine.member_requests import plan_backfill, request_app, request_backfill, retry_job
from zqyy_ai.engine.step import StepStatus
from zqyy_ai.prompts.member_prompt import moment_text
from zqyy_ai.store import clues, trigger_jobs
from zqyy_ai.store.clues import ClueSource, StoredClue
from zqyy_ai.store.trigger_jobs import NewJob
from zqyy_ai_tests.engine.member_bench import FINAL, INVALID, PASSING, SITE, MemberBench, Row, codes, names, results, told
from zqyy_ai_tests.engine.workbench import alerts, held_rows, logs

ANSWERED, REUSED, FAILED, SKIPPED = StepStatus.ANSWERED, StepStatus.REUSED, StepStatus.FAILED, StepStatus.SKIPPED
WITH_ASSISTANT = ["app3", "app8", "app7", "app4", "app5"]


def minute(row: Row) -> str:
    created_at: datetime = row["created_at"]
    return moment_text(created_at)


def source(facts: dict[str, Any], title: str) -> dict[str, Any]:
    """What App8 was told of one source of clues."""
    [found] = [source for source in facts["来源"] if source["来源"] == title]
    return dict(found)


# Order and lineage


def test_a_consumption_with_an_assistant_brings_five_answers_in_the_chains_order(bench: MemberBench) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.consumption(member, assistant)
    outcomes = bench.drain()
    assert told(outcomes) == [(name, ANSWERED) for name in WITH_ASSISTANT]
    assert bench.posts() == dict.fromkeys(WITH_ASSISTANT, 1)
    job, rows = bench.job(), logs(bench.connection)
    assert (job["status"], job["attempt"], job["error_message"]) == ("completed", 1, None)
    assert job["progress"] == {
        "total": 5,
        "done": 5,
        "reused": 0,
        "failed": 0,
        "skipped": 0,
        "calls": 5,
        "tokens": sum(row["tokens_used"] for row in rows),
    }
    assert [row["app_type"].partition("_")[0] for row in rows] == WITH_ASSISTANT
    assert {(row["status"], row["trigger_type"], row["trigger_job_id"], row["member_id"]) for row in rows} == {
        ("success", "event", job["id"], member)
    }
    assert [row["assistant_id"] for row in rows] == [None, None, None, assistant, assistant]
    pair = f"{assistant}_{member}"
    assert [(row["cache_type"], row["target_id"]) for row in bench.cached()] == [
        ("app3_clue", str(member)),
        ("app8_clue_consolidated", str(member)),
        ("app7_customer_analysis", str(member)),
        ("app4_analysis", pair),
        ("app5_tactics", pair),
    ]
    for row in bench.cached():
        assert (row["site_id"], row["triggered_by"], row["status"]) == (SITE, "consumption", "valid")
        assert timedelta(days=6, hours=23) < row["expires_at"] - row["created_at"] < timedelta(days=7, minutes=1)
    assert held_rows(bench.connection) == 0


def test_without_an_assistant_nobody_is_asked_about_one(bench: MemberBench) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.add_task(member, assistant)
    bench.consumption(member)
    bench.consumption(bench.visitors()[1], has_assistant=False, assistant_id=assistant)
    bench.drain()
    assert bench.posts() == {"app3": 2, "app8": 2, "app7": 2}


def test_a_note_is_scored_into_its_cache_row_which_lives_for_thirty_days(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.note(member, "客人对收银台的态度很不满,说再也不来了")
    assert told(bench.drain()) == [("app6", ANSWERED), ("app8", ANSWERED)]
    [row] = bench.cached(AppType.NOTE)
    assert row["score"] == row["result_json"]["score"] == 10
    assert row["expires_at"] - row["created_at"] > timedelta(days=29, hours=23)
    [prompt] = bench.prompts(AppType.NOTE)
    assert prompt.facts["备注"] == {"内容": "客人对收银台的态度很不满,说再也不来了", "记录人": "小王", "记录时间": "2026-04-20 10:00"}
    assert {row["score"] for row in bench.cached() if row["cache_type"] != APPS[AppType.NOTE].cache_type} == {None}


def test_two_notes_of_a_day_are_two_analyses(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.note(member, "客人喜欢安静的台")
    bench.note(member, "客人要充值")
    outcomes = bench.drain()
    assert names(outcomes) == ["app6", "app8", "app6", "app8"], "one after the other"
    assert [row["result_json"]["clues"][0]["summary"] for row in bench.cached(AppType.NOTE)] == ["客人喜欢安静的台", "客人要充值"]


def test_app8_merges_this_chains_fresh_clues_with_the_last_valid_ones_of_the_other_source_and_their_times(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.note(member)
    bench.drain()
    bench.connection.execute("UPDATE biz.ai_cache SET created_at = created_at - interval '3 hours'")
    [from_note] = bench.cached(AppType.NOTE)
    bench.consumption(member)
    bench.drain(run_id="run-2")
    [from_visits] = bench.cached(AppType.CLUE)
    prompt = bench.prompts(AppType.CONSOLIDATION)[-1]
    for title, row in (("到店记录", from_visits), ("备注", from_note)):
        shown = source(prompt.facts, title)
        assert shown["生成时间"] == minute(row)
        assert [clue["summary"] for clue in shown["线索"]] == [clue["summary"] for clue in row["result_json"]["clues"]]
    assert source(prompt.facts, "备注")["提供者"] == "小王"
    merged = bench.cached(AppType.CONSOLIDATION)[-1]["result_json"]
    assert {clue["providers"] for clue in merged["clues"]} == {"系统", "小王"}
    assert merged["_references"]["clues"] == {
        cache_type: {"rows": len(row["result_json"]["clues"]), "left_out": 0, "created_at": row["created_at"].astimezone().isoformat()}
        for cache_type, row in (("app3_clue", from_visits), ("app6_note", from_note))
    }


def test_app7_sees_the_clues_of_this_chains_app8_and_app5_the_analysis_of_its_app4(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0], bench.assistants()[0])
    bench.drain()
    [consolidation], [analysis] = bench.cached(AppType.CONSOLIDATION), bench.cached(AppType.ANALYSIS)
    [customer], [tactics] = bench.prompts(AppType.CUSTOMER), bench.prompts(AppType.TACTICS)
    assert [clue["summary"] for clue in customer.facts["线索"]["clues"]] == [
        clue["summary"] for clue in consolidation["result_json"]["clues"]
    ]
    assert customer.facts["线索"]["整合时间"] == minute(consolidation)
    assert tactics.facts["助教分析"]["one_line_summary"] == analysis["result_json"]["one_line_summary"]


def test_expired_and_invalidated_answers_are_nobodys_source(bench: MemberBench) -> None:
    expired, invalidated = bench.visitors()[:2]
    bench.note(expired)
    bench.note(invalidated)
    bench.drain()
    bench.connection.execute(
        "UPDATE biz.ai_cache SET expires_at = now() - interval '1 minute' WHERE cache_type LIKE 'app6%%' AND target_id = %s", [str(expired)]
    )
    bench.connection.execute(
        "UPDATE biz.ai_cache SET status = 'invalidated' WHERE cache_type LIKE 'app6%%' AND target_id = %s", [str(invalidated)]
    )
    bench.consumption(expired)
    bench.consumption(invalidated)
    bench.drain(run_id="run-2")
    assert [len(prompt.facts["来源"]) for prompt in bench.prompts(AppType.CONSOLIDATION)[-2:]] == [1, 1]


def test_a_failed_step_stops_no_later_one_which_uses_the_last_valid_answer_in_its_place(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    [former] = bench.cached(AppType.CLUE)
    bench.add_visit(member)
    bench.emulator.plan({**FINAL, "app": "app3_clue"})
    bench.consumption(member, is_forced=True)
    outcomes = bench.drain(run_id="run-2")
    # App8's sources are what they were, so that it costs nothing; App7 has new visits to look at.
    assert told(outcomes) == [("app3", FAILED), ("app8", REUSED), ("app7", ANSWERED)]
    job = bench.jobs()[-1]
    assert (job["status"], job["progress"]["failed"], job["progress"]["done"]) == ("partial", 1, 2)
    assert job["error_message"].startswith("1 个步骤未完成:InvalidParameter × 1;首个 app3_clue:")
    assert bench.cached(AppType.CLUE) == [former], "a failure touches no answer"
    assert alerts(bench.connection) == [("failed", 1)]


def test_with_nothing_in_the_place_of_a_failed_step_later_ones_ask_without_it_or_not_at_all(bench: MemberBench) -> None:
    bench.emulator.plan({**FINAL, "app": "app3_clue"}, {**FINAL, "app": "app4_analysis"})
    bench.consumption(bench.visitors()[0], bench.assistants()[0])
    outcomes = bench.drain()
    assert told(outcomes) == [("app3", FAILED), ("app8", SKIPPED), ("app7", ANSWERED), ("app4", FAILED), ("app5", ANSWERED)]
    assert bench.prompts(AppType.CUSTOMER)[0].facts["线索"] is None
    assert bench.prompts(AppType.TACTICS)[0].facts["助教分析"] is None
    job = bench.job()
    assert (job["status"], job["progress"]["skipped"]) == ("partial", 1)


def test_a_chain_whose_every_step_failed_has_failed(bench: MemberBench) -> None:
    bench.emulator.plan(FINAL)
    bench.consumption(bench.visitors()[0])
    assert results(bench.drain()) == {FAILED, SKIPPED}
    assert bench.job()["status"] == "failed"
    assert bench.cached() == bench.clues() == []


def test_a_member_of_whom_nothing_is_known_costs_nothing_and_is_done(bench: MemberBench) -> None:
    bench.consumption(bench.strangers()[0])
    bench.consumption(999)
    assert results(bench.drain()) == {SKIPPED}
    assert bench.posts() == {}
    assert bench.statuses() == ["completed", "completed"]
    assert bench.cached() == bench.clues() == []


# Clues


def test_clues_are_written_exactly_as_the_answer_has_them(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.note(member)
    bench.drain()
    [row] = bench.cached(AppType.CONSOLIDATION)
    answer = ConsolidationAnswer.model_validate(row["result_json"])
    assert len(answer.clues) == 2
    assert [{name: value for name, value in clue.items() if name not in ("id", "created_at")} for clue in bench.clues()] == [
        {
            "member_id": member,
            "site_id": SITE,
            "source": "ai_note",
            "category": clue.category.value,
            "summary": f"{clue.emoji} {clue.summary}",
            "detail": clue.detail,
            "recorded_by_name": clue.providers,
            "recorded_by_assistant_id": None,
        }
        for clue in answer.clues
    ]


def test_clues_of_a_member_site_and_source_are_replaced_and_no_other_row_is_touched(bench: MemberBench) -> None:
    member, other = bench.visitors()[:2]
    kept = [
        (member, SITE, "manual"),
        (member, SITE, "ai_consumption"),
        (member, SITE, None),
        (member, 1002, "ai_note"),
        (other, SITE, "ai_note"),
    ]
    for row in [*kept, (member, SITE, "ai_note"), (member, SITE, "ai_note")]:
        bench.connection.execute(
            "INSERT INTO public.member_retention_clue (member_id, site_id, source, summary) VALUES (%s, %s, %s, '旧')", row
        )
    before = bench.clues()
    bench.note(member)
    bench.drain()
    after = bench.clues()
    assert after[: len(kept)] == before[: len(kept)]
    assert [clue["source"] for clue in after[len(kept) :]] == ["ai_note", "ai_note"]
    assert "旧" not in [clue["summary"] for clue in after[len(kept) :]]


def test_each_chain_replaces_the_clues_of_its_own_source(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    from_visits = bench.clues()
    assert {clue["source"] for clue in from_visits} == {"ai_consumption"}
    bench.note(member)
    bench.drain(run_id="run-2")
    assert bench.clues()[: len(from_visits)] == from_visits
    assert {clue["source"] for clue in bench.clues()[len(from_visits) :]} == {"ai_note"}


def ask_outside_the_chains(bench: MemberBench, member_id: int, *apps: AppType, **payload: str) -> int:
    """A person's job: what the face that a person uses writes."""
    business_date = LIVE.business_date(SystemClock().now())
    return trigger_jobs.add(
        bench.connection,
        NewJob(
            event_type=EventType.BACKFILL,
            site_id=SITE,
            member_id=member_id,
            business_date=business_date,
            dedup_key=dedup_key(EventType.BACKFILL, SITE, member_id, chain_text(apps), business_date, LIVE.mode.value),
            app_chain=chain_text(apps),
            payload={"apps": [app.value for app in apps], **payload},
            context=LIVE,
            is_forced=True,
        ),
    )


@pytest.mark.parametrize(
    ("payload", "written_as"),
    [({}, "ai_consumption"), ({"clue_source": "ai_note"}, "ai_note"), ({"clue_source": "manual"}, "ai_consumption")],
)
def test_outside_the_chains_clues_are_of_the_source_that_the_job_says_and_provided_by_the_notes_writer(
    bench: MemberBench, payload: dict[str, str], written_as: str
) -> None:
    member = bench.visitors()[0]
    bench.add_note(member, "客人说周末要带同事来打球", "店长老周")
    kept = [(member, SITE, source) for source in {"manual", "ai_consumption", "ai_note"} - {written_as}]
    for row in [*kept, (member, SITE, written_as)]:
        bench.connection.execute(
            "INSERT INTO public.member_retention_clue (member_id, site_id, source, summary) VALUES (%s, %s, %s, '旧')", row
        )
    ask_outside_the_chains(bench, member, AppType.NOTE, AppType.CONSOLIDATION, **payload)
    assert told(bench.drain()) == [("app6", ANSWERED), ("app8", ANSWERED)]
    written = [clue for clue in bench.clues() if clue["summary"] != "旧"]
    assert written
    assert {(clue["source"], clue["recorded_by_name"]) for clue in written} == {(written_as, "店长老周")}
    assert {clue["source"] for clue in bench.clues() if clue["summary"] == "旧"} == {source for _, _, source in kept}


def test_a_retry_keeps_the_source_that_the_job_said(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.add_note(member, "客人说周末要带同事来打球", "店长老周")
    bench.emulator.plan({**FINAL, "app": "app8_consolidation"})
    job_id = ask_outside_the_chains(bench, member, AppType.NOTE, AppType.CONSOLIDATION, clue_source="ai_note")
    bench.drain()
    assert bench.clues() == []
    bench.emulator.plan()
    retry_job(bench.database, job_id)
    bench.drain(run_id="run-2")
    assert {clue["source"] for clue in bench.clues()} == {"ai_note"}


def test_an_event_says_by_its_kind_alone_which_clues_are_replaced(bench: MemberBench) -> None:
    bench.consumption(bench.visitors()[0], clue_source="ai_note")
    bench.drain()
    assert {clue["source"] for clue in bench.clues()} == {"ai_consumption"}


def test_clues_that_are_there_already_stay_the_rows_that_they_are(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    before = bench.clues()
    bench.consumption(member, is_forced=True)
    assert results(bench.drain(run_id="run-2")) == {REUSED}
    assert bench.clues() == before


def test_clues_that_somebody_deleted_come_back_without_a_call(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    before, posts = bench.clues(), bench.posts()
    bench.connection.execute("DELETE FROM public.member_retention_clue")
    bench.consumption(member, is_forced=True)
    bench.drain(run_id="run-2")
    assert [clue["summary"] for clue in bench.clues()] == [clue["summary"] for clue in before]
    assert bench.posts() == posts


def test_a_clue_of_a_category_that_nobody_knows_is_one_of_the_customers_basics(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.note(member)
    bench.drain()
    bench.connection.execute(
        "UPDATE biz.ai_cache SET result_json = jsonb_set(result_json, '{clues,0,category}', '\"运势\"') WHERE cache_type LIKE 'app8%'"
    )
    bench.note(member, is_forced=True)
    bench.drain(run_id="run-2")
    assert [clue["category"] for clue in bench.clues()] == ["客户基础", "玩法偏好"]


def test_an_answer_without_clues_changes_none(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    before = bench.clues()
    bench.connection.execute("UPDATE biz.ai_cache SET result_json = jsonb_set(result_json, '{clues}', '[]') WHERE cache_type LIKE 'app8%'")
    bench.consumption(member, is_forced=True)
    assert ("app8", REUSED) in told(bench.drain(run_id="run-2"))
    assert bench.clues() == before != []


def test_clues_are_compared_in_their_order_and_with_every_word(bench: MemberBench) -> None:
    first, second = StoredClue("客户基础", "👤 会员", "", ""), StoredClue("消费习惯", "📅 周末", "常在周末来", "系统")

    def replace(*wanted: StoredClue) -> bool:
        return clues.replace_clues(bench.connection, SITE, 7, ClueSource.CONSUMPTION, wanted)

    assert replace(first, second)
    assert not replace(first, second)
    assert not replace()
    assert replace(second, first)
    assert replace(second)
    assert [clue["summary"] for clue in bench.clues()] == ["📅 周末"]


def test_the_answer_and_its_clues_are_written_in_one_transaction(own_bench: MemberBench) -> None:
    bench = own_bench
    bench.connection.execute(
        """
        CREATE TABLE public.written (transaction_id xid8, table_name text);
        CREATE FUNCTION public.note_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.written VALUES (pg_current_xact_id(), TG_TABLE_NAME); RETURN NULL; END $$;
        CREATE TRIGGER written AFTER INSERT ON biz.ai_cache FOR EACH STATEMENT EXECUTE FUNCTION public.note_transaction();
        CREATE TRIGGER written AFTER INSERT ON public.member_retention_clue FOR EACH STATEMENT EXECUTE FUNCTION public.note_transaction();
        """
    )
    bench.note(bench.visitors()[0])
    bench.drain()
    rows = bench.connection.execute(
        "SELECT transaction_id::text, array_agg(DISTINCT table_name ORDER BY table_name) AS tables"
        " FROM public.written GROUP BY 1 ORDER BY min(transaction_id::text::bigint)"
    ).fetchall()
    assert [row["tables"] for row in rows] == [["ai_cache"], ["ai_cache", "member_retention_clue"]]


def test_an_answer_whose_clues_the_table_refuses_stays_and_the_clues_come_with_the_next_round_without_a_call(
    own_bench: MemberBench,
) -> None:
    bench = own_bench
    member = bench.visitors()[0]
    bench.connection.execute("ALTER TABLE public.member_retention_clue ADD CONSTRAINT short CHECK (length(summary) < 3)")
    bench.consumption(member)
    outcomes = bench.drain()
    assert told(outcomes) == [("app3", ANSWERED), ("app8", FAILED), ("app7", ANSWERED)]
    assert codes(outcomes) == {"app8": "clues_unwritable"}
    [answer] = bench.cached(AppType.CONSOLIDATION)
    job = bench.job()
    assert (bench.clues(), answer["status"]) == ([], "valid")
    assert (job["status"], job["attempt"], job["payload"]["given_up"]) == ("pending", 0, {})
    assert job["not_before"] > datetime.now(SHANGHAI) + timedelta(seconds=30)
    [alert] = bench.connection.execute("SELECT fingerprint FROM biz.ai_alerts").fetchall()
    assert alert == {"fingerprint": f"failed|{SITE}|app8_consolidation|clues_unwritable"}

    posts = bench.posts()
    bench.make_due()
    assert results(bench.drain(run_id="run-2")) == {REUSED, FAILED}, "still refused"
    bench.connection.execute("ALTER TABLE public.member_retention_clue DROP CONSTRAINT short")
    bench.make_due()
    assert results(bench.drain(run_id="run-3")) == {REUSED}
    assert len(bench.clues()) == len(answer["result_json"]["clues"])
    assert (bench.posts(), bench.job()["status"]) == (posts, "completed")


# Reuse


def test_clues_that_were_refused_come_with_the_next_round_of_a_backfill_of_what_is_missing_too(own_bench: MemberBench) -> None:
    bench = own_bench
    member = bench.visitors()[0]
    plan = plan_backfill(
        bench.database, bench.engine().settings, SITE, (AppType.CLUE, AppType.CONSOLIDATION), str(member), only_missing=True
    )
    request_backfill(bench.database, plan)
    bench.connection.execute("ALTER TABLE public.member_retention_clue ADD CONSTRAINT short CHECK (length(summary) < 3)")
    assert codes(bench.drain()) == {"app8": "clues_unwritable"}
    bench.connection.execute("ALTER TABLE public.member_retention_clue DROP CONSTRAINT short")
    posts = bench.posts()
    bench.make_due()
    assert results(bench.drain(run_id="run-2")) == {REUSED}
    assert bench.clues()
    assert (bench.posts(), bench.job()["status"]) == (posts, "completed")


def test_a_backfill_of_what_is_missing_writes_nobody_elses_clues(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.note(member)
    bench.drain()
    sources = {clue["source"] for clue in bench.clues()}
    plan = plan_backfill(bench.database, bench.engine().settings, SITE, MEMBER_APPS, str(member), only_missing=True)
    request_backfill(bench.database, plan)
    bench.drain(run_id="run-2")
    assert {clue["source"] for clue in bench.clues()} == sources == {"ai_note"}


def test_unchanged_data_cost_no_call_and_move_the_answers_expiry_on(bench: MemberBench) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.consumption(member, assistant)
    bench.drain()
    bench.connection.execute("UPDATE biz.ai_cache SET expires_at = expires_at - interval '3 days'")
    before = bench.cached()
    bench.consumption(member, assistant, is_forced=True)
    assert told(bench.drain(run_id="run-2")) == [(name, REUSED) for name in WITH_ASSISTANT]
    assert bench.posts() == dict.fromkeys(WITH_ASSISTANT, 1)
    after = bench.cached()
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert all(new["expires_at"] - old["expires_at"] >= timedelta(days=3) for new, old in zip(after, before, strict=True))
    job = bench.jobs()[-1]
    assert (job["status"], job["progress"]["calls"], job["progress"]["tokens"], job["progress"]["reused"]) == ("completed", 0, 0, 5)


def test_former_answers_are_shown_and_decide_nothing(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    for run_id in ("run-1", "run-2"):
        bench.add_visit(member)
        bench.consumption(member, is_forced=True)
        assert ANSWERED in results(bench.drain(run_id=run_id))
    first, second = bench.prompts(AppType.CLUE)
    assert "<history>" not in first.text
    assert minute(bench.cached(AppType.CLUE)[0]) in second.text.partition("<history>")[2]
    # The second answer was made when there was one former answer; now there are two.
    bench.consumption(member, is_forced=True)
    assert results(bench.drain(run_id="run-3")) == {REUSED}


def test_an_application_asked_for_anew_is_paid_though_nothing_changed(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    request_app(bench.database, AppType.CUSTOMER, SITE, member)
    assert told(bench.drain(run_id="run-2")) == [("app7", ANSWERED)]
    assert bench.posts()["app7"] == 2


def test_regenerate_bars_answers_older_than_the_job_but_not_those_of_the_job_that_it_retries(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.consumption(member)
    bench.drain()
    bench.emulator.plan({**FINAL, "app": "app7_customer"})
    bench.consumption(member, is_forced=True, regenerate=True)
    assert told(bench.drain(run_id="run-2")) == [("app3", ANSWERED), ("app8", ANSWERED), ("app7", FAILED)]
    bench.emulator.plan()
    retry = retry_job(bench.database, bench.jobs()[-1]["id"])
    assert told(bench.drain(run_id="run-3")) == [("app3", REUSED), ("app8", REUSED), ("app7", ANSWERED)]
    job = bench.jobs()[-1]
    assert (job["id"], job["status"], job["retry_of"]) == (retry, "completed", retry - 1)
    assert bench.posts() == {"app3": 2, "app8": 2, "app7": 3}


@pytest.mark.parametrize("status", ["partial", "dead"])
def test_a_retry_takes_over_the_steps_that_succeeded_even_when_the_data_have_moved_on(bench: MemberBench, status: str) -> None:
    member = bench.visitors()[0]
    bench.emulator.plan({**FINAL, "app": "app7_customer"})
    bench.consumption(member)
    bench.drain()
    bench.connection.execute("UPDATE biz.ai_trigger_jobs SET status = %s", [status])
    bench.emulator.plan()
    bench.add_visit(member)
    retry_job(bench.database, bench.job()["id"])
    assert told(bench.drain(run_id="run-2")) == [("app3", REUSED), ("app8", REUSED), ("app7", ANSWERED)]
    assert bench.posts() == {"app3": 1, "app8": 1, "app7": 2}


def test_what_a_job_paid_for_before_it_was_sent_back_is_not_asked_again_though_the_data_have_moved_on(bench: MemberBench) -> None:
    member, assistant = bench.visitors()[0], bench.assistants()[0]
    bench.emulator.plan({**PASSING, "app": "app5_tactics"})
    bench.consumption(member, assistant)
    assert told(bench.drain())[-2:] == [("app4", ANSWERED), ("app5", FAILED)]
    bench.emulator.plan()
    bench.add_visit(member)
    bench.make_due()
    assert told(bench.drain(run_id="run-2")) == [(name, REUSED) for name in WITH_ASSISTANT[:-1]] + [("app5", ANSWERED)]
    assert bench.posts() == dict.fromkeys(WITH_ASSISTANT, 1) | {"app5": 2}
    assert bench.job()["status"] == "completed"


def test_a_job_that_was_sent_back_pays_nothing_again_and_never_goes_behind_what_a_later_job_has_brought(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.emulator.plan({**PASSING, "app": "app8_consolidation", "count": 1})
    bench.consumption(member)
    bench.drain()
    bench.add_visit(member)
    bench.consumption(member, is_forced=True)
    bench.drain(run_id="run-2")
    own, newer = bench.cached(AppType.CLUE)
    bench.make_due()
    outcomes = bench.drain(run_id="run-3")
    assert told(outcomes) == [("app3", REUSED), ("app8", REUSED), ("app7", REUSED)]
    assert outcomes[0].result.cache_id == newer["id"] != own["id"]
    assert bench.posts()["app3"] == 2


def test_a_later_step_is_asked_again_where_an_earlier_one_brought_something_new_for_it(bench: MemberBench) -> None:
    """App7 was asked without App8's clues; with them it is another question."""
    member = bench.visitors()[0]
    bench.emulator.plan({**PASSING, "app": "app8_consolidation"})
    bench.consumption(member)
    assert told(bench.drain()) == [("app3", ANSWERED), ("app8", FAILED), ("app7", ANSWERED)]
    bench.emulator.plan()
    bench.make_due()
    assert told(bench.drain(run_id="run-2")) == [("app3", REUSED), ("app8", ANSWERED), ("app7", ANSWERED)]
    assert bench.prompts(AppType.CUSTOMER)[-1].facts["线索"] is not None


def test_an_answer_that_is_invalid_for_good_is_not_paid_again_by_the_jobs_next_round(bench: MemberBench) -> None:
    member = bench.visitors()[0]
    bench.emulator.plan({**INVALID, "app": "app3_clue"}, {**PASSING, "app": "app7_customer"})
    bench.note(member)
    bench.consumption(member)
    outcomes = bench.drain()
    assert told(outcomes)[-3:] == [("app3", FAILED), ("app8", REUSED), ("app7", FAILED)]
    job = bench.jobs()[-1]
    assert (job["status"], list(job["payload"]["given_up"])) == ("pending", ["app3_clue"])
    assert bench.posts()["app3"] == 2, "an invalid answer is asked for once more at once"
    bench.emulator.plan()
    bench.make_due()
    outcomes = bench.drain(run_id="run-2")
    assert told(outcomes) == [("app3", FAILED), ("app8", REUSED), ("app7", ANSWERED)]
    assert bench.posts()["app3"] == 2
    job = bench.jobs()[-1]
    assert job["status"] == "partial"
    assert "本任务的上一轮已失败,不再重复调用" in job["error_message"]
    # A person who retries it wants it asked again.
    retry_job(bench.database, job["id"])
    assert told(bench.drain(run_id="run-3"))[0] == ("app3", ANSWERED)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "昨天下午", ""])
def test_a_note_whose_time_cannot_be_read_is_asked_about_without_it(bench: MemberBench, moment: str) -> None:
    bench.note(bench.visitors()[0], noted_by_created_at=moment)
    bench.drain()
    assert bench.statuses() == ["completed"]
    assert bench.prompts(AppType.NOTE)[0].facts["备注"]["记录时间"] is None
