//! Users: who may do what, and who is whom.
//!
//! Role: holds the users by name, lets clients become them, and brings what changes of a user to the clients that are it.
//! What a user is stands in `user`, what it may in `selector`; a command is checked in `guard`.
//!
//! Invariants:
//! - A client that may everything costs a command one flag. The flag is set and cleared under the lock of the users, so that
//!   no client keeps rights that its user lost.
//! - A user is never changed in place: clients hold the value that they were given until they are given another.
//! - What a client was lent before its rights shrank ends with them: leases, grants, channels. Memory that a client has mapped
//!   cannot be taken back: that client is ended.
//! - Passwords and their hashes are credentials: they are never logged.

mod file;
pub(crate) mod guard;
pub(crate) mod log;
pub(crate) mod password;
pub(crate) mod rule;
pub(crate) mod selector;
pub(crate) mod user;

use crate::config::users::UserLines;
use crate::config::{Config, PubSubDefault, Secret};
use crate::node::Node;
use crate::session::ClientInfo;
use anyhow::Context as _;
use log::Log;
use parking_lot::{Mutex, RwLock};
use protocol::command::Access;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use user::{DEFAULT, User};

type ByName = BTreeMap<Box<[u8]>, Arc<User>>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Users {
    by_name: RwLock<ByName>,
    file: Option<PathBuf>,
    /// The password that the default user was last given by the settings.
    requirepass: Mutex<Secret>,
    /// Whether they are other than the settings say.
    changed: AtomicBool,
    pub(crate) log: Log,
}

impl Users {
    /// Those of the configuration and of the file that it names.
    pub(crate) fn load(config: &Config) -> anyhow::Result<Self> {
        let mut default = User::everybody();
        default.set_password(config.requirepass.reveal().unwrap_or_default().as_bytes());
        let mut users = ByName::from([(DEFAULT.into(), Arc::new(default))]);
        let read = match &config.aclfile {
            Some(path) => file::read(path).map_err(anyhow::Error::msg).context("read the users (`aclfile`)")?,
            None => config.user.parsed(),
        };
        users.extend(read.into_iter().map(|user| (user.name.clone(), Arc::new(user))));
        Ok(Self {
            by_name: RwLock::new(users),
            file: config.aclfile.clone(),
            requirepass: Mutex::new(config.requirepass.clone()),
            changed: AtomicBool::new(false),
            log: Log::default(),
        })
    }

    /// Whether clients have to say who they are.
    pub(crate) fn ask(&self) -> bool {
        needs_auth(&self.by_name.read())
    }

    /// The user called `name`.
    pub(crate) fn get(&self, name: &[u8]) -> Option<Arc<User>> {
        self.by_name.read().get(name).cloned()
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Arc<User>> {
        self.by_name.read().values().cloned().collect()
    }

    /// Their lines for the configuration: all but the default one, if the settings make that one as it is.
    pub(crate) fn lines(&self, config: &Config) -> UserLines {
        let mut default = User::everybody();
        default.set_password(config.requirepass.reveal().unwrap_or_default().as_bytes());
        let users = self.by_name.read();
        UserLines::of(users.values().map(Arc::as_ref).filter(|user| **user != default))
    }

    /// Whether they are other than when the server was started, and no file of their own says so.
    pub(crate) fn differ_from_config(&self) -> bool {
        self.file.is_none() && self.changed.load(Ordering::Relaxed)
    }
}

/// Whether clients have to say who they are.
fn needs_auth(users: &ByName) -> bool {
    let default = &users[DEFAULT];
    !(default.is_on && default.is_open)
}

/// Why users were not read or written.
const NO_FILE: &str = "This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL \
     SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store \
     users in the Redis configuration.";

impl Node {
    /// Lets a client in as the default user if that needs no password. Whether it did.
    pub(crate) fn log_in_unasked(&self, client: &ClientInfo) -> bool {
        let users = self.users.by_name.read();
        let user = (!needs_auth(&users)).then(|| Arc::clone(&users[DEFAULT]));
        let is_in = user.is_some();
        client.become_user(user);
        is_in
    }

    /// Lets a client in as a user, if it knows the password; else leaves it as it was. Whether it did.
    pub(crate) fn log_in(&self, client: &ClientInfo, name: &[u8], password: &[u8]) -> bool {
        let users = self.users.by_name.read();
        let nobody = User::new(name, false);
        let user = users.get(name);
        // Somebody who is not there takes as long to refuse.
        if !user.map_or(&nobody, Arc::as_ref).admits(password) {
            return false;
        }
        client.become_user(user.cloned());
        drop(users);
        self.confine(client);
        true
    }

    /// Lets a ring in as the client that made it.
    pub(crate) fn log_in_ring(&self, ring: &ClientInfo, owner: &ClientInfo) {
        let _users = self.users.by_name.read();
        ring.become_user(owner.user());
    }

