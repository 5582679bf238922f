//! Flash devices on other machines: connected, watched, connected again.
//!
//! Role: what the flash tier sees of them is a block device that is there or not; here is how it comes and goes. A target that
//! is away for a while stays attached: its I/O fails, the tier fences it off and takes it back. One whose block device is gone
//! (the connection was ended by hand, the target came back as another) is let go and attached anew.
//!
//! Invariants:
//! - Nothing is formatted but by `TIER ATTACH … FORMAT`.
//! - Only connections that this server made are ended.
//! - One thing is changed at a time (`turn`); who only looks never waits for it.

use crate::config::{Device, Place};
use crate::node::Node;
use parking_lot::{Condvar, Mutex};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use storage::flash::fabric::{Initiator, Namespace, Target};
use storage::flash::tier::{FlashError, Holds, make_blank};

/// How often what is attached is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after a target did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Time that a start waits for a target: the kernel may try for minutes.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// What is attached, or is to be.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) target: Target,
    pub(crate) state: State,
}

/// How far an attachment is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// A device of the tier.
    Attached { id: u32, namespace: Namespace },
    /// Not yet, or not any more.
    Waiting { why: String },
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Fabrics {
    initiator: Initiator,
    attachments: Mutex<Vec<Attachment>>,
    turn: Mutex<()>,
    ending: Mutex<bool>,
    news: Condvar,
}

impl Fabrics {
    /// Under a host name of this server's. Nothing is connected yet.
    pub(crate) fn new(host: String) -> Self {
        Self {
            initiator: Initiator::new(host),
            attachments: Mutex::default(),
            turn: Mutex::default(),
            ending: Mutex::new(false),
            news: Condvar::new(),
        }
    }

    /// Connects what the configuration names, as far as it answers soon and holds a log. The rest waits.
    pub(crate) fn connect_at_start(&self, targets: impl Iterator<Item = Target>) -> Vec<(Target, Namespace)> {
        let mut connected = Vec::new();
        for target in targets {
            let (tell, told) = mpsc::channel();
            let (initiator, asked) = (self.initiator.clone(), target.clone());
            // The kernel may take minutes to give up; the thread ends with it, and the keeper finds what came of it.
            std::thread::spawn(move || _ = tell.send(adoptable(&initiator, &asked)));
            let outcome = told.recv_timeout(START_PATIENCE).map_err(|_| "it does not answer yet".to_owned());
            match outcome.and_then(|outcome| outcome.map_err(|error| error.to_string())) {
                Ok(namespace) => connected.push((target, namespace)),
                Err(why) => {
                    tracing::warn!("flash: {target} is not there at the start: {why}; it is tried again");
                    self.note(target, State::Waiting { why });
                }
            }
        }
        connected
    }

