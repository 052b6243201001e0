"""The source of truth for items and users in a relational database: SQLite, PostgreSQL, MySQL or MariaDB.

A change goes to its table and to an outbox in one transaction; `streaming.relay` delivers the outbox to the topics. The
only package of the product that imports SQLAlchemy and alembic (extra `database`).
"""
