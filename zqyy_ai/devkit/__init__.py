"""What runs beside the project on a developer's machine: embedded PostgreSQL, emulator, demo data, stack."""
