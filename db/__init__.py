"""Tables, connections, migrations, settings, and the state folder. Nothing is imported here."""
