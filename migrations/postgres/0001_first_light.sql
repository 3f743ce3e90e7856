-- Times are unix milliseconds; ids are UUIDv7. Texts that hold JSON are TEXT: they are read whole.

CREATE TABLE setting (
    name       TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    updated_ms BIGINT NOT NULL
);

-- The store's clock, with an offset that tests set per connection.
CREATE FUNCTION hookyard_now_ms() RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)
         + CAST(coalesce(nullif(current_setting('hookyard.clock_offset_ms', true), ''), '0') AS BIGINT)
$$;

CREATE TABLE user_account (
    user_id       UUID PRIMARY KEY,
    email         TEXT NOT NULL,
    email_key     TEXT NOT NULL UNIQUE,
    username      TEXT NOT NULL,
    username_key  TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    status        TEXT NOT NULL CHECK (status IN ('active', 'disabled')),
    created_ms    BIGINT NOT NULL
);

CREATE TABLE workspace (
    workspace_id UUID PRIMARY KEY,
    name         TEXT NOT NULL,
    created_ms   BIGINT NOT NULL
);

CREATE TABLE membership (
    workspace_id UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    user_id      UUID NOT NULL REFERENCES user_account ON DELETE CASCADE,
    role         TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_ms   BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, user_id)
);
CREATE INDEX membership_of_user ON membership (user_id);

CREATE TABLE session (
    session_id   UUID PRIMARY KEY,
    token_hash   BYTEA NOT NULL UNIQUE,
    user_id      UUID NOT NULL REFERENCES user_account ON DELETE CASCADE,
    workspace_id UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    user_agent   TEXT NOT NULL,
    created_ms   BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL
);
CREATE INDEX session_of_user ON session (user_id);

CREATE TABLE api_key (
    api_key_id   UUID PRIMARY KEY,
    workspace_id UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    user_id      UUID NOT NULL REFERENCES user_account ON DELETE CASCADE,
    name         TEXT NOT NULL,
    key_prefix   TEXT NOT NULL,
    last4        TEXT NOT NULL,
    key_hash     BYTEA NOT NULL UNIQUE,
    scopes       TEXT NOT NULL,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT,
    last_used_ms BIGINT,
    revoked_ms   BIGINT
);
CREATE INDEX api_key_of_workspace ON api_key (workspace_id, api_key_id);

-- Failed log-ins by account and by address; rows vanish once they are stale.
CREATE TABLE login_throttle (
    subject       TEXT PRIMARY KEY,
    failures      BIGINT NOT NULL,
    blocked_until BIGINT NOT NULL,
    updated_ms    BIGINT NOT NULL
);

CREATE TABLE idempotency (
    workspace_id UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    idem_key     TEXT NOT NULL,
    fingerprint  BYTEA NOT NULL,
    status       BIGINT,
    response     BYTEA,
    created_ms   BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, idem_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_ms);

-- One row: counts the changes of sources, destinations and subscriptions, in the order of their commits. Who changes any
-- of them raises it last in the same transaction.
CREATE TABLE catalog_version (
    only_row BOOLEAN PRIMARY KEY CHECK (only_row),
    version  BIGINT NOT NULL
);
INSERT INTO catalog_version (only_row, version) VALUES (TRUE, 1);

CREATE TABLE source (
    source_id       UUID PRIMARY KEY,
    workspace_id    UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    name            TEXT NOT NULL,
    source_key      TEXT NOT NULL UNIQUE,
    provider        TEXT NOT NULL,
    scheme          TEXT NOT NULL,
    methods         TEXT NOT NULL,
    enabled         BOOLEAN NOT NULL,
    -- Paused: what it takes is kept, and its deliveries are held.
    paused          BOOLEAN NOT NULL DEFAULT FALSE,
    release_rate    BIGINT,
    max_body_bytes  BIGINT NOT NULL,
    response_status BIGINT NOT NULL,
    response_body   TEXT,
    -- Its own rule for repeats, as JSON; the provider's unless set.
    repeat_rule     TEXT,
    -- Address ranges that it takes requests from, separated by spaces; any unless set.
    allowed_ips     TEXT,
    version         BIGINT NOT NULL,
    created_ms      BIGINT NOT NULL,
    updated_ms      BIGINT NOT NULL
);
CREATE INDEX source_of_workspace ON source (workspace_id, source_id);

