"""The store's tables and every statement that touches them, in SQL that SQLite and PostgreSQL both understand.

Parameters are written `:name`. Migrations are only ever appended: a store made by any earlier version is brought up to
date by those that it has not seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from server.store.rows import Row

# One entry a version, a list of statements each. Doubles are "double precision" in both; SQLite takes any type's name.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE outcomes (
            id text PRIMARY KEY,
            recorded double precision NOT NULL,
            bytes bigint NOT NULL,
            owner text,
            model text NOT NULL,
            profile text NOT NULL,
            strategy text NOT NULL,
            decided_by text NOT NULL,
            model_version text,
            familiar integer,
            token_price double precision NOT NULL,
            latency_price double precision NOT NULL,
            max_total_tokens bigint NOT NULL,
            deadline_seconds double precision NOT NULL,
            temperature double precision,
            predicted_accuracy double precision,
            predicted_tokens double precision,
            predicted_tokens_upper double precision,
            predicted_seconds double precision,
            predicted_seconds_upper double precision,
            prompt_tokens bigint NOT NULL,
            tokens bigint NOT NULL,
            returned_tokens bigint NOT NULL,
            cancelled_tokens bigint NOT NULL,
            scoring_tokens bigint NOT NULL,
            seconds double precision NOT NULL,
            first_token_seconds double precision,
            answered integer NOT NULL,
            cut_short text,
            agreement double precision,
            confidence double precision,
            drawn integer NOT NULL,
            finished integer NOT NULL,
            candidates text NOT NULL,
            features_version integer,
            features text,
            error text,
            asked text,
            texts text
        )""",
        # also what is counted for the limits, so that counting reads the index alone
        "CREATE INDEX outcomes_by_age ON outcomes (recorded, id, bytes)",
        """CREATE TABLE feedback (
            id text PRIMARY KEY,
            given double precision NOT NULL,
            score double precision,
            reference text
        )""",
        "CREATE TABLE facts (name text PRIMARY KEY, value text NOT NULL)",
    ),
    (
        """CREATE TABLE calls (
            id text PRIMARY KEY,
            recorded double precision NOT NULL,
            prompt_tokens bigint NOT NULL,
            running integer NOT NULL,
            added integer NOT NULL,
            first_token_seconds double precision NOT NULL,
            seconds double precision NOT NULL,
            longest bigint NOT NULL
        )""",
        "CREATE INDEX calls_by_age ON calls (recorded, id)",
    ),
)
VERSION = len(MIGRATIONS)

VERSIONS = "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, applied double precision NOT NULL)"
APPLIED = "SELECT COALESCE(MAX(version), 0) FROM schema_version"
APPLY = "INSERT INTO schema_version (version, applied) VALUES (:version, :applied)"

SALT = "INSERT INTO facts (name, value) VALUES ('salt', :value) ON CONFLICT (name) DO NOTHING"
SALT_IS = "SELECT value FROM facts WHERE name = 'salt'"

_COLUMNS = [field.name for field in fields(Row)]
INSERT = (
    f"INSERT INTO outcomes ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "  # noqa: S608 - our own names
    "ON CONFLICT (id) DO NOTHING"
)
INSERT_CALL = (
    "INSERT INTO calls (id, recorded, prompt_tokens, running, added, first_token_seconds, seconds, longest) VALUES "
    "(:id, :recorded, :prompt_tokens, :running, :added, :first_token_seconds, :seconds, :longest) "
    "ON CONFLICT (id) DO NOTHING"
)
JUDGED = (
    "SELECT owner, strategy, answered, confidence, predicted_accuracy, asked IS NOT NULL FROM outcomes WHERE id = :id"
)
EARLIER = "SELECT score FROM feedback WHERE id = :id"
FEEDBACK = (
    "INSERT INTO feedback (id, given, score, reference) VALUES (:id, :given, :score, :reference) "
    "ON CONFLICT (id) DO UPDATE SET given = excluded.given, score = excluded.score, reference = excluded.reference"
)

KEPT = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM outcomes"
# the ids of the oldest, which the two after it delete
OLDER = "SELECT id FROM outcomes WHERE recorded < :before ORDER BY recorded, id LIMIT :most"
OLDEST = "SELECT id FROM outcomes ORDER BY recorded, id LIMIT :most"
FORGET = "DELETE FROM outcomes WHERE id = :id"
FORGET_FEEDBACK = "DELETE FROM feedback WHERE id = :id"
CALLS = "SELECT COUNT(*) FROM calls"
OLDER_CALLS = "SELECT id FROM calls WHERE recorded < :before ORDER BY recorded, id LIMIT :most"
OLDEST_CALLS = "SELECT id FROM calls ORDER BY recorded, id LIMIT :most"
FORGET_CALL = "DELETE FROM calls WHERE id = :id"

# a page of what `apportion import` reads, after the last row of the page before
READ = (
    "SELECT o.id, o.recorded, o.model, o.strategy, o.temperature, o.tokens, o.seconds, o.candidates, "
    "o.asked, o.texts, f.score, f.reference "
    "FROM outcomes o LEFT JOIN feedback f ON f.id = o.id "
    "WHERE (o.recorded, o.id) > (:recorded, :id) ORDER BY o.recorded, o.id LIMIT :most"
)
READ_CALLS = (
    "SELECT prompt_tokens, running, added, first_token_seconds, seconds, longest "
    "FROM calls ORDER BY recorded DESC, id LIMIT :most"
)
SUMMARY = (
    "SELECT o.strategy, COUNT(*), AVG(o.predicted_accuracy), AVG(o.confidence), COUNT(f.score), AVG(f.score), "
    "AVG(o.predicted_tokens), AVG(o.tokens), AVG(o.predicted_seconds), AVG(o.seconds) "
    "FROM outcomes o LEFT JOIN feedback f ON f.id = o.id WHERE o.answered = 1 "
    "GROUP BY o.strategy ORDER BY COUNT(*) DESC, o.strategy"
)

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")


def in_pyformat(sql: str) -> str:
    """The same statement with `%(name)s`, as psycopg wants it."""
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))
