"""Records to tables, pages and figures."""