CREATE TABLE source_secret (
    secret_id    UUID PRIMARY KEY,
    source_id    UUID NOT NULL REFERENCES source ON DELETE CASCADE,
    label        TEXT NOT NULL,
    hint         TEXT NOT NULL,
    ciphertext   BYTEA NOT NULL,
    created_ms   BIGINT NOT NULL,
    not_after_ms BIGINT,
    last_used_ms BIGINT,
    -- What it is for: proving events, or answering handshakes. One purpose each.
    purpose      TEXT NOT NULL CHECK (purpose IN ('signing', 'handshake')),
    -- Whether the sender handed it over in a handshake.
    handed_over  BOOLEAN NOT NULL
);
CREATE INDEX source_secret_of_source ON source_secret (source_id);

CREATE TABLE destination (
    destination_id     UUID PRIMARY KEY,
    workspace_id       UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    name               TEXT NOT NULL,
    kind               TEXT NOT NULL CHECK (kind IN ('http', 'inspector', 'rabbitmq')),
    url                TEXT,
    enabled            BOOLEAN NOT NULL,
    -- Who disabled it: a person, or its receiver by an answer.
    disabled_by        TEXT CHECK (disabled_by IN ('person', 'gone', 'receiver')),
    -- What was held goes out at this rate a second after it was enabled again; at once unless set.
    release_rate       BIGINT,
    concurrency        BIGINT NOT NULL,
    -- Requests begun in each period, over all workers; unlimited unless set.
    rate_limit         BIGINT,
    rate_per           TEXT NOT NULL DEFAULT 'second' CHECK (rate_per IN ('second', 'minute', 'hour')),
    -- Whether a circuit breaker spares it while it fails.
    breaker            BOOLEAN NOT NULL DEFAULT TRUE,
    -- The delivery policy of its subscriptions that have none of their own, as JSON.
    policy             TEXT,
    timeout_ms         BIGINT NOT NULL,
    -- How it is connected to and what proves us there, as JSON: what may be shown, and apart from it the secrets, sealed.
    connection         TEXT,
    credentials        BYTEA,
    signing_secret     BYTEA NOT NULL,
    -- The secret before, which signs beside the current one until then.
    previous_secret    BYTEA,
    previous_until_ms  BIGINT,
    inspector_status   BIGINT NOT NULL,
    inspector_delay_ms BIGINT NOT NULL,
    version            BIGINT NOT NULL,
    created_ms         BIGINT NOT NULL,
    updated_ms         BIGINT NOT NULL
);
CREATE INDEX destination_of_workspace ON destination (workspace_id, destination_id);

CREATE TABLE subscription (
    subscription_id UUID PRIMARY KEY,
    workspace_id    UUID NOT NULL REFERENCES workspace ON DELETE CASCADE,
    source_id       UUID NOT NULL REFERENCES source ON DELETE CASCADE,
    destination_id  UUID NOT NULL REFERENCES destination ON DELETE CASCADE,
    name            TEXT NOT NULL,
    enabled         BOOLEAN NOT NULL,
    -- Paused: its deliveries are made and held.
    paused          BOOLEAN NOT NULL DEFAULT FALSE,
    release_rate    BIGINT,
    revision        BIGINT NOT NULL,
    version         BIGINT NOT NULL,
    created_ms      BIGINT NOT NULL,
    updated_ms      BIGINT NOT NULL
);
CREATE INDEX subscription_of_workspace ON subscription (workspace_id, subscription_id);
CREATE INDEX subscription_of_source ON subscription (source_id);
CREATE INDEX subscription_of_destination ON subscription (destination_id);

-- The rules of a subscription never change in place: a delivery names the revision it was made by.
CREATE TABLE subscription_revision (
    subscription_id UUID NOT NULL REFERENCES subscription ON DELETE CASCADE,
    revision        BIGINT NOT NULL,
    -- Its own delivery policy and its order, as JSON.
    policy          TEXT,
    ordering        TEXT,
    filter          TEXT,
    transform       TEXT,
    created_by      UUID,
    created_ms      BIGINT NOT NULL,
    PRIMARY KEY (subscription_id, revision)
);

