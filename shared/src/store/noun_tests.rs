//! The nouns of the API against real engines: SQLite always, Postgres when `HOOKYARD_TEST_POSTGRES_URL` names one.

use std::ops::Deref;

use uuid::Uuid;

use super::deliveries::{DeliveryFilter, DeliveryStatus, Transition};
use super::destinations::Destination;
use super::events::EventFilter;
use super::sources::{NewSecret, SecretPurpose, SecretRemoval, Source};
use super::subscriptions::{SubscribeError, Subscription};
use super::{CatalogChange, Store, StoreLocation};
use crate::clock::Clock;
use crate::id::{
    DeliveryId, DestinationId, EventId, InspectionId, RejectionId, SecretId, SourceId, SubscriptionId, UserId,
    WorkspaceId,
};
use crate::q;

/// A migrated store with two workspaces; the file lives as long as it does.
struct Fixture {
    store: Store,
    mine: WorkspaceId,
    other: WorkspaceId,
    _dir: Option<tempfile::TempDir>,
}

impl Deref for Fixture {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Fixture {
    async fn open(location: StoreLocation, dir: Option<tempfile::TempDir>) -> Self {
        let store = Store::open(&location, Clock::default()).await.unwrap();
        store.migrate().await.unwrap();
        let (mine, other) = (WorkspaceId::new(), WorkspaceId::new());
        for id in [mine, other] {
            q!(&store.db, execute, "INSERT INTO workspace (workspace_id, name, created_ms) VALUES ($1, 'w', 0)", id.0)
                .unwrap();
        }
        Self { store, mine, other, _dir: dir }
    }

    /// One per engine.
    async fn each() -> Vec<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec![Self::open(StoreLocation::Sqlite(dir.path().join("store.db")), Some(dir)).await];
        if let Ok(url) = std::env::var("HOOKYARD_TEST_POSTGRES_URL") {
            all.push(Self::open(StoreLocation::Postgres(url), None).await);
        }
        all
    }

    async fn source(&self) -> Source {
        let source = Source {
            source_id: SourceId::new().0,
            workspace_id: self.mine.0,
            name: "shop".into(),
            source_key: crate::id::encode(Uuid::now_v7()),
            provider: "none".into(),
            scheme: "{}".into(),
            methods: "POST PUT".into(),
            enabled: true,
            paused: false,
            release_rate: None,
            max_body_bytes: 1024,
            response_status: 200,
            response_body: Some("ok".into()),
            repeat_rule: None,
            allowed_ips: None,
            version: 1,
            created_ms: 5,
            updated_ms: 5,
        };
        self.create_source(&source, &[secret("first", None)]).await.unwrap();
        source
    }

    async fn destination(&self) -> Destination {
        let destination = Destination {
            destination_id: DestinationId::new().0,
            workspace_id: self.mine.0,
            name: "shop".into(),
            kind: "http".into(),
            url: Some("https://example.com/".into()),
            enabled: true,
            disabled_by: None,
            release_rate: None,
            concurrency: 4,
            rate_limit: None,
            rate_per: "second".into(),
            breaker: true,
            policy: None,
            timeout_ms: 30_000,
            connection: None,
            credentials: None,
            signing_secret: vec![1, 2, 3],
            previous_secret: None,
            previous_until_ms: None,
            inspector_status: 200,
            inspector_delay_ms: 0,
            version: 1,
            created_ms: 5,
            updated_ms: 5,
        };
        self.create_destination(&destination).await.unwrap();
        destination
    }

    async fn subscription(&self) -> Subscription {
        let subscription = Subscription {
            subscription_id: SubscriptionId::new().0,
            workspace_id: self.mine.0,
            source_id: self.source().await.source_id,
            destination_id: self.destination().await.destination_id,
            name: "s".into(),
            enabled: true,
            paused: false,
            release_rate: None,
            revision: 1,
            version: 1,
            created_ms: 5,
            updated_ms: 5,
            policy: None,
            ordering: None,
        };
        self.create_subscription(&subscription, UserId::new()).await.unwrap();
        subscription
    }

