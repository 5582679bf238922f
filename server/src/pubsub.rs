//! Channels: who listens to what, and messages on their way to them.
//!
//! Role: `PUBLISH`, keyspace notifications and `MONITOR` put messages into the mailboxes of clients; each client's connection
//! takes them out when it has nothing else to send.
//!
//! Invariants:
//! - While nobody listens, an event costs one relaxed load.
//! - A mailbox is bounded in bytes, charged to its client: one that does not read is ended.
//! - A client's messages come in the order in which they were put into its mailbox.

use crate::glob::Glob;
use crate::session::ClientInfo;
use parking_lot::{Mutex, RwLock};
use protocol::resp::Writer;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// Bytes that a message is charged beside its words.
const MESSAGE_LEN: usize = 64;

/// Something to tell a client. Its bytes are shared by all who get it.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Channel {
        channel: Arc<[u8]>,
        payload: Arc<[u8]>,
    },
    Pattern {
        pattern: Arc<[u8]>,
        channel: Arc<[u8]>,
        payload: Arc<[u8]>,
    },
    /// To a shard channel.
    Shard {
        channel: Arc<[u8]>,
        payload: Arc<[u8]>,
    },
    /// A line of `MONITOR`.
    Line(Arc<str>),
}

impl Message {
    fn len(&self) -> usize {
        MESSAGE_LEN
            + match self {
                Self::Channel { channel, payload } | Self::Shard { channel, payload } => channel.len() + payload.len(),
                Self::Pattern { pattern, channel, payload } => pattern.len() + channel.len() + payload.len(),
                Self::Line(line) => line.len(),
            }
    }

    fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Channel { channel, payload } => {
                out.push(3);
                out.bulk(b"message");
                out.bulk(channel);
                out.bulk(payload);
            }
            Self::Pattern { pattern, channel, payload } => {
                out.push(4);
                out.bulk(b"pmessage");
                out.bulk(pattern);
                out.bulk(channel);
                out.bulk(payload);
            }
            Self::Shard { channel, payload } => {
                out.push(3);
                out.bulk(b"smessage");
                out.bulk(channel);
                out.bulk(payload);
            }
            Self::Line(line) => out.simple(line),
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    len: usize,
    waker: Option<Waker>,
}

/// Messages for one client.
#[derive(Debug)]
pub(crate) struct Mailbox {
    client: Arc<ClientInfo>,
    len_max: usize,
    waiting: Mutex<Waiting>,
}

impl Mailbox {
    pub(crate) fn new(client: &Arc<ClientInfo>, len_max: usize) -> Arc<Self> {
        Arc::new(Self { client: Arc::clone(client), len_max, waiting: Mutex::default() })
    }

