-- The tables of the reference worker: the columns that the product writes for an event, its delivery and its attempt.
CREATE TABLE event (
    event_id     UUID PRIMARY KEY,
    seq          BIGINT GENERATED ALWAYS AS IDENTITY (CACHE 1000),
    workspace_id UUID NOT NULL,
    source_id    UUID NOT NULL,
    received_ms  BIGINT NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    headers      BYTEA NOT NULL,
    body         BYTEA NOT NULL
);
CREATE TABLE delivery (
    delivery_id     UUID PRIMARY KEY,
    workspace_id    UUID NOT NULL,
    event_id        UUID NOT NULL,
    subscription_id UUID NOT NULL,
    destination_id  UUID NOT NULL,
    status          TEXT NOT NULL,
    attempts        BIGINT NOT NULL,
    lease_owner     UUID,
    created_ms      BIGINT NOT NULL,
    finished_ms     BIGINT,
    last_status     BIGINT
);
CREATE TABLE attempt (
    delivery_id      UUID NOT NULL,
    number           BIGINT NOT NULL,
    attempt_id       UUID NOT NULL,
    started_ms       BIGINT NOT NULL,
    finished_ms      BIGINT NOT NULL,
    state            TEXT NOT NULL,
    status_code      BIGINT,
    timings          TEXT,
    response_headers BYTEA,
    response_body    BYTEA,
    PRIMARY KEY (delivery_id, number)
);
