"""The command: jobs, session, cost, records in files."""