-- Subscriptions that are gone, for an hour: attempts that were under way for them may come back to wait.
CREATE TABLE removed_subscription (
    subscription_id UUID PRIMARY KEY,
    destination_id  UUID NOT NULL,
    removed_ms      BIGINT NOT NULL
);

-- Events, deliveries and attempts carry no foreign keys: they are written in bulk and removed by age.
-- Every key begins with a UUIDv7, so each table can be partitioned by range of its own key.
CREATE TABLE event (
    event_id          UUID PRIMARY KEY,
    seq               BIGINT GENERATED ALWAYS AS IDENTITY,
    workspace_id      UUID NOT NULL,
    source_id         UUID NOT NULL,
    received_ms       BIGINT NOT NULL,
    method            TEXT NOT NULL,
    path              TEXT NOT NULL,
    query             TEXT,
    event_type        TEXT,
    provider_event_id TEXT,
    verified_by       UUID,
    duplicate_of      UUID,
    -- Last, so that a list does not walk past large bodies.
    headers           BYTEA NOT NULL,
    body              BYTEA NOT NULL
);
-- The list of a workspace, newest first.
CREATE INDEX event_of_workspace ON event (workspace_id, event_id);

-- The first of the events that repeat each other, by what they have in common. The unique key decides which is the
-- first, however many workers persist them.
CREATE TABLE event_repeat (
    source_id   UUID NOT NULL,
    -- SHA-256 of the sender's name of the event and of the body.
    digest      BYTEA NOT NULL,
    event_id    UUID NOT NULL,
    received_ms BIGINT NOT NULL,
    -- Until when what is received is a repeat of it.
    until_ms    BIGINT NOT NULL,
    -- Whether any subscription matched it.
    routed      BOOLEAN NOT NULL,
    PRIMARY KEY (source_id, digest)
);
CREATE INDEX event_repeat_by_age ON event_repeat (until_ms);

CREATE TABLE delivery (
    delivery_id     UUID PRIMARY KEY,
    workspace_id    UUID NOT NULL,
    event_id        UUID NOT NULL,
    subscription_id UUID NOT NULL,
    revision        BIGINT NOT NULL,
    destination_id  UUID NOT NULL,
    output          BIGINT NOT NULL,
    webhook_id      UUID NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'held', 'leased', 'delivered', 'failed', 'dropped', 'cancelled')),
    -- Why it is held: something on its way is paused; one of its key goes before it; it is such a one and was given up.
    hold            TEXT CHECK (hold IN ('paused', 'order', 'parked')),
    -- Deliveries that share their destination's lane fairly: those of one subscription, or (all zeros) of replays.
    flow_id         UUID NOT NULL,
    -- 0 before the first failure, 1 after it: neither starves the other.
    class           BIGINT NOT NULL DEFAULT 0,
    -- Its place in the order of its key, where its subscription asks for one.
    order_key       BYTEA,
    position        BIGINT,
    -- The replay that made it.
    replay_id       UUID,
    attempts        BIGINT NOT NULL,
    failures        BIGINT NOT NULL,
    next_attempt_ms BIGINT,
    lease_owner     UUID,
    started_ms      BIGINT,
    created_ms      BIGINT NOT NULL,
    finished_ms     BIGINT,
    last_status     BIGINT,
    last_error      TEXT,
    -- An owner alone says that a row is leased: statements that find rows by key rely on it.
    CHECK ((status = 'leased') = (lease_owner IS NOT NULL)),
    CHECK ((status = 'held') = (hold IS NOT NULL)),
    CHECK ((order_key IS NULL) = (position IS NULL))
);
CREATE INDEX delivery_of_workspace ON delivery (workspace_id, delivery_id);
CREATE INDEX delivery_of_event ON delivery (event_id);
-- What is due, per destination, flow and class, so that no backlog stands before another's.
CREATE INDEX delivery_due ON delivery (destination_id, flow_id, class, next_attempt_ms) WHERE status = 'pending';
-- What a worker that died had in hand.
CREATE INDEX delivery_leased ON delivery (lease_owner) WHERE status = 'leased';
CREATE INDEX delivery_held ON delivery (destination_id, flow_id, delivery_id) WHERE hold = 'paused';
-- The heads of keys that were given up and stand in the way, for the list of a workspace.
CREATE INDEX delivery_parked ON delivery (workspace_id, delivery_id) WHERE hold = 'parked';
-- Who comes next of a key.
CREATE INDEX delivery_in_order ON delivery (subscription_id, order_key, position)
    WHERE order_key IS NOT NULL AND status IN ('pending', 'held', 'leased');
