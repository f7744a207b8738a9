"""Circuit breaker, rate limit, call slots and token budget; all state lives in PostgreSQL."""

SQL_PACKAGE = "zqyy_ai.guards"
