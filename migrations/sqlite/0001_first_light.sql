-- Times are unix milliseconds; ids are UUIDv7. Texts that hold JSON are TEXT: they are read whole.

CREATE TABLE setting (
    name       TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE user_account (
    user_id       BLOB PRIMARY KEY,
    email         TEXT NOT NULL,
    email_key     TEXT NOT NULL UNIQUE,
    username      TEXT NOT NULL,
    username_key  TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    status        TEXT NOT NULL CHECK (status IN ('active', 'disabled')),
    created_ms    INTEGER NOT NULL
) STRICT;

CREATE TABLE workspace (
    workspace_id BLOB PRIMARY KEY,
    name         TEXT NOT NULL,
    created_ms   INTEGER NOT NULL
) STRICT;

CREATE TABLE membership (
    workspace_id BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    user_id      BLOB NOT NULL REFERENCES user_account ON DELETE CASCADE,
    role         TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_ms   INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, user_id)
) STRICT;
CREATE INDEX membership_of_user ON membership (user_id);

CREATE TABLE session (
    session_id   BLOB PRIMARY KEY,
    token_hash   BLOB NOT NULL UNIQUE,
    user_id      BLOB NOT NULL REFERENCES user_account ON DELETE CASCADE,
    workspace_id BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    user_agent   TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    last_used_ms INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX session_of_user ON session (user_id);

CREATE TABLE api_key (
    api_key_id   BLOB PRIMARY KEY,
    workspace_id BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    user_id      BLOB NOT NULL REFERENCES user_account ON DELETE CASCADE,
    name         TEXT NOT NULL,
    key_prefix   TEXT NOT NULL,
    last4        TEXT NOT NULL,
    key_hash     BLOB NOT NULL UNIQUE,
    scopes       TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    expires_ms   INTEGER,
    last_used_ms INTEGER,
    revoked_ms   INTEGER
) STRICT;
CREATE INDEX api_key_of_workspace ON api_key (workspace_id, api_key_id);

-- Failed log-ins by account and by address; rows vanish once they are stale.
CREATE TABLE login_throttle (
    subject       TEXT PRIMARY KEY,
    failures      INTEGER NOT NULL,
    blocked_until INTEGER NOT NULL,
    updated_ms    INTEGER NOT NULL
) STRICT;

CREATE TABLE idempotency (
    workspace_id BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    idem_key     TEXT NOT NULL,
    fingerprint  BLOB NOT NULL,
    status       INTEGER,
    response     BLOB,
    created_ms   INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, idem_key)
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created_ms);

-- One row: counts the changes of sources, destinations and subscriptions, in the order of their commits. Who changes any
-- of them raises it last in the same transaction.
CREATE TABLE catalog_version (
    only_row INTEGER PRIMARY KEY CHECK (only_row),
    version  INTEGER NOT NULL
) STRICT;
INSERT INTO catalog_version (only_row, version) VALUES (TRUE, 1);

