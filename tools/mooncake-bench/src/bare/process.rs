//! The other process of a bare pair: starting it, handing it descriptors, ending it.

use super::{shm, stream};
use anyhow::{Context, Result, bail, ensure};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// Clients of one pair at most: their descriptors have to fit one message of 253.
pub(crate) const CLIENTS_MAX: usize = 100;

const FDS_MAX: usize = 250;

/// What the other process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Stream(stream::Job),
    Shm(shm::Job),
}

/// The other process. Dropping it ends it.
pub(crate) struct Other {
    child: Child,
    /// Closing it tells the other process to end.
    line: Option<UnixStream>,
}

impl Other {
    /// Starts the process, hands it `job` and `fds`, and waits until it is ready.
    pub(crate) fn start(job: &Job, fds: &[BorrowedFd<'_>]) -> Result<Self> {
        ensure!(fds.len() <= FDS_MAX, "at most {CLIENTS_MAX} clients");
        let (mut ours, theirs) = UnixStream::pair()?;
        let exe = std::env::current_exe().context("find this program")?;
        let child = Command::new(exe)
            .arg("bare-server")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .context("start the other process")?;
        let text = serde_json::to_vec(job)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(control.push(SendAncillaryMessage::ScmRights(fds)), "descriptors fit one message");
        let sent = sendmsg(&ours, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
        ensure!(sent == text.len(), "a job fits one message");
        let mut other = Self { child, line: None };
        let mut ready = [0];
        let answered = ours.read_exact(&mut ready);
        other.line = Some(ours);
        answered.context("the other process did not come up")?;
        Ok(other)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.line.take());
        // It ends by itself; should it hang, it is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The life of the other process: `bare-server`.
pub(crate) fn serve() -> Result<()> {
    let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut text = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&line, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .context("this command is for the tool itself: it expects a job on its standard input")?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    if got.bytes == 0 {
        bail!("no job");
    }
    match serde_json::from_slice(&text[..got.bytes])? {
        Job::Stream(job) => stream::serve(job, fds)?,
        Job::Shm(job) => shm::serve(job, fds)?,
    }
    (&line).write_all(&[1])?;
    // The starter never writes: this returns when it is gone, and the process ends with its threads.
    let _ = (&line).read(&mut [0]);
    Ok(())
}