    fn put(&self, message: Message) {
        let mut waiting = self.waiting.lock();
        let len = message.len();
        if waiting.len + len > self.len_max {
            drop(waiting);
            if !self.client.is_killed() {
                tracing::debug!(client = self.client.id, "a client does not take its messages");
                self.client.kill();
            }
            return;
        }
        waiting.len += len;
        self.client.posted.store(waiting.len as u64, Ordering::Relaxed);
        waiting.messages.push_back(message);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    /// Ready when there is a message; until then whoever asks is woken by the next.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock();
        if !waiting.messages.is_empty() {
            return Poll::Ready(());
        }
        if waiting.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Writes messages until `enough` says so. Returns whether some are left.
    pub(crate) fn deliver(&self, mut write: impl FnMut(&mut dyn FnMut(&mut Writer<'_>)) -> bool) -> bool {
        loop {
            let message = {
                let mut waiting = self.waiting.lock();
                let Some(message) = waiting.messages.pop_front() else { return false };
                waiting.len -= message.len();
                self.client.posted.store(waiting.len as u64, Ordering::Relaxed);
                message
            };
            if !write(&mut |out| message.write(out)) {
                return true;
            }
        }
    }
}

type Listeners = HashMap<Arc<[u8]>, BTreeMap<u64, Arc<Mailbox>>>;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct PubSub {
    channels: RwLock<Listeners>,
    patterns: RwLock<Listeners>,
    shards: RwLock<Listeners>,
    monitors: RwLock<BTreeMap<u64, Arc<Mailbox>>>,
    monitored: AtomicBool,
    /// Classes of keyspace events that are told; 0: none.
    classes: AtomicU32,
}

/// A channel's name, a pattern of names, or the name of a channel that belongs to one slot of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Channel,
    Pattern,
    Shard,
}

/// How many names of each kind a client listens to, for `CLIENT LIST`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubscribedCounts {
    pub(crate) channels: u64,
    pub(crate) patterns: u64,
    pub(crate) shards: u64,
}

impl SubscribedCounts {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// [`SubscribedCounts`] as other connections read them.
#[derive(Debug, Default)]
pub(crate) struct Subscribed {
    channels: AtomicU64,
    patterns: AtomicU64,
    shards: AtomicU64,
}

impl Subscribed {
    pub(crate) fn set(&self, counts: SubscribedCounts) {
        self.channels.store(counts.channels, Ordering::Relaxed);
        self.patterns.store(counts.patterns, Ordering::Relaxed);
        self.shards.store(counts.shards, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> SubscribedCounts {
        let [channels, patterns, shards] =
            [&self.channels, &self.patterns, &self.shards].map(|count| count.load(Ordering::Relaxed));
        SubscribedCounts { channels, patterns, shards }
    }
}

impl PubSub {
    fn of(&self, kind: Kind) -> &RwLock<Listeners> {
        match kind {
            Kind::Channel => &self.channels,
            Kind::Pattern => &self.patterns,
            Kind::Shard => &self.shards,
        }
    }

    pub(crate) fn listen(&self, kind: Kind, name: &[u8], mailbox: &Arc<Mailbox>) {
        let mut all = self.of(kind).write();
        if let Some(listeners) = all.get_mut(name) {
            listeners.insert(mailbox.client.id, Arc::clone(mailbox));
        } else {
            all.insert(name.into(), BTreeMap::from([(mailbox.client.id, Arc::clone(mailbox))]));
        }
    }

    pub(crate) fn leave(&self, kind: Kind, name: &[u8], id: u64) {
        let mut all = self.of(kind).write();
        if let Some(listeners) = all.get_mut(name) {
            listeners.remove(&id);
            if listeners.is_empty() {
                all.remove(name);
            }
        }
    }

    /// Sends a message. Returns how many get it.
    pub(crate) fn publish(&self, channel: &[u8], payload: &[u8]) -> u64 {
        self.publish_to(channel, payload, |_| true)
    }

    /// Sends a message that tells of a key to those who may know of it.
    pub(crate) fn publish_of(&self, key: &[u8], channel: &[u8], payload: &[u8]) {
        self.publish_to(channel, payload, |client| client.may_know_of(key));
    }

    fn publish_to(&self, channel: &[u8], payload: &[u8], may: impl Fn(&ClientInfo) -> bool) -> u64 {
        let mut sent = 0;
        let (mut words, mut share) = (None, || -> (Arc<[u8]>, Arc<[u8]>) { (channel.into(), payload.into()) });
        if let Some(listeners) = self.channels.read().get(channel) {
            let (channel, payload) = words.get_or_insert_with(&mut share);
            for mailbox in listeners.values().filter(|mailbox| may(&mailbox.client)) {
                mailbox.put(Message::Channel { channel: Arc::clone(channel), payload: Arc::clone(payload) });
                sent += 1;
            }
        }
        for (pattern, listeners) in self.patterns.read().iter() {
            if !Glob::new(pattern).is_ok_and(|glob| glob.matches(channel)) {
                continue;
            }
            let (channel, payload) = words.get_or_insert_with(&mut share);
            for mailbox in listeners.values().filter(|mailbox| may(&mailbox.client)) {
                let (pattern, channel, payload) = (Arc::clone(pattern), Arc::clone(channel), Arc::clone(payload));
                mailbox.put(Message::Pattern { pattern, channel, payload });
                sent += 1;
            }
        }
        sent
    }

    /// Sends a message to a shard channel, which patterns do not see. Returns how many get it.
    pub(crate) fn publish_shard(&self, channel: &[u8], payload: &[u8]) -> u64 {
        let shards = self.shards.read();
        let Some(listeners) = shards.get(channel) else { return 0 };
        let (channel, payload): (Arc<[u8]>, Arc<[u8]>) = (channel.into(), payload.into());
        for mailbox in listeners.values() {
            mailbox.put(Message::Shard { channel: Arc::clone(&channel), payload: Arc::clone(&payload) });
        }
        listeners.len() as u64
    }

    /// Ends a client that listens to what `may` refuses, told whether it is a pattern.
    pub(crate) fn end_unless(&self, client: &ClientInfo, may: impl Fn(&[u8], bool) -> bool) {
        let listens = |kind| {
            let all = self.of(kind).read();
            let mut own = all.iter().filter(|(_, listeners)| listeners.contains_key(&client.id));
            own.any(|(name, _)| !may(name, kind == Kind::Pattern))
        };
        if [Kind::Channel, Kind::Pattern, Kind::Shard].into_iter().any(listens) {
            client.kill();
        }
    }

    /// Channels that somebody listens to.
    pub(crate) fn channels(&self, kind: Kind, wanted: impl Fn(&[u8]) -> bool) -> Vec<Arc<[u8]>> {
        self.of(kind).read().keys().filter(|name| wanted(name)).cloned().collect()
    }

    pub(crate) fn listeners(&self, kind: Kind, channel: &[u8]) -> u64 {
        self.of(kind).read().get(channel).map_or(0, |listeners| listeners.len() as u64)
    }

    /// Channels, patterns and shard channels that somebody listens to.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.channels.read().len(), self.patterns.read().len(), self.shards.read().len())
    }

    pub(crate) fn monitor(&self, mailbox: &Arc<Mailbox>) {
        let mut monitors = self.monitors.write();
        monitors.insert(mailbox.client.id, Arc::clone(mailbox));
        self.monitored.store(true, Ordering::Relaxed);
    }

    pub(crate) fn unmonitor(&self, id: u64) {
        let mut monitors = self.monitors.write();
        monitors.remove(&id);
        self.monitored.store(!monitors.is_empty(), Ordering::Relaxed);
    }

    /// Whether somebody watches commands.
    #[inline]
    pub(crate) fn is_monitored(&self) -> bool {
        self.monitored.load(Ordering::Relaxed)
    }

    /// Shows a command to who watches.
    pub(crate) fn show(&self, line: &str) {
        let line: Arc<str> = line.into();
        for mailbox in self.monitors.read().values() {
            mailbox.put(Message::Line(Arc::clone(&line)));
        }
    }

    pub(crate) fn set_classes(&self, classes: u32) {
        self.classes.store(classes, Ordering::Relaxed);
    }

    /// Classes of events that are told.
    #[inline]
    pub(crate) fn classes(&self) -> u32 {
        self.classes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_ended_and_costs_no_more_than_its_mailbox() {
        let client = ClientInfo::new(1, "a".into(), "b".into(), 3, 0);
        let (hub, mailbox) = (PubSub::default(), Mailbox::new(&client, 1000));
        hub.listen(Kind::Channel, b"c", &mailbox);
        hub.listen(Kind::Pattern, b"c*", &mailbox);
        assert_eq!(hub.publish(b"c", b"hello"), 2);
        assert_eq!(hub.publish(b"d", b"hello"), 0);
        assert!(!client.is_killed());
        for _ in 0..20 {
            hub.publish(b"c", &[b'x'; 100]);
        }
        assert!(client.is_killed() && client.posted.load(Ordering::Relaxed) <= 1000);
        hub.leave(Kind::Channel, b"c", 1);
        hub.leave(Kind::Pattern, b"c*", 1);
        assert_eq!(hub.counts(), (0, 0, 0));
    }
}
