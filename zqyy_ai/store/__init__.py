"""Our own tables and their migrations: one module a noun, SQL in `.sql` files."""
