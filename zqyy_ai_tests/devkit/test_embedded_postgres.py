import psycopg
import pytest

@pytest.mark.parametrize("i", range(6))
def test_a(empty_database_url, i):
    with psycopg.connect(empty_database_url) as c:
        assert c.execute("select count(*) from pg_class where relname='x'").fetchone() == (0,)
        c.execute("create table x(a int)")