-- What a replay made, by state.
CREATE INDEX delivery_of_replay ON delivery (replay_id, status, delivery_id) WHERE replay_id IS NOT NULL;

-- The last place that was given in the order of a key. Its row is the lock under which places are given and taken.
CREATE TABLE order_key (
    subscription_id UUID NOT NULL,
    order_key       BYTEA NOT NULL,
    position        BIGINT NOT NULL,
    updated_ms      BIGINT NOT NULL,
    PRIMARY KEY (subscription_id, order_key)
);
CREATE INDEX order_key_by_age ON order_key (updated_ms);

-- A row is written when an attempt ends. The attempt under way is the leased delivery itself:
-- its number, its owner and when it started are committed before the request is sent.
CREATE TABLE attempt (
    delivery_id        UUID NOT NULL,
    number             BIGINT NOT NULL,
    attempt_id         UUID NOT NULL,
    started_ms         BIGINT NOT NULL,
    finished_ms        BIGINT NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('succeeded', 'failed', 'interrupted', 'superseded')),
    status_code        BIGINT,
    error_code         TEXT,
    error              TEXT,
    address            TEXT,
    -- The head of the request as far as we made it: request line, and the lines that are not the sender's; secrets masked.
    request            TEXT,
    timings            TEXT,
    response_headers   BYTEA,
    response_body      BYTEA,
    response_truncated BOOLEAN NOT NULL,
    PRIMARY KEY (delivery_id, number)
);

