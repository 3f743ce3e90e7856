//! One publishing connection with its confirming channels, and the supervisor that replaces it when it breaks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use backon::BackoffBuilder as _;
use futures::StreamExt as _;
use lapin::options::ConfirmSelectOptions;
use lapin::types::ShortString;
use lapin::{Channel, Connection, Event};
use tokio::sync::Notify;

use super::RabbitConfig;
use super::stall::{Mark, Stall};

/// Channels that many messages share: one is a bottleneck, four measured best.
const CHANNELS: usize = 4;

/// After this time without confirms another connection is tried: no traffic may be left to show that the broker is back.
const STALLED: Duration = Duration::from_secs(30);

/// What a line carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Many small messages, over channels that they share.
    Small,
    /// A few large ones, each on a channel that it has to itself: a broker that finds one too large closes its channel,
    /// and nothing else is on it.
    Large,
}

impl Load {
    fn role(self) -> &'static str {
        match self {
            Self::Small => "publisher",
            Self::Large => "publisher of large messages",
        }
    }
}

/// A connection with its confirming channels.
pub(super) struct Link {
    connection: Connection,
    channels: Channels,
    /// Wakes the supervisor: a publish found this link, and no later one, broken.
    broken: Notify,
    stall: Stall,
    opened: Instant,
}

enum Channels {
    Shared {
        channels: Vec<Channel>,
        next: AtomicUsize,
    },
    /// Those that carry nothing at the moment.
    Own(Mutex<Vec<Channel>>),
}

impl Link {
    async fn open(config: &RabbitConfig, load: Load) -> lapin::Result<Self> {
        let connection = config.connect(load.role()).await?;
        let first = connection.create_channel().await?;
        config.declare(&first, config.partitions).await?;
        first.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut channels = vec![first];
        let channels = match load {
            Load::Small => {
                while channels.len() < CHANNELS {
                    channels.push(confirming(&connection).await?);
                }
                Channels::Shared { channels, next: AtomicUsize::new(0) }
            }
            Load::Large => Channels::Own(Mutex::new(channels)),
        };
        Ok(Self { connection, channels, broken: Notify::new(), stall: Stall::default(), opened: Instant::now() })
    }

