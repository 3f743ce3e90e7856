-- What the two writes of an outcome cost Postgres by themselves, and what they would cost if the delivery's update touched
-- no index. Makes tables of its own, fills them with 200,000 rows, and prints the time of each step in batches of 500:
--
--   cargo run -p hookyard-testkit --bin with-servers -- \
--       sh -c 'psql "$HOOKYARD_TEST_POSTGRES_URL/postgres" -f benches/outcome.sql'

\set ON_ERROR_STOP 1
\set QUIET 1
SET client_min_messages = warning;
SET enable_seqscan = off;
SET jit = off;

CREATE TABLE sample AS
    SELECT i, (lpad(to_hex(i), 12, '0') || '7000' || '8000' || substr(md5(i::text), 1, 12))::uuid AS id
    FROM generate_series(1, 200000) AS i;
CREATE INDEX ON sample (i);

-- As it is: the leased state is in a partial index.
CREATE TABLE indexed (
    delivery_id UUID PRIMARY KEY, workspace_id UUID, event_id UUID, destination_id UUID, status TEXT NOT NULL,
    attempts BIGINT, next_attempt_ms BIGINT, lease_owner UUID, started_ms BIGINT, finished_ms BIGINT, last_status BIGINT
);
CREATE INDEX ON indexed (workspace_id, delivery_id);
CREATE INDEX ON indexed (event_id);
CREATE INDEX ON indexed (destination_id, next_attempt_ms) WHERE status = 'pending';
CREATE INDEX ON indexed (lease_owner) WHERE status = 'leased';
CREATE INDEX ON indexed (destination_id) WHERE status = 'held';

-- As it might be: who has leased what is a table of its own, no index knows the state, and pages have room for the update.
CREATE TABLE apart (LIKE indexed, PRIMARY KEY (delivery_id), held BOOLEAN NOT NULL DEFAULT FALSE) WITH (fillfactor = 50);
CREATE INDEX ON apart (workspace_id, delivery_id);
CREATE INDEX ON apart (event_id);
CREATE INDEX ON apart (destination_id, next_attempt_ms) WHERE next_attempt_ms IS NOT NULL;
CREATE INDEX ON apart (destination_id) WHERE held;
CREATE TABLE lease (delivery_id UUID PRIMARY KEY, worker_id UUID);
CREATE INDEX ON lease (worker_id);

CREATE TABLE tried (
    delivery_id UUID, number BIGINT, attempt_id UUID, started_ms BIGINT, finished_ms BIGINT, state TEXT, status_code BIGINT,
    address TEXT, timings TEXT, response_headers BYTEA, response_body BYTEA, PRIMARY KEY (delivery_id, number)
);

\timing on

\echo insert, as it is
DO $$ BEGIN FOR b IN 0..399 LOOP
    INSERT INTO indexed SELECT id, id, id, id, 'leased', 1, NULL, '00000000-0000-0000-0000-000000000009', 1
    FROM sample WHERE i > b * 500 AND i <= b * 500 + 500;
    COMMIT;
END LOOP; END $$;

\echo insert, leases apart
DO $$ BEGIN FOR b IN 0..399 LOOP
    WITH new AS (
        INSERT INTO apart SELECT id, id, id, id, 'leased', 1, NULL, '00000000-0000-0000-0000-000000000009', 1
        FROM sample WHERE i > b * 500 AND i <= b * 500 + 500 RETURNING delivery_id
    ) INSERT INTO lease SELECT delivery_id, '00000000-0000-0000-0000-000000000009' FROM new;
    COMMIT;
END LOOP; END $$;

\echo update, as it is
DO $$ BEGIN FOR b IN 0..399 LOOP
    UPDATE indexed AS d SET status = 'delivered', lease_owner = NULL, started_ms = NULL, finished_ms = 5, last_status = 200
    FROM sample AS o WHERE o.i > b * 500 AND o.i <= b * 500 + 500 AND d.delivery_id = o.id
      AND d.lease_owner = '00000000-0000-0000-0000-000000000009' AND d.attempts = 1;
    COMMIT;
END LOOP; END $$;

\echo update, leases apart
DO $$ BEGIN FOR b IN 0..399 LOOP
    WITH done AS (
        UPDATE apart AS d SET status = 'delivered', lease_owner = NULL, started_ms = NULL, finished_ms = 5, last_status = 200
        FROM sample AS o WHERE o.i > b * 500 AND o.i <= b * 500 + 500 AND d.delivery_id = o.id
          AND d.lease_owner = '00000000-0000-0000-0000-000000000009' AND d.attempts = 1
        RETURNING d.delivery_id
    ) DELETE FROM lease USING done WHERE lease.delivery_id = done.delivery_id;
    COMMIT;
END LOOP; END $$;

\echo insert of the attempt
DO $$ BEGIN FOR b IN 0..399 LOOP
    INSERT INTO tried SELECT id, 1, id, 1, 2, 'succeeded', 200, '127.0.0.1:8080', '{"wait":1,"total":2}',
                             convert_to(repeat('x', 60), 'utf8'), ''
    FROM sample WHERE i > b * 500 AND i <= b * 500 + 500
    ON CONFLICT (delivery_id, number) DO UPDATE SET state = excluded.state WHERE tried.state = 'interrupted';
    COMMIT;
END LOOP; END $$;

\timing off
DROP TABLE sample, indexed, apart, lease, tried;