    async fn event(&self, source: Uuid, event_type: &str) -> EventId {
        let id = EventId::new();
        q!(
            &self.db,
            execute,
            "INSERT INTO event (event_id, workspace_id, source_id, received_ms, method, path, query, headers, body, event_type,
                    provider_event_id) VALUES ($1, $2, $3, $4, 'POST', '/a_b/c', NULL, $5, $6, $7, 'prov-1')",
            id.0,
            self.mine.0,
            source,
            self.now_ms(),
            b"x-a: caf\xe9\r\n".as_slice(),
            b"\x00\xff{}".as_slice(),
            event_type
        )
        .unwrap();
        id
    }

    async fn delivery(&self, s: &Subscription, event: EventId, status: &str) -> DeliveryId {
        let id = DeliveryId::new();
        q!(
            &self.db,
            execute,
            "INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
                    webhook_id, status, hold, flow_id, attempts, failures, next_attempt_ms, lease_owner, created_ms, finished_ms)
             VALUES ($1, $2, $3, $4, 1, $5, 0, $1, $6, CASE WHEN $6 = 'held' THEN 'paused' END, $4, 3, 3, NULL,
                     CASE WHEN $6 = 'leased' THEN $1 END, $7, 9)",
            id.0,
            self.mine.0,
            event.0,
            s.subscription_id,
            s.destination_id,
            status,
            self.now_ms()
        )
        .unwrap();
        id
    }

    async fn statuses(&self, ids: &[DeliveryId]) -> Vec<String> {
        let mut statuses = Vec::new();
        for id in ids {
            statuses.push(self.store.delivery(self.mine, *id).await.unwrap().unwrap().status);
        }
        statuses
    }
}

fn secret(label: &str, not_after_ms: Option<i64>) -> NewSecret {
    NewSecret {
        id: SecretId::new(),
        label: label.into(),
        hint: "••ab12".into(),
        ciphertext: vec![7],
        not_after_ms,
        purpose: SecretPurpose::Signing,
        handed_over: false,
    }
}