    /// A channel to publish on. Hand it back with [`Link::done`] once its message is confirmed.
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        match &self.channels {
            Channels::Shared { channels, next } => {
                Ok(channels[next.fetch_add(1, Ordering::Relaxed) % channels.len()].clone())
            }
            Channels::Own(idle) => {
                let known = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                match known {
                    Some(channel) if channel.status().connected() => Ok(channel),
                    _ => confirming(&self.connection).await,
                }
            }
        }
    }

    /// The message on `channel` was answered: the channel may carry another.
    pub(super) fn done(&self, channel: Channel) {
        if let Channels::Own(idle) = &self.channels {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        }
    }

    /// A publish failed: unless only its own channel did, the link is replaced.
    pub(super) fn failed(&self) {
        if !self.whole() || matches!(self.channels, Channels::Shared { .. }) {
            self.replace();
        }
    }

    /// Has the link replaced; the next one declares the queues again.
    pub(super) fn replace(&self) {
        self.broken.notify_one();
    }

    /// How many answers there were so far, for [`Link::missed`].
    pub(super) fn mark(&self) -> Mark {
        self.stall.mark()
    }

    /// The broker answered a message.
    pub(super) fn answered(&self) {
        if self.stall.answered() {
            tracing::info!("the broker confirms again");
        }
    }

    /// The broker did not answer a message in time.
    pub(super) fn missed(&self, mark: Mark) {
        if self.stall.missed(mark, self.now_ms()) {
            tracing::warn!(
                "the broker does not confirm; senders get 503 at once until it does. One message a second is tried"
            );
        }
    }

    /// Whether confirms stay away.
    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_stalled()
    }

    /// Whether a message would be let through.
    pub(super) fn lets_through(&self) -> bool {
        !self.is_stalled() || self.stall.lets_through(self.now_ms())
    }

    /// Lets a message through; while confirms stay away only one a second.
    pub(super) fn let_through(&self) -> bool {
        !self.is_stalled() || self.stall.let_through(self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn whole(&self) -> bool {
        self.connection.status().connected()
            && match &self.channels {
                Channels::Shared { channels, .. } => channels.iter().all(|channel| channel.status().connected()),
                Channels::Own(_) => true,
            }
    }
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// The current link, if there is one, and what is known of it.
pub(super) struct Line {
    config: RabbitConfig,
    load: Load,
    link: ArcSwapOption<Link>,
    linked: Notify,
    blocked: AtomicBool,
}

impl Line {
    /// Starts the supervisor.
    pub(super) fn start(config: RabbitConfig, load: Load) -> Arc<Self> {
        let line = Arc::new(Self {
            config,
            load,
            link: ArcSwapOption::empty(),
            linked: Notify::new(),
            blocked: AtomicBool::new(false),
        });
        tokio::spawn(supervise(line.clone()));
        line
    }

    /// The link, if there is one.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full()
    }

    /// The link, once there is one.
    pub(super) async fn linked(&self) -> Arc<Link> {
        loop {
            let linked = self.linked.notified();
            if let Some(link) = self.link() {
                return link;
            }
            linked.await;
        }
    }

    /// Whether the broker takes no messages because of an alarm.
    pub(super) fn blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
        self.gauge("hookyard_broker_blocked", blocked);
    }

    fn set_link(&self, link: Option<Arc<Link>>) {
        self.gauge("hookyard_broker_up", link.is_some());
        self.link.store(link);
        self.linked.notify_waiters();
    }

    /// The broker is one, however many lines lead to it: the line that carries most speaks for it.
    fn gauge(&self, name: &'static str, value: bool) {
        if self.load == Load::Small {
            metrics::gauge!(name).set(f64::from(u8::from(value)));
        }
    }
}

/// Connects, watches, and connects again; for ever.
async fn supervise(line: Arc<Line>) {
    let role = line.load.role();
    loop {
        let link = connect(&line).await;
        let events = link.connection.events_listener();
        line.set_blocked(false);
        line.set_link(Some(link.clone()));
        tracing::info!(role, "connected to the broker");
        let reason = watch(&line, &link, events).await;
        line.set_link(None);
        tracing::warn!(role, reason, "a connection to the broker is replaced");
        // A broken connection may not answer the close; nothing depends on it.
        tokio::spawn(async move {
            let close = link.connection.close(200, ShortString::from("replaced"));
            tokio::time::timeout(Duration::from_secs(2), close).await.ok();
        });
    }
}

async fn connect(line: &Line) -> Arc<Link> {
    let mut delays = backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        match RabbitConfig::in_time(Link::open(&line.config, line.load)).await {
            Ok(link) => return Arc::new(link),
            Err(error) => {
                tracing::warn!(error = %error, "the broker cannot be reached; trying again. Check HOOKYARD_AMQP_URL and that RabbitMQ runs");
                tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(2))).await;
            }
        }
    }
}

/// Returns when the link is of no use any more.
async fn watch(line: &Line, link: &Link, events: impl futures::Stream<Item = Event> + Send + 'static) -> &'static str {
    let mut events = std::pin::pin!(events);
    let mut check = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker takes no messages (memory or disk alarm); senders get 503 until it does");
                    line.set_blocked(true);
                }
                Some(Event::ConnectionUnblocked) => line.set_blocked(false),
                // The end of a channel is told here as well.
                Some(Event::Error(_)) if link.whole() => {}
                Some(Event::Error(_)) | None => return "connection error",
                Some(_) => {}
            },
            () = link.broken.notified() => return "a publish failed",
            _ = check.tick() => if !link.whole() {
                return "connection or channel closed";
            } else if link.stall.lasts(link.now_ms()) > STALLED {
                return "no confirms";
            },
        }
    }
}