    /// What is attached and what waits.
    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.attachments.lock().clone()
    }

    /// The attachment behind a device of the tier.
    pub(crate) fn of_device(&self, id: u32) -> Option<Target> {
        let attachments = self.attachments.lock();
        let found = attachments.iter().find(|it| matches!(it.state, State::Attached { id: own, .. } if own == id));
        found.map(|it| it.target.clone())
    }

    /// How the connection to a target is, in the kernel's word.
    pub(crate) fn link(&self, target: &Target) -> String {
        self.initiator.find(target).map_or_else(|| "absent".to_owned(), |controller| controller.state)
    }

    /// The name by which targets know this server.
    pub(crate) fn host_nqn(&self) -> String {
        self.initiator.host_nqn()
    }

    /// Connects and attaches. What is there is adopted; it is formatted only with `format`.
    pub(crate) fn attach(&self, node: &Node, target: &Target, format: bool) -> Result<u32, FlashError> {
        let _turn = self.turn.lock();
        if self.attachments.lock().iter().any(|it| it.target == *target) {
            return Err(FlashError::Config(format!("{target} is attached already")));
        }
        let attached = self.try_attach(node, target, format);
        if attached.is_err() {
            self.disconnect(target);
        }
        let (id, namespace) = attached?;
        self.note(target.clone(), State::Attached { id, namespace });
        node.config.write().add_device(Device { place: Place::Fabric(target.clone()), size: None });
        Ok(id)
    }

    fn try_attach(&self, node: &Node, target: &Target, format: bool) -> Result<(u32, Namespace), FlashError> {
        let tier = node.tier().ok_or(FlashError::Closed)?;
        let namespace = if format {
            let controller = self.initiator.connect(target)?;
            let namespace = self.initiator.namespace(target, &controller)?;
            let path = namespace.path.display();
            if tier.status().iter().any(|device| device.path == namespace.path) {
                return Err(FlashError::Config(format!("{path} is attached already, by another way")));
            }
            make_blank(&namespace.path).map_err(|error| FlashError::io(format!("make {path} blank"), error))?;
            namespace
        } else {
            adoptable(&self.initiator, target)?
        };
        let config = node.config.read().device_config(&namespace.path, None);
        Ok((tier.attach(config)?, namespace))
    }

    /// Lets a device go that is on another machine, and ends its connection. `None`: it is not.
    pub(crate) fn detach(&self, node: &Node, id: u32, drain: bool) -> Option<Result<(), FlashError>> {
        let _turn = self.turn.lock();
        let target = self.of_device(id)?;
        let detached = node.tier().ok_or(FlashError::Closed).and_then(|tier| tier.detach(id, drain));
        if detached.is_ok() {
            self.forget(node, &target);
        }
        Some(detached)
    }

    /// Gives up an attachment that waits, by its target's name. Answers whether there was one.
    pub(crate) fn give_up(&self, node: &Node, nqn: &str) -> bool {
        let _turn = self.turn.lock();
        let waits = |it: &&Attachment| it.target.nqn == nqn && matches!(it.state, State::Waiting { .. });
        let target = self.attachments.lock().iter().find(waits).map(|it| it.target.clone());
        target.is_some_and(|target| {
            self.forget(node, &target);
            true
        })
    }

    fn forget(&self, node: &Node, target: &Target) {
        self.disconnect(target);
        self.attachments.lock().retain(|it| it.target != *target);
        node.config.write().remove_device(&Place::Fabric(target.clone()));
    }

    fn disconnect(&self, target: &Target) {
        if let Err(error) = self.initiator.disconnect(target) {
            tracing::warn!(%error, "{target} does not let itself be disconnected");
        }
    }

    /// Notes how an attachment is, a new one too.
    pub(crate) fn note(&self, target: Target, state: State) {
        let mut attachments = self.attachments.lock();
        match attachments.iter_mut().find(|it| it.target == target) {
            Some(known) => known.state = state,
            None => attachments.push(Attachment { target, state }),
        }
    }

    /// Begins to watch.
    pub(crate) fn start(self: &Arc<Self>, node: std::sync::Weak<Node>) -> std::io::Result<()> {
        let fabrics = Arc::clone(self);
        std::thread::Builder::new().name("fabrics".to_owned()).spawn(move || fabrics.keep(&node)).map(drop)
    }

    fn keep(&self, node: &std::sync::Weak<Node>) {
        loop {
            let begun = Instant::now();
            {
                let Some(node) = node.upgrade() else { return };
                for attachment in self.list() {
                    self.look_after(&node, &attachment);
                }
            }
            let pause = if begun.elapsed() > LOOK_EVERY { RETRY_PAUSE } else { LOOK_EVERY };
            let mut ending = self.ending.lock();
            if !*ending {
                self.news.wait_for(&mut ending, pause);
            }
            if *ending {
                return;
            }
        }
    }

    fn look_after(&self, node: &Node, attachment: &Attachment) {
        // An operator's command goes first; there is another look soon.
        let Some(_turn) = self.turn.try_lock() else { return };
        let target = &attachment.target;
        if !self.attachments.lock().iter().any(|it| it.target == *target) {
            return;
        }
        match &attachment.state {
            State::Attached { namespace, .. } if self.initiator.is_there(namespace) => {}
            State::Attached { id, namespace } => {
                tracing::warn!(
                    "flash: {} is gone: {target} is attached anew when it is back",
                    namespace.path.display()
                );
                if let Some(Err(error)) = node.tier().map(|tier| tier.detach(*id, false)) {
                    tracing::warn!(%error, "flash.{id} was not let go");
                }
                self.note(target.clone(), State::Waiting { why: "its block device is gone".to_owned() });
            }
            State::Waiting { .. } => match self.try_attach(node, target, false) {
                Ok((id, namespace)) => {
                    tracing::info!("flash: {target} is attached as flash.{id}, {}", namespace.path.display());
                    self.note(target.clone(), State::Attached { id, namespace });
                }
                Err(error) => self.note(target.clone(), State::Waiting { why: error.to_string() }),
            },
        }
    }

    /// Ends watching, without waiting for a connection that the kernel may try for minutes.
    pub(crate) fn stop(&self) {
        *self.ending.lock() = true;
        self.news.notify_all();
    }

    /// Ends all connections, after the tier is closed. What is missed is found again by the next start.
    pub(crate) fn disconnect_all(&self) {
        let _turn = self.turn.try_lock_for(RETRY_PAUSE);
        for attachment in self.list() {
            self.disconnect(&attachment.target);
        }
    }
}

/// Connects and finds a log, ours alone.
fn adoptable(initiator: &Initiator, target: &Target) -> Result<Namespace, FlashError> {
    let controller = initiator.connect(target)?;
    let namespace = initiator.namespace(target, &controller)?;
    match holds(&namespace.path)? {
        Holds::Log => Ok(namespace),
        holds @ (Holds::Nothing | Holds::Other) => Err(FlashError::Unformatted { path: namespace.path, holds }),
    }
}

fn holds(path: &Path) -> Result<Holds, FlashError> {
    Holds::of(path).map_err(|error| FlashError::io(format!("read {}", path.display()), error))
}