#[tokio::test]
async fn sources_are_listed_newest_first_by_cursor_and_only_in_their_workspace() {
    for store in Fixture::each().await {
        let mut made = Vec::new();
        for _ in 0..5 {
            made.push(store.source().await);
        }
        made.reverse();
        let page = store.sources(store.mine, None, 3).await.unwrap();
        assert_eq!(page, made[..3]);
        assert_eq!(store.sources(store.mine, Some(page[2].source_id), 3).await.unwrap(), made[3..]);
        assert_eq!(store.sources(store.other, None, 3).await.unwrap(), []);
        let id = SourceId(made[0].source_id);
        assert_eq!(store.store.source(store.mine, id).await.unwrap().as_ref(), Some(&made[0]));
        assert_eq!(store.store.source(store.other, id).await.unwrap(), None);
        let first = SourceId(page[2].source_id);
        assert_eq!(store.source_secrets(store.mine, first, id).await.unwrap().len(), 3);
        assert_eq!(store.source_secrets(store.other, first, id).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_change_of_a_source_needs_the_version_that_was_read_and_is_announced() {
    for store in Fixture::each().await {
        let mut changes = store.local_changes();
        let mut source = store.source().await;
        source.name = "renamed".into();
        let saved = store.update_source(&source).await.unwrap().unwrap();
        assert_eq!((saved.name.as_str(), saved.version), ("renamed", 2));
        assert_eq!(store.update_source(&source).await.unwrap(), None, "version 1 is gone");
        let foreign = Source { workspace_id: store.other.0, ..saved.clone() };
        assert_eq!(store.update_source(&foreign).await.unwrap(), None);
        if matches!(store.db, super::Db::Sqlite(_)) {
            let told = changes.try_recv().unwrap();
            assert_eq!(told.changes[..], [CatalogChange::Source(SourceId(source.source_id))]);
        }
    }
}

#[tokio::test]
async fn the_last_live_secret_stays() {
    for store in Fixture::each().await {
        let source = SourceId(store.source().await.source_id);
        let first = SecretId(store.source_secrets(store.mine, source, source).await.unwrap()[0].secret_id);
        let expired = secret("expired", Some(1));
        assert!(!store.add_secret(store.other, source, &expired).await.unwrap());
        assert!(store.add_secret(store.mine, source, &expired).await.unwrap());
        assert_eq!(store.remove_secret(store.mine, source, first).await.unwrap(), SecretRemoval::LastLive);
        assert_eq!(store.remove_secret(store.other, source, expired.id).await.unwrap(), SecretRemoval::NotFound);
        assert_eq!(store.remove_secret(store.mine, source, SecretId::new()).await.unwrap(), SecretRemoval::NotFound);
        assert_eq!(store.remove_secret(store.mine, source, expired.id).await.unwrap(), SecretRemoval::Removed);
        let second = secret("second", Some(store.now_ms() + 60_000));
        assert!(store.add_secret(store.mine, source, &second).await.unwrap());
        assert_eq!(store.remove_secret(store.mine, source, first).await.unwrap(), SecretRemoval::Removed);
        // Added three times or removed: each is a change that If-Match sees.
        assert_eq!(store.store.source(store.mine, source).await.unwrap().unwrap().version, 5);
    }
}

#[tokio::test]
async fn new_rules_make_a_new_revision_and_other_changes_do_not() {
    for store in Fixture::each().await {
        let user = UserId::new();
        let mut s = store.subscription().await;
        assert_eq!(store.store.subscription(store.mine, s.subscription_id.into()).await.unwrap().as_ref(), Some(&s));
        assert_eq!(store.store.subscription(store.other, s.subscription_id.into()).await.unwrap(), None);
        s.name = "renamed".into();
        let s = store.update_subscription(&s, false, user).await.unwrap().unwrap();
        assert_eq!((s.revision, s.version), (1, 2));
        let ruled = Subscription { policy: Some(r#"{"delay_s":1}"#.into()), ..s.clone() };
        let ruled = store.update_subscription(&ruled, true, user).await.unwrap().unwrap();
        assert_eq!((ruled.revision, ruled.version), (2, 3));
        assert_eq!(store.update_subscription(&s, true, user).await.unwrap(), None, "version 2 is gone");
        assert_eq!(store.subscriptions(store.mine, None, 9).await.unwrap(), [ruled]);
        let (revisions,) = q!(
            &store.db,
            fetch_one as (i64,),
            "SELECT count(*) FROM subscription_revision WHERE subscription_id = $1",
            s.subscription_id
        )
        .unwrap();
        assert_eq!(revisions, 2);
    }
}

#[tokio::test]
async fn a_subscription_joins_only_what_its_workspace_owns() {
    for store in Fixture::each().await {
        let mut s = store.subscription().await;
        s.subscription_id = Uuid::now_v7();
        s.workspace_id = store.other.0;
        assert!(matches!(store.create_subscription(&s, UserId::new()).await, Err(SubscribeError::NoSource)));
        s.workspace_id = store.mine.0;
        s.destination_id = Uuid::now_v7();
        assert!(matches!(store.create_subscription(&s, UserId::new()).await, Err(SubscribeError::NoDestination)));
    }
}

#[tokio::test]
async fn what_is_removed_takes_its_waiting_deliveries_along() {
    for removed in ["source", "destination", "subscription"] {
        for store in Fixture::each().await {
            let s = store.subscription().await;
            let unrelated = store.subscription().await;
            let event = store.event(s.source_id, "t").await;
            let mut ids = Vec::new();
            for status in ["pending", "held", "leased", "delivered", "failed"] {
                ids.push(store.delivery(&s, event, status).await);
            }
            let kept = store.delivery(&unrelated, event, "pending").await;
            for (workspace, version, expected) in
                [(store.other, None, false), (store.mine, Some(9), false), (store.mine, Some(1), true)]
            {
                let gone = match removed {
                    "source" => store.delete_source(workspace, s.source_id.into(), version).await,
                    "destination" => store.delete_destination(workspace, s.destination_id.into(), version).await,
                    _ => store.delete_subscription(workspace, s.subscription_id.into(), version).await,
                };
                assert_eq!(gone.unwrap(), expected, "{removed}");
            }
            assert_eq!(
                store.statuses(&ids).await,
                ["cancelled", "cancelled", "leased", "delivered", "failed"],
                "{removed}"
            );
            // The attempt that was under way ends, and the delivery comes back to wait.
            let back = ids[2];
            let ended = "UPDATE delivery SET status = 'pending', lease_owner = NULL WHERE delivery_id = $1";
            q!(&store.db, execute, ended, back.0).unwrap();
            store.cancel_orphans().await.unwrap();
            assert_eq!(store.statuses(&[back, kept]).await, ["cancelled", "pending"], "{removed}");
            assert_eq!(store.store.subscription(store.mine, s.subscription_id.into()).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn enabling_releases_what_was_held_for_that_destination_alone() {
    for store in Fixture::each().await {
        let (s, unrelated) = (store.subscription().await, store.subscription().await);
        let event = store.event(s.source_id, "t").await;
        let mut ids = vec![store.delivery(&unrelated, event, "held").await];
        for status in ["held", "held", "cancelled"] {
            ids.push(store.delivery(&s, event, status).await);
        }
        let id = DestinationId(s.destination_id);
        let mut off = store.store.destination(store.mine, id).await.unwrap().unwrap();
        off.enabled = false;
        let mut off = store.update_destination(&off).await.unwrap().unwrap();
        assert_eq!(store.release_held(None, None, Some(id)).await.unwrap(), 0, "still disabled");
        off.enabled = true;
        store.update_destination(&off).await.unwrap().unwrap();
        assert_eq!(store.release_held(None, None, Some(id)).await.unwrap(), 2);
        assert_eq!(store.statuses(&ids).await, ["held", "pending", "pending", "cancelled"]);
        let due = store.store.delivery(store.mine, ids[1]).await.unwrap().unwrap().next_attempt_ms.unwrap();
        assert!((due - store.now_ms()).abs() < 60_000, "{due}");
    }
}

#[tokio::test]
async fn retry_and_cancel_keep_to_the_states() {
    for store in Fixture::each().await {
        let s = store.subscription().await;
        let event = store.event(s.source_id, "t").await;
        for status in DeliveryStatus::ALL {
            let status = status.as_str();
            let id = store.delivery(&s, event, status).await;
            assert_eq!(store.retry_delivery(store.other, id).await.unwrap(), Transition::NotFound);
            match store.retry_delivery(store.mine, id).await.unwrap() {
                Transition::Done(row) => {
                    assert!(!matches!(status, "leased" | "held"), "{status}");
                    assert_eq!(
                        (row.status.as_str(), row.attempts, row.failures, row.finished_ms),
                        ("pending", 3, 0, None)
                    );
                    assert!(row.next_attempt_ms.is_some());
                }
                refused => assert!(matches!(status, "leased" | "held"), "{status}: {refused:?}"),
            }
            let id = store.delivery(&s, event, status).await;
            assert_eq!(store.cancel_delivery(store.other, id).await.unwrap(), Transition::NotFound);
            match store.cancel_delivery(store.mine, id).await.unwrap() {
                Transition::Done(row) => {
                    assert!(matches!(status, "pending" | "held"), "{status}");
                    assert_eq!((row.status.as_str(), row.next_attempt_ms), ("cancelled", None));
                    assert!(row.finished_ms > Some(9));
                }
                refused => assert_eq!(
                    refused,
                    Transition::Refused { status: status.into(), hold: (status == "held").then(|| "paused".into()) }
                ),
            }
        }
        let id = store.delivery(&s, event, "failed").await;
        store.delete_subscription(store.mine, s.subscription_id.into(), None).await.unwrap();
        assert_eq!(store.retry_delivery(store.mine, id).await.unwrap(), Transition::NowhereToGo);
    }
}

#[tokio::test]
async fn events_are_found_by_what_people_remember_of_them() {
    for store in Fixture::each().await {
        let s = store.subscription().await;
        let paid = store.event(s.source_id, "Order.Paid").await;
        let sent = store.event(Uuid::now_v7(), "order_sent").await;
        for status in ["delivered", "failed", "pending", "leased"] {
            store.delivery(&s, paid, status).await;
        }
        let all = EventFilter::default();
        let q = |q: &str| EventFilter { q: Some(q.into()), ..EventFilter::default() };
        let now = store.now_ms();
        for (filter, expected) in [
            (all.clone(), vec![sent, paid]),
            (EventFilter { source: Some(s.source_id.into()), ..all.clone() }, vec![paid]),
            (EventFilter { event_type: Some("order_sent".into()), ..all.clone() }, vec![sent]),
            (EventFilter { event_type: Some("order".into()), ..all.clone() }, vec![]),
            (EventFilter { status: Some(DeliveryStatus::Failed), ..all.clone() }, vec![paid]),
            (EventFilter { status: Some(DeliveryStatus::Held), ..all.clone() }, vec![]),
            (
                EventFilter { received_after: Some(now - 60_000), received_before: Some(now + 1), ..all.clone() },
                vec![sent, paid],
            ),
            (EventFilter { received_after: Some(now + 60_000), ..all.clone() }, vec![]),
            (EventFilter { received_before: Some(now - 60_000), ..all.clone() }, vec![]),
            (q(&paid.to_string()), vec![paid]),
            (q("prov-1"), vec![sent, paid]),
            (q("order"), vec![sent, paid]),
            (q(" ORDER. "), vec![paid]),
            (q("order_"), vec![sent]),
            (q("/a_b"), vec![sent, paid]),
            (q("/a%"), vec![]),
            (q("%"), vec![]),
            (q("paid"), vec![]),
            (q("\\"), vec![]),
            (q("'; --"), vec![]),
        ] {
            let found = store.events(store.mine, &filter, None, 10).await.unwrap();
            assert_eq!(found.iter().map(|e| EventId(e.event_id)).collect::<Vec<_>>(), expected, "{filter:?}");
        }
        let page = store.events(store.mine, &all, Some(sent.0), 10).await.unwrap();
        assert_eq!(
            (page.len(), page[0].deliveries, page[0].delivered, page[0].failed, page[0].waiting),
            (1, 4, 1, 1, 2)
        );
        assert_eq!(page[0].body_bytes, 4);
        assert_eq!(store.events(store.other, &all, None, 10).await.unwrap(), []);
        let detail = store.store.event(store.mine, paid).await.unwrap().unwrap();
        assert_eq!(
            (detail.headers.as_slice(), detail.source_name.as_deref()),
            (b"x-a: caf\xe9\r\n".as_slice(), Some("shop"))
        );
        assert_eq!(store.store.event(store.other, paid).await.unwrap(), None);
        assert_eq!(store.event_body(store.mine, paid, 2).await.unwrap().unwrap(), b"\x00\xff");
        assert_eq!(store.event_body(store.other, paid, 2).await.unwrap(), None);
        assert_eq!(store.count_events(store.mine, now - 60_000).await.unwrap(), 2);
        assert_eq!(store.count_events(store.other, 0).await.unwrap(), 0);
        let counts = store.count_deliveries(store.mine, now - 60_000).await.unwrap();
        assert_eq!(
            counts.iter().map(|c| (c.status.as_str(), c.total)).collect::<Vec<_>>(),
            [("delivered", 1), ("failed", 1), ("leased", 1), ("pending", 1)]
        );
    }
}

#[tokio::test]
async fn deliveries_and_their_attempts_are_listed() {
    for store in Fixture::each().await {
        let s = store.subscription().await;
        let (one, two) = (store.event(s.source_id, "t").await, store.event(s.source_id, "t").await);
        let first = store.delivery(&s, one, "failed").await;
        let second = store.delivery(&s, two, "pending").await;
        let all = DeliveryFilter::default();
        for (filter, expected) in [
            (all, vec![second, first]),
            (DeliveryFilter { event: Some(one), ..all }, vec![first]),
            (DeliveryFilter { event: Some(one), status: Some(DeliveryStatus::Pending), ..all }, vec![]),
            (DeliveryFilter { status: Some(DeliveryStatus::Pending), ..all }, vec![second]),
            (DeliveryFilter { destination: Some(s.destination_id.into()), ..all }, vec![second, first]),
            (DeliveryFilter { subscription: Some(SubscriptionId::new()), ..all }, vec![]),
            (DeliveryFilter { source: Some(s.source_id.into()), ..all }, vec![second, first]),
            (DeliveryFilter { source: Some(SourceId::new()), ..all }, vec![]),
            (DeliveryFilter { source: Some(SourceId::new()), event: Some(one), ..all }, vec![]),
        ] {
            let found = store.deliveries(store.mine, &filter, None, 10).await.unwrap();
            assert_eq!(found.iter().map(|d| DeliveryId(d.delivery_id)).collect::<Vec<_>>(), expected, "{filter:?}");
            assert_eq!(store.deliveries(store.other, &filter, None, 10).await.unwrap(), []);
        }
        assert_eq!(store.deliveries(store.mine, &all, Some(second.0), 1).await.unwrap().len(), 1);
        for number in [2_i64, 1] {
            q!(
                &store.db,
                execute,
                "INSERT INTO attempt (delivery_id, number, attempt_id, started_ms, finished_ms, state, status_code, response_body,
                        response_truncated) VALUES ($1, $2, $3, 1, 2, 'failed', 500, $4, TRUE)",
                first.0,
                number,
                Uuid::now_v7(),
                b"no\xff".as_slice()
            )
            .unwrap();
        }
        let attempts = store.attempts(store.mine, first).await.unwrap();
        assert_eq!(attempts.iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2]);
        assert!(attempts[0].response_truncated && attempts[0].response_headers.is_none());
        assert_eq!(store.attempts(store.other, first).await.unwrap(), []);
    }
}

#[tokio::test]
async fn rejections_and_inspections_are_listed_in_their_workspace() {
    for store in Fixture::each().await {
        let (source, inspector) = (store.source().await, store.destination().await);
        let id = RejectionId::new();
        q!(
            &store.db,
            execute,
            "INSERT INTO rejection (rejection_id, workspace_id, source_id, received_ms, method, path, headers, body, body_bytes,
                    status, code, detail) VALUES ($1, $2, $3, $4, 'POST', '/', $5, $5, 12, 401, 'bad', 'no')",
            id.0,
            store.mine.0,
            source.source_id,
            store.now_ms(),
            b"\xff".as_slice()
        )
        .unwrap();
        for (workspace, of, code, expected) in [
            (store.mine, None, None, 1),
            (store.mine, None, Some("bad"), 1),
            (store.mine, Some(source.source_id.into()), Some("bad"), 1),
            (store.mine, Some(source.source_id.into()), Some("good"), 0),
            (store.mine, Some(SourceId::new()), None, 0),
            (store.other, None, None, 0),
            (store.other, Some(source.source_id.into()), None, 0),
        ] {
            assert_eq!(
                store.rejections(workspace, of, code, None, 5).await.unwrap().len(),
                expected,
                "{of:?} {code:?}"
            );
        }
        assert_eq!(store.rejections(store.mine, None, None, Some(id.0), 5).await.unwrap(), []);
        assert_eq!(store.rejection(store.mine, id).await.unwrap().unwrap().body, b"\xff");
        assert_eq!(store.rejection(store.other, id).await.unwrap(), None);
        assert_eq!(store.count_rejections(store.mine, 0).await.unwrap(), 1);

        let destination = DestinationId(inspector.destination_id);
        let text = "INSERT INTO inspection (inspection_id, destination_id, delivery_id, received_ms, headers, body)
                    VALUES ($1, $2, $3, 1, $4, $5)";
        q!(
            &store.db,
            execute,
            text,
            InspectionId::new().0,
            destination.0,
            Uuid::now_v7(),
            b"a: b\r\n".as_slice(),
            b"\x00long".as_slice()
        )
        .unwrap();
        let seen = store.inspections(store.mine, destination, None, 5, 2).await.unwrap();
        assert_eq!((seen.len(), seen[0].body.as_slice(), seen[0].body_bytes), (1, b"\x00l".as_slice(), 5));
        assert_eq!(store.inspections(store.other, destination, None, 5, 2).await.unwrap(), []);
    }
}
