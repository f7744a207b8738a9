"""docs/operations.md is where alerts and the doctor send the operator: what they name has to be there."""

import re
from pathlib import Path

import psycopg

from zqyy_ai.engine import doctor
from zqyy_ai.store import migrations
from zqyy_ai.store.alerts import AlertType
from zqyy_ai.store.migrations import TRIGGER_ROWS, remove_trigger_rows

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)


def test_each_type_of_alert_has_its_heading() -> None:
    assert [alert_type.value for alert_type in AlertType if alert_type.value not in HEADINGS] == []


def test_what_code_says_about_the_page_is_a_heading_of_it() -> None:
    sources = [Path(doctor.__file__), *Path(migrations.__file__).parent.rglob("*.sql")]
    named = [
        name for source in sources for name in re.findall(r'operations\.md[,,]? ?[“"]([^”"]+)[”"]', source.read_text(encoding="utf-8"))
    ]
    assert named
    assert [name for name in named if not any(name in heading for heading in HEADINGS)] == []


def test_the_statement_that_restores_the_trigger_rows_brings_back_what_the_migration_made(database_url: str) -> None:
    columns = "job_name, job_type, trigger_condition, trigger_config, status, description"
    restore = re.search(r"```sql\n(INSERT INTO biz\.trigger_jobs.+?)```", PAGE, re.DOTALL)
    assert restore is not None
    with psycopg.connect(database_url, autocommit=True) as connection:
        made = connection.execute(f"SELECT {columns} FROM biz.trigger_jobs ORDER BY job_name").fetchall()
        remove_trigger_rows(database_url)
        connection.execute(restore.group(1).encode())
        connection.execute(restore.group(1).encode())
        assert connection.execute(f"SELECT {columns} FROM biz.trigger_jobs ORDER BY job_name").fetchall() == made
    assert len(made) == len(TRIGGER_ROWS)


def test_the_running_account_is_granted_each_of_our_tables(database_url: str) -> None:
    granted = set(re.findall(r"biz\.(\w+)", "".join(re.findall(r"^GRANT [^;]+;", PAGE, re.MULTILINE))))
    with psycopg.connect(database_url) as connection:
        tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'biz'")}
    assert tables == granted