CREATE TABLE source (
    source_id       BLOB PRIMARY KEY,
    workspace_id    BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    name            TEXT NOT NULL,
    source_key      TEXT NOT NULL UNIQUE,
    provider        TEXT NOT NULL,
    scheme          TEXT NOT NULL,
    methods         TEXT NOT NULL,
    enabled         INTEGER NOT NULL,
    -- Paused: what it takes is kept, and its deliveries are held.
    paused          INTEGER NOT NULL DEFAULT FALSE,
    release_rate    INTEGER,
    max_body_bytes  INTEGER NOT NULL,
    response_status INTEGER NOT NULL,
    response_body   TEXT,
    -- Its own rule for repeats, as JSON; the provider's unless set.
    repeat_rule     TEXT,
    -- Address ranges that it takes requests from, separated by spaces; any unless set.
    allowed_ips     TEXT,
    version         INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    updated_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX source_of_workspace ON source (workspace_id, source_id);

CREATE TABLE source_secret (
    secret_id    BLOB PRIMARY KEY,
    source_id    BLOB NOT NULL REFERENCES source ON DELETE CASCADE,
    label        TEXT NOT NULL,
    hint         TEXT NOT NULL,
    ciphertext   BLOB NOT NULL,
    created_ms   INTEGER NOT NULL,
    not_after_ms INTEGER,
    last_used_ms INTEGER,
    -- What it is for: proving events, or answering handshakes. One purpose each.
    purpose      TEXT NOT NULL CHECK (purpose IN ('signing', 'handshake')),
    -- Whether the sender handed it over in a handshake.
    handed_over  INTEGER NOT NULL
) STRICT;
CREATE INDEX source_secret_of_source ON source_secret (source_id);

CREATE TABLE destination (
    destination_id     BLOB PRIMARY KEY,
    workspace_id       BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    name               TEXT NOT NULL,
    kind               TEXT NOT NULL CHECK (kind IN ('http', 'inspector', 'rabbitmq')),
    url                TEXT,
    enabled            INTEGER NOT NULL,
    -- Who disabled it: a person, or its receiver by an answer.
    disabled_by        TEXT CHECK (disabled_by IN ('person', 'gone', 'receiver')),
    -- What was held goes out at this rate a second after it was enabled again; at once unless set.
    release_rate       INTEGER,
    concurrency        INTEGER NOT NULL,
    -- Requests begun in each period, over all workers; unlimited unless set.
    rate_limit         INTEGER,
    rate_per           TEXT NOT NULL DEFAULT 'second' CHECK (rate_per IN ('second', 'minute', 'hour')),
    -- Whether a circuit breaker spares it while it fails.
    breaker            INTEGER NOT NULL DEFAULT TRUE,
    -- The delivery policy of its subscriptions that have none of their own, as JSON.
    policy             TEXT,
    timeout_ms         INTEGER NOT NULL,
    -- How it is connected to and what proves us there, as JSON: what may be shown, and apart from it the secrets, sealed.
    connection         TEXT,
    credentials        BLOB,
    signing_secret     BLOB NOT NULL,
    -- The secret before, which signs beside the current one until then.
    previous_secret    BLOB,
    previous_until_ms  INTEGER,
    inspector_status   INTEGER NOT NULL,
    inspector_delay_ms INTEGER NOT NULL,
    version            INTEGER NOT NULL,
    created_ms         INTEGER NOT NULL,
    updated_ms         INTEGER NOT NULL
) STRICT;
CREATE INDEX destination_of_workspace ON destination (workspace_id, destination_id);

CREATE TABLE subscription (
    subscription_id BLOB PRIMARY KEY,
    workspace_id    BLOB NOT NULL REFERENCES workspace ON DELETE CASCADE,
    source_id       BLOB NOT NULL REFERENCES source ON DELETE CASCADE,
    destination_id  BLOB NOT NULL REFERENCES destination ON DELETE CASCADE,
    name            TEXT NOT NULL,
    enabled         INTEGER NOT NULL,
    -- Paused: its deliveries are made and held.
    paused          INTEGER NOT NULL DEFAULT FALSE,
    release_rate    INTEGER,
    revision        INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    updated_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX subscription_of_workspace ON subscription (workspace_id, subscription_id);
CREATE INDEX subscription_of_source ON subscription (source_id);
CREATE INDEX subscription_of_destination ON subscription (destination_id);

-- The rules of a subscription never change in place: a delivery names the revision it was made by.
CREATE TABLE subscription_revision (
    subscription_id BLOB NOT NULL REFERENCES subscription ON DELETE CASCADE,
    revision        INTEGER NOT NULL,
    -- Its own delivery policy and its order, as JSON.
    policy          TEXT,
    ordering        TEXT,
    filter          TEXT,
    transform       TEXT,
    created_by      BLOB,
    created_ms      INTEGER NOT NULL,
    PRIMARY KEY (subscription_id, revision)
) STRICT;

-- Subscriptions that are gone, for an hour: attempts that were under way for them may come back to wait.
CREATE TABLE removed_subscription (
    subscription_id BLOB PRIMARY KEY,
    destination_id  BLOB NOT NULL,
    removed_ms      INTEGER NOT NULL
) STRICT;

-- Events, deliveries and attempts carry no foreign keys: they are written in bulk and removed by age.
-- Every key begins with a UUIDv7, so each table can be partitioned by range of its own key.
CREATE TABLE event (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id          BLOB NOT NULL UNIQUE,
    workspace_id      BLOB NOT NULL,
    source_id         BLOB NOT NULL,
    received_ms       INTEGER NOT NULL,
    method            TEXT NOT NULL,
    path              TEXT NOT NULL,
    query             TEXT,
    event_type        TEXT,
    provider_event_id TEXT,
    verified_by       BLOB,
    duplicate_of      BLOB,
    -- Last, so that a list does not walk past large bodies.
    headers           BLOB NOT NULL,
    body              BLOB NOT NULL
) STRICT;
-- The list of a workspace, newest first.
CREATE INDEX event_of_workspace ON event (workspace_id, event_id);

-- The first of the events that repeat each other, by what they have in common. The unique key decides which is the
-- first, however many workers persist them.
CREATE TABLE event_repeat (
    source_id   BLOB NOT NULL,
    -- SHA-256 of the sender's name of the event and of the body.
    digest      BLOB NOT NULL,
    event_id    BLOB NOT NULL,
    received_ms INTEGER NOT NULL,
    -- Until when what is received is a repeat of it.
    until_ms    INTEGER NOT NULL,
    -- Whether any subscription matched it.
    routed      INTEGER NOT NULL,
    PRIMARY KEY (source_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_repeat_by_age ON event_repeat (until_ms);

CREATE TABLE delivery (
    delivery_id     BLOB PRIMARY KEY,
    workspace_id    BLOB NOT NULL,
    event_id        BLOB NOT NULL,
    subscription_id BLOB NOT NULL,
    revision        INTEGER NOT NULL,
    destination_id  BLOB NOT NULL,
    output          INTEGER NOT NULL,
    webhook_id      BLOB NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'held', 'leased', 'delivered', 'failed', 'dropped', 'cancelled')),
    -- Why it is held: something on its way is paused; one of its key goes before it; it is such a one and was given up.
    hold            TEXT CHECK (hold IN ('paused', 'order', 'parked')),
    -- Deliveries that share their destination's lane fairly: those of one subscription, or (all zeros) of replays.
    flow_id         BLOB NOT NULL,
    -- 0 before the first failure, 1 after it: neither starves the other.
    class           INTEGER NOT NULL DEFAULT 0,
    -- Its place in the order of its key, where its subscription asks for one.
    order_key       BLOB,
    position        INTEGER,
    -- The replay that made it.
    replay_id       BLOB,
    attempts        INTEGER NOT NULL,
    failures        INTEGER NOT NULL,
    next_attempt_ms INTEGER,
    lease_owner     BLOB,
    started_ms      INTEGER,
    created_ms      INTEGER NOT NULL,
    finished_ms     INTEGER,
    last_status     INTEGER,
    last_error      TEXT,
    -- An owner alone says that a row is leased: statements that find rows by key rely on it.
    CHECK ((status = 'leased') = (lease_owner IS NOT NULL)),
    CHECK ((status = 'held') = (hold IS NOT NULL)),
    CHECK ((order_key IS NULL) = (position IS NULL))
) STRICT;
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
    subscription_id BLOB NOT NULL,
    order_key       BLOB NOT NULL,
    position        INTEGER NOT NULL,
    updated_ms      INTEGER NOT NULL,
    PRIMARY KEY (subscription_id, order_key)
) STRICT;
CREATE INDEX order_key_by_age ON order_key (updated_ms);

-- A row is written when an attempt ends. The attempt under way is the leased delivery itself:
-- its number, its owner and when it started are committed before the request is sent.
CREATE TABLE attempt (
    delivery_id        BLOB NOT NULL,
    number             INTEGER NOT NULL,
    attempt_id         BLOB NOT NULL,
    started_ms         INTEGER NOT NULL,
    finished_ms        INTEGER NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('succeeded', 'failed', 'interrupted', 'superseded')),
    status_code        INTEGER,
    error_code         TEXT,
    error              TEXT,
    address            TEXT,
    -- The head of the request as far as we made it: request line, and the lines that are not the sender's; secrets masked.
    request            TEXT,
    timings            TEXT,
    response_headers   BLOB,
    response_body      BLOB,
    response_truncated INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, number)
) STRICT;

