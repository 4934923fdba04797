"""The memory: tables, connections, migrations, and the state folder. Nothing is imported here."""