    /// Ends what a client holds and its user may not have.
    fn confine(&self, client: &ClientInfo) {
        let Some(user) = client.user().filter(|user| !user.is_free()) else { return };
        if let Some(bond) = client.bond() {
            // Also of one that was lent nothing: what is lent at this moment is noted as that a little later.
            let may = |access| {
                let user = &user;
                move |key: &[u8]| user.may(key, access)
            };
            self.store.revoke(bond.id, &may(Access::READ), &may(Access::WRITE));
            self.rdma.end_revoked(&self.store, bond.id);
            if bond.has_shm() && !user.may_all(self.shm_access()) {
                tracing::warn!(
                    client = client.id,
                    "a client lost the right to read all keys: it is ended, and keeps the memory that it has mapped until \
                     its process ends"
                );
                client.kill();
            }
        }
        self.pubsub.end_unless(client, |name, is_pattern| user.may_channel(name, is_pattern));
    }

    /// What a client of shared memory can do to every object.
    pub(crate) fn shm_access(&self) -> Access {
        if self.arena.is_some() { Access::all() } else { Access::READ }
    }

    /// Brings what changed to who is concerned. Called with the users locked for writing.
    fn settle(&self, users: &ByName) {
        self.hot.needs_auth.store(needs_auth(users), Ordering::Relaxed);
        for client in self.clients.all() {
            let Some(before) = client.user() else { continue };
            match users.get(&before.name) {
                Some(user) if Arc::ptr_eq(user, &before) => continue,
                Some(user) => client.become_user(Some(Arc::clone(user))),
                None => {
                    client.become_user(None);
                    client.kill();
                    continue;
                }
            }
            self.confine(&client);
        }
    }

    /// `ACL SETUSER`: makes a user, or changes one; on a wrong rule nothing has changed.
    pub(crate) fn set_user(&self, name: &[u8], rules: &[Vec<u8>]) -> Result<(), String> {
        let open = self.config.read().acl_pubsub_default == PubSubDefault::AllChannels;
        let mut users = self.users.by_name.write();
        let mut user = match users.get(name) {
            Some(user) => User::clone(user),
            None => {
                user::check_name(name)?;
                User::new(name, open)
            }
        };
        user.apply(rules, open).map_err(|(rule, error)| {
            format!("Error in ACL SETUSER modifier '{}': {error}", String::from_utf8_lossy(&rule))
        })?;
        users.insert(name.into(), Arc::new(user));
        self.users.changed.store(true, Ordering::Relaxed);
        self.settle(&users);
        Ok(())
    }

    /// `ACL DELUSER`: returns how many there were. The connections of those are ended, but for `own`, which still has to
    /// answer.
    pub(crate) fn delete_users(&self, names: &[&[u8]], own: &ClientInfo) -> Result<usize, &'static str> {
        if names.contains(&DEFAULT) {
            return Err("The 'default' user cannot be removed");
        }
        let mut users = self.users.by_name.write();
        let found = names.iter().filter(|name| users.remove(**name).is_some()).count();
        if own.user().is_some_and(|user| !users.contains_key(&user.name)) {
            own.become_user(None);
        }
        self.users.changed.store(true, Ordering::Relaxed);
        self.settle(&users);
        Ok(found)
    }

    /// `ACL LOAD`.
    pub(crate) fn load_users(&self) -> Result<(), String> {
        let path = self.users.file.as_ref().ok_or(NO_FILE)?;
        let read = file::read(path)?;
        let mut users = self.users.by_name.write();
        let default = Arc::clone(&users[DEFAULT]);
        let mut next = ByName::from([(DEFAULT.into(), default)]);
        for user in read {
            let before = users.get(&user.name).filter(|before| ***before == user);
            let user = before.cloned().unwrap_or_else(|| Arc::new(user));
            next.insert(user.name.clone(), user);
        }
        *users = next;
        self.settle(&users);
        Ok(())
    }

    /// `ACL SAVE`.
    pub(crate) fn save_users(&self) -> Result<(), String> {
        let path = self.users.file.as_ref().ok_or(NO_FILE)?;
        // Nobody changes them meanwhile, and no two write at once.
        let users = self.users.by_name.write();
        file::write(path, users.values().map(Arc::as_ref))
            .map_err(|error| format!("There was an error trying to save the ACLs: {}: {error}", path.display()))
    }

    /// The default user takes the password of the settings, if that is another than the last.
    pub(crate) fn take_requirepass(&self, password: &Secret) {
        let mut taken = self.users.requirepass.lock();
        if *taken == *password {
            return;
        }
        *taken = password.clone();
        drop(taken);
        let mut users = self.users.by_name.write();
        let mut default = User::clone(&users[DEFAULT]);
        default.set_password(password.reveal().unwrap_or_default().as_bytes());
        users.insert(DEFAULT.into(), Arc::new(default));
        self.settle(&users);
    }
}