-- A worker's lease covers everything it holds: deliveries and slots end with it.
CREATE TABLE worker (
    worker_id  UUID PRIMARY KEY,
    name       TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

-- How many requests a worker may have open to a destination; the sum over workers is its concurrency.
CREATE TABLE slot (
    destination_id UUID NOT NULL,
    worker_id      UUID NOT NULL,
    held           BIGINT NOT NULL,
    PRIMARY KEY (destination_id, worker_id)
);
CREATE INDEX slot_of_worker ON slot (worker_id);

-- When the next request to a destination with a rate limit may begin, in microseconds by the store's clock.
CREATE TABLE pace (
    destination_id UUID PRIMARY KEY,
    next_us        BIGINT NOT NULL
);

-- Circuit breakers that are not closed, or were not a while ago; all others are closed.
CREATE TABLE breaker (
    destination_id UUID PRIMARY KEY,
    state          TEXT NOT NULL CHECK (state IN ('open', 'half_open', 'closed')),
    -- How often it opened without closing for long; each makes the next wait longer.
    trips          BIGINT NOT NULL,
    reason         TEXT NOT NULL,
    changed_ms     BIGINT NOT NULL,
    -- When one worker may try again; in half-open, when its right to try ends.
    probe_ms       BIGINT NOT NULL,
    prober         UUID
);

-- What circuit breakers did, for people.
CREATE TABLE breaker_change (
    change_id      UUID PRIMARY KEY,
    workspace_id   UUID NOT NULL,
    destination_id UUID NOT NULL,
    at_ms          BIGINT NOT NULL,
    state          TEXT NOT NULL,
    reason         TEXT NOT NULL
);
CREATE INDEX breaker_change_of_destination ON breaker_change (destination_id, change_id);

-- Access tokens that a destination's authorisation server gave, one for all workers.
CREATE TABLE destination_token (
    destination_id UUID PRIMARY KEY,
    -- What it was asked with; another setting makes it useless.
    fingerprint    BYTEA NOT NULL,
    token          BYTEA,
    expires_ms     BIGINT NOT NULL,
    -- The worker that asks for a new one, until then.
    asking         UUID,
    asking_until   BIGINT NOT NULL
);

-- Events sent again because a person asked: one, many, or all that a filter matches.
CREATE TABLE replay (
    replay_id       UUID PRIMARY KEY,
    workspace_id    UUID NOT NULL,
    created_by      UUID NOT NULL,
    created_ms      BIGINT NOT NULL,
    updated_ms      BIGINT NOT NULL,
    finished_ms     BIGINT,
    -- Done: every delivery is made; some may still wait.
    state           TEXT NOT NULL CHECK (state IN ('running', 'paused', 'stopped', 'done')),
    -- Why it was stopped.
    reason          TEXT,
    -- What is replayed, as JSON, and to where: the subscriptions of each event's source, one of them, or a destination.
    filter          TEXT NOT NULL,
    subscription_id UUID,
    destination_id  UUID,
    -- Deliveries made in a second; as many as the destinations take unless set.
    rate            BIGINT,
    -- Events that matched when it began, counted so far as it was quick; events replayed since, deliveries made of them.
    total           BIGINT NOT NULL,
    total_complete  BOOLEAN NOT NULL,
    events          BIGINT NOT NULL,
    deliveries      BIGINT NOT NULL,
    -- The last event that was looked at, and the newest that belongs to it.
    at_event        UUID NOT NULL,
    last_event      UUID NOT NULL,
    -- When a worker is to go on with it, by the store's clock: to make deliveries, or, when stopped, to cancel what waits.
    due_ms          BIGINT,
    CHECK (state <> 'running' OR due_ms IS NOT NULL),
    CHECK ((state IN ('stopped', 'done')) = (finished_ms IS NOT NULL))
);
CREATE INDEX replay_of_workspace ON replay (workspace_id, replay_id);
CREATE INDEX replay_due ON replay (due_ms) WHERE due_ms IS NOT NULL;
-- How many of a workspace are open, however many have ended.
CREATE INDEX replay_open ON replay (workspace_id) WHERE state IN ('running', 'paused');

CREATE TABLE rejection (
    rejection_id UUID PRIMARY KEY,
    workspace_id UUID NOT NULL,
    source_id    UUID NOT NULL,
    received_ms  BIGINT NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    query        TEXT,
    headers      BYTEA NOT NULL,
    body         BYTEA NOT NULL,
    body_bytes   BIGINT NOT NULL,
    status       BIGINT NOT NULL,
    code         TEXT NOT NULL,
    detail       TEXT NOT NULL,
    -- The event that it became when it was verified again.
    event_id     UUID
);
CREATE INDEX rejection_of_workspace ON rejection (workspace_id, rejection_id);
CREATE INDEX rejection_of_source ON rejection (source_id, rejection_id);

-- Requests that senders make to try an address or to agree on a secret; they are answered and never become events.
CREATE TABLE handshake (
    handshake_id UUID PRIMARY KEY,
    workspace_id UUID NOT NULL,
    source_id    UUID NOT NULL REFERENCES source ON DELETE CASCADE,
    received_ms  BIGINT NOT NULL,
    method       TEXT NOT NULL,
    status       BIGINT NOT NULL,
    detail       TEXT NOT NULL
);
CREATE INDEX handshake_of_source ON handshake (source_id, handshake_id);

-- What an inspector destination received.
CREATE TABLE inspection (
    inspection_id  UUID PRIMARY KEY,
    destination_id UUID NOT NULL,
    delivery_id    UUID NOT NULL,
    received_ms    BIGINT NOT NULL,
    headers        BYTEA NOT NULL,
    body           BYTEA NOT NULL
);
CREATE INDEX inspection_of_destination ON inspection (destination_id, inspection_id);

-- Messages that could not be persisted as events: kept for a person, never requeued for ever.
CREATE TABLE parked_message (
    parked_id      UUID PRIMARY KEY,
    queue          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    payload        BYTEA NOT NULL,
    -- SHA-256 of the payload: a message is parked once, however often the queue brings it.
    digest         BYTEA NOT NULL UNIQUE,
    received_ms    BIGINT NOT NULL,
    -- Set while a worker is asked to try it again.
    retry_asked_ms BIGINT
);
CREATE INDEX parked_message_to_retry ON parked_message (retry_asked_ms) WHERE retry_asked_ms IS NOT NULL;