-- A worker's lease covers everything it holds: deliveries and slots end with it.
CREATE TABLE worker (
    worker_id  BLOB PRIMARY KEY,
    name       TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;

-- How many requests a worker may have open to a destination; the sum over workers is its concurrency.
CREATE TABLE slot (
    destination_id BLOB NOT NULL,
    worker_id      BLOB NOT NULL,
    held           INTEGER NOT NULL,
    PRIMARY KEY (destination_id, worker_id)
) STRICT;
CREATE INDEX slot_of_worker ON slot (worker_id);

-- When the next request to a destination with a rate limit may begin, in microseconds by the store's clock.
CREATE TABLE pace (
    destination_id BLOB PRIMARY KEY,
    next_us        INTEGER NOT NULL
) STRICT;

-- Circuit breakers that are not closed, or were not a while ago; all others are closed.
CREATE TABLE breaker (
    destination_id BLOB PRIMARY KEY,
    state          TEXT NOT NULL CHECK (state IN ('open', 'half_open', 'closed')),
    -- How often it opened without closing for long; each makes the next wait longer.
    trips          INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    changed_ms     INTEGER NOT NULL,
    -- When one worker may try again; in half-open, when its right to try ends.
    probe_ms       INTEGER NOT NULL,
    prober         BLOB
) STRICT;

-- What circuit breakers did, for people.
CREATE TABLE breaker_change (
    change_id      BLOB PRIMARY KEY,
    workspace_id   BLOB NOT NULL,
    destination_id BLOB NOT NULL,
    at_ms          INTEGER NOT NULL,
    state          TEXT NOT NULL,
    reason         TEXT NOT NULL
) STRICT;
CREATE INDEX breaker_change_of_destination ON breaker_change (destination_id, change_id);

-- Access tokens that a destination's authorisation server gave, one for all workers.
CREATE TABLE destination_token (
    destination_id BLOB PRIMARY KEY,
    -- What it was asked with; another setting makes it useless.
    fingerprint    BLOB NOT NULL,
    token          BLOB,
    expires_ms     INTEGER NOT NULL,
    -- The worker that asks for a new one, until then.
    asking         BLOB,
    asking_until   INTEGER NOT NULL
) STRICT;

-- Events sent again because a person asked: one, many, or all that a filter matches.
CREATE TABLE replay (
    replay_id       BLOB PRIMARY KEY,
    workspace_id    BLOB NOT NULL,
    created_by      BLOB NOT NULL,
    created_ms      INTEGER NOT NULL,
    updated_ms      INTEGER NOT NULL,
    finished_ms     INTEGER,
    -- Done: every delivery is made; some may still wait.
    state           TEXT NOT NULL CHECK (state IN ('running', 'paused', 'stopped', 'done')),
    -- Why it was stopped.
    reason          TEXT,
    -- What is replayed, as JSON, and to where: the subscriptions of each event's source, one of them, or a destination.
    filter          TEXT NOT NULL,
    subscription_id BLOB,
    destination_id  BLOB,
    -- Deliveries made in a second; as many as the destinations take unless set.
    rate            INTEGER,
    -- Events that matched when it began, counted so far as it was quick; events replayed since, deliveries made of them.
    total           INTEGER NOT NULL,
    total_complete  INTEGER NOT NULL,
    events          INTEGER NOT NULL,
    deliveries      INTEGER NOT NULL,
    -- The last event that was looked at, and the newest that belongs to it.
    at_event        BLOB NOT NULL,
    last_event      BLOB NOT NULL,
    -- When a worker is to go on with it, by the store's clock: to make deliveries, or, when stopped, to cancel what waits.
    due_ms          INTEGER,
    CHECK (state <> 'running' OR due_ms IS NOT NULL),
    CHECK ((state IN ('stopped', 'done')) = (finished_ms IS NOT NULL))
) STRICT;
CREATE INDEX replay_of_workspace ON replay (workspace_id, replay_id);
CREATE INDEX replay_due ON replay (due_ms) WHERE due_ms IS NOT NULL;
-- How many of a workspace are open, however many have ended.
CREATE INDEX replay_open ON replay (workspace_id) WHERE state IN ('running', 'paused');

CREATE TABLE rejection (
    rejection_id BLOB PRIMARY KEY,
    workspace_id BLOB NOT NULL,
    source_id    BLOB NOT NULL,
    received_ms  INTEGER NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    query        TEXT,
    headers      BLOB NOT NULL,
    body         BLOB NOT NULL,
    body_bytes   INTEGER NOT NULL,
    status       INTEGER NOT NULL,
    code         TEXT NOT NULL,
    detail       TEXT NOT NULL,
    -- The event that it became when it was verified again.
    event_id     BLOB
) STRICT;
CREATE INDEX rejection_of_workspace ON rejection (workspace_id, rejection_id);
CREATE INDEX rejection_of_source ON rejection (source_id, rejection_id);

-- Requests that senders make to try an address or to agree on a secret; they are answered and never become events.
CREATE TABLE handshake (
    handshake_id BLOB PRIMARY KEY,
    workspace_id BLOB NOT NULL,
    source_id    BLOB NOT NULL REFERENCES source ON DELETE CASCADE,
    received_ms  INTEGER NOT NULL,
    method       TEXT NOT NULL,
    status       INTEGER NOT NULL,
    detail       TEXT NOT NULL
) STRICT;
CREATE INDEX handshake_of_source ON handshake (source_id, handshake_id);

-- What an inspector destination received.
CREATE TABLE inspection (
    inspection_id  BLOB PRIMARY KEY,
    destination_id BLOB NOT NULL,
    delivery_id    BLOB NOT NULL,
    received_ms    INTEGER NOT NULL,
    headers        BLOB NOT NULL,
    body           BLOB NOT NULL
) STRICT;
CREATE INDEX inspection_of_destination ON inspection (destination_id, inspection_id);

-- Messages that could not be persisted as events: kept for a person, never requeued for ever.
CREATE TABLE parked_message (
    parked_id      BLOB PRIMARY KEY,
    queue          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    payload        BLOB NOT NULL,
    -- SHA-256 of the payload: a message is parked once, however often the queue brings it.
    digest         BLOB NOT NULL UNIQUE,
    received_ms    INTEGER NOT NULL,
    -- Set while a worker is asked to try it again.
    retry_asked_ms INTEGER
) STRICT;
CREATE INDEX parked_message_to_retry ON parked_message (retry_asked_ms) WHERE retry_asked_ms IS NOT NULL;
